"""The verdict of an artifact: the figures that were measured, and the bar that they are held to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from shim.errors import IntegrityError

PARITY_TARGET = 0.999
SAID = "said"  # of a field's metadata: the words around its value, as str.format takes them
WITNESS_TOLERANCE = 1e-4  # |ours - upstream's| / |upstream's|, of a text's output in fp32, at most


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Cosines of texts with the original: the worst, the first percentile, the mean."""

    worst: float
    p01: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class Figures(Spread):
    """What was measured of one head; None for what a head does not have.

    worst_text: its id. by_language: the worst of each. by_dimensions: the worst when vectors are cut to so many. centred: after
    the original's mean is subtracted. neighbours: share of the nearest that agree. reference_pairwise: mean cosine of the
    original's texts with each other. probability: the greatest change. kendall: tau, `worst` and `mean`. top1: share of queries
    whose best document is the same. reference_spread: mean standard deviation of the original's logits.
    """

    worst_text: str
    by_language: dict[str, float]
    by_dimensions: dict[str, float] | None = None
    centred: Spread | None = None
    neighbours: float | None = field(default=None, metadata={SAID: "10 nearest neighbours agree {:.1%}"})
    reference_pairwise: float | None = field(default=None, metadata={SAID: "mean pairwise cosine of the original {:.3f}"})
    probability: float | None = field(default=None, metadata={SAID: "worst change of probability {:.5f}"})
    kendall: dict[str, float] | None = field(default=None, metadata={SAID: "Kendall's tau worst {0[worst]:.3f}"})
    top1: float | None = field(default=None, metadata={SAID: "best document the same for {:.1%} of queries"})
    reference_spread: float | None = None

    @property
    def said(self) -> list[str]:
        """In words, the figures that were measured and whose fields have words."""
        given = ((each.metadata.get(SAID), getattr(self, each.name)) for each in fields(self))
        return [words.format(value) for words, value in given if words and value is not None]


@dataclass(frozen=True, kw_only=True)
class Witness:
    """The upstream library that reads the original as we do.

    texts: whose outputs were compared, `tokens_of`: whose tokens. worst: |ours - theirs| / |theirs|, at most `tolerance`.
    given: what it was told of ours, as the original's files do not say it.
    """

    library: str
    version: str
    texts: int
    tokens_of: int
    worst: float
    tolerance: float
    given: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class PackedKernels:
    """The worst cosine of the kernels that a GPU uses with those that were verified."""

    texts: int
    kernels: str | None = None
    worst: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A figure of a task, from -1 to 1, of the original and of the artifact on the same data set.

    difference: the artifact's less the original's; it is from `low` to `high` with 95 % confidence. n: pairs or queries.
    """

    set: str
    metric: str
    original: float
    artifact: float
    difference: float
    low: float
    high: float
    n: int


class WorstAndMean(Protocol):
    """Cosines or errors of texts, of which either counts."""

    @property
    def worst(self) -> float: ...
    @property
    def mean(self) -> float: ...


@dataclass(frozen=True)
class Bar:
    """A cosine, and what must reach it: the `worst` text of every head, or the `mean` of its texts."""

    cosine: float = PARITY_TARGET
    on: Literal["worst", "mean"] = "worst"

    @property
    def allowed(self) -> float:
        """The greatest 1 - cosine that passes."""
        return 1 - self.cosine

    def figure(self, head: WorstAndMean) -> float:
        """The one that counts of a head's figures, or of errors."""
        return head.worst if self.on == "worst" else head.mean

    def passes(self, heads: Mapping[str, WorstAndMean]) -> bool:
        """Whether every head reaches the bar; False where there is none. heads: their figures, by name."""
        return bool(heads) and all(self.figure(head) >= self.cosine for head in heads.values())

    def loss_of(self, heads: Mapping[str, WorstAndMean]) -> float:
        """The 1 - cosine of the head that is farthest off; heads: their figures, by name."""
        return 1 - min(self.figure(head) for head in heads.values())

    def loss(self, losses: np.ndarray) -> float:
        """The 1 - cosine that counts; losses: (texts,) of each text, or (heads, texts), of which the worst head counts."""
        return float((losses if self.on == "worst" else losses.mean(axis=-1)).max())


@dataclass(frozen=True, kw_only=True)
class Parity:
    """`parity` of the manifest. What is None is not in the file: of an artifact that was not measured, all but the first three.

    target, on: see Bar. texts: how many, of rerankers pairs. kernels: which the runtime multiplied with. notes: what to know
    before trusting the figures. corpus_sha256: of the file of texts. evaluation: what `convert eval` found.
    """

    verdict: Literal["pass", "fail", "unverified"]
    target: float | None = None
    on: Literal["worst", "mean"] | None = None
    texts: int | None = None
    runtime: str | None = None
    device: str | None = None
    kernels: str | None = None
    heads: dict[str, Figures] | None = None
    notes: list[str] | None = None
    witness: Witness | None = None
    packed_kernels: PackedKernels | None = None
    corpus_sha256: str | None = None
    evaluation: list[Evaluation] | None = None

    @property
    def bar(self) -> Bar:
        """What the artifact was held to."""
        return Bar(PARITY_TARGET if self.target is None else self.target, self.on or "worst")

    @property
    def worst(self) -> dict[str, float]:
        """The cosine of each head's worst text."""
        return {name: head.worst for name, head in (self.heads or {}).items()}

    @property
    def promised(self) -> float:
        """The cosine that every text has: the target, or where only the mean must reach it, the worst, rounded down."""
        return self.bar.cosine if self.bar.on == "worst" else math.floor(1e4 * min(self.worst.values())) / 1e4


def check_parity(parity: Parity, heads: Sequence[str], witnessed: bool, path: Path) -> None:
    """Raise IntegrityError for a verdict that contradicts the figures beside it, in the manifest at `path`.

    heads: what the model has. witnessed: whether a pass needs an upstream library's word that the original was read as it
    reads it.
    """
    found = parity.heads or {}
    if parity.verdict != "unverified" and (not found or parity.target is None):
        raise IntegrityError(f"{path}: malformed parity: verdict {parity.verdict} without figures or target")
    if parity.verdict != "pass":
        return
    if not (parity.bar.passes(found) and set(heads) <= set(found)):
        lowest = 1 - parity.bar.loss_of(found)
        raise IntegrityError(f"{path}: verdict pass contradicts its own figures ({parity.bar.on} {lowest:.6f})")
    witness = parity.witness
    if not witnessed:
        return
    if not witness or not witness.library or not witness.version:
        raise IntegrityError(f"{path}: verdict pass without a witness; `convert verify` asks the upstream library")
    if not witness.worst <= witness.tolerance <= WITNESS_TOLERANCE or witness.texts < 1:
        raise IntegrityError(f"{path}: verdict pass contradicts its witness (off by {witness.worst:.2g})")
