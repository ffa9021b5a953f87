"""vLLM's `POST /score`: how well texts go together, by a reranker, or by an embedder's cosine.

Source: the documentation of https://docs.vllm.ai (Score API).
"""

import time
import uuid
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from shim.checks import check_texts
from shim.errors import UsageError
from shim.serve.answers import Documented, answer, endpoint, note, said
from shim.serve.dialects import openai, pairs
from shim.serve.dialects.lists import Strings
from shim.serve.models import Asking, Models
from shim.serve.options import Options
from shim.serve.served_model import ServedModel

error = openai.error
PATHS = frozenset({"/score", "/v1/score"})


class ScoreRequest(BaseModel):
    """Body of `POST /score`: a text with each of several, or two lists of the same length. Unknown fields are ignored."""

    model_config = ConfigDict(
        extra="ignore", json_schema_extra={"example": {"text_1": "When?", "text_2": ["At nine.", "Soup."]}}
    )

    model: StrictStr | None = Field(None, description="A name of a served model; else the first reranker, or the first.")
    text_1: Strings
    text_2: Strings

    def pairs(self) -> list[tuple[str, str]]:
        """Each text with its other. Raises UsageError for lists that do not go together."""
        first, second = check_texts(self.text_1), check_texts(self.text_2)
        first = first * len(second) if len(first) == 1 else first
        if len(first) != len(second):
            raise UsageError(f"text_1 has {len(first)} texts and text_2 {len(second)}; give one, or as many", "text_1")
        return list(zip(first, second, strict=True))


class Score(BaseModel):
    """Of one pair: a reranker's probability, or a cosine."""

    object: Literal["score"] = "score"
    index: int
    score: float


class ScoreResponse(BaseModel):
    """Answer of `POST /score`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: openai.Usage


async def score(models: Asking, body: ScoreRequest, request: Request) -> Response:
    """How well texts go together."""
    served, task = await models.find(body.model, "rerank" if body.model or models.has("rerank") else "embed")
    asked = body.pairs()
    served.counted(asked)
    if served.model.task == "rerank":
        ranked = await pairs.scored(served, asked, truncate=True)
        scores: list[float] = [item.score for item in ranked]
        tokens, truncated, prompt = [item.tokens for item in ranked], [item.truncated for item in ranked], ""
    else:
        scores, tokens, truncated, prompt = await _cosines(served, asked, Options(normalize=True).by_default(task))
    note(request, served, tokens, truncated)
    usage = {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)}
    data = [{"object": "score", "index": index, "score": value} for index, value in enumerate(scores)]
    facts = {"id": str(uuid.uuid4()), "object": "list", "created": int(time.time()), "model": served.model.name}
    return answer(facts | {"data": data, "usage": usage}, headers=said(truncated, prompt))


async def _cosines(
    served: ServedModel, asked: list[tuple[str, str]], options: Options
) -> tuple[list[float], list[int], list[bool], str]:
    rows = {text: row for row, text in enumerate(dict.fromkeys(text for pair in asked for text in pair))}
    out = await served.embed(list(rows), options)
    found = [float(np.clip(out.dense[rows[first]] @ out.dense[rows[second]], -1, 1)) for first, second in asked]
    return found, out.tokens, [out.truncated[rows[second]] for _, second in asked], served.prompt(options)


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["vLLM"])
    for path in sorted(PATHS):
        routes.post(path, responses=documented(ScoreResponse, openai.Error))(endpoint(models, score))
    return routes
