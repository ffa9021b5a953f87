"""The application: the dialects' routes, health, metrics, reload, and what wraps them all."""

import logging

from fastapi import Depends, FastAPI, Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from pydantic import BaseModel, StrictStr
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import shim
from shim.errors import SealportError, UsageError
from shim.jsons import JsonObject
from shim.serve.answers import PROMPT, TRUNCATED, Responses, answer
from shim.serve.bodies import Body, Held
from shim.serve.clients import Clients
from shim.serve.dialects import DIALECTS, openai, tei_bodies
from shim.serve.direct import Direct
from shim.serve.faults import Kind, Refusal
from shim.serve.limits import OPEN, Full, Hosts, Keys, Paths
from shim.serve.logs import Record
from shim.serve.metrics import CONTENT_TYPE, Metrics
from shim.serve.models import Models
from shim.serve.pages import FILES, Pages
from shim.serve.probing import BrokenOutputError
from shim.serve.refusals import invalid_refusal, refusal_response, usage_refusal

ERRORS = {
    400: "The request cannot be meant.",
    401: "The key is missing or wrong.",
    404: "No such model is served here.",
    408: "The request was not whole within --request-timeout.",
    413: "The body is over --max-body.",
    422: "More than --max-inputs texts, or a text too long where `truncate` is false.",
    429: "Too many requests wait; `retry-after` says how long.",
    500: "The model failed, or an output is NaN or infinite.",
    503: "The server or the model is stopping.",
}
EXPOSED = [TRUNCATED, PROMPT, "retry-after"]
NOT_COMPUTED = frozenset({"/tokenize", "/decode", "/admin/reload"})  # they wait for no model
HEADERS: dict[int, JsonObject] = {
    200: {"description": "Numbers of the texts that were cut, where there are any.", "schema": {"type": "string"}},
    401: {"description": "Bearer.", "schema": {"type": "string"}},
    429: {"description": "Seconds to wait.", "schema": {"type": "integer"}},
}
DESCRIPTION = (
    "Sealed embedding and reranking models, in the dialects of OpenAI, Jina, Cohere, text-embeddings-inference, vLLM, Ollama."
)
log = logging.getLogger("shim")


class Health(BaseModel):
    """Whether the models answer as they should."""

    status: str
    models: list[str]


class ReloadRequest(BaseModel):
    """Body of `POST /admin/reload`."""

    model: StrictStr


class Reloaded(BaseModel):
    """What is served now."""

    model: str
    created: str


def documented(success: type[BaseModel], failure: type[BaseModel], *codes: int) -> Responses:
    """The OpenAPI entries of a route's answers; all of ERRORS unless some are named."""
    entries: Responses = {200: {"model": success}}
    if not codes and issubclass(failure, tei_bodies.Error):
        entries[200]["headers"] = {TRUNCATED: HEADERS[200]}
    for code in codes or ERRORS:
        entries[code] = {"model": failure, "description": ERRORS[code]}
        if code in (401, 429):
            entries[code]["headers"] = {"www-authenticate" if code == 401 else "retry-after": HEADERS[code]}
    return entries


def create_app(models: Models, metrics: Metrics) -> FastAPI:
    """The application over loaded models."""
    app = FastAPI(
        title="sealport shim",
        version=shim.__version__,
        description=DESCRIPTION,
        docs_url=None,  # the framework's own pages load scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    key = [Depends(HTTPBearer(auto_error=False, description="The server's key, where it has one."))]  # only documents it
    routers = [dialect.router(models, documented) for dialect in DIALECTS]
    for router in routers:
        app.include_router(router, dependencies=key)
    _add_health(app, models, metrics)
    _add_reload(app, models, key)
    _add_handlers(app)
    paths = app.openapi()["paths"]
    if models.settings.pages:
        shown = {"description": "Successful Response", "content": {"text/html": {}}}
        paths["/"]["get"] = {"tags": ["pages"], "summary": "A page to try the models", "responses": {"200": shown}}
    direct = [route for router in routers for route in router.routes]
    app.add_middleware(Direct, routes=direct, max_inputs=models.settings.max_inputs)
    app.add_middleware(Body, settings=models.settings, held=Held(models.settings, metrics))
    posts = frozenset(path for path, methods in paths.items() if "post" in methods)
    app.add_middleware(Full, full=models.full, computing=posts - NOT_COMPUTED)
    app.add_middleware(Clients, settings=models.settings)
    app.add_middleware(Keys, settings=models.settings)
    if models.settings.pages:
        app.add_middleware(Pages)
    if models.settings.origins:
        origins, methods = models.settings.origins, ["GET", "POST"]
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"], expose_headers=EXPOSED
        )
    if models.settings.hosts:
        app.add_middleware(Hosts, settings=models.settings)
    app.add_middleware(Record, metrics=metrics, routes=frozenset(paths) | OPEN | frozenset(FILES))
    app.add_middleware(Paths)
    return app


