"""What a test sets to go wrong, and the log in which it sees what was asked for and sent."""

import re
import threading
from dataclasses import dataclass, field


class Cut(Exception):
    """The connection ends here."""


@dataclass
class Request:
    """A line of the log: `path` and `query` are unquoted; bytes received and sent are those of the two bodies."""

    server: str  # hub or storage
    method: str
    path: str
    query: str
    range: str  # `10-` where the client asks for all from byte 10 on, else empty
    user: str = ""  # whose token came along
    status: int = 0  # 0 where the connection was cut before the answer
    received: int = 0
    sent: int = 0

    @property
    def target(self) -> str:
        """What was asked for; a download from the storage has its file's name in the query."""
        return f"{self.path}?{self.query}"


@dataclass
class Fault:
    """What goes wrong with `times` requests of `method` that have the expression `pattern` in `path?query`, unquoted.

    Either an answer of `status` with `headers`, or a connection that is cut: after `cut_after` bytes of the body (a request's
    for PUT and POST, which is then not carried out; an answer's for GET) or its end, or, with `lose_answer`, when all is done
    but the answer. `reached` is set when it happens; where `hold` is set, the request then waits for `release`, so that a test
    can end a process in the middle of a transfer.
    """

    method: str
    pattern: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    lose_answer: bool = False
    times: int = 1
    hold: bool = False
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def matches(self, request: Request) -> bool:
        """Whether the request is one of those that still have to go wrong."""
        return self.times > 0 and self.method == request.method and bool(re.search(self.pattern, request.target))

    def happen(self) -> None:
        """Say so, and wait where that was asked for."""
        self.reached.set()
        if self.hold:
            self.release.wait(60)

    def cut(self) -> None:
        """It happens to the connection."""
        self.happen()
        raise Cut
