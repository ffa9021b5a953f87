"""Who may ask, where, and when: paths, hosts, keys, and room in the queue, before any of a body is read."""

import hmac
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from shim.serve.answers import announced
from shim.serve.faults import Kind, Refusal
from shim.serve.refusals import refusal_response
from shim.serve.settings import Settings

CLIENT = "sealport.client"  # the key of a request's scope under which the API key is that it came with
ADMIN = "/admin/"
ESCAPED = 12  # bytes of JSON for a character, at most: two surrogates, each as \\uXXXX
# What a load balancer, a scraper and a reader of the documentation need; no text goes in, none comes out.
OPEN = frozenset({"/health", "/health/live", "/health/ready", "/ping", "/metrics", "/docs", "/openapi.json"})


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
        if path in OPEN and scope["method"] != "POST":
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
            scope[CLIENT] = token
            return None
        what = "the key is wrong" if token else "a key is needed, as `Authorization: Bearer …`"
        return Refusal(Kind.KEY, what, headers={"www-authenticate": "Bearer"})


class Full:
    """429 where no model has room, before the body is read: what is refused must cost next to nothing."""

    def __init__(self, app: ASGIApp, full: Callable[[int], Refusal | None], computing: frozenset[str]):
        """full: the refusal of a request of at least so many characters."""
        self.app, self.full, self.computing = app, full, computing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        asked = scope["type"] == "http" and scope["path"] in self.computing and scope["method"] == "POST"
        refusal = self.full(announced(scope) // ESCAPED) if asked else None
        await (self.app if refusal is None else refusal_response(scope, refusal))(scope, receive, send)


class Paths:
    """Takes HEAD for GET, whose body the connection leaves out, and a path for what it is without a slash at its end.

    A redirect in its place would name a scheme and a host, which behind a proxy are not those that the client knows.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "http" and (scope["method"] == "HEAD" or scope["path"].endswith("/")):
            scope["path"] = scope["path"].rstrip("/") or "/"
            if scope["method"] == "HEAD":
                scope = dict(scope) | {"method": "GET"}
        await self.app(scope, receive, send)


class Hosts:
    """400 for what is sent to a name that is none of ours, as by a page whose own name has been made to lead here."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.hosts = app, {host.lower() for host in settings.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        app = self.app
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
            host = re.sub(r":\d*$", "", given)
            if host not in self.hosts:
                app = refusal_response(scope, Refusal(Kind.HOST, "the name in `Host` is not one of ours (--allowed-host)"))
        await app(scope, receive, send)
