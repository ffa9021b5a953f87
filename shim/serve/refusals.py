"""A refusal as an answer, in the shape that the clients of its route know."""

from fastapi import Response
from pydantic_core import ErrorDetails
from starlette.types import Scope

from shim.errors import TooLongError, UsageError
from shim.serve.answers import answer
from shim.serve.dialects import BY_PATH, ELSEWHERE, rerank
from shim.serve.faults import Kind, Refusal
from shim.serve.logs import FACTS


def usage_refusal(error: UsageError) -> Refusal:
    """A request that cannot be meant."""
    kind = Kind.TOO_LONG if isinstance(error, TooLongError) else Kind.USAGE
    return Refusal(kind, str(error), error.param, error.empty)


def invalid_refusal(error: ErrorDetails) -> Refusal:
    """A body that is not what its route takes; `error` is pydantic's, or the framework's in the same form."""
    kind = error["type"]
    if kind == "json_invalid":
        return Refusal(Kind.INVALID, f"the body is not JSON ({error['ctx']['error']})")
    if kind in ("model_attributes_type", "missing") and error["loc"] == ("body",):
        return Refusal(Kind.INVALID, "the body must be a JSON object, sent with content-type: application/json")
    where = ".".join(str(part) for part in error["loc"][1:] if part not in rerank.TAGS)
    return Refusal(Kind.INVALID, f"{where or 'body'}: {error['msg']}", where or None, empty=kind == "too_short")


def refusal_response(scope: Scope, refusal: Refusal) -> Response:
    """The refusal as the route's clients know errors; counted by its kind."""
    scope.get(FACTS, {})["kind"] = refusal.kind.label
    dialect = BY_PATH.get(scope["path"], ELSEWHERE)
    return answer(dialect.error(refusal), refusal.status, refusal.headers)
