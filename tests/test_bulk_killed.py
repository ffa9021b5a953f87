"""A corpus of which processes, or the whole run, are killed: every id once, none missing, and the library's vectors."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
from support.commands import one_line, run

import shim

COUNT, ROWS = 600, 20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of texts of many lengths, so long that a run takes a while."""
    folder, rng = tmp_path_factory.mktemp("corpus"), random.Random(3)
    for name, numbers in (("a", range(COUNT // 2)), ("b", range(COUNT // 2, COUNT))):
        texts = [" ".join(f"w{rng.randrange(999)}" for _ in range(rng.randrange(1, 120))) for _ in numbers]
        rows = [json.dumps({"id": f"{number}", "text": text}) for number, text in zip(numbers, texts, strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def begin(artifact: Path, corpus: Path, out: Path) -> subprocess.Popen[str]:
    given = ("--in", f"{corpus}/*.jsonl", "--out", str(out), "--id", "id", "--rows", str(ROWS), "--processes", "2")
    return subprocess.Popen(
        [sys.executable, "-m", "shim", "embed", str(artifact), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def shards(out: Path) -> int:
    return len(list(out.glob("*.parquet")))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def check(artifact: Path, corpus: Path, out: Path) -> None:
    assert not list(out.rglob("*.tmp"))
    found: pa.Table = pyarrow.dataset.dataset(out, format="parquet").to_table()
    assert sorted(map(int, found["id"].to_pylist())) == list(range(COUNT))
    rows = [json.loads(line) for path in sorted(corpus.iterdir()) for line in path.read_text().splitlines()]
    wanted = shim.load(artifact).embed([row["text"] for row in rows]).dense
    order = [int(id) for id in found["id"].to_pylist()]
    assert np.abs(np.stack(found["embedding"].to_numpy()) - wanted[order]).max() < 1e-5


def test_a_killed_process_is_replaced_and_its_rows_are_embedded_once(tiny_artifact: Path, corpus: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "out", random.Random()
    process = begin(tiny_artifact, corpus, out)
    killed: set[int] = set()
    for _ in range(4):
        before = shards(out)
        until(lambda before=before: shards(out) > before or process.poll() is not None)  # type: ignore[misc]
        if left := [pid for pid in workers(process) if pid not in killed]:
            victim = rng.choice(left)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
    errors = process.communicate(timeout=240)[1]
    assert process.returncode == 0, errors
    assert killed
    check(tiny_artifact, corpus, out)


def test_a_killed_run_goes_on_where_it_was(tiny_artifact: Path, corpus: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "out", random.Random()
    for _ in range(3):
        before = shards(out)
        process = begin(tiny_artifact, corpus, out)
        wanted = before + rng.randrange(1, 5)
        until(lambda w=wanted, p=process: shards(out) >= w or p.poll() is not None)  # type: ignore[misc]
        children = workers(process)
        assert children
        process.kill()
        process.communicate()
        until(lambda c=children: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in c))  # type: ignore[misc]
    (out / "._rejects.tmp").touch()  # as a process that is killed while it writes leaves it
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    process = begin(tiny_artifact, corpus, out)
    assert process.communicate(timeout=240)[1].count("rows were there already") == 1
    assert process.returncode == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    check(tiny_artifact, corpus, out)


def test_an_interrupted_run_leaves_no_process_and_a_second_one_is_refused(
    tiny_artifact: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = begin(tiny_artifact, corpus, out)
    until(lambda: shards(out) > 0)
    again = ("--in", f"{corpus}/*.jsonl", "--out", out, "--id", "id", "--rows", ROWS)
    refused = run("shim", "embed", tiny_artifact, *again, check=2)
    assert "another run is writing to it" in one_line(refused, "shim")
    children = workers(process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    assert process.communicate(timeout=60)[1].strip() == "shim: interrupted"
    assert process.returncode == 130
    until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in children))
    assert not list(out.rglob("*.tmp"))


def test_what_kills_every_process_is_named(tiny_artifact: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = begin(tiny_artifact, corpus, out)
    until(lambda: bool(workers(process)))
    while process.poll() is None:
        for pid in workers(process):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    error = process.communicate()[1]
    assert error.startswith("shim: 5 processes died ")
    assert "the last by signal 9; with fewer --processes each has more memory" in error
    assert error.count("\n") == 1
    assert process.returncode == 1
