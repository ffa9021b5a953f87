"""Whose turn it is: one at a time, a piece of work each, client by client; and how much of a queue one client may fill."""

import asyncio
from collections import deque
from collections.abc import Iterable
from contextvars import ContextVar
from itertools import islice

CLIENT: ContextVar[str] = ContextVar("client", default="")  # who asks, in what answers a request
CLIENTS = 4  # shares of a queue, all clients together


class Turns:
    """One turn at a time. Of those who wait, each client's first goes before any client's second. Of one event loop."""

    def __init__(self) -> None:
        self.free, self._last = True, ""
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # in the order of the clients' turns

    async def take(self, client: str) -> None:
        """Wait for a turn; then `give` it on."""
        if self.free:
            self.free, self._last = False, client
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in (line := self._waiting.get(client, deque())):
                line.remove(turn)
                if not line:
                    del self._waiting[client]
            elif not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """The turn is over."""
        while self._waiting:
            client = following(self._waiting, self._last)
            line = self._waiting.pop(client)
            turn = line.popleft()
            if line:
                self._waiting[client] = line  # behind all others
            if not turn.done():  # cancelled in this moment
                self._last = client
                turn.set_result(None)
                return
        self.free = True


def following(clients: Iterable[str], last: str) -> str:
    """The first of the clients, but not the one whose turn was the last if there is another."""
    first, second = (*islice(clients, 2), "")[:2]
    return second if first == last and second else first


class Shares:
    """Work that was accepted and is not done, by client: `share` for each, CLIENTS shares in all.

    What is larger than a share counts as one: else it would never be done, or keep out others.
    """

    def __init__(self, share: int):
        self.share, self.total = share, 0
        self.held: dict[str, int] = {}

    def full(self, client: str, work: int = 1) -> bool:
        """Whether the client is given no more."""
        held, work = self.held.get(client, 0), min(work, self.share)
        return held + work > self.share or self.total + work > CLIENTS * self.share

    def take(self, client: str, work: int) -> None:
        """Work that is accepted."""
        work = min(work, self.share)
        self.held[client] = self.held.get(client, 0) + work
        self.total += work

    def give(self, client: str, work: int) -> None:
        """Work that is done."""
        work = min(work, self.share)
        self.held[client] -= work
        self.total -= work
        if not self.held[client]:
            del self.held[client]
