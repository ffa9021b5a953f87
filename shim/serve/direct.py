"""A short cut to the routes that compute: the web framework's own way to them costs about as much as all else in a request."""

import re
from collections.abc import Iterable
from typing import get_type_hints

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.errors import UsageError
from shim.serve.answers import Endpoint
from shim.serve.faults import Refusal
from shim.serve.parsing import Parsing
from shim.serve.refusals import refusal_response, usage_refusal

JSON = re.compile(rb"\s*application/(.+\+)?json\s*(;|$)", re.IGNORECASE)  # as the framework has it


class Direct:
    """Calls the endpoint of a POST whose body is the JSON that its route wants.

    Whatever else comes goes the framework's way, which words its own refusals; so does what it traces. Wants the body in one
    message. max_inputs: texts of a request, of whose lists no more is looked into.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], max_inputs: int):
        self.app, self.parsing = app, Parsing(max_inputs)
        self.routes: dict[str, tuple[Endpoint, TypeAdapter[object]]] = {}
        for route in routes:
            if isinstance(route, APIRoute) and route.methods == {"POST"}:
                body = get_type_hints(route.endpoint, include_extras=True)["body"]
                self.routes[route.path] = route.endpoint, TypeAdapter(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.routes or not _plain(scope):
            await self.app(scope, receive, send)
            return
        message = await receive()
        endpoint, adapter = self.routes[scope["path"]]
        try:
            body = await self.parsing.read(adapter, message["body"])
        except ValidationError:
            pending = [message]

            async def again() -> Message:
                return pending.pop() if pending else await receive()

            await self.app(scope, again, send)
            return
        except Refusal as error:
            await refusal_response(scope, error)(scope, receive, send)
            return
        try:
            response = await endpoint(body=body, request=Request(scope, receive))
        except Refusal as error:
            response = refusal_response(scope, error)
        except UsageError as error:
            response = refusal_response(scope, usage_refusal(error))
        await response(scope, receive, send)


def _plain(scope: Scope) -> bool:
    """Whether the body is said to be JSON, and nothing traces the request."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return JSON.match(kind) is not None and "fastapi.telemetry" not in scope
