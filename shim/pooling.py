"""From hidden states to what a caller gets: pooling, normalisation, and the cut to fewer dimensions."""

from typing import Any

import numpy as np

from shim.architectures import Ops
from shim.errors import UsageError

POOLINGS = ("cls", "mean", "last")


def outputs(ops: Ops, hidden: Any, pooling: str) -> dict[str, Any]:
    """The named outputs that every runtime offers and every ONNX graph has.

    hidden: (n, length, d). last_hidden_state, the name that optimum reads, and token_embeddings, the one of
    sentence-transformers: hidden itself; sentence_embedding: (n, d), pooled, then L2-normalised.
    """
    if pooling not in POOLINGS:
        raise UsageError(f"pooling {pooling!r} unknown ({', '.join(POOLINGS)})")
    return {
        "last_hidden_state": hidden,
        "token_embeddings": hidden,
        "sentence_embedding": ops.normalize(ops.pool(hidden, pooling)),
    }


def check_dimensions(dimensions: object, width: int) -> int:
    """How many dimensions a caller gets: `dimensions`, or all `width` where None. Raises UsageError outside 1..width."""
    if dimensions is None:
        return width
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= width:
        raise UsageError(f"dimensions must be a whole number from 1 to {width}, not {dimensions!r}")
    return dimensions


def cut(dense: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` columns of (n, d) unit vectors, L2-normalised again.

    Source: Kusupati et al. 2022, Matryoshka Representation Learning.
    """
    if dimensions == dense.shape[1]:
        return dense
    part = dense[:, :dimensions]
    return part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.finfo(np.float32).tiny)
