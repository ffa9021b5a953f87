"""The upstream library runs in a process of its own: what it says, how it ends, and what it leaves."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.proof.apart import apart
from shim.errors import SourceError, UsageError


def square(value: int, report: Callable[[int], None]) -> int:
    report(1)
    report(2)
    return value * value


def refuse(report: Callable[[int], None]) -> None:
    raise UsageError("no such thing")


def die(report: Callable[[int], None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_answers_and_progress_come_back() -> None:
    done: list[int] = []
    assert apart(square, 7, progress=done.append) == 49
    assert done == [1, 2]


def test_what_it_raises_is_raised_here() -> None:
    with pytest.raises(UsageError, match="no such thing"):
        apart(refuse, progress=print)


def test_a_process_that_is_killed_is_one_line() -> None:
    with pytest.raises(SourceError, match="ended with -9"):
        apart(die, progress=print)


@pytest.mark.convert
def test_a_conversion_does_not_hold_the_upstream_library(tiny: Path, corpus_file: Path, tmp_path: Path) -> None:
    given = [str(tiny / "tiny.toml"), "--to", "onnx", "--source", str(tiny / "checkpoint"), "--corpus", str(corpus_file)]
    code = "import sys; from converter.__main__ import main; sys.argv = ['convert', *sys.argv[1:]]\ntry: main()\nfinally: "
    code += "assert 'onnxruntime' in sys.modules and 'sentence_transformers' not in sys.modules"
    environment = {**os.environ, "SEALPORT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code, *given, "--bits", "32", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tiny-onnx-32bit/artifact.json").is_file()


@pytest.fixture
def converting(tiny: Path, corpus_file: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """A conversion whose upstream library is at work."""
    given = ["--to", "onnx", "--source", str(tiny / "checkpoint"), "--corpus", str(corpus_file), "--out", str(tmp_path)]
    command = [sys.executable, "-m", "converter", str(tiny / "tiny.toml"), *given]
    environment = {**os.environ, "SEALPORT_CACHE": str(tmp_path / "cache")}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    while started.poll() is None and len(children.read_text().split()) < 2:  # the tracker of resources, and the library's
        time.sleep(0.01)
    time.sleep(1)
    return started


def blocks_interrupts(report: object) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_first_process_of_a_program_is_not_interrupted_by_ctrl_c_either() -> None:
    """The one that handles it ends it. With the first, Python's tracker of resources starts and lets SIGINT through."""
    script = "from test_apart import apart, blocks_interrupts; print(apart(blocks_interrupts, progress=print))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent)))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True"


def test_a_process_that_does_not_come_up_is_an_error(tmp_path: Path) -> None:
    """As of a script without `if __name__ == "__main__"`, which a new process imports: it ends before it reads anything."""
    script = tmp_path / "script.py"
    script.write_text("from converter.proof.apart import apart\napart(print, 'x' * 1_000_000, progress=print)\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.stderr.strip().endswith("SourceError: the upstream library's process ended with 1: out of memory?")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_both_processes_end(converting: subprocess.Popen[str], kind: signal.Signals) -> None:
    if kind == signal.SIGINT:  # as a terminal sends it
        os.killpg(converting.pid, kind)
        assert converting.communicate(timeout=90)[1].strip() == "convert: interrupted"
        assert converting.returncode == 130
    else:
        converting.kill()
        converting.wait()
    with contextlib.suppress(ProcessLookupError):
        for _ in range(300):
            os.killpg(converting.pid, 0)
            time.sleep(0.1)
        raise AssertionError("a process goes on")
