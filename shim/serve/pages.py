"""The pages for people, from the files in `page/`: `/` shows the models and lets one try them, `/docs` lists every route."""

from importlib.resources import files

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

FILES = {"/": "index.html", "/docs": "docs.html"}
FILES |= {f"/page/{name}": name for name in ("page.css", "page.js", "code.js", "docs.js", "dom.js", "icon.svg")}
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


class Pages:
    """Answers GET of the pages and of what they load, for which no key is needed: the page asks for it, for its requests."""

    def __init__(self, app: ASGIApp):
        self.app = app
        folder = files("shim.serve") / "page"
        self.responses = {path: _response(name, (folder / name).read_bytes()) for path, name in FILES.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        asked = scope["type"] == "http" and scope["method"] == "GET"
        await (self.responses.get(scope["path"], self.app) if asked else self.app)(scope, receive, send)


def _response(name: str, content: bytes) -> Response:
    return Response(content, headers=HEADERS, media_type=TYPES[name.rpartition(".")[2]])
