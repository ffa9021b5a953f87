"""How long batches take, and so how large the next may be where several clients share a model."""

import time

from shim.batches import SMALL

RECENT = 60.0  # seconds after its last request that a client counts as one of those who share the model
TURN = 0.02  # seconds that a batch should take, at most, while several share it; a text is never divided


class Pace:
    """What batches of one model took, and who asked lately."""

    def __init__(self) -> None:
        self.batch_seconds = 0.1  # a running mean
        self._token_seconds = 0.0  # a running mean, of padded tokens
        self._clients: dict[str, float] = {}  # when each asked last, the latest last

    def asked(self, client: str) -> None:
        """A client has something to compute."""
        self._clients.pop(client, None)
        self._clients[client] = time.perf_counter()

    def budget(self, most: int) -> int:
        """Padded tokens of the next batch: few where several clients share the model, so that no turn is long."""
        while self._clients and time.perf_counter() - next(iter(self._clients.values())) > RECENT:
            del self._clients[next(iter(self._clients))]
        return most if len(self._clients) < 2 else min(most, self.turn)

    @property
    def turn(self) -> int:
        """Padded tokens that take as long as a turn."""
        return max(SMALL, int(TURN / self._token_seconds)) if self._token_seconds else SMALL

    def seconds(self, tokens: int) -> float:
        """What so many padded tokens may take; 0 while nobody knows."""
        return tokens * self._token_seconds

    def took(self, seconds: float, tokens: int) -> None:
        """A batch that was computed."""
        self.batch_seconds += 0.1 * (seconds - self.batch_seconds)
        if tokens >= SMALL:
            each = seconds / tokens
            self._token_seconds += 0.3 * (each - self._token_seconds) if self._token_seconds else each
