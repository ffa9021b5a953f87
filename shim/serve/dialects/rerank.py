"""Rerankers: `POST /v1/rerank`, `/v2/rerank` and `/rerank`, in the dialect of Cohere and Jina, or of text-embeddings-inference.

Sources: the public API references, https://docs.cohere.com/reference/rerank and https://api.jina.ai/docs; TEI's in tei.py.
"""

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, StrictStr, Tag
from pydantic.config import JsonDict

from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.serve.answers import Documented, answer, endpoint, note, said
from shim.serve.dialects import tei, tei_bodies
from shim.serve.dialects.lenient import Count, Flag
from shim.serve.dialects.lists import FIRST
from shim.serve.faults import Refusal
from shim.serve.models import Asking, Models
from shim.serve.served_model import ServedModel

PATHS = frozenset({"/v1/rerank", "/v2/rerank", "/rerank"})
TAGS = frozenset({"cohere", "tei"})  # of the bodies of PATHS
EXAMPLE: JsonDict = {
    "model": "bge-reranker-v2-m3",
    "query": "When does it leave?",
    "documents": ["The ferry leaves at nine.", "Soup."],
}

PROMPT_NAME = Field(None, description="Refused, with the reason.")


class Document(BaseModel):
    """A document's text."""

    text: StrictStr


class RerankRequest(BaseModel):
    """Body in the dialect of Cohere and Jina. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})

    model: StrictStr | None = Field(None, description="Name of a served artifact, or of its recipe; else the first reranker.")
    query: StrictStr = Field(min_length=1)
    documents: Annotated[list[StrictStr | Document], FIRST] = Field(min_length=1, fail_fast=True)
    top_n: Count | None = Field(None, ge=0, description="Answer with this many of the best only; 0 for all.")
    return_documents: Flag | None = None
    instruction: StrictStr | None = Field(None, description="What relevance means, for a model that takes instructions.")
    raw_scores: Flag | None = Field(None, description="Logits in place of probabilities.")
    truncate: Flag | None = Field(None, description="False refuses a document that is too long instead of cutting it.")
    prompt_name: StrictStr | None = PROMPT_NAME


class RankedDocument(BaseModel):
    """A document's place among its like, the best first."""

    index: int
    relevance_score: float
    truncated: bool = Field(description="Whether the document was cut to the model's limit.")
    document: Document | None = None


class Usage(BaseModel):
    """Tokens of all pairs."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """Answer in the dialect of Cohere and Jina."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: Usage
    meta: dict[str, object]


class RerankTextsRequest(tei_bodies.Truncation):
    """Body in TEI's dialect."""

    query: StrictStr = Field(min_length=1)
    texts: Annotated[list[StrictStr], FIRST] = Field(min_length=1, fail_fast=True)
    raw_scores: Flag | None = Field(None, description="Logits in place of probabilities.")
    return_text: Flag | None = None
    prompt_name: StrictStr | None = PROMPT_NAME


class Rank(BaseModel):
    """A text's place among its like, the best first."""

    index: int
    score: float
    text: str | None = None


class Reranked(RootModel[RerankResponse | list[Rank]]):
    """By the dialect of the request."""


class RerankError(tei_bodies.Error):
    """Every answer that is not a success, for the clients of both dialects."""

    message: str


def dialect_of(body: object) -> str:
    """`texts` in place of `documents` is TEI's."""
    return "tei" if isinstance(body, dict) and "texts" in body and "documents" not in body else "cohere"


RerankBody = Annotated[
    Annotated[RerankRequest, Tag("cohere")] | Annotated[RerankTextsRequest, Tag("tei")],
    Discriminator(dialect_of),
    Body(),
]


def error(refusal: Refusal) -> JsonObject:
    """A RerankError as plain values."""
    return {"message": refusal.message} | tei.error(refusal)


async def rerank(models: Asking, body: RerankBody, request: Request) -> Response:
    """Documents by relevance to a query; `texts` in place of `documents` gets TEI's bare array."""
    served, _ = await models.find(body.model, "rerank")
    if body.prompt_name is not None:
        raise UsageError("a reranker has no prompts by name; leave prompt_name out", "prompt_name")
    if isinstance(body, RerankTextsRequest):
        return await _rerank_texts(served, body, request)
    texts = [item if isinstance(item, str) else item.text for item in body.documents]
    ranked = await served.rerank(body.query, texts, body.instruction, body.truncate is not False)
    note(request, served, [item.tokens for item in ranked], [item.truncated for item in ranked])
    results: list[JsonObject] = []
    for item in ranked[: body.top_n or None]:
        score = item.logit if body.raw_scores else item.score
        results.append({"index": item.index, "relevance_score": score, "truncated": item.truncated})
        if body.return_documents:
            results[-1]["document"] = {"text": texts[item.index]}
    tokens = sum(item.tokens for item in ranked)
    version = "2" if request.url.path == "/v2/rerank" else "1"
    return answer({
        "id": str(uuid.uuid4()),
        "model": served.model.name,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {"api_version": {"version": version}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}},
    })  # fmt: skip


async def _rerank_texts(served: ServedModel, body: RerankTextsRequest, request: Request) -> Response:
    ranked = await served.rerank(body.query, body.texts, None, body.truncate is not False, body.side)
    truncated = [item.truncated for item in sorted(ranked, key=lambda item: item.index)]
    note(request, served, [item.tokens for item in ranked], truncated)
    content: list[JsonObject] = []
    for item in ranked:
        content.append({"index": item.index, "score": item.logit if body.raw_scores else item.score})
        if body.return_text:
            content[-1]["text"] = body.texts[item.index]
    return answer(content, headers=said(truncated))


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["text-embeddings-inference", "Cohere and Jina"])
    for path in sorted(PATHS):
        routes.post(path, responses=documented(Reranked, RerankError))(endpoint(models, rerank))
    return routes
