"""uvicorn's server, which ends in time whatever its clients do."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
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
        self._margin = min(MARGIN, self._drain / 2)
        self._told: float | None = None  # when a signal came, in seconds
        self._asked = threading.Lock()  # held until then: no other lock may be taken in a signal's handler
        self._asked.acquire()
        self.unanswered = 0  # requests that no model had accepted yet

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal. Before and after uvicorn minds them itself, they ask for the same."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        super().run(sockets)

    def _end(self, *_: object) -> None:
        self._tell()
        self.should_exit = True

    def _tell(self) -> None:
        """The drain's time begins, however long the event loop is held yet."""
        if self._told is None:
            self._told = time.monotonic()
            with contextlib.suppress(RuntimeError):  # another signal came in this moment
                self._asked.release()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal while serving; a second Ctrl-C ends the drain."""
        self._tell()
        super().handle_exit(sig, frame)
        if self.force_exit:
            self._loop.call_soon_threadsafe(self._refuse)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take requests, then say so."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._leave, name="end", daemon=True).start()
        await super().startup(sockets)
        self._started()

    async def on_tick(self, counter: int) -> bool:
        """Every tenth of a second: look after the connections every tenth time; whether to end."""
        if counter % 10 == 0:
            self.server_state.look(self._loop.time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what was accepted."""
        assert self._told is not None
        left = self._told + self._drain - time.monotonic()
        self._loop.call_later(left - self._margin, self._refuse)
        self._loop.call_later(left - self._margin / 2, self._stop)
        await super().shutdown(sockets)

    def _stop(self) -> None:
        self.unanswered += self.server_state.stop()

    def _leave(self) -> None:
        """End even where a thread, the disk or whoever reads the log holds everything up."""
        self._asked.acquire()
        time.sleep(self._drain - self._margin / 4)
        flush = threading.Thread(target=logging.shutdown, daemon=True)
        flush.start()
        flush.join(self._margin / 8)
        os._exit(self._code())
