"""A refusal as an answer, in the shape that the clients of its route know."""

from typing import Any

from fastapi import Response
from starlette.types import Scope

from shim.errors import UsageError
from shim.serve.answers import answer
from shim.serve.dialects import cohere, openai, tei
from shim.serve.faults import Refusal
from shim.serve.logs import FACTS

PARAMETERS = frozenset({"input", "dimensions", "heads", "task", "instruction", "top_n"})  # as errors begin that are about them


def usage_refusal(error: UsageError) -> Refusal:
    """A request that cannot be meant."""
    first = str(error).split(" ")[0]
    param = "input" if first == "text" else first if first in PARAMETERS else None
    return Refusal(400, str(error), "usage", param)


def refusal_response(scope: Scope, refusal: Refusal) -> Response:
    """The refusal as the route's clients know errors; counted by its kind."""
    scope.get(FACTS, {})["kind"] = refusal.kind
    path = scope["path"]
    message = refusal.message.encode("utf-8", "backslashreplace").decode()  # it may quote a lone surrogate
    content: dict[str, Any] = {}
    if path in cohere.PATHS:
        content |= cohere.error(message)
    if path in tei.PATHS:
        content |= tei.error(message, refusal.status)
    if not content:
        content = openai.error(message, refusal.status, refusal.param, refusal.code)
    return answer(content, refusal.status, refusal.headers)
