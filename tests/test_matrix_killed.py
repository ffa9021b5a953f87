"""`convert all` in a process of its own: what an interrupt or a killed process leaves."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.checkpoints import write_bert


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("matrix") / "small")


@pytest.fixture
def working(checkpoint: Path, corpus_file: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A matrix of two whose first conversion is at work, and its folder."""
    out = tmp_path / "out"
    line = ["all", checkpoint, "--to", "onnx", "--bits", "32,16", "--corpus", corpus_file, "--out", out]
    started = subprocess.Popen(
        [sys.executable, "-m", "converter", *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while started.poll() is None and not list(out.glob(".small-onnx-32bit.partial-*")):
        time.sleep(0.05)
    return started, out


def nobody_left(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        for _ in range(300):
            os.killpg(group, 0)
            time.sleep(0.1)
        return False
    return True


def test_ctrl_c_ends_it_in_one_line_and_the_table(working: tuple[subprocess.Popen[str], Path]) -> None:
    started, out = working
    os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it
    shown, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert [line for line in said.splitlines() if ": " in line] == ["convert: interrupted"]
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert rows == [["small-onnx-32bit", "interrupted"], ["small-onnx-16bit", "not", "started"]]
    assert nobody_left(started.pid)
    assert list(out.iterdir()) == []


def test_a_command_that_is_killed_leaves_nobody_at_work(working: tuple[subprocess.Popen[str], Path]) -> None:
    started, _ = working
    started.kill()
    started.communicate(timeout=60)
    assert nobody_left(started.pid)


def test_a_conversion_that_is_killed_stops_nothing(working: tuple[subprocess.Popen[str], Path]) -> None:
    """As the system does it when memory runs out. What it leaves goes with the next run of the same."""
    started, out = working
    [partial] = out.glob(".small-onnx-32bit.partial-*")
    os.kill(int(partial.name.split("-")[-2]), signal.SIGKILL)
    shown, _ = started.communicate(timeout=300)
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert " ".join(rows[0]) == "small-onnx-32bit failed the conversion's process ended with -9: out of memory?"
    assert rows[1][:3] == ["small-onnx-16bit", "converted", "pass"]
    assert started.returncode == 3
    assert nobody_left(started.pid)
