"""One JSON object a line on stderr, on a terminal a plain line; never with a text in it."""

import asyncio
import json
import logging
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.serve.metrics import Metrics

STANDARD = frozenset(vars(logging.makeLogRecord({})))
WAIT = 0.1
PENDING = 10_000  # lines that wait for whoever reads stderr; some 2 MB
LAST = 1.0
GONE = 499  # of a client that left before its answer: seen here only, as nobody is there to read it
FACTS = "sealport"  # the key of a request's scope under which its handler notes what the log may hold
REFUSED = "sealport.refused"  # and that of the Refusal which the connection itself has sent
DUMP = json.JSONEncoder(default=str).encode
log = logging.getLogger("shim.request")


class JsonFormatter(logging.Formatter):
    """time, level, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in STANDARD and key != "color_message"}
        if record.exc_info and record.exc_info[1] is not None:
            # Where, not what: an exception's own words may quote a client's text.
            error = record.exc_info[1]
            frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            line |= {"error": type(error).__name__, "frames": frames[-8:]}
        return DUMP(line)


class PlainFormatter(JsonFormatter):
    """The same for who reads along: time of day, level where it is not info, message, and what was given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = json.loads(super().format(record))
        time_of_day, level, message = line.pop("time")[11:19], line.pop("level"), line.pop("message")
        words = [
            time_of_day,
            *([] if level == "info" else [level]),
            message,
            *(f"{key}={value}" for key, value in line.items()),
        ]
        return " ".join(words)


class Lines(logging.Handler):
    """Lines on stderr: those of requests within WAIT seconds, many in one write; any other at once, with all before it.

    They are written by a thread of their own: a reader that has stopped stops no request. What it would leave lying is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._ready: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()
        self._pending = self._lost = 0  # lines handed to the thread, and lines given up
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it for a moment."""
        try:
            self._lines.append(self.format(record) + "\n")
            if record.name != log.name:
                self._hand_over()
            elif len(self._lines) == 1:
                asyncio.get_running_loop().call_later(WAIT, self._hand_over)
        except Exception:  # any, as in logging's own handlers: a line that cannot be written fails nothing else
            self.handleError(record)

    def flush(self) -> None:
        """Write what was kept, within LAST seconds; called at exit, too."""
        self._hand_over()
        end = time.monotonic() + LAST
        while self._pending and time.monotonic() < end:
            time.sleep(0.005)

    def _hand_over(self) -> None:
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if self._pending + len(lines) > PENDING:
                self._lost += len(lines)
            elif lines:
                if self._lost:
                    lines.insert(0, DUMP({"level": "warning", "message": "lines lost", "lines": self._lost}) + "\n")
                    self._lost = 0
                self._pending += len(lines)
                self._ready.put(("".join(lines).encode(), len(lines)))

    def _write(self) -> None:
        while True:
            data, count = self._ready.get()
            try:
                while data:
                    # Not by sys.stderr, whose lock the interpreter's end would wait for.
                    data = data[os.write(sys.stderr.fileno(), data) :]
            except OSError:
                pass  # whoever read it has gone
            with self.lock or nullcontext():
                self._pending -= count


def set_up() -> None:
    """Send our records and uvicorn's to stderr."""
    handler = Lines()
    handler.setFormatter(PlainFormatter() if sys.stderr.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(True)


class Record:
    """Counts and logs every request: route, status, seconds, and the facts that its handler noted."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]):
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), GONE
        facts: dict[str, object] = {}
        scope[FACTS] = facts

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:  # any, and raised again: the framework answers it with 500, but outside of this
            status, facts["kind"] = 500, "internal"
            raise
        finally:
            if (refusal := scope.get(REFUSED)) is not None:
                status, facts["kind"] = refusal.status, refusal.kind.label
            # A path of a client's own making is a label of its own, or a text: neither is kept.
            route = scope["path"] if scope["path"] in self.routes else "other"
            seconds = time.perf_counter() - started
            self.metrics.requests.labels(route, status).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            if status >= 400:
                self.metrics.errors.labels(facts.get("kind", str(status))).inc()
            level = (
                logging.DEBUG if route in ("/metrics", "/health", "/health/live", "/health/ready", "/ping") else logging.INFO
            )
            if log.isEnabledFor(level):
                extra = {"route": route, "status": status, "seconds": round(seconds, 6), **facts}
                # Not `log.log`, which looks for the line of code that calls it.
                log.handle(log.makeRecord(log.name, level, __file__, 0, "request", (), None, extra=extra))
