"""From hidden states to what a caller gets: pooling, heads, normalisation, and the cut to fewer dimensions."""

from collections.abc import Sequence

import numpy as np

from shim.architectures import Architecture, Array, Configuration, Ops
from shim.checks import check_count
from shim.errors import UsageError
from shim.spec import NORMALIZE, SPLADE, ModelSpec, Module

POOLINGS = ("cls", "mean", "last", "max", "mean_sqrt_len_tokens", "weightedmean")
# Of models without a vector for a text: SPLADE's over the tokens of each word of the vocabulary, and ColBERT's, which has none.
VOCABULARY_POOLINGS, UNPOOLED = ("max", "sum"), "none"
# Head -> the output of a runtime, or of an ONNX graph, that it is made from.
OUTPUTS = {"dense": "sentence_embedding", "sparse": "sparse_weights", "colbert": "colbert_vecs", "score": "score"}
HEADS = {"embed": ("dense", "sparse", "colbert"), "rerank": ("score",)}  # task -> heads
# SPLADE's output: of each text a weight of each word of the vocabulary.
VOCABULARY = "sparse_embedding"
# What every embedder gives and no recipe lists: the states that are pooled, these pooled but not normalised, and their sums
# over the chunks of a document.
OUTPUTS |= {"hidden": "token_embeddings", "pooled": "token_embeddings", "chunks": "token_embeddings"}
# The same behind dense modules and before the last Normalize: a further output, where a model has such modules.
PROJECTED = "projected_embedding"
# Head -> the module of its linear layer over the hidden states, as bge-m3's repository calls it, and how wide that is.
LINEAR = {"sparse": "sparse_linear", "colbert": "colbert_linear"}
EXPANDED = 4096  # tokens to which a query may be filled up at most; every query costs as much
MASKED = "masked_lm"  # of the names of a masked language model's head: masked_lm.dense, masked_lm.norm, masked_lm.decoder
PER_TOKEN = (*LINEAR, "hidden")  # heads with a value for each token, padding included


def output_of(spec: ModelSpec, head: str) -> str:
    """The output of a runtime that a head of the model is made from; "" for a head that nothing has."""
    if head == "sparse" and spec.splade is not None:
        return VOCABULARY
    if head == "pooled" and spec.projected:
        return PROJECTED if spec.normalized else OUTPUTS["dense"]
    return OUTPUTS.get(head, "")


def check_heads(spec: ModelSpec, task: str) -> str | None:
    """What is wrong with the heads of a model of this task, or with its pooling; None where all is good."""
    heads, pooling = set(spec.heads), spec.pooling
    if not heads <= set(HEADS[task]):
        return f"heads {spec.heads!r:.100} do not go with the task {task}"
    if spec.splade is not None:
        known = spec.splade in SPLADE and pooling in VOCABULARY_POOLINGS and heads == {"sparse"}
        return (
            None if known else f"splade {spec.splade!r:.50} does not go with pooling {pooling!r:.50}, heads {spec.heads!r:.100}"
        )
    if spec.colbert is not None:
        if not 0 <= spec.colbert.expansion <= min(spec.colbert.query_length, EXPANDED):
            return (
                f"queries of {spec.colbert.query_length} tokens at most, filled up to {spec.colbert.expansion}, over {EXPANDED}"
            )
        known = pooling == UNPOOLED and heads == {"colbert"} and spec.normalized
        return None if known else f"colbert does not go with pooling {pooling!r:.50}, heads {spec.heads!r:.100}"
    if HEADS[task][0] not in heads:
        return f"heads {spec.heads!r:.100} lack {HEADS[task][0]}"
    return None if pooling in POOLINGS else f"pooling {pooling!r:.50} unknown ({', '.join(POOLINGS)})"


