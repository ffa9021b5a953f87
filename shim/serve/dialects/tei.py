"""The routes of text-embeddings-inference: bare arrays, one model unless the body names another. Its `/rerank` is in rerank.py.

Source: the OpenAPI of https://github.com/huggingface/text-embeddings-inference.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from fastapi import APIRouter, Request, Response

import shim
from shim.jsons import JsonObject
from shim.serve.answers import TRUNCATED, Documented, answer, dump, endpoint, large, note
from shim.serve.dialects import tei_bodies as bodies
from shim.serve.dialects.openai import texts_of
from shim.serve.faults import Refusal
from shim.serve.models import Models
from shim.serve.options import Options

PATHS = frozenset({"/embed", "/embed_sparse", "/embed_all", "/similarity", "/tokenize", "/info", "/health"})
SHOWN = 200  # texts named in the header TRUNCATED, so that it stays one that proxies take
TYPES = {429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


def error(refusal: Refusal) -> JsonObject:
    """An Error as plain values."""
    kind = "Empty" if refusal.empty else TYPES.get(refusal.status, "Validation")
    return {"error": refusal.message, "error_type": kind}


def options(body: bodies.Truncation, prompt_name: str | None) -> Options:
    """What a request asks for."""
    return Options(prompt_name=prompt_name, truncate=body.truncate is not False, side=body.side)


def truncated_header(truncated: Sequence[bool], source: bool = False) -> dict[str, str]:
    """`x-truncated`: the numbers of the texts that were cut, and `source` for what they are compared with; none, no header."""
    cut = ["source"] * source + [str(index) for index, value in enumerate(truncated) if value]
    return {TRUNCATED: ",".join(cut[:SHOWN]) + (",..." if len(cut) > SHOWN else "")} if cut else {}


async def embed(models: Models, body: bodies.EmbedRequest, request: Request) -> Response:
    """Vectors of texts."""
    served = models.find(body.model, "embed")
    asked = replace(options(body, body.prompt_name), dimensions=body.dimensions, normalize=body.normalize)
    out = await served.embed(texts_of(body.inputs), asked)
    note(request, served, out.tokens, out.truncated)
    return await large(list(out.dense), out.dense.size, truncated_header(out.truncated))


async def embed_all(models: Models, body: bodies.TextsRequest, request: Request) -> Response:
    """The hidden states of every token, before pooling; of ColBERT the vectors."""
    served = models.find(body.model, "embed")
    outputs = await served.hidden(texts_of(body.inputs), options(body, body.prompt_name))
    tokens, truncated = [output.tokens for output in outputs], [output.truncated for output in outputs]
    note(request, served, tokens, truncated)
    content = [list(value) for output in outputs for value in output.values.values()]
    return await large(content, sum(tokens) * served.model.dimensions, truncated_header(truncated))


async def embed_sparse(models: Models, body: bodies.TextsRequest, request: Request) -> Response:
    """The weighted tokens of texts, by a model with a sparse head."""
    served = models.find(body.model, "embed", "sparse")
    out = await served.embed(texts_of(body.inputs), replace(options(body, body.prompt_name), heads=("sparse",)))
    note(request, served, out.tokens, out.truncated)
    content = [[{"index": id, "value": value} for id, value in row.items()] for row in out.sparse or ()]
    return await large(content, 2 * sum(map(len, content)), truncated_header(out.truncated))


async def similarity(models: Models, body: bodies.SimilarityRequest, request: Request) -> Response:
    """How near sentences are to a sentence."""
    parameters = body.settled()
    served = models.find(parameters.model, "embed")
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    out = await served.embed(texts, replace(options(parameters, parameters.prompt_name), normalize=True))
    note(request, served, out.tokens, out.truncated)
    cosines = np.clip(out.dense[1:] @ out.dense[0], -1, 1)
    return answer(list(cosines), headers=truncated_header(out.truncated[1:], out.truncated[0]))


async def tokenize(models: Models, body: bodies.TokenizeRequest, request: Request) -> Response:
    """The tokens of texts, none cut."""
    served = models.find(body.model, "embed") if body.model or models.has("embed") else models.find(None, "rerank")
    prompt = served.model.prompt(name=body.prompt_name) if body.prompt_name else ""
    special = body.add_special_tokens is not False
    counts, written = await served.pieces(texts_of(body.inputs), special, prompt, lambda pieces: dump(pieces)[1:-1])
    note(request, served, counts, [])
    return Response(b"[" + b",".join(b"[" + b",".join(rows) + b"]" for rows in written) + b"]", media_type="application/json")


POSTS = (
    ("/embed", embed, bodies.Vectors),
    ("/embed_all", embed_all, bodies.TokenVectors),
    ("/embed_sparse", embed_sparse, bodies.SparseVectors),
    ("/similarity", similarity, bodies.Similarities),
    ("/tokenize", tokenize, bodies.Tokenized),
)


def router(models: Models, documented: Documented) -> APIRouter:
    """See Dialect."""
    routes = APIRouter(tags=["text-embeddings-inference"])
    for path, work, success in POSTS:
        routes.post(path, responses=documented(success, bodies.Error))(endpoint(models, work))

    @routes.get("/info", responses=documented(bodies.Info, bodies.Error, 401))
    async def info() -> Response:
        """The first model, and the limits of this server."""
        model, settings = next(iter(models.by_name.values())).model, models.settings
        spec = model.manifest.model
        kind: JsonObject = {"embedding": {"pooling": spec.pooling if spec.splade is None else "splade"}}
        if model.task == "rerank":
            kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
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
