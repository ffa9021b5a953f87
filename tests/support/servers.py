"""A running server, and one that can be broken: tests/support/faulty_server.py in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

FAULTY = Path(__file__).with_name("faulty_server.py")


class Started:
    """A process that serves on a free port: its address (`url`) and its log (`lines`)."""

    def __init__(self, command: list[str], **options: Any):
        self.process = subprocess.Popen([*command, "--port", "0"], stderr=subprocess.PIPE, text=True, **options)
        self.lines: list[str] = []
        self.code = 0  # the exit code that it must end with
        started = threading.Event()
        # Its log goes on: read, it cannot fill the pipe and stop the server.
        threading.Thread(target=self._read, args=(started,), daemon=True).start()
        assert started.wait(180), "".join(self.lines)
        found = re.search(r'running on (http://[^\s"]+)', "".join(self.lines))
        assert found, "".join(self.lines)
        self.url = found[1]

    def _read(self, started: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "running on" in line:
                started.set()
        started.set()

    def end(self) -> None:
        """SIGTERM, on which every server must end well."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> None:
        """It did."""
        assert self.process.wait(90) == self.code, "".join(self.lines[-5:])


def shim(*arguments: object, **options: Any) -> Started:
    """`shim serve`. options: of subprocess.Popen."""
    return Started([sys.executable, "-m", "shim", "serve", *map(str, arguments)], stdout=subprocess.DEVNULL, **options)


class Server(Started):
    """A faulty server process, its fault file and its log."""

    def __init__(self, folder: Path, *arguments: object):
        self.fault = folder / "fault"
        environment = os.environ | {"FAULT": str(self.fault), "SEALPORT_ADMIN_KEY": "admin"}
        super().__init__([sys.executable, str(FAULTY), "serve", *map(str, arguments)], env=environment)

    def batches(self) -> list[int]:
        """Sizes of the batches that were computed."""
        path = Path(f"{self.fault}.count")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def embed(self, text: object, **more: Any) -> httpx.Response:
        """One request."""
        return httpx.post(f"{self.url}/v1/embeddings", json={"model": "tiny", "input": text} | more, timeout=60)

    def ready(self) -> int:
        """The status of /health/ready."""
        return httpx.get(f"{self.url}/health/ready").status_code

    def figure(self, name: str) -> float:
        """The sum of a metric's values."""
        page = httpx.get(f"{self.url}/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"sealport_{name}"))

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for it."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "".join(self.lines[-5:])
            time.sleep(0.02)
