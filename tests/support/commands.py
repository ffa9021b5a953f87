"""The two command lines: run in this process, which has the libraries already, or in one of their own."""

import io
import json
import signal
import subprocess
import sys
import warnings
from typing import Any

import pytest

import converter.__main__
import shim.cli
from shim.console import interrupted

COMMANDS = {"converter": ("convert", converter.__main__.main), "shim": ("shim", shim.cli.main)}
Done = subprocess.CompletedProcess[str]


def run(program: str, *arguments: object, check: int | None = 0, input: str = "", cwd: Any = None) -> Done:
    """What `python -m PROGRAM ARGUMENTS` prints and how it ends, without a process; expects the exit code `check`."""
    name, main = COMMANDS[program]
    command = [name, *map(str, arguments)]
    stdin, stdout, stderr = (io.TextIOWrapper(io.BytesIO(text), "utf-8", newline="") for text in (input.encode(), b"", b""))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    warnings.onceregistry.clear()  # type: ignore[attr-defined]  # as in a new process
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name, value in (("argv", command), ("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            patch.setattr(sys, name, value)
        if cwd:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if interrupted.is_set():  # the tests were, not the command
                interrupted.clear()
                raise KeyboardInterrupt
    shown = []
    for stream in (stdout, stderr):
        stream.flush()
        shown.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return _expect(check, subprocess.CompletedProcess(command, int(code or 0), *shown))


def run_process(program: str, *arguments: object, check: int | None = 0, **options: Any) -> Done:
    """The same as a user runs it, where the process is the point. options: of subprocess.run."""
    command = [sys.executable, "-m", program, *map(str, arguments)]
    return _expect(check, subprocess.run(command, capture_output=True, text=True, timeout=500, **options))


def _expect(code: int | None, done: Done) -> Done:
    assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def one_object(done: Done) -> dict[str, Any]:
    """What `--json` printed: one object on one line."""
    assert done.stdout.count("\n") == 1
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def one_line(done: Done, command: str = "convert") -> str:
    """The error, where nothing else was said."""
    assert done.stdout == ""
    assert done.stderr.startswith(f"{command}: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
