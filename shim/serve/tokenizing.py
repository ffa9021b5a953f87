"""A model's tokenizer among its clients: in turns, and in a thread of its own for what takes long."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from shim.contents import Steps, completed
from shim.pieces import Piece
from shim.serve.turns import CLIENT, Turns

SHORT = 512  # characters that are tokenized at once: to have another thread do it would take as long
T = TypeVar("T")


class Tokenizing:
    """One at a time uses the tokenizer, a step each; its thread ends when no request refers to it any more."""

    def __init__(self, seconds: Callable[[float], object]):
        """`seconds` is told how long each call took, the waiting included."""
        self._seconds, self._turns = seconds, Turns()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer")

    async def all(self, steps: Steps[T], characters: int) -> T:
        """The result of all steps: in one turn, where they are short, else each in a turn of its own."""
        started = time.perf_counter()
        if characters <= SHORT:
            await self._turns.take(CLIENT.get())
            try:
                found = completed(steps)
            finally:
                self._turns.give()
        else:
            ended: list[T] = []
            while not ended:
                await self._turns.take(CLIENT.get())
                ended = await asyncio.wrap_future(self._submit(partial(_step, steps)))
            (found,) = ended
        self._seconds(time.perf_counter() - started)
        return found

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        """The call in the thread; its turn ends when it does, whether somebody waits or not."""
        loop, turns = asyncio.get_running_loop(), self._turns

        def give(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(turns.give)

        future = self._thread.submit(call)
        future.add_done_callback(give)
        return future


def _step(steps: Steps[T]) -> list[T]:
    """What all steps gave, once this was the last one."""
    try:
        next(steps)
    except StopIteration as end:
        return [end.value]
    return []


def written(texts: list[Iterator[list[Piece]]], write: Callable[[list[Piece]], T]) -> Steps[list[tuple[int, list[T]]]]:
    """How many tokens each text has, and what is written of each of its parts."""
    found = []
    for text in texts:
        count, rows = 0, []
        for part in text:
            if part:
                count += len(part)
                rows.append(write(part))
                yield
        found.append((count, rows))
    return found
