"""Who asks: each key is a client, and without keys each address; what is shared out is shared out among them."""

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send

from shim.serve.settings import Settings
from shim.serve.turns import CLIENT


class Clients:
    """Notes the client of each request, whose key was checked before."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.keyed = app, bool(settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] == "http":
            CLIENT.set(client_of(scope, self.keyed))
        await self.app(scope, receive, send)


def client_of(scope: Scope, keyed: bool) -> str:
    """The key, or else the address; of IPv6 the half that one customer of a network has."""
    if keyed:
        return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"), "")
    host = str((scope.get("client") or ("",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address.packed[:8].hex())
    return host
