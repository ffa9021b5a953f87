"""How far outputs are from those wanted, text by text: what calibration measures.

`converter.proof.metrics` judges the artifact by the same measures, written apart from these.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shim.text import Tokens

VECTORS = ("sentence_embedding", "sparse_weights", "sparse_embedding", "colbert_vecs")  # the outputs that `apart` knows
FAINT = 0.1  # of the usual norm of sparse weights, under which they add next to nothing to a score: their cosine means little


def apart(head: str, given: Tensor, wanted: Tensor, mask: Tensor, least: float = 0.0) -> Tensor:
    """(n,) 1 - cosine of each text's output of a head, tokens' cosines averaged.

    given, wanted: (n, d) vectors, as SPLADE's of the vocabulary are, too; (n, length) token weights or (n, length, d) token
    vectors; mask: (n, length), true on tokens. least: norm of a text's token weights up to which they count as none.
    """
    if head == "sparse_weights":
        given, wanted = given * mask, wanted * mask
        return torch.where(wanted.norm(dim=1) > least, _distance(given, wanted), 0.0)
    found = _distance(given, wanted)
    return (found * mask).sum(dim=1) / mask.sum(dim=1) if head == "colbert_vecs" else found


def faint(wanted: list[Tensor], masks: list[Tensor]) -> float:
    """The norm up to which token weights count as none, by those of these texts; lists have an entry for each batch."""
    norms = torch.cat([(part * mask).norm(dim=1) for part, mask in zip(wanted, masks, strict=True)])
    norms = norms[norms > 0]
    return FAINT * float(norms.median()) if len(norms) else 0.0


def scores_apart(given: Tensor, wanted: Tensor, variance: Tensor | float) -> Tensor:
    """(n,) of a reranker's logits: half the square error over their variance, which 1 - cosine of centred logits comes to."""
    return (given - wanted).square() / (2 * variance)


def loss(exact: dict[str, list[Tensor]], found: dict[str, list[Tensor]], masks: list[Tensor]) -> np.ndarray:
    """1 - cosine of each text's outputs, (texts,) float64, the worst of its heads; lists have an entry for each batch."""
    return np.asarray(by_head(exact, found, masks).max(axis=0))


def by_head(exact: dict[str, list[Tensor]], found: dict[str, list[Tensor]], masks: list[Tensor]) -> np.ndarray:
    """The same of each head, (heads, texts)."""
    losses = []
    for name, parts in exact.items():
        if name == "score":
            one, other = (torch.cat(values).double() for values in (parts, found[name]))
            one, other = one - one.mean(), other - other.mean()
            losses.append(scores_apart(other, one, one.var(correction=0).clamp_min(1e-12)))
        elif name in VECTORS:
            rows, least = zip(found[name], parts, masks, strict=True), faint(parts, masks) if name == "sparse_weights" else 0.0
            losses.append(torch.cat([apart(name, other.double(), one.double(), mask, least) for other, one, mask in rows]))
    return torch.stack(losses).clamp_min(0).nan_to_num(1.0).numpy()


def masks_of(batches: list[Tokens]) -> list[Tensor]:
    """Of each batch (n, length), true on tokens."""
    return [torch.from_numpy(batch.attention_mask.astype(bool)) for batch in batches]


def _distance(one: Tensor, other: Tensor) -> Tensor:
    # Half the square distance of unit vectors is 1 - cosine, without what 1 - … loses of small ones.
    return (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).square().sum(dim=-1) / 2
