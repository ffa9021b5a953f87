"""From hidden states to what a caller gets: pooling, heads, normalisation, and the cut to fewer dimensions."""

from collections.abc import Sequence

import numpy as np

from shim.architectures import Architecture, Array, Configuration, Ops
from shim.errors import UsageError
from shim.spec import NORMALIZE, Module

POOLINGS = ("cls", "mean", "last", "max", "mean_sqrt_len_tokens", "weightedmean")
# Head -> the output of a runtime, or of an ONNX graph, that it is made from.
OUTPUTS = {"dense": "sentence_embedding", "sparse": "sparse_weights", "colbert": "colbert_vecs", "score": "score"}
HEADS = {"embed": ("dense", "sparse", "colbert"), "rerank": ("score",)}  # task -> heads; the first, each of its models has
# What every embedder gives and no recipe lists: the states that are pooled, these pooled but not normalised, and their sums
# over the chunks of a document.
OUTPUTS |= {"hidden": "token_embeddings", "pooled": "token_embeddings", "chunks": "token_embeddings"}
# The same behind dense modules and before the last Normalize: a further output, where a model has such modules.
PROJECTED = "projected_embedding"
# Head -> the module of its linear layer over the hidden states, as bge-m3's repository calls it, and how wide that is.
LINEAR = {"sparse": "sparse_linear", "colbert": "colbert_linear"}
PER_TOKEN = (*LINEAR, "hidden")  # heads with a value for each token, padding included


def head_tensors(
    module: Architecture, config: Configuration, heads: Sequence[str], modules: Sequence[Module] = (NORMALIZE,)
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of the heads, which are kept apart from those of the layers and never quantized.

    modules: what follows the pooling; `dense.0`, `dense.1`, … are the linear layers among them, in their order.
    """
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = width
    for index, dense in enumerate(step for step in modules if step.type == "dense"):
        shapes[f"dense.{index}.weight"] = (dense.width, inputs)
        shapes |= {f"dense.{index}.bias": (dense.width,)} if dense.bias else {}
        inputs = dense.width
    for head, rows in (("sparse", 1), ("colbert", width)):
        if head in heads:
            shapes |= {f"{LINEAR[head]}.weight": (rows, width), f"{LINEAR[head]}.bias": (rows,)}
    return shapes | (module.scoring(config) if "score" in heads else {})


def outputs(
    ops: Ops[Array],
    module: Architecture,
    config: Configuration,
    pooling: str,
    heads: Sequence[str],
    modules: Sequence[Module] = (NORMALIZE,),
) -> dict[str, Array]:
    """The named outputs that every runtime offers and every ONNX graph has.

    A reranker: score (n,), the raw relevance logit, and the same as logits (n, 1), the name and shape that optimum reads.
    An embedder: last_hidden_state, the name that optimum reads, and token_embeddings, the one of sentence-transformers:
    (n, length, d); sentence_embedding (n, d), pooled, then through `modules`: linear layers, L2 normalisation. Where there
    are linear layers before a Normalize, projected_embedding is what goes into that. bge-m3's further heads (Chen et al.
    2024): sparse_weights (n, length) = relu(linear(hidden)), colbert_vecs (n, length, d), L2-normalised linear(hidden).
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r} unknown ({', '.join(POOLINGS)})")
    if "score" in heads:
        logits = module.score(ops, config)
        return {"logits": logits, "score": ops.column(logits, 0)}
    hidden = module.encode(ops, config)
    found = {"last_hidden_state": hidden, "token_embeddings": hidden}
    pooled = ops.pool(hidden, pooling)
    dense = 0
    for step in modules:
        if step.type == "normalize":
            if dense:
                found[PROJECTED] = pooled
            pooled = ops.normalize(pooled)
        else:
            pooled = ops.head(f"dense.{dense}", pooled, step.bias)
            pooled = ops.tanh(pooled) if step.activation == "tanh" else pooled
            dense += 1
    found["sentence_embedding"] = pooled
    if "sparse" in heads:
        found["sparse_weights"] = ops.column(ops.relu(ops.head(LINEAR["sparse"], hidden)), 0)
    if "colbert" in heads:
        found["colbert_vecs"] = ops.normalize(ops.head(LINEAR["colbert"], hidden))
    return found


def check_dimensions(dimensions: object, width: int) -> int:
    """How many dimensions a caller gets: `dimensions`, or all `width` where None. Raises UsageError outside 1..width."""
    if dimensions is None:
        return width
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= width:
        raise UsageError(f"dimensions must be a whole number from 1 to {width}, not {dimensions!r}", "dimensions")
    return dimensions


def pool(hidden: np.ndarray, pooling: str) -> np.ndarray:
    """The pooled vector (d,) of one text's hidden states (tokens, d), not normalised, and not a view of them."""
    if pooling in ("cls", "last"):
        return hidden[0 if pooling == "cls" else -1].copy()
    if pooling == "weightedmean":
        return np.average(hidden, axis=0, weights=np.arange(1, len(hidden) + 1)).astype(hidden.dtype)
    if pooling == "mean_sqrt_len_tokens":
        return hidden.sum(axis=0) / np.float32(len(hidden) ** 0.5)
    return hidden.max(axis=0) if pooling == "max" else hidden.mean(axis=0)


def cut(dense: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` columns of (n, d) vectors, L2-normalised.

    Source: Kusupati et al. 2022, Matryoshka Representation Learning.
    """
    part = dense[:, :dimensions]
    return part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def int8(vectors: np.ndarray) -> np.ndarray:
    """Vectors (…, d) as int8, each times 127 over its greatest absolute value: compare them by cosine.

    A scale for all would leave three bits to most, and cosines do not change.
    """
    greatest = np.abs(vectors).max(axis=-1, keepdims=True)
    return np.round(vectors * (127 / np.where(greatest > 0, greatest, 1))).astype(np.int8)


def lexical(ids: Sequence[int], weights: np.ndarray, unused: frozenset[int]) -> dict[int, float]:
    """Token id -> its greatest weight in the text, without special tokens and zeros.

    ids: the text's tokens; weights: (length,) of the sparse head, at least as long. Source: Chen et al. 2024, BGE M3-Embedding.
    """
    found: dict[int, float] = {}
    for token, weight in zip(ids, weights.tolist(), strict=False):
        if weight > found.get(token, 0.0) and token not in unused:
            found[token] = weight
    return found


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function; of yes - no, it is the softmax's share of yes."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
