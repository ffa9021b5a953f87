"""The routes of text-embeddings-inference: bare arrays, one model unless the body names another. Its `/rerank` is in rerank.py.

Source: the OpenAPI of https://github.com/huggingface/text-embeddings-inference.
"""

from dataclasses import replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from pydantic import Discriminator, Tag

import shim
from shim.jsons import JsonObject
from shim.serve.answers import Documented, answer, dump, endpoint, large, note, said
from shim.serve.dialects import pairs
from shim.serve.dialects import tei_bodies as bodies
from shim.serve.faults import Refusal
from shim.serve.models import Asking, Models
from shim.serve.options import Options

PATHS = frozenset({"/", "/embed", "/embed_sparse", "/embed_all", "/similarity", "/predict", "/tokenize", "/decode", "/info",
                   "/health", "/ping"})  # fmt: skip
LABEL = "LABEL_0"  # what a reranker's only score is called
TYPES = {429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


def _kind_of(body: object) -> str:
    """Sentences to compare are in an object."""
    return "similarity" if isinstance(body, dict) and isinstance(body.get("inputs"), dict) else "embed"


RootBody = Annotated[
    Annotated[bodies.RootRequest, Tag("embed")] | Annotated[bodies.SimilarityRequest, Tag("similarity")],
    Discriminator(_kind_of),
    Body(),
]


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    kind = "Empty" if refusal.empty else TYPES.get(refusal.status, "Validation")
    return {"error": refusal.message, "error_type": kind}


def options(body: bodies.Truncation, prompt_name: str | None) -> Options:
    """What a request asks for."""
    return Options(prompt_name=prompt_name, truncate=body.truncate is not False, side=body.side)


async def embed(models: Asking, body: bodies.EmbedRequest, request: Request) -> Response:
    """Vectors of texts."""
    served, task = await models.find(body.model, "embed")
    asked = replace(options(body, body.prompt_name), dimensions=body.dimensions, normalize=body.normalize).by_default(task)
    out = await served.embed(body.inputs, asked)
    note(request, served, out.tokens, out.truncated)
    return await large(list(out.dense), out.dense.size, said(out.truncated, served.prompt(asked)))


async def embed_all(models: Asking, body: bodies.TextsRequest, request: Request) -> Response:
    """The hidden states of every token, before pooling; of ColBERT the vectors."""
    served, task = await models.find(body.model, "embed")
    asked = options(body, body.prompt_name).by_default(task)
    outputs = await served.hidden(body.inputs, asked)
    tokens, truncated = [output.tokens for output in outputs], [output.truncated for output in outputs]
    note(request, served, tokens, truncated)
    content = [list(value) for output in outputs for value in output.values.values()]
    return await large(content, sum(tokens) * served.model.dimensions, said(truncated, served.prompt(asked)))


async def embed_sparse(models: Asking, body: bodies.TextsRequest, request: Request) -> Response:
    """The weighted tokens of texts, by a model with a sparse head."""
    served, task = await models.find(body.model, "embed", "sparse")
    asked = replace(options(body, body.prompt_name), heads=("sparse",)).by_default(task)
    out = await served.embed(body.inputs, asked)
    note(request, served, out.tokens, out.truncated)
    content = [[{"index": id, "value": value} for id, value in row.items()] for row in out.sparse or ()]
    return await large(content, 2 * sum(map(len, content)), said(out.truncated, served.prompt(asked)))


async def similarity(models: Asking, body: bodies.SimilarityRequest, request: Request) -> Response:
    """How near sentences are to a sentence."""
    parameters = body.settled()
    served, task = await models.find(parameters.model, "embed")
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    asked = replace(options(parameters, parameters.prompt_name), normalize=True).by_default(task)
    out = await served.embed(texts, asked)
    note(request, served, out.tokens, out.truncated)
    cosines = np.clip(out.dense[1:] @ out.dense[0], -1, 1)
    return answer(list(cosines), headers=said(out.truncated[1:], served.prompt(asked), out.truncated[0]))


async def root(models: Asking, body: RootBody, request: Request) -> Response:
    """What clients send to the server's own address: texts to embed, or sentences to compare."""
    if isinstance(body, bodies.SimilarityRequest):
        return await similarity(models, body, request)
    return await embed(models, body.settled(), request)


async def predict(models: Asking, body: bodies.PredictRequest, request: Request) -> Response:
    """The scores of pairs, by a reranker."""
    served, _ = await models.find(body.model, "rerank")
    ranked = await pairs.scored(served, body.pairs(), body.truncate is not False, body.side)
    truncated = [item.truncated for item in ranked]
    note(request, served, [item.tokens for item in ranked], truncated)
    rows = [[{"label": LABEL, "score": item.logit if body.raw_scores else item.score}] for item in ranked]
    return answer(rows[0] if body.single else rows, headers=said(truncated))


async def tokenize(models: Asking, body: bodies.TokenizeRequest, request: Request) -> Response:
    """The tokens of texts, none cut."""
    served, _ = await models.find(body.model, "embed" if body.model or models.has("embed") else "rerank")
    prompt = served.model.prompt(name=body.prompt_name) if body.prompt_name else ""
    special = body.add_special_tokens is not False
    counts, written = await served.pieces(body.inputs, special, prompt, lambda pieces: dump(pieces)[1:-1])
    note(request, served, counts, [])
    return Response(b"[" + b",".join(b"[" + b",".join(rows) + b"]" for rows in written) + b"]", media_type="application/json")


async def decode(models: Asking, body: bodies.DecodeRequest, request: Request) -> Response:
    """The texts of token ids."""
    served, _ = await models.find(body.model, "embed" if body.model or models.has("embed") else "rerank")
    texts = await served.decode(body.ids, body.skip_special_tokens is not False)
    note(request, served, [0] * len(texts), [])
    return answer(texts)


POSTS = (
    ("/", root, bodies.Answered),
    ("/embed", embed, bodies.Vectors),
    ("/embed_all", embed_all, bodies.TokenVectors),
    ("/embed_sparse", embed_sparse, bodies.SparseVectors),
    ("/similarity", similarity, bodies.Similarities),
    ("/predict", predict, bodies.Predictions),
    ("/tokenize", tokenize, bodies.Tokenized),
    ("/decode", decode, bodies.Decoded),
)


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["text-embeddings-inference"])
    for path, work, success in POSTS:
        routes.post(path, responses=documented(success, bodies.Error))(endpoint(models, work))

    @routes.get("/info", responses=documented(bodies.Info, bodies.Error, 401))
    async def info() -> Response:
        """The first model, the memory of all, and the limits of this server."""
        first, settings = next(iter(models.listed.values())), models.settings
        manifest = first.manifest
        spec = manifest.model
        kind: JsonObject = {"embedding": {"pooling": spec.pooling if spec.splade is None else "splade"}}
        if manifest.task == "rerank":
            kind = {"reranker": {"id2label": {"0": LABEL}, "label2id": {LABEL: 0}}}
        return answer({
            "model_id": first.name,
            "model_sha": manifest.source["revision"],
            "model_dtype": f"{manifest.target} {manifest.bits}-bit",
            "model_type": kind,
            "max_concurrent_requests": settings.max_queue,
            "max_input_length": manifest.model.max_tokens,
            "max_batch_tokens": settings.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": shim.__version__,
            "models": [{"id": one.name, "loaded": one.served is not None, "memory": one.memory or None}
                       for one in models.listed.values()],
            "memory": models.on_demand.taken,
            "max_memory": settings.max_memory,
        })  # fmt: skip

    return routes
