"""How a connection answers and ends: each request in its turn, and no refusal is lost as the client still sends."""

import asyncio
import socket
from enum import Enum

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shim.serve.connections import Connections
from shim.serve.faults import Kind, Refusal
from shim.serve.logs import REFUSED
from shim.serve.refusals import refusal_response

PROBE = 0.05  # seconds until the kernel knows that a client on this machine has left
PARTING = 0.5  # seconds to read a refusal, when the server stops
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # which every client passes over
CLOSE = {"connection": "close"}
STOPPING = Refusal(Kind.STOPPING, "the server is stopping", headers=CLOSE | {"retry-after": "5"})


class Stage(Enum):
    """Which part of a request comes next."""

    BETWEEN = 1
    HEAD = 2
    BODY = 3


class Ending:
    """The transport as an answer uses it, which it does not close before the client has read."""

    def __init__(self, protocol: "Answering"):
        transport = protocol.transport
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, protocol.end


class Answering(HttpToolsProtocol):
    """The half of a connection that answers; protocol.py has the half that receives, and says which stage it is at."""

    server_state: Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._ending = Ending(self)
        self._stage, self._since = Stage.BETWEEN, self.loop.time()
        self._ended = self._half_closed = False

    def on_response_complete(self) -> None:
        """An answer is written, though perhaps not yet sent."""
        self._since = self.loop.time()
        if not self._ended:
            super().on_response_complete()
            if self._half_closed and not self._answering:
                self.transport.close()

    @property
    def _answering(self) -> bool:
        """Whether a request waits for its answer, or for the end of it."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _turn(self) -> bool:
        """Whether the next answer is that to what is being received."""
        unanswered = self._stage is Stage.BODY and not self.pipeline and not self.cycle.response_started
        return unanswered or not self._answering

    def refuse(self, refusal: Refusal) -> None:
        """Answer what is being received, where it is its turn, and end the connection."""
        self._refuse(refusal) if self._turn else self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        if self._ended or self.transport.is_closing():
            return
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        response = refusal_response({"path": path}, refusal)
        headers = (*self.server_state.default_headers, *response.raw_headers)
        lines = [STATUS_LINE[refusal.status], *(b"%s: %s\r\n" % header for header in headers), b"\r\n", bytes(response.body)]
        self.transport.write(b"".join(lines))
        if self._answering:  # its handler waits for the rest of the body or for its turn, and is not to answer any more
            self.cycle.scope[REFUSED] = refusal  # type: ignore[literal-required]
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        else:
            self.server_state.refused(refusal)
        self._linger()

    def end(self) -> None:
        """Close, but where the client still sends, only when it has stopped: reset, it could not read the answer."""
        if self._stage is Stage.BETWEEN:
            self.transport.close()
        elif not self._ended:
            self._linger()

    def _linger(self) -> None:
        self._ended, self._since = True, self.loop.time()
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        self.flow.resume_reading()
        self.transport.write_eof()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: it has left, or it waits for its answer with its side closed."""
        if self._ended or not self._answering or self._stage is not Stage.BETWEEN:
            return False
        self._half_closed = True
        if not self.cycle.response_started and self.cycle.scope["http_version"] == "1.1":
            self.transport.write(CONTINUE)  # to which the kernel of one that has left answers with a reset
            self.loop.call_later(PROBE, self._leave_if_reset)
        return True

    def _leave_if_reset(self) -> None:
        connection = None if self.transport.is_closing() else self.transport.get_extra_info("socket")
        if connection is not None and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: what is whole is answered, what is not is refused."""
        if self._stage is Stage.BETWEEN or self._ended or not self._turn:
            super().shutdown()
        else:
            self.refuse(STOPPING)
            self.loop.call_later(PARTING, self.transport.abort)

    def stop(self) -> bool:
        """See Connection."""
        waits = self._answering and not self._ended
        first = waits and not self.pipeline and not self.cycle.response_started
        self._refuse(STOPPING) if first else self.transport.abort()
        return waits
