"""uvicorn's server, which ends in time whatever its clients do."""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn

from shim.serve.connections import Connections

MARGIN = 2.0  # seconds of the drain, at most half of it, in which refusals are sent and the last batch ends


class Server(uvicorn.Server):
    """Ends on a signal whenever that comes, and refuses what is not answered shortly before the drain's time is over."""

    server_state: Connections

    def __init__(
        self,
        config: uvicorn.Config,
        connections: Connections,
        started: Callable[[], None],
        refuse: Callable[[], None],
        code: Callable[[], int],
    ):
        """started: called when requests are taken. refuse: ends what the models have accepted. code: to exit with."""
        super().__init__(config)
        assert config.timeout_graceful_shutdown is not None
        self.server_state = connections
        self._started, self._refuse, self._code = started, refuse, code
        self._drain = config.timeout_graceful_shutdown
        self.unanswered = 0  # requests that no model had accepted yet

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

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: look after the connections every tenth time; whether to end."""
        if counter % 10 == 0:
            self.server_state.look(self._loop.time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted."""
        margin = min(MARGIN, self._drain / 2)
        self._loop.call_later(self._drain - margin, self._refuse)
        self._loop.call_later(self._drain - margin / 2, self._stop)
        # Even where a thread, the disk or whoever reads the log holds everything up.
        last = threading.Timer(self._drain - margin / 4, self._leave)
        last.daemon = True
        last.start()
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.unanswered += self.server_state.stop()

    def _leave(self) -> None:
        logging.shutdown()
        os._exit(self._code())
