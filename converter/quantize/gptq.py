"""GPTQ: round column by column, and let the columns still to come make up for each one's error.

Source: Frantar et al. 2022, GPTQ: accurate post-training quantization for generative pre-trained transformers.
"""

import numpy as np
import torch
from torch import Tensor

from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest

DAMPING = 0.01  # of the Hessian's mean diagonal, added to it: what calibration never showed still has some weight
ROWS = 4096  # of a table that are searched at once
SAMPLE = (1024, 1_500_000)  # rows, and numbers, of a matrix that tell what another scheme would cost
BLOCK = 32  # columns whose errors are passed on together to those after them
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)  # parts of a group's span that the clip search tries


def gptq(weight: Tensor, hessian: Tensor, scheme: Scheme, grid: Grid) -> Codes:
    """Codes of a (rows, columns) float32 matrix that keep weight @ x, for x as the Hessian has them.

    hessian: (columns, columns) float64, the mean of x xᵀ; a channel that is always zero, and a Hessian that is not finite, are
    borne. A row that rounding to nearest serves better is rounded to nearest.
    """
    nearest = round_to_nearest(weight.numpy(), scheme, grid)
    upper = _inverse_root(hessian)
    if upper is None:
        return nearest
    rows, columns = weight.shape
    size, left = scheme.group_size, weight.clone()
    codes = torch.zeros(rows, columns)
    scales, offsets = torch.zeros(rows, columns // size), torch.zeros(rows, columns // size)
    importance = hessian.diagonal().float()
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, errors, root = left[:, start:end], torch.zeros(rows, end - start), upper[start:end, start:end]
        for column in range(end - start):
            group, place = divmod(start + column, size)
            if place == 0:
                part = slice(start + column, start + column + size)
                scales[:, group], offsets[:, group] = clip(left[:, part], importance[part], scheme, grid)
            scale, offset = scales[:, group], offsets[:, group]
            code = ((block[:, column] - offset) / scale).round_().clamp_(0, 2**scheme.bits - 1)
            codes[:, start + column] = code
            errors[:, column] = (block[:, column] - (code * scale + offset)) / root[column, column]
            block[:, column + 1 :] -= errors[:, column, None] * root[column, column + 1 :]
        left[:, end:] -= errors @ upper[start:end, end:]
    found = Codes(codes.to(torch.uint8).numpy(), scales.numpy(), offsets.numpy(), scheme)
    return _better_rows(weight, hessian, found, nearest)


def objective(weight: Tensor, codes: Codes, hessian: Tensor) -> Tensor:
    """What GPTQ lessens, for each row: the mean square of its error on the calibration inputs, (rows,) float64."""
    error = torch.from_numpy(codes.dequantize()) - weight
    return ((error @ hessian.float()).double() * error).sum(dim=1)


def searched(weight: Tensor, scheme: Scheme, grid: Grid) -> Codes:
    """Codes of a (rows, columns) float32 matrix by the clip search alone: for a table, whose rows are what goes on.

    How often a token comes is no weight here: it would be one number for its whole row, whose groups are searched one by one.
    """
    rows, columns = weight.shape
    codes = np.empty((rows, columns), np.uint8)
    scales, offsets = (np.empty((rows, columns // scheme.group_size), np.float32) for _ in range(2))
    for start in range(0, rows, ROWS):  # filled in place: parts kept until the end leave gaps between them of twice their size
        part = slice(start, start + ROWS)
        grouped = weight[part].reshape(-1, scheme.group_size)
        scale, offset = clip(grouped, torch.ones(scheme.group_size), scheme, grid)
        found = ((grouped - offset[:, None]) / scale[:, None]).round_().clamp_(0, 2**scheme.bits - 1)
        codes[part] = found.reshape(-1, columns).numpy()
        scales[part], offsets[part] = scale.reshape(-1, scales.shape[1]).numpy(), offset.reshape(-1, scales.shape[1]).numpy()
    return Codes(codes, scales, offsets, scheme)


def relative(weight: Tensor, hessian: Tensor | None, schemes: list[Scheme], base: Scheme, grid: Grid) -> dict[Scheme, float]:
    """What each scheme costs of what `base` does, both rounded to nearest: the ratio of their objectives on some of the rows.

    hessian: None for a table, whose rows go on as they are.
    """
    rows = max(1, min(SAMPLE[0], SAMPLE[1] // weight.shape[1]))
    part = weight[:: -(-len(weight) // rows)].contiguous()

    def cost(scheme: Scheme) -> float:
        codes = round_to_nearest(part.numpy(), scheme, grid)
        if hessian is not None and torch.isfinite(hessian).all():
            return float(objective(part, codes, hessian).sum())
        return float((torch.from_numpy(codes.dequantize()) - part).double().square().sum())

    whole = cost(base)
    return {scheme: cost(scheme) / whole if whole > 0 else 0.0 for scheme in schemes}


def clip(weight: Tensor, importance: Tensor, scheme: Scheme, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and offset of each row of one group, (rows,), with the least weighted square error of those that are tried.

    weight: (rows, group_size). importance: (group_size,) or (rows, group_size) weights of the errors.
    Tried are spans from the whole one down to 0.6 of it, each end shrunk by itself.
    """
    low, high = weight.amin(dim=1), weight.amax(dim=1)
    if grid.integer_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    least = torch.full_like(low, torch.inf)
    scales, offsets = torch.ones_like(low), torch.zeros_like(low)
    top = 2**scheme.bits - 1
    for first, below in enumerate(SHRINK):
        for above in SHRINK[max(0, first - 2) : first + 3]:
            scale, offset = _span(low * below, high * above, scheme.bits, grid)
            codes = ((weight - offset[:, None]) / scale[:, None]).round_().clamp_(0, top)
            error = codes.mul_(scale[:, None]).add_(offset[:, None]).sub_(weight).square_().mul_(importance).sum(dim=1)
            better = error < least
            least = torch.where(better, error, least)
            scales, offsets = torch.where(better, scale, scales), torch.where(better, offset, offsets)
    return scales, offsets


def _span(low: Tensor, high: Tensor, bits: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """The grid from low to high as it can be stored."""
    top, kind = 2**bits - 1, torch.float16 if grid.kind(bits) is np.float16 else torch.float32
    least = float(np.finfo(grid.kind(bits)).smallest_subnormal)  # coarse, but as fine as rounding's
    scale = ((high - low) / top).clamp(min=least).to(kind).float()
    if grid.integer_zero:
        return scale, (low / scale).round().clamp(-top, 0) * scale
    return scale, low.to(kind).float()


def _inverse_root(hessian: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the damped Hessian's inverse, float32; None where there is none."""
    if not torch.isfinite(hessian).all() or not hessian.diagonal().max() > 0:
        return None
    damping = DAMPING * hessian.diagonal().mean()
    for _ in range(4):
        damped = hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper.float()
        damping = damping * 10
    return None


def _better_rows(weight: Tensor, hessian: Tensor, one: Codes, other: Codes) -> Codes:
    chosen = (objective(weight, one, hessian) < objective(weight, other, hessian)).numpy()[:, None]
    codes = np.where(chosen, one.codes, other.codes)
    scales, offsets = np.where(chosen, one.scales, other.scales), np.where(chosen, one.offsets, other.offsets)
    return Codes(codes, scales, offsets, one.scheme)
