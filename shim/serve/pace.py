"""How long batches take: how large the next may be where several clients share a model, and when one hangs."""

import time

from shim.batches import SMALL

RECENT = 60.0  # seconds after its last request that a client counts as one of those who share the model
TURN = 0.02  # seconds that a batch should take, at most, while several share it; a text is never divided
PATIENCE = 10  # a batch hangs when it takes this many times as long as its like, and the timeout beside


class Pace:
    """What batches of one model took, and who asked lately."""

    def __init__(self) -> None:
        self.batch_seconds = 0.1  # a running mean
        self._token_seconds = 0.0  # a running mean, of padded tokens
        self._clients: dict[str, float] = {}  # when each asked last, the latest last
        self._batch: tuple[float, int] | None = None  # the one in progress: since when, and its padded tokens

    def asked(self, client: str) -> None:
        """A client has something to compute."""
        self._clients.pop(client, None)
        self._clients[client] = time.perf_counter()

    def budget(self, most: int) -> int:
        """Padded tokens of the next batch: few where several clients share the model, so that no turn is long."""
        while self._clients and time.perf_counter() - next(iter(self._clients.values())) > RECENT:
            del self._clients[next(iter(self._clients))]
        if len(self._clients) < 2:
            return most
        if not self._token_seconds:  # not known yet
            return min(most, SMALL)
        return min(most, max(SMALL, int(TURN / self._token_seconds)))

    def begin(self, tokens: int) -> None:
        """A batch of so many padded tokens."""
        self._batch = time.perf_counter(), tokens

    def end(self) -> None:
        """The batch is over, well or not."""
        self._batch = None

    def took(self, seconds: float, tokens: int) -> None:
        """A batch that was computed."""
        self.batch_seconds += 0.1 * (seconds - self.batch_seconds)
        if tokens >= SMALL:
            each = seconds / tokens
            self._token_seconds += 0.3 * (each - self._token_seconds) if self._token_seconds else each

    def hangs(self, timeout: float) -> bool:
        """Whether the batch in progress takes longer than any should."""
        batch = self._batch
        return batch is not None and time.perf_counter() - batch[0] > timeout + PATIENCE * batch[1] * self._token_seconds
