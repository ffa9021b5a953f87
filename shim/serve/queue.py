"""Whose texts are computed next: a queue of requests, taken from as batches. No threads, no clock, no HTTP."""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest

from shim.batches import fits
from shim.results import Output
from shim.serve.turns import following
from shim.text import Encoded

LOOKAHEAD = 256  # texts among which a batch looks for its like in length
AHEAD = 1 << 15  # tokens of a request that lie ready, and no more: as Python's integers they take far more room than its texts


@dataclass(eq=False)
class Request:
    """One request and its texts. `finish` is called once, with the outputs in order or with what went wrong.

    Its texts may come in parts; `hungry` is called, from any thread, whenever few of them are left waiting. work: how much of
    its client's share it takes, see `Shares`.
    """

    heads: tuple[str, ...]
    count: int
    finish: Callable[[list[Output] | Exception], None]
    hungry: Callable[[], object] = lambda: None
    waiting: deque["Text"] = field(default_factory=deque)
    outputs: dict[int, Output] = field(default_factory=dict)
    client: str = ""
    work: int = 1

    def ahead(self, part: float = 1.0) -> bool:
        """Whether that part of what may lie ready of it does."""
        tokens = sum(text.length for text in tuple(self.waiting))  # another thread may take some meanwhile
        return len(self.waiting) >= part * LOOKAHEAD or tokens >= part * AHEAD


@dataclass(eq=False)
class Text:
    """One text: its request, its row there, and when it came."""

    request: Request
    row: int
    encoded: Encoded
    since: float

    @property
    def length(self) -> int:
        return len(self.encoded.ids)


class Queue:
    """The requests with texts that wait. Each batch is built around the next text of the request whose turn it is.

    Clients have turns, and within a client's turns its requests have theirs. So each client gets its turn whatever the others
    have, and no text is passed over for ever: it waits for as many batches as there are clients, times the requests of its own,
    times the texts of its own request before it, at most.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.turns: dict[str, deque[Request]] = {}  # of each client, with something waiting, in the order of their turns
        self.waiting, self._last = 0, ""

    def add(self, request: Request, texts: Sequence[Text]) -> None:
        """More texts of a request."""
        if texts and not request.waiting:
            self.turns.setdefault(request.client, deque()).append(request)
        request.waiting.extend(texts)
        self.waiting += len(texts)

    def drop(self, request: Request) -> None:
        """Forget what waits of a request."""
        if request.waiting:
            self.waiting -= len(request.waiting)
            request.waiting.clear()
            self.turns[request.client].remove(request)
            if not self.turns[request.client]:
                del self.turns[request.client]

    def take(self, budget: int | None = None, longest: int | None = None, but: Collection[str] = ()) -> list[Text]:
        """The next batch, all of the same heads. Empty when nothing waits that it may hold.

        longest: tokens of a text that it may hold, at most. but: clients whose texts it may not hold.
        """
        lines = {name: [request for request in line if _some(request, longest)] for name, line in self.turns.items()}
        lines = {name: line for name, line in lines.items() if line and name not in but}
        if not lines:
            return []
        client = self._last = following(lines, self._last)
        first = lines[client][0]
        window = _window([lines.pop(client), *lines.values()], first.heads, longest)
        batch = fill(list(islice(window, LOOKAHEAD)), budget or self.budget)
        taken = {id(text) for text in batch}
        for request in {id(text.request): text.request for text in batch}.values():
            request.waiting = deque(text for text in request.waiting if id(text) not in taken)
        self.waiting -= len(batch)
        requests = self.turns[client] = self.turns.pop(client)  # behind all others
        requests.remove(first)
        requests.append(first)
        left = {name: deque(request for request in line if request.waiting) for name, line in self.turns.items()}
        self.turns = {name: line for name, line in left.items() if line}
        return batch


def _some(request: Request, longest: int | None) -> bool:
    """Whether a batch may hold a text of the request."""
    return longest is None or any(text.length <= longest for text in islice(request.waiting, LOOKAHEAD))


def _window(lines: Iterable[Iterable[Request]], heads: tuple[str, ...], longest: int | None) -> Iterator[Text]:
    """The texts in turns: of each client the first of its first request, then of each the first of its second."""

    def texts(request: Request) -> Iterable[Text]:
        ready = islice(request.waiting, LOOKAHEAD)
        return ready if longest is None else (text for text in ready if text.length <= longest)

    asked = ([request for request in line if request.heads == heads] for line in lines)
    return _in_turns(_in_turns(texts(request) for request in line) for line in asked)


def _in_turns(rows: Iterable[Iterable[Text]]) -> Iterator[Text]:
    """The first of each row, then the second of each."""
    return (text for text in chain.from_iterable(zip_longest(*rows)) if text is not None)


def fill(window: Sequence[Text], budget: int) -> list[Text]:
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
