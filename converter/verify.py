"""Pure metrics: how near an artifact's vectors are to the original's, and the verdict."""

from typing import Any

import numpy as np

from converter.corpus import Text
from shim.errors import NotFiniteError

NEIGHBOURS = 10
ALIKE = 0.95  # mean pairwise cosine of the reference beyond which its texts all look the same


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64 cosine of each row of `a` with the same row of `b`; 0 where either is all zeros."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norms, out=np.zeros(len(a)), where=norms > 0)


def pairwise_mean(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows of unit vectors (n, d), n > 1."""
    n, total = len(vectors), vectors.astype(np.float64).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))


def neighbour_agreement(reference: np.ndarray, candidate: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Mean share of a text's k nearest other texts that both sets of vectors agree on; k is at most n - 1."""
    k = min(k, len(reference) - 1)
    nearest = []
    for vectors in (reference, candidate):
        similarity = vectors.astype(np.float64) @ vectors.astype(np.float64).T
        np.fill_diagonal(similarity, -np.inf)
        nearest.append(np.argsort(-similarity, axis=1, kind="stable")[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*nearest, strict=True)]))


def dense_report(reference: np.ndarray, candidate: np.ndarray, texts: list[Text]) -> dict[str, Any]:
    """Everything that the report says of the dense head, for (n, d) vectors in the order of the texts.

    Raises NotFiniteError for NaN or infinity in the candidate.
    """
    broken = np.flatnonzero(~np.isfinite(candidate).all(axis=1))
    if broken.size:
        raise NotFiniteError(f"NaN or infinity in the vector of text {texts[broken[0]].id}")
    scores = cosines(reference, candidate)
    report: dict[str, Any] = _spread(scores)
    report["worst_text"] = texts[int(np.argmin(scores))].id
    report["by_language"] = {
        lang: float(scores[[text.lang == lang for text in texts]].min()) for lang in sorted({text.lang for text in texts})
    }
    if len(texts) > 1:
        centre = reference.mean(axis=0)
        report["centred"] = _spread(cosines(reference - centre, candidate - centre))
        report["neighbours"] = neighbour_agreement(reference, candidate)
        report["reference_pairwise"] = pairwise_mean(reference)
    return report


def notes(head: str, report: dict[str, Any]) -> list[str]:
    """What a reader must know before trusting the figures: an empty list when there is nothing to say."""
    pairwise = report.get("reference_pairwise")
    if pairwise is None:
        return [f"{head}: one text only; this proves little"]
    if pairwise > ALIKE:
        return [f"{head}: the original's texts all look alike (mean pairwise cosine {pairwise:.3f}); this proves little"]
    return []


def verdict(heads: dict[str, dict[str, Any]], target: float) -> str:
    """`pass` when no text of any head is under the target, else `fail`."""
    return "pass" if heads and all(head["worst"] >= target for head in heads.values()) else "fail"


def _spread(scores: np.ndarray) -> dict[str, Any]:
    return {"worst": float(scores.min()), "p01": float(np.quantile(scores, 0.01)), "mean": float(scores.mean())}
