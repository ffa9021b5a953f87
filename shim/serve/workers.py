"""Threads that do one work together."""

import threading
import time
from collections.abc import Callable


class Workers:
    """They are daemons: one that hangs must not hold up the exit for ever. condition: of what they wait for."""

    def __init__(self, condition: threading.Condition):
        self._condition, self._idle = condition, 0
        self._threads: list[threading.Thread] = []

    def start(self, target: Callable[[], None]) -> None:
        """One more."""
        thread = threading.Thread(target=target, name="model", daemon=True)
        thread.start()
        self._threads.append(thread)

    def wait(self, timeout: float | None) -> bool:
        """As a thread that holds the condition, wait for work; whether it was woken."""
        self._idle += 1
        woken = self._condition.wait(timeout)
        self._idle -= 1
        return woken

    def another(self, target: Callable[[], None]) -> None:
        """Wake one that waits, or start one if none does."""
        self._condition.notify() if self._idle else self.start(target)

    @property
    def whole(self) -> bool:
        """Whether none has ended."""
        return all(thread.is_alive() for thread in tuple(self._threads))

    def join(self, timeout: float | None) -> bool:
        """Whether all ended within so many seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        for thread in tuple(self._threads):
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
