"""How far outputs are from those wanted, text by text: what calibration measures and distillation goes down on.

`converter.verify` judges the artifact by the same measures, written apart from these.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

VECTORS = ("sentence_embedding", "sparse_weights", "colbert_vecs")  # the outputs that `apart` knows


def apart(head: str, given: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """(n,) 1 - cosine of each text's output of a head, tokens' cosines averaged.

    given, wanted: (n, d) vectors, (n, length) token weights or (n, length, d) token vectors; mask: (n, length), true on tokens.
    """
    if head == "sparse_weights":
        given, wanted = given * mask, wanted * mask
        return torch.where(wanted.any(dim=1), _distance(given, wanted), 0.0)
    found = _distance(given, wanted)
    return (found * mask).sum(dim=1) / mask.sum(dim=1) if head == "colbert_vecs" else found


def scores_apart(given: Tensor, wanted: Tensor, variance: Tensor | float) -> Tensor:
    """(n,) of a reranker's logits: half the square error over their variance, which 1 - cosine of centred logits comes to."""
    return (given - wanted).square() / (2 * variance)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    # Half the square distance of unit vectors is 1 - cosine, without what 1 - … loses of small ones.
    return (F.normalize(one, dim=-1) - F.normalize(other, dim=-1)).square().sum(dim=-1) / 2
