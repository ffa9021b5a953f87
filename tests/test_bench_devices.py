"""What `scripts/bench --cuda` and `--mlx` print, and what they measure, as far as a machine without either can show."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT

from shim import load

CUDA = runpy.run_path(str(ROOT / "scripts/bench-cuda"))
MLX = runpy.run_path(str(ROOT / "scripts/bench-mlx"))
HERE = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.mark.skipif(HERE, reason="CUDA is here")
def test_without_cuda_every_figure_is_not_measured() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/bench", "--cuda"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| bge")]
    assert [row.count("not measured") for row in rows] == [2, 2, 2, 2]
    assert all(line in (ROOT / "scripts/RESULTS.md").read_text(encoding="utf-8") for line in rows)


def test_a_row_is_measured_on_texts_of_its_length(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = load(tiny_artifact, device="cpu"), []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda texts: seen.append(found := embed(texts)) or found)
    row = CUDA["Row"]("batch", "3 documents x 20 tokens", "documents/s", 1, 3, 20, rounds=2)
    assert CUDA["figure"](model, row) > 0
    assert [found.tokens for found in seen] == [[20] * 3] * 3
    result = {"model": "tiny", "title": row.title, "unit": row.unit, "goal": 1, "figure": 12.34567, "memory_mb": 5}
    assert CUDA["table"]({"card": "T4, 1.0", "rows": [result]})[-1] == (
        "| tiny: 3 documents x 20 tokens, documents/s | 12.35 | 5 | ≥ 1 |"
    )


def test_a_side_answers_line_by_line(tiny_artifact: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts/bench-mlx"), "--side", str(tiny_artifact)]
    texts = ["A short line.", "Another one, which is longer."]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        said = [MLX["ask"](process, {"texts": part}) for part in (texts, texts[1:])]
    assert np.allclose(said[0]["vectors"], load(tiny_artifact).embed(texts).dense, atol=1e-6)
    assert np.allclose(said[1]["vectors"][0], said[0]["vectors"][1], atol=1e-6)
    assert all(0 < each["seconds"] < 60 for each in said)


def test_figures_are_ratios_within_a_round() -> None:
    row: dict[str, Any] = {"title": "one", "unit": "ms", "goal": 0.6, "is_time": True, "figures": {"ours": 2.0}}
    found = {"device": "Metal", "worst": None, "rows": [row]}
    assert MLX["table"](found)[-1] == "| one, ms | 2 | not measured | not measured | ≤ 0.6 × |"
    row |= {"figures": {"ours": 2.0, "mlx-embeddings": 4.0}, "ratio": 0.5}
    assert MLX["table"](json.loads(json.dumps(found)))[-1] == "| one, ms | 2 | 4 | 0.50 × | ≤ 0.6 × |"
