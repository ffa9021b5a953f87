"""SmoothQuant: divide the channels of an input, multiply the columns of the weights, and both are easier to round.

Sources: Xiao et al. 2023, SmoothQuant, equation 4; the shift of each channel: Wei et al. 2023, Outlier Suppression+, section 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from converter.int8.inputs import IN_GROUPS, Activation, group_of, parsed, rounded, whole_range
from converter.int8.weights import grouped, joined, nearest

ALPHAS = (0.5, 0.7, 0.85, 1.0)  # how much of the difficulty goes from inputs to weights
ROWS = 128  # of the weights that the search looks at
WIDEST = 1e4  # between the largest and the smallest factor: what calibration never showed must not be scaled to infinity
QUANTILES = (0.01, 0.5)  # of the tokens' own ratios of least to greatest number, from which zero points are tried


@dataclass(frozen=True)
class Shown:
    """What calibration showed of an input.

    rows: (tokens, width) a sample of it, no padding; low, high: (width,) its channels' range in all of calibration.
    """

    rows: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Smoothing:
    """An input x becomes (x - shift) / scale, a weight its columns times scale, a bias itself plus weight @ shift.

    shift, scale: (width,) float32; scales are positive.
    """

    shift: Tensor
    scale: Tensor

    @classmethod
    def identity(cls, width: int) -> "Smoothing":
        """The one that changes nothing."""
        return cls(torch.zeros(width), torch.ones(width))

    @property
    def is_identity(self) -> bool:
        return not self.shift.any() and bool((self.scale == 1).all())

    def input(self, x: Tensor) -> Tensor:
        """(…, width) the input as it is rounded."""
        return x if self.is_identity else (x - self.shift) / self.scale

    def norm(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The scale and shift of a norm that gives `input` by itself; a norm without a bias bears no shift."""
        return weight / self.scale, None if bias is None else (bias - self.shift) / self.scale

    def weight(self, weight: Tensor) -> Tensor:
        """(rows, width) the matrix for `input`."""
        return weight * self.scale

    def bias(self, weight: Tensor) -> Tensor:
        """(rows,) what the shift has taken from the product with the matrix as it was."""
        return (weight.double() @ self.shift.double()).float()


def smoothing(low: Tensor, high: Tensor, weights: Tensor, alpha: float, shifted: bool) -> Smoothing:
    """Factors max|x|ᵅ / max|w|¹⁻ᵅ of each channel, their geometric mean 1; with `shifted`, around the middle of its range.

    low, high: (width,) the channels' least and greatest number in calibration; weights: (rows, width) of all matrices that x
    goes into. A channel that is dead, or whose numbers are not finite, gets the factor 1 and no shift.
    """
    sound = torch.isfinite(low) & torch.isfinite(high) & torch.isfinite(weights).all(dim=0)
    low, high = (torch.where(sound, end, 0.0) for end in (low, high))
    shift = (low + high) / 2 if shifted else torch.zeros_like(low)
    reach = torch.maximum(high - shift, shift - low)
    largest = torch.where(sound, weights.abs().amax(dim=0), 0.0)
    alive = (reach > 0) & (largest > 0)
    factors = torch.where(alive, reach, 1.0).log() * alpha - torch.where(alive, largest, 1.0).log() * (1 - alpha)
    middle = factors[alive].mean() if alive.any() else 0.0
    reaching = torch.log(torch.tensor(WIDEST)) / 2
    scale = torch.where(alive, (factors - middle).clamp(-reaching, reaching).exp(), 1.0)
    return Smoothing(torch.where(alive, shift, 0.0), scale)


Found = tuple[Smoothing, Activation, float]  # and the mean square error of the products with them


def search(shown: Shown, weight: Tensor, ways: Sequence[str], scales: bool, shifts: bool) -> dict[str, Found]:
    """Of each way the smoothing and the zero point with the least error of the products, none at all being the first.

    weight: (rows, width) of all matrices that the input goes into. ways: of WAYS; `none` is not smoothed. scales, shifts:
    whether what comes before bears scaled and shifted channels.
    """
    weight = weight[:: -(-len(weight) // ROWS)]
    reach = torch.maximum(shown.high, -shown.low).nan_to_num()
    x, exact = shown.rows, shown.rows @ weight.T
    smoothings = [Smoothing.identity(x.shape[1])]
    for shifted in (False, True)[: scales + shifts]:
        smoothings += [smoothing(shown.low, shown.high, weight, alpha, shifted) for alpha in ALPHAS]
    parts = {}
    for way in ways:
        mode, count = parsed(way)
        parts[way] = mode, tuple(sorted(torch.topk(reach, min(count, len(reach) // 4)).indices.tolist()))
    best: dict[str, Found] = {}
    for smooth in smoothings:
        scaled, expected, given = smooth.weight(weight), exact - smooth.bias(weight), smooth.input(x)
        stored: dict[tuple[bool, int | None, tuple[int, ...]], Tensor] = {}
        for way, (mode, apart) in parts.items():
            if mode == "none" and not smooth.is_identity:
                continue
            kept = mode in IN_GROUPS, group_of(mode, x.shape[1]), apart
            if kept not in stored:
                stored[kept] = _stored(scaled, *kept)
            for activation in activations(smooth, shown, mode, apart):
                error = float((rounded(given, activation) @ stored[kept].T - expected).square().mean())
                if way not in best or error < best[way][2]:
                    best[way] = smooth, activation, error
    return best


def _stored(weight: Tensor, in_groups: bool, size: int | None, apart: tuple[int, ...]) -> Tensor:
    """What codes rounded to nearest stand for, the columns `apart` as they are. size: see `group_of`."""
    if in_groups:
        return grouped(weight, size) if size else weight
    rest = weight.clone()
    rest[:, list(apart)] = 0
    return joined(nearest(rest), weight[:, list(apart)], apart)


def activations(found: Smoothing, shown: Shown, mode: str, apart: tuple[int, ...]) -> list[Activation]:
    """What to try for a smoothed input: the whole range for `tensor`, else a few zero points, the symmetric one first."""
    if mode == "tensor":
        ends = [found.input(end).nan_to_num() for end in (shown.low, shown.high)]
        for end in ends:
            end[list(apart)] = 0
        return [replace(whole_range(float(ends[0].min()), float(ends[1].max())), apart=apart)]
    if mode in IN_GROUPS:
        return [Activation(mode)]
    smooth = found.input(shown.rows)
    least, most = smooth.amin(dim=1).clamp(max=0), smooth.amax(dim=1).clamp(min=0)
    shares = (-least / (most - least).clamp_min(1e-20)).nan_to_num()
    tried = {128} | {int(min(max(round(255 * float(torch.quantile(shares, at))), 1), 254)) for at in QUANTILES}
    return [Activation(mode, zero) for zero in sorted(tried, key=lambda zero: (zero != 128, zero))]
