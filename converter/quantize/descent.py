"""Coordinate descent: codes that are there already are made better one column after the other, and their scales with them.

GPTQ decides each column once, knowing only the errors of those before it. When the columns are gone over again, each code can
make up for the errors of those after it, too. Source: Nair and Suggala 2024, CDQuant: accurate post-training weight
quantization of large pre-trained models using greedy coordinate descent; here the columns are taken in turn.
"""

import numpy as np
import torch
from torch import Tensor

from converter.quantize.grid import Codes, Grid

PASSES = 3  # over all columns; each gains less than the one before


def descend(weight: Tensor, hessian: Tensor, given: Codes, grid: Grid) -> Codes:
    """Codes of a (rows, columns) float32 matrix: `given`, moved until the objective e H eᵀ of each row's error e is less.

    hessian: H, (columns, columns) float32, finite, its diagonal positive; or (columns, columns, rows), each row's own.
    """
    size, bits = given.scheme.group_size, given.scheme.bits
    codes = torch.from_numpy(given.codes).float().T.contiguous()  # a column at a time is what all this reads and writes
    scales, offsets = (torch.from_numpy(part.T.copy()) for part in (given.scales, given.offsets))
    slopes = _times(hessian, (torch.from_numpy(given.dequantize()) - weight).T)  # half the objective's, (columns, rows)
    for _ in range(PASSES):
        for group in range(len(scales)):
            part = slice(group * size, (group + 1) * size)
            square, slope, code = hessian[part, part], slopes[part].clone(), codes[part]
            before = code * scales[group] + offsets[group]
            scales[group], offsets[group] = _refitted(code, (scales[group], offsets[group]), square, slope, bits, grid)
            slope += _times(square, code * scales[group] + offsets[group] - before)
            wide = square if square.dim() == 3 else square[..., None]
            for column in range(size):
                best = code[column] - slope[column] / (wide[column, column] * scales[group])
                best.round_().clamp_(0, 2**bits - 1)
                slope[column + 1 :].addcmul_(wide[column, column + 1 :], (best - code[column]) * scales[group])
                code[column] = best
            slopes += _times(hessian[:, part], code * scales[group] + offsets[group] - before)
    found, scale, offset = (part.T.contiguous().numpy() for part in (codes.to(torch.uint8), scales, offsets))
    return Codes(found, scale, offset, given.scheme)


def _times(square: Tensor, x: Tensor) -> Tensor:
    """The product of (m, n) or (m, n, rows), each row's own, with (n, rows): (m, rows)."""
    return square @ x if square.dim() == 2 else torch.einsum("ijr,jr->ir", square, x)


def scale_type(grid: Grid, bits: int) -> torch.dtype:
    """The type of the scales of codes of so many bits."""
    return torch.float16 if grid.kind(bits) is np.float16 else torch.float32


def _refitted(
    code: Tensor, stored: tuple[Tensor, Tensor], square: Tensor, slope: Tensor, bits: int, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Scales and offsets of one group, (rows,) each, that are best for its codes (normal equations), as they can be stored.

    code, slope: (group_size, rows). stored: the scales and offsets there are, which rows that would gain nothing keep.
    square: the group's part of the Hessian.
    With a zero point that is a code itself the offset follows the scale; otherwise it is a second unknown.
    """
    kind, (scale, offset) = scale_type(grid, bits), stored
    steps = (offset / scale).round() if grid.integer_zero else torch.zeros_like(scale)
    along = code + steps
    spread = _times(square, along)
    curve, pull = (along * spread).sum(dim=0), (along * slope).sum(dim=0)
    if grid.integer_zero:
        new = (scale - pull / curve).to(kind).float()
        moved, change = new - scale, steps * new
        gain = moved * (2 * pull + moved * curve)
    else:
        mixed, flat, push = spread.sum(dim=0), square.sum(dim=(0, 1)), slope.sum(dim=0)
        apart = curve * flat - mixed.square()
        new = (scale - (pull * flat - push * mixed) / apart).to(kind).float()
        moved = new - scale
        change = (offset - (push + moved * mixed) / flat).to(kind).float()
        shift = change - offset
        gain = moved * (2 * pull + moved * curve) + shift * (2 * push + shift * flat) + 2 * moved * shift * mixed
    better = (gain < 0) & (new * scale > 0)  # false for NaN
    return torch.where(better, new, scale), torch.where(better, change, offset)
