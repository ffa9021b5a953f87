"""The bar: how near to its original an artifact must come."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shim.artifact import PARITY_TARGET


@dataclass(frozen=True)
class Bar:
    """A cosine, and what must reach it: the `worst` text of every head, or the `mean` of its texts."""

    cosine: float = PARITY_TARGET
    on: Literal["worst", "mean"] = "worst"

    @property
    def allowed(self) -> float:
        """The greatest 1 - cosine that passes."""
        return 1 - self.cosine

    def figure(self, head: dict[str, float]) -> float:
        """The cosine of a head that counts, of its figures `worst` and `mean`."""
        return float(head[self.on])

    def passes(self, heads: dict[str, dict[str, float]]) -> bool:
        """Whether every head reaches the bar; False where there is none. heads: their figures, by name."""
        return bool(heads) and all(self.figure(head) >= self.cosine for head in heads.values())

    def loss_of(self, heads: dict[str, dict[str, float]]) -> float:
        """The 1 - cosine of the head that is farthest off; heads: their figures, by name."""
        return 1 - min(self.figure(head) for head in heads.values())

    def loss(self, losses: np.ndarray) -> float:
        """The 1 - cosine that counts; losses: (texts,) of each text, or (heads, texts), of which the worst head counts."""
        return float((losses if self.on == "worst" else losses.mean(axis=-1)).max())
