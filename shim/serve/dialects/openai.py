"""The OpenAI dialect: `POST /v1/embeddings` with Jina's fields and bge-m3's heads, `GET /v1/models`, and OpenAI's errors.

Source: the public API reference, https://platform.openai.com/docs/api-reference/embeddings.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from pydantic.config import JsonDict

from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.late import fault
from shim.model import Model
from shim.results import Embeddings
from shim.serve.answers import Documented, answer, endpoint, large, note
from shim.serve.dialects.jina import JinaFields, pack
from shim.serve.dialects.lists import FIRST
from shim.serve.faults import Kind, Refusal
from shim.serve.models import Models

TEXTS = {"anyOf": [
    {"type": "string", "minLength": 1},
    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
]}  # fmt: skip
EXAMPLE: JsonDict = {"model": "all-minilm-l6-v2", "input": ["Hello"]}
PATHS = frozenset({"/v1/embeddings", "/v1/models"})
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {Kind.KEY: "invalid_api_key", Kind.NO_MODEL: "model_not_found"}


class EmbeddingsRequest(JinaFields):
    """Body of `POST /v1/embeddings`. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})

    model: StrictStr = Field(description="Name of a served artifact, or of its recipe.")
    input: Annotated[
        object, FIRST, Field(description='A string, or a list of strings or of {"text": …}.', json_schema_extra=TEXTS)
    ]
    dimensions: StrictInt | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")
    encoding_format: Literal["float", "base64"] | None = None
    user: StrictStr | None = None


class SparseVector(BaseModel):
    """Token ids and their weights."""

    indices: list[int]
    values: list[float]


class Embedding(BaseModel):
    """One vector: numbers, or base64 of little-endian float32; with the further heads asked for."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    truncated: bool = Field(description="Whether the text was cut to the model's limit.")
    sparse: SparseVector | None = None
    multivector: list[list[float]] | None = None


class Usage(BaseModel):
    """Tokens of the request, prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class ServedModel(BaseModel):
    """One of the models; parity is the worst cosine with the original, by head."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    repository: str | None = Field(description="The repository of the hub that it is from, where it is.")
    revision: str | None = Field(description="The commit of that repository.")
    task: str
    dimensions: int
    max_tokens: int
    heads: list[str]
    similarity: str | None = Field(description="How an embedder's vectors are compared: cosine, dot, euclidean, manhattan.")
    normalized: bool | None = Field(description="Whether an embedder's vectors have length 1.")
    activation: str | None = Field(description="What a reranker's own library makes of a logit: sigmoid or identity.")
    prompts: dict[str, str] = Field(description="Prompts by the names that the checkpoint gives them.")
    default_prompt: str | None = Field(description="The prompt of a text for which none is asked.")
    adapters: list[str] = Field(description="The tasks that the model has an adapter of its own for.")
    target: str
    bits: int
    parity: dict[str, float]
    name: str
    verdict: str
    texts: int = Field(description="How many texts the parity was measured on.")
    license: str
    runtime: str
    device: str


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class ErrorDetail(BaseModel):
    """What went wrong, and in which parameter."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


def texts_of(value: object) -> object:
    """A string or a list as a list, each {"text": …} as its text. Raises UsageError for token ids."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list):
        if values and not isinstance(values[0], bool) and isinstance(values[0], int | list):
            hint = "LangChain: check_embedding_ctx_length=False"
            raise UsageError(f"input holds token ids of another tokenizer; send strings ({hint})", "texts")
        values = [item["text"] if isinstance(item, dict) and "text" in item else item for item in values]
    return values


def response(model: str, out: Embeddings, kind: str) -> dict[str, object]:
    """An EmbeddingsResponse as plain values and numpy rows."""
    data = []
    for index, row in enumerate(out.dense):
        item = {
            "object": "embedding",
            "index": index,
            "embedding": pack(row, kind) if row.size else [],
            "truncated": out.truncated[index],
        }
        if out.sparse is not None:
            item["sparse"] = {"indices": list(out.sparse[index]), "values": list(out.sparse[index].values())}
        if out.colbert is not None:
            item["multivector"] = list(out.colbert[index])
        data.append(item)
    total = sum(out.tokens)
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": total, "total_tokens": total}}


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    kind = "server_error" if refusal.status >= 500 else TYPES.get(refusal.status, "invalid_request_error")
    param = "input" if refusal.param == "texts" else refusal.param
    return {"error": {"message": refusal.message, "type": kind, "param": param, "code": CODES.get(refusal.kind)}}


def describe(model: Model) -> JsonObject:
    """A ServedModel as plain values."""
    created = int(datetime.fromisoformat(model.manifest.created).timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": "sealport", **model.info()}


async def embeddings(models: Models, body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts."""
    served = models.find(body.model, "embed")
    if body.late_chunking:
        able = [found.model for found in models.by_name.values() if found.model.task == "embed"]
        served.model.check_embed(late_chunking=True, others=[one.name for one in able if not fault(one.manifest.model)])
    out = await served.embed(texts_of(body.input), body.options(body.dimensions, served.model.manifest.model))
    note(request, served, out.tokens, out.truncated)
    content = response(served.model.name, out, body.embedding_type or body.encoding_format or "float")
    return await large(content, out.dense.size + sum(vectors.size for vectors in out.colbert or ()))


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["OpenAI and Jina"])

    routes.post("/v1/embeddings", responses=documented(EmbeddingsResponse, Error))(endpoint(models, embeddings))

    @routes.get("/v1/models", name="models", responses=documented(ModelList, Error, 401))
    async def listed() -> Response:
        """What is served."""
        return answer({"object": "list", "data": [describe(found.model) for found in models.by_name.values()]})

    @routes.get("/v1/models/{name}", responses=documented(ServedModel, Error, 401, 404))
    async def model(name: str) -> Response:
        """One of the models."""
        return answer(describe(models.find(name, "").model))

    return routes
