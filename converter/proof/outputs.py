"""What a model gives for texts, as arrays; kept in the cache where it costs minutes to compute again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outputs:
    """What a model gives for a list of texts, one entry a text; what was not asked for is None.

    dense: (n, d) float32, as the model gives them. sparse: token id -> weight. colbert: (tokens, d) float32, L2-normalised.
    scores: raw relevance logits, (n,) float32.
    """

    dense: np.ndarray | None = None
    sparse: list[dict[int, float]] | None = None
    colbert: list[np.ndarray] | None = None
    scores: np.ndarray | None = None


def flat(outputs: Outputs, prefix: str = "") -> dict[str, np.ndarray]:
    """The outputs as named arrays; lists of arrays become one, with their sizes beside it."""
    found: dict[str, np.ndarray] = {}
    if outputs.dense is not None:
        found["dense"] = outputs.dense
    if outputs.scores is not None:
        found["scores"] = outputs.scores
    if outputs.sparse is not None:
        found |= ragged("sparse_ids", [list(weights) for weights in outputs.sparse], np.int64)
        found |= ragged("sparse", [list(weights.values()) for weights in outputs.sparse], np.float64)
    if outputs.colbert is not None:
        found["colbert"] = np.concatenate(outputs.colbert)
        found["colbert_sizes"] = np.array([len(vectors) for vectors in outputs.colbert])
    return {prefix + name: array for name, array in found.items()}


def unflat(arrays: Mapping[str, np.ndarray], prefix: str = "") -> Outputs:
    """The outputs that `flat` made arrays of."""
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    sparse = colbert = None
    if "sparse" in own:
        rows = zip(parts(own, "sparse_ids"), parts(own, "sparse"), strict=True)
        sparse = [dict(zip(ids.tolist(), weights.tolist(), strict=True)) for ids, weights in rows]
    if "colbert" in own:
        colbert = parts(own, "colbert")
    return Outputs(own.get("dense"), sparse, colbert, own.get("scores"))


def ragged(name: str, rows: Sequence[Sequence[float]], dtype: type) -> dict[str, np.ndarray]:
    """Rows of different lengths as one array and their sizes."""
    return {
        name: np.array([value for row in rows for value in row], dtype),
        f"{name}_sizes": np.array([len(row) for row in rows]),
    }


def parts(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """The rows that `ragged` put together."""
    return np.split(arrays[name], np.cumsum(arrays[f"{name}_sizes"])[:-1])
