"""The OpenAI dialect: `POST /v1/embeddings` with Jina's fields and bge-m3's heads, `GET /v1/models`, and OpenAI's errors.

Source: the public API reference, https://platform.openai.com/docs/api-reference/embeddings.
"""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from pydantic.config import JsonDict

from shim.jsons import JsonObject
from shim.results import Embeddings
from shim.serve.answers import Documented, answer, endpoint, large, note
from shim.serve.dialects.jina import JinaFields, pack
from shim.serve.dialects.lenient import Count
from shim.serve.dialects.lists import Texts
from shim.serve.faults import Kind, Refusal
from shim.serve.listed import Listed
from shim.serve.models import Asking, Models

EXAMPLE: JsonDict = {"model": "all-minilm-l6-v2", "input": ["Hello"]}
PATHS = frozenset({"/v1/embeddings", "/embeddings", "/v1/models"})
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {Kind.KEY: "invalid_api_key", Kind.NO_MODEL: "model_not_found"}


class EmbeddingsRequest(JinaFields):
    """Body of `POST /v1/embeddings` and `/embeddings`. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})

    model: StrictStr | None = Field(None, description="A name of a served model; else the first that embeds.")
    input: Texts
    dimensions: Count | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")
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
    prompt: str = Field(description="What went before each text.")
    usage: Usage


class ServedModel(BaseModel):
    """One of the models, or another name of it; parity is the worst cosine with the original, by head."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str = Field(description="The model's own name.")
    loaded: bool = Field(description="Whether it is in memory; else it is loaded when it is asked for.")
    memory: int | None = Field(description="Bytes that it takes, or may take when it is loaded.")
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
    runtime: str | None = Field(description="What runs it, while it is loaded.")
    device: str | None


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


def response(model: str, out: Embeddings, kind: str, prompt: str) -> dict[str, object]:
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
    usage = {"prompt_tokens": total, "total_tokens": total}
    return {"object": "list", "model": model, "data": data, "prompt": prompt, "usage": usage}


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    kind = "server_error" if refusal.status >= 500 else TYPES.get(refusal.status, "invalid_request_error")
    param = "input" if refusal.param == "texts" else refusal.param
    return {"error": {"message": refusal.message, "type": kind, "param": param, "code": CODES.get(refusal.kind)}}


def describe(one: Listed, name: str | None = None) -> JsonObject:
    """A ServedModel as plain values, under another name where one is given."""
    created = int(datetime.fromisoformat(one.manifest.created).timestamp())
    own: JsonObject = {"id": name or one.name, "object": "model", "created": created, "owned_by": "sealport"}
    return own | {"root": one.name} | one.info()


async def embeddings(models: Asking, body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts."""
    served, task = await models.find(body.model, "embed")
    if body.late_chunking:
        served.model.check_embed(late_chunking=True, others=models.late_chunkers())
    asked = body.options(body.dimensions, served.model.manifest.model).by_default(task)
    out = await served.embed(body.input, asked)
    note(request, served, out.tokens, out.truncated)
    kind = body.embedding_type or body.encoding_format or "float"
    content = response(served.model.name, out, kind, served.prompt(asked))
    return await large(content, out.dense.size + sum(vectors.size for vectors in out.colbert or ()))


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["OpenAI and Jina"])
    names = models.names

    for path in ("/v1/embeddings", "/embeddings"):
        routes.post(path, responses=documented(EmbeddingsResponse, Error))(endpoint(models, embeddings))

    @routes.get("/v1/models", name="models", responses=documented(ModelList, Error, 401))
    async def listed() -> Response:
        """What is served."""
        found = [describe(one) for one in models.listed.values()]
        found += [describe(all[0], name) for name, all in names.aliases.items()]  # an id is listed once
        return answer({"object": "list", "data": found})

    @routes.get("/v1/models/{name:path}", responses=documented(ServedModel, Error, 401, 404))
    async def model(name: str) -> Response:
        """One of the models."""
        one, _ = names.find(name, "")
        return answer(describe(one, name if name in names.aliases else None))

    return routes
