"""Pure metrics: how near an artifact's outputs are to the original's. The verdict on them is the bar's."""

from dataclasses import asdict, replace

import numpy as np

from converter.corpus import Ranking, Text
from shim.errors import NotFiniteError
from shim.parity import Figures, Spread

Report = tuple[Figures, np.ndarray]  # the figures of a head, and the cosine of each text that they are of, (n,)
NEIGHBOURS = 10
DIMENSIONS = (1024, 512, 256, 64)  # to which vectors are cut for the report
FLAT = 0.05  # mean standard deviation of the reference's logits under which its documents all score the same
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


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64 1 - |a - b|² / (2 |a|²) of each row: the cosine of unit vectors, and less where lengths differ."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares, lengths = ((a - b) ** 2).sum(axis=1), (a**2).sum(axis=1)
    return 1 - np.divide(squares, 2 * lengths, out=np.where(squares > 0, np.inf, 0.0), where=lengths > 0)


def dense_report(reference: np.ndarray, candidate: np.ndarray, texts: list[Text], normalized: bool = True) -> Report:
    """Everything that the report says of the dense head, for (n, d) vectors in the order of the texts.

    Of vectors that are not normalised, lengths count, too: see `likeness`. Raises NotFiniteError for NaN or infinity in the
    candidate.
    """
    broken = np.flatnonzero(~np.isfinite(candidate).all(axis=1))
    if broken.size:
        raise NotFiniteError(f"NaN or infinity in the vector of text {texts[broken[0]].id}")
    scores = (cosines if normalized else likeness)(reference, candidate)
    report = _figures(scores, texts)
    width = reference.shape[1]
    cuts = [size for size in DIMENSIONS if size < width]
    by_dimensions = {str(size): float(cosines(reference[:, :size], candidate[:, :size]).min()) for size in cuts}
    if len(texts) == 1:
        return replace(report, by_dimensions=by_dimensions), scores
    centre = reference.mean(axis=0)
    lengths = np.linalg.norm(reference, axis=1, keepdims=True)
    units = np.divide(reference, lengths, out=np.zeros_like(reference), where=lengths > 0)
    report = replace(
        report,
        by_dimensions=by_dimensions,
        centred=_spread(cosines(reference - centre, candidate - centre)),
        neighbours=neighbour_agreement(reference, candidate),
        reference_pairwise=pairwise_mean(units),
    )
    return report, scores


def by_task(scores: np.ndarray, texts: list[Text]) -> str:
    """The worst cosine of each task's texts, in one line."""
    worst: dict[str, float] = {}
    for score, text in zip(scores.tolist(), texts, strict=True):
        worst[text.task] = min(score, worst.get(text.task, score))
    return "worst by adapter: " + ", ".join(f"{task} {score:.5f}" for task, score in sorted(worst.items()))


def sparse_report(reference: list[dict[int, float]], candidate: list[dict[int, float]], texts: list[Text]) -> Report:
    """The cosine of each text's two token-weight vectors; of two empty ones it is 1, of an empty and another one 0."""
    scores = []
    for one, other in zip(reference, candidate, strict=True):
        tokens = sorted(one.keys() | other.keys())
        pair = np.array([[weights.get(token, 0.0) for token in tokens] for weights in (one, other)]).reshape(2, -1)
        scores.append(cosines(pair[:1], pair[1:])[0] if tokens else 1.0)
    return _figures(np.array(scores), texts), np.array(scores)


def colbert_report(reference: list[np.ndarray], candidate: list[np.ndarray], texts: list[Text]) -> Report:
    """Each text's mean cosine over its tokens, (tokens, d) vectors; 0 where the numbers of tokens differ."""
    scores = [
        cosines(one, other).mean() if len(one) == len(other) else 0.0 for one, other in zip(reference, candidate, strict=True)
    ]
    return _figures(np.array(scores), texts), np.array(scores)


def score_report(reference: list[np.ndarray], candidate: list[np.ndarray], rankings: list[Ranking]) -> Report:
    """Everything that the report says of a reranker, for each ranking's raw logits (documents,).

    The cosine is between a ranking's two vectors of logits, each less its mean: a single score's cosine would be 1 or -1.
    """
    centred = [
        cosines((one - one.mean())[None], (other - other.mean())[None])[0] if np.ptp(one) or np.ptp(other) else 1.0
        for one, other in zip(reference, candidate, strict=True)
    ]
    pairs = list(zip(reference, candidate, strict=True))
    taus = [kendall(one, other) for one, other in pairs]
    report = replace(
        _figures(np.array(centred), [ranking.query for ranking in rankings]),
        probability=float(max(np.abs(probability(one) - probability(other)).max() for one, other in pairs)),
        kendall={"worst": float(min(taus)), "mean": float(np.mean(taus))},
        top1=float(np.mean([np.argmax(one) == np.argmax(other) for one, other in pairs])),
        reference_spread=float(np.mean([one.std() for one in reference])),
    )
    return report, np.array(centred)


def by_language(scores: np.ndarray, texts: list[Text]) -> dict[str, list[float]]:
    """The cosines (n,) of the texts of each language, to seven digits, in the texts' order."""
    found: dict[str, list[float]] = {text.lang: [] for text in sorted(texts, key=lambda text: text.lang)}
    for score, text in zip(scores, texts, strict=True):
        found[text.lang].append(round(float(score), 7))
    return found


def kendall(one: np.ndarray, other: np.ndarray) -> float:
    """Kendall's tau-a: the share of pairs in the same order less that in the opposite one; 1 for fewer than two values."""
    if len(one) < 2:
        return 1.0
    rows, columns = np.triu_indices(len(one), 1)
    return float(np.mean(np.sign(one[rows] - one[columns]) * np.sign(other[rows] - other[columns])))


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function, written apart from the one that is verified."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def notes(head: str, figures: Figures) -> list[str]:
    """What a reader must know before trusting the figures: an empty list when there is nothing to say."""
    spread, pairwise = figures.reference_spread, figures.reference_pairwise
    if spread is not None and spread < FLAT:
        return [f"{head}: the original scores all documents alike (spread {spread:.3f}); this proves little"]
    if head == "dense" and pairwise is None:
        return [f"{head}: one text only; this proves little"]
    if pairwise is not None and pairwise > ALIKE:
        return [f"{head}: the original's texts all look alike (mean pairwise cosine {pairwise:.3f}); this proves little"]
    return []


def _figures(scores: np.ndarray, texts: list[Text]) -> Figures:
    languages = sorted({text.lang for text in texts})
    return Figures(
        **asdict(_spread(scores)),
        worst_text=texts[int(np.argmin(scores))].id,
        by_language={lang: float(scores[[text.lang == lang for text in texts]].min()) for lang in languages},
    )


def _spread(scores: np.ndarray) -> Spread:
    return Spread(worst=float(scores.min()), p01=float(np.quantile(scores, 0.01)), mean=float(scores.mean()))
