"""Bytes of requests and answers: how many may be held, in one body, by one client and in all."""

import ipaddress
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.serve.answers import announced
from shim.serve.faults import Kind, Refusal
from shim.serve.limits import CLIENT
from shim.serve.metrics import Metrics
from shim.serve.refusals import refusal_response
from shim.serve.settings import Settings

FREE = 65_536  # bytes of a body, and of an answer, that are not counted
PIECE = 262_144  # bytes of an answer that are written at a time
CLOSE = {"connection": "close"}


class Held:
    """Bytes of bodies and answers that are held, in all and by each client: a client may hold half of the limit.

    What is under FREE bytes is not counted: connections times that is a limit, too. A request alone may hold anything.
    """

    def __init__(self, settings: Settings, metrics: Metrics):
        self.limit = settings.max_held
        self._held: dict[object, int] = {}
        metrics.held.set_function(lambda: sum(self._held.values()))

    def take(self, client: object, count: int, taken: int) -> bool:
        """Whether the client may hold so many bytes more, for a request that has taken some already."""
        own, held = self._held.get(client, 0) + count, sum(self._held.values())
        if held > taken and (own > self.limit // 2 or held + count > self.limit):
            return False
        self._held[client] = own
        return True

    def give(self, client: object, count: int) -> None:
        """It holds them no more."""
        self._held[client] = self._held.get(client, 0) - count
        if self._held[client] <= 0:
            del self._held[client]


def no_room() -> Refusal:
    """429 for bytes that may not be held."""
    return Refusal(Kind.OVERLOADED, "too many bytes are held (--max-held)", headers=CLOSE | {"retry-after": "1"})


class Body:
    """413 for a body over the limit, 429 for one, or an answer, that there is no room for.

    A body is read whole here and handed on as one message. An answer is written as fast as its client reads it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, held: Held):
        self.app, self.limit, self.held = app, settings.max_body, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client, taken = _client(scope), 0

        def take(count: int) -> bool:
            nonlocal taken
            granted = self.held.take(client, count, taken)
            taken += count * granted
            return granted

        try:
            body = await self._body(scope, receive, take)
            if body is None:
                return  # the client left while sending
            pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
            del body

            async def replay() -> Message:
                return pending.pop() if pending else await receive()

            await self.app(scope, replay, Answer(scope, receive, send, take).send)
        except Refusal as refusal:
            await refusal_response(scope, refusal)(scope, receive, send)
        finally:
            if taken:
                self.held.give(client, taken)

    async def _body(self, scope: Scope, receive: Receive, take: Callable[[int], bool]) -> bytes | None:
        """The body; None where the client left. Raises Refusal."""
        if announced(scope) > self.limit:
            raise self._too_large()
        body = bytearray()
        more, counted = True, FREE
        while more:
            part = await receive()
            if part["type"] != "http.request":
                return None
            body += part.get("body", b"")
            more = part.get("more_body", False)
            if len(body) > self.limit:
                raise self._too_large()
            if len(body) > counted:
                if not take(len(body) - counted):
                    raise no_room()
                counted = len(body)
        return bytes(body)

    def _too_large(self) -> Refusal:
        return Refusal(Kind.BODY, f"the body is over {self.limit} bytes (--max-body); send it in parts", headers=CLOSE)


class Answer:
    """Hands an answer on in pieces, each of which waits until the client has read most of those before it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, take: Callable[[int], bool]):
        self._scope, self._receive, self._send, self._take = scope, receive, send, take
        self._refused = False

    async def send(self, message: Message) -> None:
        """One message of the application's."""
        if message["type"] == "http.response.start":
            length = next((value for name, value in message["headers"] if name == b"content-length"), b"0")
            if int(length) > FREE and not self._take(int(length)):
                self._refused = True
                await refusal_response(self._scope, no_room())(self._scope, self._receive, self._send)
        if self._refused:
            return
        body, more = memoryview(message.get("body", b"")), message.get("more_body", False)
        if len(body) <= PIECE:
            await self._send(message)
            return
        for start in range(0, len(body), PIECE):
            last = start + PIECE >= len(body)
            await self._send(dict(message) | {"body": body[start : start + PIECE], "more_body": more or not last})


def _client(scope: Scope) -> object:
    """Who asks: a key, else an address, or of IPv6 the network, which a client has whole."""
    if CLIENT in scope:
        return scope[CLIENT]
    host = scope["client"][0] if scope["client"] else ""
    return ipaddress.ip_network((host, 64), strict=False) if ":" in host else host
