"""The routes of text-embeddings-inference's dialect, and `/rerank`, which it shares with Cohere's."""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from pydantic import Discriminator, RootModel, Tag

import shim
from shim.prompts import prompt_of
from shim.serve.answers import answer, large, note, respond
from shim.serve.dialects import cohere, tei
from shim.serve.dialects.openai import texts_of
from shim.serve.service import Service


class Vectors(RootModel[list[list[float]]]):
    """A vector for each text."""


class TokenVectors(RootModel[list[list[list[float]]]]):
    """A vector for each token of each text."""


class SparseVectors(RootModel[list[list[tei.SparseValue]]]):
    """The weighted tokens of each text."""


class Similarities(RootModel[list[float]]):
    """The cosine of each sentence with the source sentence."""


class Tokenized(RootModel[list[list[tei.SimpleToken]]]):
    """The tokens of each text."""


class Ranks(RootModel[list[tei.Rank]]):
    """The texts by relevance, the best first."""


class Reranked(RootModel[cohere.RerankResponse | list[tei.Rank]]):
    """By the dialect of the request."""


class RerankError(cohere.Error, tei.Error):
    """An error that the clients of both dialects can read."""


def _dialect(body: Any) -> str:
    """`texts` in place of `documents` is TEI's."""
    return "tei" if isinstance(body, dict) and "texts" in body and "documents" not in body else "cohere"


RerankBody = Annotated[
    Annotated[cohere.RerankRequest, Tag("cohere")] | Annotated[tei.RerankRequest, Tag("tei")],
    Discriminator(_dialect),
    Body(),
]


def router(service: Service, documented: Any) -> APIRouter:
    """The routes; `documented` gives the OpenAPI entries of the answers."""
    routes = APIRouter(tags=["text-embeddings-inference"])

    @routes.post("/embed", responses=documented(Vectors, tei.Error))
    async def embed(body: tei.EmbedRequest, request: Request) -> Response:
        """Vectors of texts."""

        async def work() -> Response:
            served = service.find(body.model, "embed")
            options = tei.options(body, body.prompt_name)
            options = replace(options, dimensions=body.dimensions, normalize=body.normalize)
            out = await served.embed(texts_of(body.inputs), options)
            note(request, served, out.tokens, out.truncated)
            return await large(list(out.dense), out.dense.size, tei.truncated_header(out.truncated))

        return await respond(request, work())

    @routes.post("/embed_all", responses=documented(TokenVectors, tei.Error))
    async def embed_all(body: tei.TextsRequest, request: Request) -> Response:
        """The hidden states of every token, before pooling."""

        async def work() -> Response:
            served = service.find(body.model, "embed")
            outputs = await served.hidden(texts_of(body.inputs), tei.options(body, body.prompt_name))
            tokens, truncated = [output.tokens for output in outputs], [output.truncated for output in outputs]
            note(request, served, tokens, truncated)
            content = [list(output.values["hidden"]) for output in outputs]
            return await large(content, sum(tokens) * served.model.dimensions, tei.truncated_header(truncated))

        return await respond(request, work())

    @routes.post("/embed_sparse", responses=documented(SparseVectors, tei.Error))
    async def embed_sparse(body: tei.TextsRequest, request: Request) -> Response:
        """The weighted tokens of texts, by a model with a sparse head."""

        async def work() -> Response:
            served = service.find(body.model, "embed", "sparse")
            options = replace(tei.options(body, body.prompt_name), heads=("sparse",))
            out = await served.embed(texts_of(body.inputs), options)
            note(request, served, out.tokens, out.truncated)
            content = [[{"index": id, "value": value} for id, value in row.items()] for row in out.sparse or ()]
            return await large(content, 2 * sum(out.tokens), tei.truncated_header(out.truncated))

        return await respond(request, work())

    @routes.post("/similarity", responses=documented(Similarities, tei.Error))
    async def similarity(body: tei.SimilarityRequest, request: Request) -> Response:
        """How near sentences are to a sentence."""

        async def work() -> Response:
            parameters = body.settled()
            served = service.find(parameters.model, "embed")
            texts = [body.inputs.source_sentence, *body.inputs.sentences]
            out = await served.embed(texts, replace(tei.options(parameters, parameters.prompt_name), normalize=True))
            note(request, served, out.tokens, out.truncated)
            cosines = np.clip(out.dense[1:] @ out.dense[0], -1, 1)
            return answer(list(cosines), headers=tei.truncated_header(out.truncated[1:], out.truncated[0]))

        return await respond(request, work())

    @routes.post("/tokenize", responses=documented(Tokenized, tei.Error))
    async def tokenize(body: tei.TokenizeRequest, request: Request) -> Response:
        """The tokens of texts, none cut."""

        async def work() -> Response:
            served = service.find(body.model, "embed") if body.model or service.has("embed") else service.find(None, "rerank")
            prompt = prompt_of(served.model.manifest.model, name=body.prompt_name) if body.prompt_name else ""
            found = await served.pieces(texts_of(body.inputs), body.add_special_tokens is not False, prompt)
            note(request, served, [len(pieces) for pieces in found], [])
            return await large(found, 5 * sum(len(pieces) for pieces in found))

        return await respond(request, work())

    async def rerank(body: RerankBody, request: Request) -> Response:
        """Documents by relevance to a query; `texts` in place of `documents` gets TEI's bare array."""

        async def work() -> Response:
            if isinstance(body, cohere.RerankRequest):
                return await cohere.rerank(service, body, request)
            served = service.find(body.model, "rerank")
            ranked = await served.rerank(body.query, body.texts, None, None, body.truncate is not False, body.side)
            truncated = [item.truncated for item in sorted(ranked, key=lambda item: item.index)]
            note(request, served, [item.tokens for item in ranked], truncated)
            content: list[dict[str, Any]] = []
            for item in ranked:
                content.append({"index": item.index, "score": item.logit if body.raw_scores else item.score})
                if body.return_text:
                    content[-1]["text"] = body.texts[item.index]
            return answer(content, headers=tei.truncated_header(truncated))

        return await respond(request, work())

    for path in tei.RERANK:
        routes.post(path, responses=documented(Reranked, RerankError), tags=["Cohere and Jina"])(rerank)

    @routes.get("/info", responses=documented(tei.Info, tei.Error, 401))
    async def info() -> Response:
        """The first model, and the limits of this server."""
        model, settings = next(iter(service.served.values())).model, service.settings
        kind = {"embedding": {"pooling": model.manifest.model.pooling}}
        if model.task == "rerank":
            kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}  # type: ignore[dict-item]
        return answer({
            "model_id": model.name,
            "model_sha": model.manifest.source["revision"],
            "model_dtype": f"{model.manifest.target} {model.manifest.bits}-bit",
            "model_type": kind,
            "max_concurrent_requests": settings.max_queue,
            "max_input_length": model.max_tokens,
            "max_batch_tokens": settings.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": shim.__version__,
        })  # fmt: skip

    return routes
