"""A wheel with the serving extras only: no torch, no transformers, and it imports, embeds and serves."""

import json
import os
import re
import subprocess
import sys
import urllib.request
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import ROOT
from support.servers import Started


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
    return next(folder.glob("sealport-*.whl"))


@pytest.mark.slow
def test_the_wheel_carries_recipes_corpus_and_pages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {path.name for path in (ROOT / "recipes").iterdir()}
    assert {Path(name).name for name in names if name.startswith("converter/recipes/")} == recipes
    pages = {path.name for path in (ROOT / "shim/serve/page").iterdir()}
    assert {Path(name).name for name in names if name.startswith("shim/serve/page/")} == pages
    assert {"converter/corpus/verification.jsonl", "converter/corpus/calibration.jsonl"} <= set(names)


@pytest.mark.slow
def test_it_serves_without_torch(wheel: Path, minilm_artifacts: Mapping[str, Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    constraints = ("-c", str(ROOT / "scripts/constraints.txt"))
    subprocess.run(
        [python, "-m", "pip", "install", "-q", *constraints, f"{wheel}[onnx,mlx,serve]"], check=True, env=environment
    )
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"^(torch|transformers|onnx-ir|rich)\b", listed, re.MULTILINE)
    paths = [str(minilm_artifacts[kind]) for kind in ("onnx-8", "mlx-8")]
    server = Started([str(python), "-m", "shim", "serve", *paths], cwd=tmp_path, env=environment)
    try:
        for path in paths:
            body = json.dumps({"model": Path(path).name, "input": "hello"}).encode()
            request = urllib.request.Request(f"{server.url}/v1/embeddings", body, {"content-type": "application/json"})
            assert len(json.load(urllib.request.urlopen(request))["data"][0]["embedding"]) == 384
    finally:
        server.end()
        server.ended()
