"""8-bit weights with one symmetric scale for each row: what integer matrix products take."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from converter.quantize.gptq import BLOCK, _inverse_root
from converter.quantize.grid import Codes, Scheme

ZERO = 128  # what stands for 0 in Codes, whose codes are unsigned
TOP = 127  # -128 is not used, so that a row may be turned over
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # parts of a row's span that the clip search tries


def nearest(weight: Tensor) -> Codes:
    """Codes of a (rows, columns) float32 matrix, each row's scale from its largest weight."""
    return _codes(weight, _scales(weight, 1.0))


def per_channel(weight: Tensor, hessian: Tensor, apart: Sequence[int] = ()) -> tuple[Codes, Tensor]:
    """Codes of a (rows, columns) float32 matrix that keep weight @ x, for x as the Hessian has them: GPTQ, a scale a row.

    hessian: (columns, columns) float64, the mean of x xᵀ. Columns are taken from the most important on, so that the errors of
    those are made up for by all others; last by the columns `apart`, which are not rounded: they are 0 in the codes, and given
    back beside these, (rows, n) float32. A row that rounding to nearest serves better is rounded to nearest.
    """
    plain, kept = _apart(weight, apart)
    order = torch.argsort(hessian.diagonal().nan_to_num(), descending=True, stable=True)
    last = torch.isin(order, torch.tensor(apart, dtype=torch.long))
    order = torch.cat([order[~last], order[last]])
    upper = _inverse_root(hessian[order][:, order])
    if upper is None:
        return plain, kept
    free = weight.clone()
    free[:, list(apart)] = 0
    scales = _searched(free, hessian.diagonal().float())
    left = weight[:, order].clone()
    codes = torch.zeros_like(left)
    rounded = left.shape[1] - len(apart)
    for start in range(0, rounded, BLOCK):
        end = min(start + BLOCK, rounded)
        block, root = left[:, start:end], upper[start:end, start:end]
        errors = torch.zeros_like(block)
        for column in range(end - start):
            code = (block[:, column] / scales).round_().clamp_(-TOP, TOP)
            codes[:, start + column] = code
            errors[:, column] = (block[:, column] - code * scales) / root[column, column]
            block[:, column + 1 :] -= errors[:, column, None] * root[column, column + 1 :]
        left[:, end:] -= errors @ upper[start:end, end:]
    back = torch.argsort(order)
    found, moved = _made(codes[:, back], scales), left[:, back][:, list(apart)]
    square = hessian.float()
    losses = [_loss(weight, *pair, apart, square) for pair in ((found, moved), (plain, kept))]
    better = losses[0] < losses[1]
    rows = better.numpy()[:, None]
    chosen = np.where(rows, found.codes, plain.codes), np.where(rows, found.scales, plain.scales)
    codes_ = Codes(*chosen, np.where(rows, found.offsets, plain.offsets), found.scheme)
    return codes_, torch.where(better[:, None], moved, kept)


def grouped(weight: Tensor, size: int) -> Tensor:
    """(rows, columns) float32: what 8-bit codes rounded to nearest stand for, a scale and an offset for each `size` columns."""
    groups = weight.unflatten(1, (-1, size))
    low = groups.amin(dim=-1, keepdim=True)
    steps = ((groups.amax(dim=-1, keepdim=True) - low) / 255).clamp_min(float(np.finfo(np.float32).tiny))
    return ((groups - low) / steps).round_().mul_(steps).add_(low).flatten(1)


def joined(codes: Codes, beside: Tensor, apart: Sequence[int]) -> Tensor:
    """(rows, columns) float32: what the codes stand for, and the columns `apart` as they are beside them."""
    weight = torch.from_numpy(codes.dequantize())
    weight[:, list(apart)] = beside
    return weight


def _apart(weight: Tensor, apart: Sequence[int]) -> tuple[Codes, Tensor]:
    """The matrix rounded to nearest but for the columns `apart`, which are 0; and those, (rows, n)."""
    kept = weight[:, list(apart)].clone()
    rest = weight.clone()
    rest[:, list(apart)] = 0
    return nearest(rest), kept


def _loss(weight: Tensor, codes: Codes, beside: Tensor, apart: Sequence[int], square: Tensor) -> Tensor:
    """Of each row, what GPTQ lessens, (rows,) float64."""
    error = joined(codes, beside, apart) - weight
    return ((error @ square).double() * error).sum(dim=1)


def _searched(weight: Tensor, importance: Tensor) -> Tensor:
    """The scale of each row, (rows,), with the least weighted square error of those that are tried."""
    least, scales = torch.full((len(weight),), torch.inf), _scales(weight, 1.0)
    for part in SHRINK:
        scale = _scales(weight, part)
        error = (weight / scale[:, None]).round_().clamp_(-TOP, TOP).mul_(scale[:, None]).sub_(weight).square_()
        total = error @ importance
        scales, least = torch.where(total < least, scale, scales), torch.minimum(total, least)
    return scales


def _scales(weight: Tensor, part: float) -> Tensor:
    return (weight.abs().amax(dim=1) * (part / TOP)).clamp_min(float(np.finfo(np.float32).tiny))


def _codes(weight: Tensor, scales: Tensor) -> Codes:
    return _made((weight / scales[:, None]).round_().clamp_(-TOP, TOP), scales)


def _made(codes: Tensor, scales: Tensor) -> Codes:
    unsigned = (codes + ZERO).to(torch.uint8).numpy()
    return Codes(unsigned, scales[:, None].numpy(), -ZERO * scales[:, None].numpy(), Scheme(8, codes.shape[1]))