def layer_tensors(module: Architecture, config: Configuration, spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors of the layers, of SPLADE those of the masked language model's head, too."""
    if spec.splade is None:
        return module.parameters(config)
    head, width, words = module.masked_head(config), config.hidden_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        f"{MASKED}.dense.weight": (width, width),
        f"{MASKED}.norm.weight": (width,),
        f"{MASKED}.decoder.weight": (words, width),
        f"{MASKED}.decoder.bias": (words,),
    }
    shapes |= {f"{MASKED}.dense.bias": (width,)} if head.dense_bias else {}
    shapes |= {f"{MASKED}.norm.bias": (width,)} if head.norm_bias else {}
    return module.parameters(config) | shapes


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
        if head in heads and "dense" in heads:
            shapes |= {f"{LINEAR[head]}.weight": (rows, width), f"{LINEAR[head]}.bias": (rows,)}
    return shapes | (module.scoring(config) if "score" in heads else {})


def outputs(
    ops: Ops[Array],
    module: Architecture,
    config: Configuration,
    pooling: str,
    heads: Sequence[str],
    modules: Sequence[Module] = (NORMALIZE,),
    splade: str | None = None,
) -> dict[str, Array]:
    """The named outputs that every runtime offers and every ONNX graph has.

    A reranker: score (n,), the raw relevance logit, and the same as logits (n, 1), the name and shape that optimum reads.
    An embedder: last_hidden_state, the name that optimum reads, and token_embeddings, the one of sentence-transformers:
    (n, length, d); sentence_embedding (n, d), pooled, then through `modules`: linear layers, L2 normalisation. Where there
    are linear layers before a Normalize, projected_embedding is what goes into that. bge-m3's further heads (Chen et al.
    2024): sparse_weights (n, length) = relu(linear(hidden)), colbert_vecs (n, length, d), L2-normalised linear(hidden).
    Models without a vector for a text: sparse_embedding (n, words) with the activation `splade`, see Ops.vocabulary; or
    colbert_vecs (n, length, d), the hidden states through `modules`.
    """
    if splade is not None:
        return _splade(ops, module, config, pooling, splade)
    if pooling not in POOLINGS and (pooling, *heads) != (UNPOOLED, "colbert"):
        raise UsageError(f"pooling {pooling!r} unknown ({', '.join(POOLINGS)})")
    if "score" in heads:
        logits = module.score(ops, config)
        return {"logits": logits, "score": ops.column(logits, 0)}
    hidden = module.encode(ops, config)
    found = {"last_hidden_state": hidden, "token_embeddings": hidden}
    if "dense" not in heads:
        return found | {"colbert_vecs": _behind(ops, hidden, modules)[0]}
    found["sentence_embedding"], projected = _behind(ops, ops.pool(hidden, pooling), modules)
    if projected is not None:
        found[PROJECTED] = projected
    if "sparse" in heads:
        found["sparse_weights"] = ops.column(ops.relu(ops.head(LINEAR["sparse"], hidden)), 0)
    if "colbert" in heads:
        found["colbert_vecs"] = ops.normalize(ops.head(LINEAR["colbert"], hidden))
    return found


def _behind(ops: Ops[Array], x: Array, modules: Sequence[Module]) -> tuple[Array, Array | None]:
    """What the modules make of vectors; and, where there are linear layers before the last Normalize, what goes into that."""
    dense, projected = 0, None
    for step in modules:
        if step.type == "normalize":
            projected = x if dense else projected
            x = ops.normalize(x)
        else:
            x = ops.head(f"dense.{dense}", x, step.bias)
            x = ops.tanh(x) if step.activation == "tanh" else x
            dense += 1
    return x, projected


def _splade(ops: Ops[Array], module: Architecture, config: Configuration, pooling: str, activation: str) -> dict[str, Array]:
    """Formal et al. 2021, SPLADE v2: the head of the masked language model, over the tokens log1p of its logits' relu."""
    hidden, head = module.encode(ops, config), module.masked_head(config)
    x = ops.gelu(ops.linear(f"{MASKED}.dense", hidden, head.dense_bias))
    x = ops.layer_norm(f"{MASKED}.norm", x, head.eps, head.norm_bias)
    found = {"last_hidden_state": hidden, "token_embeddings": hidden}
    return found | {VOCABULARY: ops.vocabulary(f"{MASKED}.decoder", x, pooling == "sum", activation == "log1p_relu")}


def check_dimensions(dimensions: object, width: int) -> int:
    """How many dimensions a caller gets: `dimensions`, or all `width` where None. Raises UsageError outside 1..width."""
    return width if dimensions is None else check_count(dimensions, "dimensions", width)


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
