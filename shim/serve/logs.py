"""One JSON object a line on stderr, never with a text in it."""

import asyncio
import json
import logging
import sys
import time
import traceback
from contextlib import nullcontext

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.serve.metrics import Metrics

STANDARD = frozenset(vars(logging.makeLogRecord({})))
WAIT = 0.1
GONE = 499  # of a client that left before its answer: seen here only, as nobody is there to read it
FACTS = "sealport"  # the key of a request's scope under which its handler notes what the log may hold
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


class Lines(logging.Handler):
    """Lines on stderr: those of requests within WAIT seconds, many in one write; any other at once, with all before it."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or keep it for a moment."""
        try:
            self._lines.append(self.format(record) + "\n")
            if record.name != log.name:
                self.flush()
            elif len(self._lines) == 1:
                asyncio.get_running_loop().call_later(WAIT, self.flush)
        except Exception:  # any, as in logging's own handlers: a line that cannot be written fails nothing else
            self.handleError(record)

    def flush(self) -> None:
        """Write what was kept; called at exit, too."""
        with self.lock or nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                sys.stderr.write("".join(lines))
                sys.stderr.flush()


def set_up() -> None:
    """Send our records and uvicorn's to stderr as JSON."""
    handler = Lines()
    handler.setFormatter(JsonFormatter())
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
            # A path of a client's own making is a label of its own, or a text: neither is kept.
            route = scope["path"] if scope["path"] in self.routes else "other"
            seconds = time.perf_counter() - started
            self.metrics.requests.labels(route, status).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            if status >= 400:
                self.metrics.errors.labels(facts.get("kind", str(status))).inc()
            level = logging.DEBUG if route in ("/metrics", "/health", "/health/live", "/health/ready") else logging.INFO
            if log.isEnabledFor(level):
                extra = {"route": route, "status": status, "seconds": round(seconds, 6), **facts}
                # Not `log.log`, which looks for the line of code that calls it.
                log.handle(log.makeRecord(log.name, level, __file__, 0, "request", (), None, extra=extra))
