"""Who may ask, how much, and when: keys, the size of a body and room for it are checked before any of it is parsed."""

import hmac
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.serve.faults import Kind, Refusal
from shim.serve.refusals import refusal_response
from shim.serve.settings import Settings

ADMIN = "/admin/"
# What a load balancer, a scraper and a reader of the documentation need; no text goes in, none comes out.
OPEN = frozenset({"/health", "/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"})


class Keys:
    """401 without the right key in `Authorization: Bearer`."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self.app if refusal is None else refusal_response(scope, refusal))(scope, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        path = scope["path"]
        if path in OPEN:
            return None
        admin = path.startswith(ADMIN)
        keys = self.settings.admin_keys if admin else self.settings.keys
        if not keys:
            message = "no admin key is set; start with --admin-key-file"
            return Refusal(Kind.NO_ADMIN_KEY, message) if admin else None
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        token = token.strip() if scheme.lower() == b"bearer" else b""
        # Every key is compared, each in constant time: how long it takes tells nothing.
        if sum(hmac.compare_digest(token, key.encode()) for key in keys):
            return None
        what = "the key is wrong" if token else "a key is needed, as `Authorization: Bearer …`"
        return Refusal(Kind.KEY, what, headers={"www-authenticate": "Bearer"})


class Full:
    """429 where no model has room, before the body is read: what is refused must cost next to nothing."""

    def __init__(self, app: ASGIApp, full: Callable[[], Refusal | None], computing: frozenset[str]):
        self.app, self.full, self.computing = app, full, computing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        asked = scope["type"] == "http" and scope["path"] in self.computing and scope["method"] == "POST"
        refusal = self.full() if asked else None
        await (self.app if refusal is None else refusal_response(scope, refusal))(scope, receive, send)


class Body:
    """413 for a body over the limit. One within it is read whole here, and handed on as one message."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.limit = app, settings.max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        message = f"the body is over {self.limit} bytes (--max-body); send it in parts"
        refusal = Refusal(Kind.BODY, message, headers={"connection": "close"})
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if int(announced) > self.limit:
            await refusal_response(scope, refusal)(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more:
            part = await receive()
            if part["type"] != "http.request":
                return  # the client left while sending
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > self.limit:
                await refusal_response(scope, refusal)(scope, receive, send)
                return
        pending: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send)
