"""Whose texts are computed next: a line of jobs, taken from as batches. No threads, no clock, no HTTP."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest

from shim.batches import fits
from shim.model import Output
from shim.text import Encoded

LOOKAHEAD = 256  # texts among which a batch looks for its like in length
AHEAD = 1 << 17  # tokens of a request that lie ready, and no more: as Python's integers they take far more room than its texts


@dataclass(eq=False)
class Job:
    """The texts of one request. `finish` is called once, with the outputs in order or with what went wrong.

    Its texts may come in parts; `hungry` is called, from any thread, whenever few of them are left waiting.
    """

    heads: tuple[str, ...]
    count: int
    finish: Callable[[list[Output] | Exception], None]
    hungry: Callable[[], object] = lambda: None
    waiting: deque["Item"] = field(default_factory=deque)
    outputs: dict[int, Output] = field(default_factory=dict)

    def ahead(self, part: float = 1.0) -> bool:
        """Whether that part of what may lie ready of it does."""
        tokens = sum(item.length for item in tuple(self.waiting))  # another thread may take some meanwhile
        return len(self.waiting) >= part * LOOKAHEAD or tokens >= part * AHEAD


@dataclass(eq=False)
class Item:
    """One text: its job, its row there, and when it came."""

    job: Job
    row: int
    encoded: Encoded
    since: float

    @property
    def length(self) -> int:
        return len(self.encoded.ids)


class Line:
    """The jobs with texts that wait. Each batch is built around the next text of the job whose turn it is.

    So each job gets its turn whatever the others have, and no text is passed over for ever: it waits for as many batches as
    there are jobs, times the texts of its own job before it, at most.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.turns: deque[Job] = deque()  # with something waiting, in the order of their turns
        self.waiting = 0

    def add(self, job: Job, items: Sequence[Item]) -> None:
        """More texts of a job."""
        if items and not job.waiting:
            self.turns.append(job)
        job.waiting.extend(items)
        self.waiting += len(items)

    def drop(self, job: Job) -> None:
        """Forget what waits of a job."""
        if job.waiting:
            self.turns.remove(job)
            self.waiting -= len(job.waiting)
            job.waiting.clear()

    def take(self) -> list[Item]:
        """The next batch, all of the same heads. Empty when nothing waits."""
        if not self.turns:
            return []
        first = self.turns[0]
        batch = fill(list(islice(self._window(first.heads), LOOKAHEAD)), self.budget)
        taken = {id(item) for item in batch}
        for job in {id(item.job): item.job for item in batch}.values():
            job.waiting = deque(item for item in job.waiting if id(item) not in taken)
        self.waiting -= len(batch)
        self.turns.rotate(-1)
        self.turns = deque(job for job in self.turns if job.waiting)
        return batch

    def _window(self, heads: tuple[str, ...]) -> Iterator[Item]:
        """The jobs' texts in turns: the first of each, then the second of each."""
        rounds = zip_longest(*(islice(job.waiting, LOOKAHEAD) for job in self.turns if job.heads == heads))
        return (item for item in chain.from_iterable(rounds) if item is not None)


def fill(window: Sequence[Item], budget: int) -> list[Item]:
    """The first of the window and those nearest to it in length, as many as `fits` allows; a single text always fits."""
    order = sorted(range(len(window)), key=lambda index: window[index].length)
    low = high = order.index(0)
    real = window[0].length
    while True:
        choices = []
        for index in (low - 1, high + 1):
            if 0 <= index < len(order):
                longest = max(window[order[high]].length, window[order[index]].length)
                padded = longest * (high - low + 2)
                total = real + window[order[index]].length
                if fits(padded, total, budget):
                    choices.append((abs(window[order[index]].length - window[0].length), index, total))
        if not choices:
            return [window[index] for index in order[low : high + 1]]
        _, index, real = min(choices)
        low, high = min(low, index), max(high, index)
