"""GPTQ: round column by column, and let the columns still to come make up for each one's error.

Source: Frantar et al. 2022, GPTQ: accurate post-training quantization for generative pre-trained transformers.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from converter.quantize.descent import descend, scale_type
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest

DAMPING = 0.01  # of the Hessian's mean diagonal, added to it: what calibration never showed still has some weight
ROWS = 4096  # of a table that are searched at once
SAMPLE = (512, 100_000)  # rows, and numbers, of a matrix that tell what another scheme would cost
BLOCK = 32  # columns whose errors are passed on together to those after them
INWARD = (0.0, 0.5, 1.0)  # steps of the grid by which the clip search moves each end of a group's span inward
CUT = 0.2  # of the span, that is tried in place of so many steps, where a few weights lie far out
REFITS = 2  # least-squares fits of scale and offset to the codes that each of those gives


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
    size, top = scheme.group_size, 2**scheme.bits - 1
    left = weight.T.clone(memory_format=torch.contiguous_format)  # a column at a time is what all this reads and writes
    codes = torch.empty(columns, rows)
    scales, offsets = torch.empty(columns // size, rows), torch.empty(columns // size, rows)
    importance = hessian.diagonal().float()
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        block, errors, root = left[start:end], torch.empty(end - start, rows), upper[start:end, start:end]
        for column in range(end - start):
            group, place = divmod(start + column, size)
            if place == 0:
                part = slice(start + column, start + column + size)
                scales[group], offsets[group] = clip(left[part], importance[part], scheme, grid)
            scale, offset = scales[group], offsets[group]
            code = torch.sub(block[column], offset, out=codes[start + column]).div_(scale).round_().clamp_(0, top)
            errors[column] = (block[column] - (code * scale + offset)) / root[column, column]
            block[column + 1 :].addr_(root[column, column + 1 :], errors[column], alpha=-1)
        left[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    parts = [part.T.contiguous().numpy() for part in (codes.to(torch.uint8), scales, offsets)]
    found = Codes(parts[0], parts[1], parts[2], scheme)
    square = hessian.to(torch.float32, copy=True)
    square.diagonal().add_(DAMPING * square.diagonal().mean())
    return _better_rows(weight, hessian, descend(weight, square, found, grid), nearest)


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
        scale, offset = clip(grouped.T.contiguous(), torch.ones(scheme.group_size), scheme, grid)
        found = ((grouped - offset[:, None]) / scale[:, None]).round_().clamp_(0, 2**scheme.bits - 1)
        codes[part] = found.reshape(-1, columns).numpy()
        scales[part], offsets[part] = scale.reshape(-1, scales.shape[1]).numpy(), offset.reshape(-1, scales.shape[1]).numpy()
    return Codes(codes, scales, offsets, scheme)


def relative(weight: Tensor, hessian: Tensor | None, schemes: list[Scheme], base: Scheme, grid: Grid) -> dict[Scheme, float]:
    """What each scheme costs of what `base` does, with codes of a clip search: the ratio of their objectives on some rows.

    hessian: None for a table, whose rows go on as they are.
    """
    rows = max(1, min(SAMPLE[0], SAMPLE[1] // weight.shape[1]))
    part = weight[:: -(-len(weight) // rows)].contiguous()
    square = hessian.float() if hessian is not None and torch.isfinite(hessian).all() else None

    def cost(scheme: Scheme) -> float:
        codes = searched(part, scheme, grid)
        if square is not None:
            return float(objective(part, codes, square).sum())
        return float((torch.from_numpy(codes.dequantize()) - part).double().square().sum())

    whole = cost(base) if schemes else 0.0
    return {scheme: cost(scheme) / whole if whole > 0 else 0.0 for scheme in schemes}


def clip(weight: Tensor, importance: Tensor, scheme: Scheme, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and offset of groups, (n,) each, with the least weighted square error of those that are tried.

    weight: (group_size, n), a group in each column. importance: (group_size,) weights of the errors.
    Tried are spans whose ends are moved inward, each by itself, and after each of them those that fit its codes best.
    """
    top, kind = 2**scheme.bits - 1, scale_type(grid, scheme.bits)
    low, high = weight.amin(dim=0), weight.amax(dim=0)
    if grid.integer_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / top
    finest = float(np.finfo(grid.kind(scheme.bits)).smallest_subnormal)  # coarse, but as fine as rounding's
    least = torch.full_like(low, torch.inf)
    scales, offsets = torch.ones_like(low), torch.zeros_like(low)
    total = importance.sum()
    middle = (importance @ weight) / total
    far = CUT * top
    for below, above in (*itertools.product(INWARD, INWARD), (far, 0.0), (0.0, far), (far, far)):
        first = low + below * step
        scale = ((step * (top - below - above)) / top).clamp(min=finest).to(kind).float()
        steps = (first / scale).round().clamp(-top, 0)
        offset = steps * scale if grid.integer_zero else first.to(kind).float()
        for _ in range(REFITS + 1):
            codes = ((weight - offset) / scale).round_().clamp_(0, top)
            error = importance @ (codes * scale).add_(offset).sub_(weight).square_()
            better = error < least
            least = torch.where(better, error, least)
            scales, offsets = torch.where(better, scale, scales), torch.where(better, offset, offsets)
            mean = -steps if grid.integer_zero else (importance @ codes) / total
            along = codes.sub_(mean)
            slope = (importance @ (along * weight)) / (importance @ along.square())
            scale = torch.where(slope > finest, slope, scale).to(kind).float()
            offset = steps * scale if grid.integer_zero else (middle - scale * mean).to(kind).float()
    return scales, offsets


def _inverse_root(hessian: Tensor) -> Tensor | None:
    """The upper Cholesky factor of the damped Hessian's inverse, float32; None where there is none."""
    if not torch.isfinite(hessian).all() or not hessian.diagonal().max() > 0:
        return None
    damping = DAMPING * hessian.diagonal().mean()
    for _ in range(4):
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:  # turned around, H = R Rᵀ with R upper triangular, so that its inverse is (R⁻¹)ᵀ R⁻¹
            return torch.linalg.solve_triangular(lower.float(), torch.eye(len(lower)), upper=False).flip(0, 1)
        damping = damping * 10
    return None


def _better_rows(weight: Tensor, hessian: Tensor, one: Codes, other: Codes) -> Codes:
    square = hessian.float()
    chosen = (objective(weight, one, square) < objective(weight, other, square)).numpy()[:, None]
    codes = np.where(chosen, one.codes, other.codes)
    scales, offsets = np.where(chosen, one.scales, other.scales), np.where(chosen, one.offsets, other.offsets)
    return Codes(codes, scales, offsets, one.scheme)
