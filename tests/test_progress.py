"""What `convert` shows of its progress: bars on a terminal, plain lines elsewhere."""

import fcntl
import os
import re
import signal
import struct
import sys
import termios
import threading
import warnings

import pytest

from converter import show
from converter.progress import StageProgress
from shim.console import prepare


def test_a_line_per_quarter_of_every_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    with StageProgress() as progress:
        progress("convert", 0, 1)  # announced, not begun
        for total in (8, 8, 3):
            for done in range(1, total + 1):
                progress("convert", done, total)
    quarters = ["25%", "50%", "75%", "100%"]
    lines = [f"writing {part}" for part in quarters] + [f"writing (2) {part}" for part in quarters]
    assert capsys.readouterr().err.splitlines() == [*lines, "writing (3) 33%", "writing (3) 66%", "writing (3) 100%"]


class Terminal:
    """A terminal so many columns wide: what is written to `stream` is collected."""

    def __init__(self, columns: int):
        self.reading, writing = os.openpty()
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream, self.parts = os.fdopen(writing, "w", encoding="utf-8"), list[bytes]()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        try:
            while part := os.read(self.reading, 65536):
                self.parts.append(part)
        except OSError:  # closed
            pass

    def shown(self) -> str:
        """All of it."""
        self.stream.close()
        self.reader.join(60)
        os.close(self.reading)
        return b"".join(self.parts).decode()


@pytest.mark.parametrize("columns", [60, 120])
def test_a_bar_per_stage_fits_a_terminal_and_warnings_stand_above(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with warnings.catch_warnings(), StageProgress() as progress:
        prepare("convert")
        for stage in ("reference", "quantize", "sensitivity", "convert", "verify"):
            progress(stage, 0, 1)
        for done in (1_000, 200_000):
            progress("reference", done, 200_000)
        for part in (1, 2, 1, 2):
            progress("quantize", part, 2)
        warnings.warn("a layer overflows", stacklevel=1)
    shown = terminal.shown()
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"\n|\r|\x1b\[1A", shown)]
    assert max(map(len, lines)) <= columns, max(lines, key=len)
    assert any("reading ━" in line for line in lines), "before the first stage"
    last = [line.split("━")[0].strip() for line in lines if line.strip()]
    assert "convert: a layer overflows" in last
    assert last[-5:] == ["1/5 the original", "2/5 quantizing (2)", "3/5 what each costs", "4/5 writing", "5/5 the artifact"]
    assert "\x1b[?25h" in shown, "the cursor is back"


def test_durations_read_as_people_say_them() -> None:
    assert [show.duration(seconds) for seconds in (0.4, 59.4, 59.6, 372, 7500)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "6 min 12 s",
        "2 h 5 min",
    ]
