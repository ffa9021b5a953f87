"""uvicorn's server and HTTP protocol, but for what clients and signals would run into."""

import asyncio
import re
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UPGRADE = re.compile(rb"\r\nUpgrade:", re.IGNORECASE)
HIDDEN = b"\r\nIgnored:"  # as long, so that lengths stay right
ANSWERING = 1  # seconds beyond the drain's for refusals to be sent


class Protocol(HttpToolsProtocol):
    """Sees no `Upgrade`, which we never make: the parser would take a request's body for the other protocol's.

    Java's and curl's clients offer HTTP/2 in this way. JSON has no line break before a name, so that no body is changed.
    """

    def data_received(self, data: bytes) -> None:
        """Bytes of a connection."""
        super().data_received(UPGRADE.sub(HIDDEN, data) if UPGRADE.search(data) else data)


class Server(uvicorn.Server):
    """Ends on a signal whenever that comes, and refuses what is not answered when the drain's time is over."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None], refuse: Callable[[], None]):
        super().__init__(config)
        assert config.timeout_graceful_shutdown is not None
        self._started, self._refuse, self._drain = started, refuse, config.timeout_graceful_shutdown
        config.timeout_graceful_shutdown += ANSWERING

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal. Before and after uvicorn minds them itself, they ask for the same."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        super().run(sockets)

    def _end(self, *_: object) -> None:
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal while serving; a second Ctrl-C ends the drain."""
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._loop.call_soon_threadsafe(self._refuse)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, then say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted."""
        self._loop.call_later(self._drain, self._refuse)
        await super().shutdown(sockets)
