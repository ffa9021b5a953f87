"""JSON answers: written, given up when nobody waits for them any more, and noted in the log."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import orjson
from fastapi import Request, Response
from starlette.types import Scope

from shim.serve.logs import FACTS, GONE
from shim.serve.models import Asking, Models
from shim.serve.served_model import ServedModel

TRUNCATED = "x-truncated"  # the header that says which texts were cut, where the answer has no place for it
PROMPT = "x-prompt"  # and the one that says what went before each text, as a JSON string
SHOWN = 200  # texts named in TRUNCATED, characters of PROMPT: they stay headers that proxies take
DIGITS = 19  # of a length in bytes
LARGE = 20_000  # numbers in an answer whose JSON would hold up every other client
Asked = TypeVar("Asked")
Endpoint = Callable[..., Awaitable[Response]]
Responses = dict[int | str, dict[str, Any]]  # of a route, as the framework wants them described
Documented = Callable[..., Responses]


def dump(content: object) -> bytes:
    """JSON bytes, numpy rows included."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(dump(content), status, headers=dict(headers or {}), media_type="application/json")


async def respond(request: Request, work: Awaitable[Response]) -> Response:
    """The work's response, unless the client leaves first: then the work is cancelled."""
    task, left = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        return Response(status_code=GONE)
    finally:
        watcher.cancel()


def endpoint(models: Models, work: Callable[[Asking, Asked, Request], Awaitable[Response]]) -> Endpoint:
    """The work as an endpoint of a route: it gets the models that it asks for, and is given up where the client leaves."""

    async def answered(body: Asked, request: Request) -> Response:
        with models.asking(announced(request.scope)) as asking:
            return await respond(request, work(asking, body, request))

    answered.__name__, answered.__doc__ = work.__name__, work.__doc__
    answered.__annotations__["body"] = get_type_hints(work, include_extras=True)["body"]  # what the framework reads
    return answered


def announced(scope: Scope) -> int:
    """Bytes of the body as its client says; 0 where it does not, and more than any limit where the number has no end."""
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"").lstrip(b"0")
    return int(length[: DIGITS + 1] or b"0")


def said(truncated: Sequence[bool], prompt: str = "", source: bool = False) -> dict[str, str]:
    """TRUNCATED: the numbers of the texts that were cut, and `source` for what they are compared with; and PROMPT. Nothing to
    say, no header."""
    cut = ["source"] * source + [str(index) for index, value in enumerate(truncated) if value]
    found = {TRUNCATED: ",".join(cut[:SHOWN]) + (",..." if len(cut) > SHOWN else "")} if cut else {}
    return found | ({PROMPT: json.dumps(prompt[:SHOWN] + "…" * (len(prompt) > SHOWN))} if prompt else {})


def note(request: Request, served: ServedModel, tokens: Sequence[int], truncated: Sequence[bool]) -> None:
    """What the log says of this request."""
    facts = {"model": served.model.name, "texts": len(tokens), "tokens": sum(tokens), "truncated": sum(truncated)}
    request.scope[FACTS].update(facts)


async def large(content: object, numbers: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response with that many numbers, written off the event loop where they are many."""
    if numbers < LARGE:
        return answer(content, headers=headers)
    return Response(await asyncio.to_thread(_piecewise, content), headers=dict(headers or {}), media_type="application/json")


def _piecewise(content: object) -> bytes:
    """As `dump`, entry by entry: orjson lets no other thread run while it writes one."""
    if isinstance(content, dict):
        return b"{" + b",".join(dump(key) + b":" + _piecewise(value) for key, value in content.items()) + b"}"
    if isinstance(content, list):
        return b"[" + b",".join(map(dump, content)) + b"]"
    return dump(content)
