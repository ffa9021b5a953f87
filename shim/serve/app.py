"""The routes: `POST /v1/embeddings`, `GET /v1/models`, `GET /health`."""

import asyncio
import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import shim
from shim.errors import NotFiniteError, UsageError
from shim.serve.dialects import openai
from shim.serve.scheduler import ModelThread

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": openai.Error} for code in (400, 404, 500)}
log = logging.getLogger("shim")


def create_app(threads: dict[str, ModelThread], aliases: dict[str, str]) -> FastAPI:
    """An application over loaded models by name; `aliases` maps further names that clients may use."""
    app = FastAPI(title="sealport shim", version=shim.__version__)

    def describe(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "sealport", **threads[name].model.info()}

    @app.post("/v1/embeddings", responses={**ERRORS, 200: {"model": openai.EmbeddingsResponse}})
    async def embeddings(body: openai.EmbeddingsRequest) -> Response:
        name = aliases.get(body.model, body.model)
        if name not in threads:
            known = ", ".join(threads)
            message = f"model {body.model!r} is not served here; there is {known}"
            return answer(openai.error(message, param="model", code="model_not_found"), 404)
        out = await threads[name].embed(body.texts(), body.task, body.dimensions)
        # Off the event loop: half a million numbers of JSON would hold up every other client.
        content = await asyncio.to_thread(dump, openai.response(name, out, body.encoding_format))
        return Response(content, media_type="application/json")

    @app.get("/v1/models")
    async def models() -> Response:
        return answer({"object": "list", "data": [describe(name) for name in threads]})

    @app.get("/v1/models/{name}", responses={404: {"model": openai.Error}})
    async def model(name: str) -> Response:
        known = aliases.get(name, name)
        if known not in threads:
            return answer(openai.error(f"model {name!r} is not served here", code="model_not_found"), 404)
        return answer(describe(known))

    @app.get("/health")
    async def health() -> Response:
        return answer({"status": "ok", "models": list(threads)})

    @app.exception_handler(UsageError)
    async def usage_error(_: Request, error: UsageError) -> Response:
        param = "input" if str(error).startswith("text") else None
        return answer(openai.error(str(error), param=param), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"] == ("body",) and first["type"] == "model_attributes_type":
            return answer(openai.error("the body must be a JSON object, sent with content-type: application/json"), 400)
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(openai.error(f"{where or 'body'}: {first['msg']}", param=where or None), 400)

    @app.exception_handler(NotFiniteError)
    async def not_finite(_: Request, error: NotFiniteError) -> Response:
        log.error("%s", error)
        return answer(openai.error(str(error), kind="server_error"), 500)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        return answer(openai.error(str(error.detail)), error.status_code)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return answer(openai.error(f"internal error ({type(error).__name__})", kind="server_error"), 500)

    return app


def dump(content: Any) -> bytes:
    """JSON bytes, numpy rows included."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def answer(content: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(dump(content), status, media_type="application/json")
