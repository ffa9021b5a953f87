"""What a model gives: vectors, a ranking, and the outputs of one text that both are put together from."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """What `Model.embed` returns, in the order of the texts; sparse and colbert are None where they were not asked for.

    dense: (n, d) float32, L2-normalised where the model's are; (n, 0) of a model without a vector for a text. sparse: for each
    text, token id -> weight. colbert: for each text, (tokens, d) float32, L2-normalised, of bge-m3 without the first token.
    tokens: tokens per text, prompt and special tokens included, after truncation. truncated: whether a text was cut to the
    model's limit.
    """

    dense: np.ndarray
    sparse: list[dict[int, float]] | None
    colbert: list[np.ndarray] | None
    tokens: list[int]
    truncated: list[bool]

    def __repr__(self) -> str:
        heads = "".join(f", {head}" for head in ("sparse", "colbert") if getattr(self, head) is not None)
        cut = f", {sum(self.truncated)} truncated" if any(self.truncated) else ""
        return f"<Embeddings {' x '.join(map(str, self.dense.shape))}{heads}, {sum(self.tokens)} tokens{cut}>"

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same."""
        if not isinstance(other, Embeddings):
            return NotImplemented
        lists = all(getattr(self, name) == getattr(other, name) for name in ("sparse", "tokens", "truncated"))
        ours, theirs = ([one.dense, *(one.colbert or ())] for one in (self, other))
        none = (self.colbert is None) == (other.colbert is None) and len(ours) == len(theirs)
        return lists and none and all(map(np.array_equal, ours, theirs))

    __hash__ = None  # type: ignore[assignment]  # arrays may change


@dataclass(frozen=True)
class Ranked:
    """One document's place among its like.

    index: of the document as given. score: probability of relevance, from 0 to 1; logit: the same before the logistic function.
    tokens: of query and document together, after truncation; truncated: whether either was cut.
    """

    index: int
    score: float
    logit: float
    tokens: int
    truncated: bool


@dataclass(frozen=True, eq=False)
class Output:
    """What the model gives for one text.

    tokens, truncated: as in Embeddings. values: head -> dense (d,) float32, as the model gives it; pooled (d,) float32, not
    normalised; colbert (tokens - 1, d) float32; hidden (tokens, d) float32, the states that are pooled; score, the raw logit of
    a pair. broken: the head that holds NaN or infinity, else None. sparse: {token id: weight}.
    """

    tokens: int
    truncated: bool
    values: dict[str, np.ndarray]
    broken: str | None
    sparse: dict[int, float] = field(default_factory=dict)
