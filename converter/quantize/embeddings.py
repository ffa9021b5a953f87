"""What an error in a row of a table does to the vectors: the Hessians with which word tables are quantized.

A row is not multiplied with anything that calibration could show; how far it moves the vectors, and in which directions, is the
model's slope there. Source: the Gauss-Newton matrix, J the derivative of a text's vector by a row: mean of Jᵀ J, with the
directions of the vector drawn at random (Hutchinson 1990). Rows that come often, as those of [CLS], the comma and "the", are in
most texts, and show enough to have a matrix of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.quantize.descent import descend
from converter.quantize.gptq import gptq
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.losses import VECTORS
from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

PROBES = 2  # directions drawn for each batch
SPREAD = 0.3  # of the mean diagonal, added to it: rows of words that no text showed move in other directions, too
OWNED = 30_000_000  # numbers in the matrices of single rows: 200 rows of 384 columns, 120 MB
PRIOR = 50  # texts that what all rows share counts for in a row's own matrix
WHOLE = 200_000_000  # weights up to which a model is held whole, and the matrices take a minute at most


@dataclass(frozen=True)
class GaussNewton:
    """The Hessians of a table. shared: (columns, columns) float64, of any row.

    rows: (k,) int64, those that come often; own: (columns, columns, k) float32, theirs.
    """

    shared: Tensor
    rows: Tensor
    own: Tensor


def gauss_newton(
    weights: Mapping[str, Tensor], run: Callable[[TorchOps], Mapping[str, Tensor]], batches: list[Tokens]
) -> dict[str, GaussNewton]:
    """{table: GaussNewton} of each table that `run` looks rows up in; texts weigh the same, each all its tokens.

    weights: every tensor that `run` reads, float32. Finite only where the model's outputs are.
    """
    shared: dict[str, Tensor] = {}
    looked: dict[str, list[tuple[Tensor, Tensor]]] = {}
    make = torch.Generator().manual_seed(0)
    for tokens in batches:
        ops = _RowOps(weights, tokens)
        given = [_directions(name, value, ops.mask) for name, value in run(ops).items() if name in (*VECTORS, "logits")]
        for left in reversed(range(PROBES)):
            along = sum((value * torch.randn(value.shape, generator=make)).sum() for value in given)
            parts = torch.autograd.grad(along, list(ops.rows.values()), retain_graph=left > 0)
            for name, part in zip(ops.rows, parts, strict=True):
                looked.setdefault(name, []).append(_by_text(ops.ids[name], part, ops.mask))
                part = part.reshape(-1, part.shape[-1])  # a single row stands for all tokens
                shared[name] = shared.get(name, 0) + (part.T @ part).double()
    for square in shared.values():
        square /= PROBES * sum(len(tokens.input_ids) for tokens in batches)
        square.diagonal().add_(SPREAD * square.diagonal().mean())
    return {name: _often(square, *map(torch.cat, zip(*looked[name], strict=True))) for name, square in shared.items()}


def quantized(weight: Tensor, matrices: GaussNewton, scheme: Scheme, grid: Grid) -> Codes:
    """Codes of a (rows, columns) float32 table by GPTQ with what its rows share, those that come often then by their own."""
    found, rows = gptq(weight, matrices.shared, scheme, grid), matrices.rows.numpy()
    if len(rows) and torch.isfinite(matrices.own).all():
        part = Codes(found.codes[rows], found.scales[rows], found.offsets[rows], scheme)
        better = descend(weight[matrices.rows], matrices.own, part, grid)
        found.codes[rows], found.scales[rows], found.offsets[rows] = better.codes, better.scales, better.offsets
    return found


def _by_text(ids: Tensor, parts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) rows that were looked up and (n, columns) the slope in each, all over a text together: its tokens move as one.

    ids: of tokens as the mask has them, or of what all texts share, be it a single one; parts: (*ids.shape, columns).
    """
    if ids.shape != mask.shape:
        return ids.flatten(), parts.reshape(-1, parts.shape[-1])
    pairs, places = torch.unique((ids * len(ids) + torch.arange(len(ids))[:, None])[mask], return_inverse=True)
    return pairs // len(ids), torch.zeros(len(pairs), parts.shape[-1]).index_add_(0, places, parts[mask])


def _often(shared: Tensor, looked: Tensor, parts: Tensor) -> GaussNewton:
    """looked: (n,) rows, each as often as it came; parts: (n, columns) slopes there."""
    rows, counts = torch.unique(looked, return_counts=True)
    chosen = counts.topk(min(len(rows), max(1, OWNED // shared.numel()))).indices
    own = torch.empty(*shared.shape, len(chosen))
    prior = (shared / shared.diagonal().mean()).float() * PRIOR
    for place, row in enumerate(chosen):
        part = parts[looked == rows[row]]
        square = part.T @ part
        count = counts[row] / PROBES
        own[:, :, place] = (square * (count / square.diagonal().mean().clamp(min=1e-30)) + prior) / (count + PRIOR)
    return GaussNewton(shared, rows[chosen], own)


class _RowOps(TorchOps):
    """TorchOps that keep what is looked up, to be differentiated by."""

    def __init__(self, weights: Mapping[str, Tensor], tokens: Tokens):
        super().__init__(weights, tokens)
        self.rows: dict[str, Tensor] = {}
        self.ids: dict[str, Tensor] = {}

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        self.ids[name] = ids
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
