"""A running server that can be broken: tests/support/faulty_server.py in a process of its own."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

FAULTY = Path(__file__).with_name("faulty_server.py")


class Server:
    """A faulty server process, its fault file and its log."""

    def __init__(self, folder: Path, *arguments: object):
        self.fault = folder / "fault"
        command = [sys.executable, str(FAULTY), "serve", *map(str, arguments), "--port", "0"]
        environment = os.environ | {"FAULT": str(self.fault), "SEALPORT_ADMIN_KEY": "admin"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.lines: list[str] = []
        started = threading.Event()
        threading.Thread(target=self._read, args=(started,), daemon=True).start()
        assert started.wait(60), "".join(self.lines)
        found = re.search(r'running on (http://[^\s"]+)', "".join(self.lines))
        assert found, "".join(self.lines)
        self.url, self.code = found[1], 0  # the exit code that it must end with

    def _read(self, started: threading.Event) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "running on" in line:
                started.set()
        started.set()

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

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for it."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "".join(self.lines[-5:])
            time.sleep(0.02)
