"""A corpus on a real Ray cluster here, and the README's pipelines on Ray Data and Daft; scripts/engines installs them."""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from conftest import ROOT

import shim

COUNT = 400
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> str:
    done = subprocess.run([ROOT / "scripts/engines", "made"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("scripts/engines makes the environment of Ray and Daft")
    return done.stdout.strip()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(5)
    for name, numbers in (("a", range(COUNT // 2)), ("b", range(COUNT // 2, COUNT))):
        texts = [" ".join(f"w{rng.randrange(999)}" for _ in range(rng.randrange(1, 120))) for _ in numbers]
        rows = [json.dumps({"id": f"{number}", "text": text}) for number, text in zip(numbers, texts, strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join([*rows, '{"id": "none"}']))
    return folder


@pytest.mark.parametrize("engine", ["ray", "daft"])
def test_the_pipelines_of_the_readme_give_the_librarys_vectors(python: str, tiny_artifact: Path, engine: str) -> None:
    done = begin(python, str(ROOT / "tests/support/engines_check.py"), engine, str(tiny_artifact))
    shown, errors = done.communicate(timeout=400)
    assert done.returncode == 0, errors[-3000:]
    assert f"{engine}: 60 vectors" in shown


def test_a_run_on_ray_goes_on_whatever_is_killed(python: str, tiny_artifact: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = [
        "-m",
        "shim",
        "embed",
        str(tiny_artifact),
        "--in",
        f"{corpus}/*.jsonl",
        "--out",
        str(out),
        "--id",
        "id",
        "--rows",
        "10",
    ]
    process = begin(python, *given, "--ray", "local")
    until(lambda: len(list(out.glob("*.parquet"))) > 3 or process.poll() is not None)
    assert process.poll() is None, process.communicate()[1][-3000:]
    process.kill()  # the whole run, and soon Ray with it
    process.communicate()
    there = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    process = begin(python, *given, "--ray", "local", "--json")
    until(lambda: len(list(out.glob("*.parquet"))) > len(there) + 2 or process.poll() is not None)
    if actors := [actor for actor in of(process.pid, "MapWorker") if process.poll() is None]:
        os.kill(random.choice(actors), signal.SIGKILL)
    shown, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    assert shown.count("\n") == 1, shown  # what Ray says is not among it
    counts = json.loads(shown)
    assert counts["skipped"] >= 10
    assert counts["skipped"] + counts["texts"] + counts["rejected"] == COUNT + 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in there.items())
    found: pa.Table = pyarrow.dataset.dataset(out, format="parquet").to_table()
    order = [int(id) for id in found["id"].to_pylist()]
    assert sorted(order) == list(range(COUNT))
    rows = [json.loads(line) for path in sorted(corpus.iterdir()) for line in path.read_text().splitlines()]
    wanted = shim.load(tiny_artifact).embed([row["text"] for row in rows if "text" in row]).dense
    assert np.abs(np.stack(found["embedding"].to_numpy()) - wanted[order]).max() < 1e-5
    for more, code, message in (
        (["--dimensions", "8"], 2, "was made with dimensions 64, not 8"),
        (["--strict", "--out", str(tmp_path / "strict")], 2, "none: there is no text"),
    ):
        done = begin(python, *given, *more, "--ray", "local")
        errors = done.communicate(timeout=400)[1]
        assert message in errors
        assert done.returncode == code


def begin(*command: str) -> subprocess.Popen[str]:
    """A process without pytest's own path, in which ours is installed."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def of(parent: int, name: str) -> list[int]:
    """The processes below `parent` with this name."""
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout.split()
    named = [int(pid) for pid in found if name in (Path("/proc") / pid / "cmdline").read_text()]
    return named + [pid for child in found for pid in of(int(child), name)]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
