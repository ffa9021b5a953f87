"""What an error in a row of a table does to the vectors: the Hessian with which GPTQ quantizes word tables.

A row is not multiplied with anything that calibration could show; how far it moves the vectors, and in which directions, is the
model's slope there. Source: the Gauss-Newton matrix, J the derivative of a text's vector by a row: mean of Jᵀ J, with the
directions of the vector drawn at random (Hutchinson 1990).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.quantize.losses import VECTORS
from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

PROBES = 4  # directions drawn for each batch
SPREAD = 0.3  # of the mean diagonal, added to it: rows of words that no text showed move in other directions, too
WHOLE = 200_000_000  # weights up to which a model is held whole, and the slopes take a minute at most


def slopes(
    weights: Mapping[str, Tensor], run: Callable[[TorchOps], Mapping[str, Any]], batches: list[Tokens]
) -> dict[str, Tensor]:
    """{table: (columns, columns) float64} of each table that `run` looks rows up in; texts weigh the same, each all its tokens.

    weights: every tensor that `run` reads, float32. Finite only where the model's outputs are.
    """
    found: dict[str, Tensor] = {}
    make = torch.Generator().manual_seed(0)
    for tokens in batches:
        ops = _Rows(weights, tokens)
        given = [_directions(name, value, ops.mask) for name, value in run(ops).items() if name in (*VECTORS, "logits")]
        for left in reversed(range(PROBES)):
            along = sum((value * torch.randn(value.shape, generator=make)).sum() for value in given)
            parts = torch.autograd.grad(along, list(ops.rows.values()), retain_graph=left > 0)
            for name, part in zip(ops.rows, parts, strict=True):
                part = part.reshape(-1, part.shape[-1])  # a single row stands for all tokens
                found[name] = found.get(name, 0) + (part.T @ part).double()
    for square in found.values():
        square /= PROBES * sum(len(tokens.input_ids) for tokens in batches)
        square.diagonal().add_(SPREAD * square.diagonal().mean())
    return found


class _Rows(TorchOps):
    """TorchOps that keep what is looked up, to be differentiated by."""

    def __init__(self, weights: Mapping[str, Tensor], tokens: Tokens):
        super().__init__(weights, tokens)
        self.rows: dict[str, Tensor] = {}

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        self.rows[name] = super().embedding(name, ids).requires_grad_()
        return self.rows[name]


def _directions(head: str, given: Tensor, mask: Tensor) -> Tensor:
    """The output whose square distance is what losses.apart measures, twice."""
    if head == "logits":
        return given
    if head == "sparse_weights":
        return F.normalize(given * mask, dim=-1)
    vectors = F.normalize(given, dim=-1)
    return vectors * (mask / mask.sum(dim=1, keepdim=True)).sqrt()[..., None] if head == "colbert_vecs" else vectors
