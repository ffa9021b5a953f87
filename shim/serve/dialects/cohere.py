"""Cohere's and Jina's rerankers: `POST /v1/rerank`, `/v2/rerank` and `/rerank`, unless the body is TEI's.

Sources: the public API references, https://docs.cohere.com/reference/rerank and https://api.jina.ai/docs.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from shim.model import Ranked
from shim.serve.answers import answer, note
from shim.serve.faults import Refusal
from shim.serve.service import Service

PATHS = frozenset({"/v1/rerank", "/v2/rerank", "/rerank"})
TAGS = frozenset({"cohere", "tei"})  # of the bodies of PATHS
DOCUMENTS = ["The ferry leaves at nine.", "Soup."]
EXAMPLE: dict[str, Any] = {"model": "bge-reranker-v2-m3", "query": "When does it leave?", "documents": DOCUMENTS}


class Document(BaseModel):
    """A document's text."""

    text: StrictStr


class RerankRequest(BaseModel):
    """Body of the rerank routes. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": EXAMPLE})

    model: StrictStr | None = Field(None, description="Name of a served artifact, or of its recipe; else the first reranker.")
    query: StrictStr = Field(min_length=1)
    documents: list[StrictStr | Document] = Field(min_length=1, fail_fast=True)
    top_n: StrictInt | None = Field(None, ge=1, description="Answer with this many of the best only.")
    return_documents: StrictBool | None = None
    instruction: StrictStr | None = Field(None, description="What relevance means, for a model that takes instructions.")
    raw_scores: StrictBool | None = Field(None, description="Logits in place of probabilities.")
    truncate: StrictBool | None = Field(None, description="False refuses a document that is too long instead of cutting it.")

    def texts(self) -> list[str]:
        """The documents' texts."""
        return [item if isinstance(item, str) else item.text for item in self.documents]


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
    """Answer of the rerank routes."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: Usage
    meta: dict[str, Any]


class Error(BaseModel):
    """Every answer that is not a success."""

    message: str


def error(refusal: Refusal) -> dict[str, Any]:
    """An Error as plain values."""
    return {"message": refusal.message}


def response(
    model: str, ranked: Sequence[Ranked], texts: Sequence[str], body: RerankRequest, tokens: int, version: str
) -> dict[str, Any]:
    """A RerankResponse as plain values."""
    results: list[dict[str, Any]] = []
    for item in ranked:
        score = item.logit if body.raw_scores else item.score
        results.append({"index": item.index, "relevance_score": score, "truncated": item.truncated})
        if body.return_documents:
            results[-1]["document"] = {"text": texts[item.index]}
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": tokens}}
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"id": str(uuid.uuid4()), "model": model, "results": results, "usage": usage, "meta": meta}


async def rerank(service: Service, body: RerankRequest, request: Request) -> Response:
    """The answer to one request."""
    served = service.find(body.model, "rerank")
    served.model.check_rerank(body.top_n)
    texts = body.texts()
    ranked = await served.rerank(body.query, texts, None, body.instruction, body.truncate is not False)
    note(request, served, [item.tokens for item in ranked], [item.truncated for item in ranked])
    tokens = sum(item.tokens for item in ranked)
    version = "2" if request.url.path == "/v2/rerank" else "1"
    return answer(response(served.model.name, ranked[: body.top_n], texts, body, tokens, version))