def _add_health(app: FastAPI, models: Models, metrics: Metrics) -> None:
    @app.get("/health/live", responses=documented(Health, Health, 503), tags=["health"])
    async def live() -> Response:
        """503 when a model's thread has ended: only a new process helps."""
        dead = [name for name, found in models.loaded.items() if not found.thread.alive]
        return answer({"status": "dead" if dead else "ok", "models": dead or list(models.listed)}, 503 if dead else 200)

    @app.get("/health/ready", responses=documented(Health, Health, 503), tags=["health"])
    async def ready() -> Response:
        """503 with the models whose batches fail, or whose outputs were not finite."""
        bad = models.unready
        return answer({"status": "unready" if bad else "ok", "models": bad or list(models.listed)}, 503 if bad else 200)

    @app.get("/ping", responses=documented(Health, tei_bodies.Error, 503), tags=["health", "text-embeddings-inference"])
    @app.get("/health", responses=documented(Health, tei_bodies.Error, 503), tags=["health", "text-embeddings-inference"])
    async def health() -> Response:
        """The same as `/health/ready`."""
        if models.unready:
            raise Refusal(Kind.UNREADY, f"not ready: {', '.join(models.unready)}")
        return answer({"status": "ok", "models": list(models.listed)})

    @app.get("/metrics", responses={200: {"content": {CONTENT_TYPE: {}}}}, response_class=Response, tags=["health"])
    async def figures() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.page(), media_type=CONTENT_TYPE)


def _add_reload(app: FastAPI, models: Models, key: list[params.Depends]) -> None:
    answers = documented(Reloaded, openai.Error, 400, 401, 404, 413) | {
        403: {"model": openai.Error, "description": "The server has no admin key."},
        409: {"model": openai.Error, "description": "What lies at the path now is not served; the old one stays."},
    }

    @app.post("/admin/reload", responses=answers, dependencies=key, tags=["admin"])
    async def reload(body: ReloadRequest) -> Response:
        """Serve what lies at the artifact's path now, once it is verified and warm."""
        models.names.find(body.model, "")
        try:
            new = await models.reload(body.model)
        except (SealportError, BrokenOutputError) as error:
            log.error("reload refused", extra={"model": body.model, "error": str(error)})
            raise Refusal(Kind.RELOAD, f"the old one stays: {error}", "model") from None
        except Refusal as refusal:
            raise Refusal(Kind.RELOAD, refusal.message, "model") from None
        log.info("reloaded", extra={"model": new.name})
        return answer({"model": new.name, "created": new.manifest.created})


def _add_handlers(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return refusal_response(request.scope, error)

    @app.exception_handler(UsageError)
    async def usage_error(request: Request, error: UsageError) -> Response:
        return refusal_response(request.scope, usage_refusal(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return refusal_response(request.scope, invalid_refusal(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        refusal = Refusal(Kind.HTTP, str(error.detail), headers=dict(error.headers or {}), status=error.status_code)
        return refusal_response(request.scope, refusal)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("internal error", exc_info=error)
        refusal = Refusal(Kind.INTERNAL, f"internal error ({type(error).__name__})")
        return refusal_response(request.scope, refusal)
