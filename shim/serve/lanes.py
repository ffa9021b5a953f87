"""What a model computes at once: beside a batch that takes long, a batch of much shorter texts of other clients."""

import time
from dataclasses import dataclass

from shim.serve.pace import Pace
from shim.serve.queue import Queue, Text

SHORTER = 2  # a text beside a batch has at most one part in so many of its padded tokens: it costs the batch little time
PATIENCE = 10  # a batch hangs when it takes this many times as long as its like, and the timeout beside


@dataclass(frozen=True)
class Running:
    """A batch in progress. tokens: padded. long: whether others need not wait for it."""

    clients: frozenset[str]
    tokens: int
    since: float
    long: bool


class Lanes:
    """The queue of a model, and the batches that are taken from it and not done.

    A client has one batch in progress at most, so that one client alone gets no more of the model than it had without lanes,
    and each batch has less than half of the tokens of the one before it, so that there are few.
    """

    def __init__(self, budget: int):
        """budget: padded tokens of a batch."""
        self.queue, self.pace = Queue(budget), Pace()
        self._running: dict[int, Running] = {}

    def take(self) -> list[Text]:
        """The next batch to begin now; empty where there is none, or it has to wait. Then `done`."""
        most = self.pace.budget(self.queue.budget)
        running = self._running.values()
        if not running:
            batch = self.queue.take(most)
        elif all(other.long for other in running):
            clients = frozenset().union(*(other.clients for other in running))
            longest = min(other.tokens for other in running) // SHORTER
            batch = self.queue.take(min(most, longest), longest, clients)
        else:
            return []
        if batch:
            clients, tokens = frozenset(text.request.client for text in batch), padded(batch)
            self._running[id(batch)] = Running(clients, tokens, time.perf_counter(), tokens > self.pace.turn)
        return batch

    def long(self, batch: list[Text]) -> bool:
        """Whether another batch may begin while this one is computed."""
        return self._running[id(batch)].long

    def done(self, batch: list[Text]) -> None:
        """It was computed, or failed."""
        del self._running[id(batch)]

    def hang(self, timeout: float) -> bool:
        """Whether a batch in progress takes longer than any should."""
        now = time.perf_counter()
        running = list(self._running.values())  # another thread may begin one meanwhile
        return any(now - each.since > timeout + PATIENCE * self.pace.seconds(each.tokens) for each in running)


def padded(batch: list[Text]) -> int:
    """Tokens of a batch, padding included."""
    return len(batch) * max(text.length for text in batch)
