"""How many connections there may be, how long a client may keep one waiting, and which are closed where there are too many."""

import logging
from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol

from uvicorn.server import ServerState

from shim.serve.faults import Refusal
from shim.serve.metrics import Metrics
from shim.serve.settings import Settings

SPARE = 16  # connections beyond the limit, for health and figures
LINGER = 10.0  # seconds for a client to send the rest of what is refused, and to read the refusal
log = logging.getLogger("shim")


class Wait(IntEnum):
    """What of its client a connection waits for. Where there are too many, those of the least number are closed first."""

    HEAD = 0  # of its first request, or one that has begun
    NEXT = 1  # request
    BODY = 2
    READING = 3  # of an answer


class Connection(Protocol):
    """What is asked of a connection here."""

    def waits(self) -> Wait | None:
        """What it waits for; None while it is the client that waits."""

    def since(self) -> float:
        """When that began, in the event loop's seconds."""

    def look(self, now: float) -> None:
        """End it where its client kept it waiting for too long, or has left."""

    def evict(self) -> None:
        """End it, as its place is needed."""

    def stop(self) -> bool:
        """End it, as the server does; whether a request was left unanswered."""


class Connections(ServerState):
    """The state that uvicorn shares among connections, and the limits of ours."""

    def __init__(self, settings: Settings, metrics: Metrics):
        super().__init__()
        self.timeout, self.limit, self.metrics = settings.request_timeout, settings.max_connections, metrics
        self._evicted = self._full = 0
        metrics.connections.set_function(lambda: len(self.connections))

    def admit(self) -> bool:
        """Whether a new connection has a place like any other; those that wait longest for their clients make room for it."""
        if len(self.connections) < self.limit:
            return True
        waiting = [(wait, one.since(), id(one), one) for one in self._all() if (wait := one.waits()) is not None]
        victims = [one for *_, one in sorted(waiting)[: 1 + self.limit // 16]]  # many at once: to look for one costs as much
        for victim in victims:
            victim.evict()
            self.connections.discard(victim)
        self._evicted += len(victims)
        self._full += not victims
        return bool(victims)

    def look(self, now: float) -> None:
        """End what waits for too long. `now`: the event loop's seconds."""
        for one in self._all():
            one.look(now)
        if self._evicted or self._full:
            extra = {"limit": self.limit, "closed": self._evicted, "refused": self._full}
            log.warning("too many connections (--max-connections)", extra=extra)
            self._evicted = self._full = 0

    def refused(self, refusal: Refusal) -> None:
        """Note what was refused before it was a request."""
        self.metrics.errors.labels(refusal.kind.label).inc()
        log.info("refused", extra={"status": refusal.status, "kind": refusal.kind.label})

    def stop(self) -> int:
        """End all, and say how many requests are left unanswered."""
        unanswered = sum([one.stop() for one in self._all()])
        for task in self.tasks:
            task.cancel()
        return unanswered

    def _all(self) -> Iterable[Connection]:
        return tuple(self.connections)  # type: ignore[arg-type]
