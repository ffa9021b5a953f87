"""Cohere's `POST /v2/embed`; its rerankers are in rerank.py.

Source: the public API reference, https://docs.cohere.com/reference/embed.
"""

import uuid
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.serve.answers import Documented, endpoint, large, note, said
from shim.serve.dialects.jina import EmbeddingType, pack, task_of
from shim.serve.dialects.lenient import Count
from shim.serve.dialects.lists import Some
from shim.serve.faults import Refusal
from shim.serve.models import Asking, Models
from shim.serve.options import Options

PATHS = frozenset({"/v2/embed"})
SIDES = {"NONE": None, "START": "left", "END": "right"}


class Part(BaseModel):
    """A text, the only kind of content that these models read."""

    type: Literal["text"]
    text: StrictStr


class Input(BaseModel):
    """One text, in parts."""

    content: Some[Part]


class EmbedRequest(BaseModel):
    """Body of `POST /v2/embed`. Unknown fields are ignored."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"example": {"model": "all-minilm-l6-v2", "texts": ["Hello"], "input_type": "search_query"}},
    )

    model: StrictStr | None = Field(None, description="A name of a served model; else the first that embeds.")
    texts: Some[StrictStr] | None = None
    inputs: Some[Input] | None = None
    images: Some[StrictStr] | None = Field(None, description="Refused: these models read texts.")
    input_type: StrictStr | None = Field(
        None, description="What the texts are for: the model's prompt for it goes before them."
    )
    embedding_types: Some[EmbeddingType] | None = None
    output_dimension: Count | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")
    truncate: Literal["NONE", "START", "END"] | None = Field(None, description="Where a text too long is cut; NONE refuses it.")
    max_tokens: Count | None = Field(None, ge=1, description="Refused where it is less than the model reads.")


class BilledUnits(BaseModel):
    """Tokens of the request, prompts and special tokens included."""

    input_tokens: int


class ApiVersion(BaseModel):
    """Of Cohere's API."""

    version: str


class Meta(BaseModel):
    """What the request took."""

    api_version: ApiVersion
    billed_units: BilledUnits


class EmbedResponse(BaseModel):
    """Answer of `POST /v2/embed`: vectors by their type."""

    id: str
    embeddings: dict[str, list[list[float]] | list[str]]
    response_type: Literal["embeddings_by_type"]
    meta: Meta


class Error(BaseModel):
    """Every answer that is not a success."""

    message: str


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    return {"message": refusal.message}


async def embed(models: Asking, body: EmbedRequest, request: Request) -> Response:
    """Vectors of texts, of one type or of several."""
    served, default = await models.find(body.model, "embed")
    if body.images is not None or (body.texts is None) == (body.inputs is None):
        raise UsageError("give texts, or inputs of texts; these models read no images", "texts")
    texts = (
        body.texts if body.texts is not None else ["\n".join(part.text for part in one.content) for one in body.inputs or ()]
    )
    if body.max_tokens is not None and body.max_tokens < served.model.max_tokens:
        raise UsageError(f"max_tokens: texts are cut at the model's {served.model.max_tokens} only; leave it out", "max_tokens")
    side = SIDES[body.truncate or "END"]
    options = Options(
        task=task_of(body.input_type), dimensions=body.output_dimension, truncate=side is not None, side=side or "right"
    ).by_default(default)
    out = await served.embed(texts, options)
    note(request, served, out.tokens, out.truncated)
    kinds = list(dict.fromkeys(body.embedding_types or ["float"]))
    content = {
        "id": str(uuid.uuid4()),
        "embeddings": {kind: [pack(row, kind) for row in out.dense] for kind in kinds},
        "response_type": "embeddings_by_type",
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": sum(out.tokens)}},
    }
    return await large(content, out.dense.size * len(kinds), said(out.truncated, served.prompt(options)))


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["Cohere and Jina"])
    routes.post("/v2/embed", responses=documented(EmbedResponse, Error))(endpoint(models, embed))
    return routes
