"""Ollama's routes for embeddings, and its list of models.

Source: the public API reference, https://docs.ollama.com/api.
"""

import time

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from shim.artifact import Manifest
from shim.jsons import JsonObject
from shim.serve.answers import Documented, answer, endpoint, large, note, said
from shim.serve.dialects.lenient import Count, Flag
from shim.serve.dialects.lists import Texts
from shim.serve.faults import Refusal
from shim.serve.listed import LATEST
from shim.serve.models import Asking, Models
from shim.serve.options import Options

PATHS = frozenset({"/api/embed", "/api/embeddings", "/api/tags"})


class EmbedRequest(BaseModel):
    """Body of `POST /api/embed`. Unknown fields are ignored, `options` and `keep_alive` among them."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"model": "all-minilm-l6-v2", "input": ["Hello"]}})

    model: StrictStr
    input: Texts
    truncate: Flag | None = Field(None, description="False refuses a text over the model's tokens instead of cutting it.")
    dimensions: Count | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")


class PromptRequest(BaseModel):
    """Body of `POST /api/embeddings`, the older route. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"model": "all-minilm-l6-v2", "prompt": "Hello"}})

    model: StrictStr
    prompt: StrictStr = Field(min_length=1, description="The text.")


class EmbedResponse(BaseModel):
    """Answer of `POST /api/embed`: vectors of length 1, and nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class PromptResponse(BaseModel):
    """Answer of `POST /api/embeddings`."""

    embedding: list[float]


class Details(BaseModel):
    """What kind of model it is."""

    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(BaseModel):
    """One of the models."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(BaseModel):
    """Answer of `GET /api/tags`."""

    models: list[Tag]


class Error(BaseModel):
    """Every answer that is not a success."""

    error: str


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    return {"error": refusal.message}


async def embed(models: Asking, body: EmbedRequest, request: Request) -> Response:
    """Vectors of texts."""
    started = time.perf_counter_ns()
    served, task = await models.find(body.model, "embed")
    loaded = time.perf_counter_ns()
    options = Options(dimensions=body.dimensions, normalize=True, truncate=body.truncate is not False).by_default(task)
    out = await served.embed(body.input, options)
    note(request, served, out.tokens, out.truncated)
    content = {
        "model": body.model,
        "embeddings": list(out.dense),
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": loaded - started,
        "prompt_eval_count": sum(out.tokens),
    }
    return await large(content, out.dense.size, said(out.truncated, served.prompt(options)))


async def embeddings(models: Asking, body: PromptRequest, request: Request) -> Response:
    """The vector of a text."""
    served, task = await models.find(body.model, "embed")
    options = Options().by_default(task)
    out = await served.embed([body.prompt], options)
    note(request, served, out.tokens, out.truncated)
    return answer({"embedding": out.dense[0]}, headers=said(out.truncated, served.prompt(options)))


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["Ollama"])
    routes.post("/api/embed", responses=documented(EmbedResponse, Error))(endpoint(models, embed))
    routes.post("/api/embeddings", responses=documented(PromptResponse, Error))(endpoint(models, embeddings))

    @routes.get("/api/tags", responses=documented(Tags, Error, 401))
    async def tags() -> Response:
        """What is served that embeds, under all its names."""
        found = []
        for name in models.names.all():
            one, _ = models.names.find(name, "embed")
            if one.manifest.task == "embed":
                found.append(_tag(name, one.manifest))
        return answer({"models": found})

    return routes


def _tag(name: str, manifest: Manifest) -> JsonObject:
    family = manifest.model.architecture
    return {
        "name": name + LATEST,
        "model": name + LATEST,
        "modified_at": manifest.created,
        "size": manifest.size,
        "digest": max(manifest.files.values(), key=lambda file: file["size"])["sha256"],
        "details": {
            "format": manifest.target,
            "family": family,
            "families": [family],
            "parameter_size": "",
            "quantization_level": f"{manifest.bits}bit",
        },
    }
