"""A request to the hub, its answer, and the table of what answers which."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from support.hub import Hub

REPO = r"(?P<repo_id>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"  # quoted: a slash in it is %2F


@dataclass(frozen=True)
class Account:
    """Whose a token is, and what it may do (`read` or `write`) in whose name: its own and its organisations'."""

    name: str
    role: str = "write"
    organisations: tuple[str, ...] = ()

    def belongs_to(self, namespace: str) -> bool:
        """Whether the account sees a namespace's private repositories, and may write there."""
        return namespace in (self.name, *self.organisations)


@dataclass
class Refusal(Exception):
    """An answer that refuses: its status, and its message and code as the client reads them from its headers."""

    status: int
    message: str
    code: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # of the body
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Answer:
    """What is answered; a file as `body` is sent as far as it was asked for by a range."""

    body: bytes | Path = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """A request that arrived whole: JSON or a form in `body`, a file that was PUT in `upload`."""

    hub: "Hub"
    path: str
    query: dict[str, list[str]]
    headers: Any
    account: Account | None = None
    body: bytes = b""
    upload: Path | None = None
    sha256: str = ""  # of the body

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, list[str]]:
        """The body."""
        return parse_qs(self.body.decode())

    def flag(self, name: str) -> bool:
        """Whether the query says `name=1` or `name=true`."""
        return self.query.get(name, [""])[0].lower() in ("1", "true")


Handler = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Has a function answer what matches: it gets the call, and the pattern's groups without their quoting."""

    def add(handler: Handler) -> Handler:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return add


def find(method: str, path: str) -> tuple[Handler, dict[str, str]]:
    """What answers; HEAD is answered as GET, without its body."""
    for known, pattern, handler in ROUTES:
        if known == ("GET" if method == "HEAD" else method) and (match := pattern.fullmatch(path)):
            return handler, {name: unquote(value or "") for name, value in match.groupdict().items()}
    raise Refusal(404, f"{method} {path} is not part of this hub")


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    """An answer with one JSON value."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json; charset=utf-8", **named})
