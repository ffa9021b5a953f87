"""uvicorn's HTTP protocol, but for what a client could fill, hold or block by how it sends and reads."""

import asyncio
import logging
import re

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from shim.serve.answering import CLOSE, Answering, Stage
from shim.serve.connections import LINGER, SPARE, Wait
from shim.serve.faults import Kind, Refusal
from shim.serve.limits import OPEN
from shim.serve.refusals import refusal_response

UPGRADE = re.compile(rb"\r\nUpgrade:", re.IGNORECASE)
HIDDEN = b"\r\nIgnored:"  # as long, so that lengths stay right
HEAD = 65_536  # bytes of a request line with its headers, of trailers, or of whatever else is no body
FIELDS = 100  # headers of a request: each costs some 150 bytes, however short it is
FRAMING = 0.5  # bytes around the chunks of a body for each byte in them, HEAD aside
PIPELINE = 16  # requests that wait for the answer of an earlier one
HEAD_PART, BODY_PART = 16_384, 65_536  # bytes that are parsed before the limits are looked at again
DISCARDED = 64_000_000  # bytes of a refused body that are read and thrown away
CROWDED = Refusal(Kind.CROWDED, "too many connections (--max-connections)", headers=CLOSE | {"retry-after": "1"})
log = logging.getLogger("shim")


class Flow(FlowControl):
    """Reads nothing on while requests wait for the answer of an earlier one."""

    def __init__(self, protocol: "Protocol"):
        super().__init__(protocol.transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Read on."""
        if not self._protocol.pipeline:
            super().resume_reading()


class Protocol(Answering):
    """One connection.

    Sees no `Upgrade`, which we never make: the parser would take a request's body for the other protocol's. Java's and curl's
    clients offer HTTP/2 in this way. JSON has no line break before a name, so that no body is changed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        if not self.server_state.admit():
            self.app = self._spare
        super().connection_made(transport)
        self.flow = Flow(self)
        self._unread_since: float | None = None
        self._between = self._discarded = self._body = self._framing = 0
        self._moved = False
        self._fault: Refusal | None = None
        if len(self.connections) > self.server_state.limit + SPARE:
            transport.abort()

    async def _spare(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Health and figures only: the connection is one too many."""
        app = self.config.loaded_app if scope["path"] in OPEN else refusal_response(scope, CROWDED)
        await app(scope, receive, send)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of one that is refused already."""
        if self._ended:
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self.transport.abort()
            return
        if UPGRADE.search(data):
            data = UPGRADE.sub(HIDDEN, data)
        start = 0
        while start < len(data) and not self._ended and not self.transport.is_closing():
            size = BODY_PART if self._stage is Stage.BODY else min(HEAD_PART, HEAD - self._between)
            part = data[start : start + size]
            start += size
            self._moved, body, framed = False, self._body, self._stage is Stage.BODY
            super().data_received(part)
            if self._body > body:
                self._moved = True
                self.cycle.message_event.set()
                if len(self.cycle.body) > HIGH_WATER_LIMIT:
                    self.flow.pause_reading()
            if framed and self._stage is Stage.BODY:
                self._framing += len(part) - (self._body - body)
                if self._framing > HEAD + FRAMING * self._body:  # each chunk costs as much as a large one
                    self.refuse(Refusal(Kind.INVALID, "the body's chunks are too small", headers=CLOSE))
                    return
            # The parser keeps a header together, however long it is, and tells nobody of it.
            self._between = 0 if self._moved else self._between + len(part)
            if self._between >= HEAD:
                self.refuse(self._too_large())

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._stage, self._since = Stage.HEAD, self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what comes behind a body is passed over."""
        if self._stage is Stage.BODY:
            return
        super().on_header(name, value)
        if len(self.headers) > FIELDS:
            self._fail(Refusal(Kind.HEAD, f"over {FIELDS} headers", headers=CLOSE))

    def on_headers_complete(self) -> None:
        """A request's head is whole."""
        super().on_headers_complete()
        self.cycle.transport = self._ending  # type: ignore[assignment]
        # An answer that begins before the body is whole, which then is a refusal, says that it ends the connection.
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._stage, self._since, self._moved = Stage.BODY, self.loop.time(), True
        self._body = self._framing = 0
        if len(self.pipeline) > PIPELINE:
            self._fail(Refusal(Kind.HEAD, f"over {PIPELINE} requests ahead of their answers", headers=CLOSE))

    def on_body(self, body: bytes) -> None:
        """Bytes of a body, as in uvicorn, but for what can be done once for many chunks."""
        self._body += len(body)
        if not self.cycle.response_complete:
            self.cycle.body += body

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._stage, self._moved = Stage.BETWEEN, True
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        super().on_message_complete()

    def _fail(self, refusal: Refusal) -> None:
        """Within a callback of the parser: have it stop, and then `send_400_response` called."""
        self._fault = refusal
        raise ValueError(refusal.message)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it."""
        self.refuse(self._fault or Refusal(Kind.INVALID, msg, headers=CLOSE))

    def _too_large(self) -> Refusal:
        if self._stage is Stage.HEAD and not self.headers and len(self.url) > HEAD // 2:
            return Refusal(Kind.URL, f"the URL is over {HEAD} bytes", headers=CLOSE)
        return Refusal(Kind.HEAD, f"the headers are over {HEAD} bytes", headers=CLOSE)

    def waits(self) -> Wait | None:
        """See Connection."""
        if self._stage is Stage.BODY:
            return Wait.BODY
        if self.transport.get_write_buffer_size():
            return Wait.READING
        if self._answering:
            return None
        return Wait.NEXT if self.cycle is not None and self._stage is Stage.BETWEEN else Wait.HEAD

    def since(self) -> float:
        """See Connection."""
        return self._since

    def look(self, now: float) -> None:
        """See Connection."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = None
        elif self._unread_since is None:
            self._unread_since = now
        waited = now - (self._since if self._unread_since is None else self._unread_since)
        refused = self._ended or (self._stage is Stage.BODY and not self._answering)
        allowed = min(LINGER, self.server_state.timeout) if refused else self.server_state.timeout
        if (wait := self.waits()) is not None and waited > allowed:
            self._expire(wait)
        elif self._half_closed:
            self._leave_if_reset()

    def _expire(self, wait: Wait) -> None:
        log.info("a client was too slow", extra={"wait": wait.name.lower()})
        if self._ended or self._unread_since is not None:
            self.transport.abort()
        elif self._stage is Stage.BETWEEN:
            self.transport.close()
        else:
            message = f"the request was not whole within {self.server_state.timeout} s (--request-timeout)"
            self.refuse(Refusal(Kind.TIMEOUT, message, headers=CLOSE))

    def evict(self) -> None:
        """See Connection."""
        self.transport.abort()
