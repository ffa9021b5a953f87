"""What goes into a matrix product in integers: rounded to 8 bits with one scale for all tokens, or with one for each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MODES = ("tensor", "token", "twice", "none")  # the fastest first; what each costs is TIMES
# A product's time by mode, 1,024 tokens into 384 × 1536, against the fastest (onnxruntime 1.31, VNNI; `none` is float32).
TIMES = {"tensor": 1.0, "token": 1.4, "twice": 2.6, "none": 3.9}
LEAST = 1e-30  # of a token's scale: a row of zeros is divided by this, and stays one
TOP = 255


@dataclass(frozen=True)
class Activation:
    """How the input of a product is rounded: x is about (q - zero) * scale with q from 0 to 255.

    mode: `tensor`, the `scale` of calibration for everything; `token`, a scale from each token's own range; `twice`, as
    `token`, and what that leaves over is rounded once more, with 1/256 of the scale; `none`, not at all: weights only.
    No scale depends on another token, so a text's vector does not depend on its neighbours in the batch.
    """

    mode: str
    zero: int = 128
    scale: float = 0.0


def token_scales(x: Tensor, zero: int) -> Tensor:
    """The least scales (…, 1) with which every number of a row of x (…, width) fits into 0..255 around `zero` (1..254)."""
    above, below = x.amax(-1, keepdim=True) / (TOP - zero), x.amin(-1, keepdim=True) / -zero
    return torch.maximum(above, below).clamp_min(LEAST)


def rounded(x: Tensor, activation: Activation) -> Tensor:
    """x (…, width) float32 as the integers of `activation` give it back."""
    if activation.mode == "none":
        return x
    zero = activation.zero
    scale = torch.tensor(activation.scale) if activation.mode == "tensor" else token_scales(x, zero)
    found = _on_grid(x, scale, zero)
    if activation.mode == "twice":
        found = found + _on_grid(x - found, scale / (TOP + 1), 128)
    return found


def _on_grid(x: Tensor, scale: Tensor, zero: int) -> Tensor:
    return (x / scale).round_().add_(zero).clamp_(0, TOP).sub_(zero).mul_(scale)


def whole_range(low: float, high: float) -> Activation:
    """The `tensor` mode that takes everything from low to high, zero included."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / TOP, LEAST)
    return Activation("tensor", int(min(max(round(-low / scale), 0), TOP)), scale)


def allocate(costs: list[dict[str, np.ndarray]], sizes: list[int], budget: float) -> list[str]:
    """The mode of each site: the fastest one everywhere, then slower ones where time buys most, until no text is over.

    costs: for each site, {mode: (texts,) its part of 1 - cosine}; sizes: what the site's products take, any unit.
    """
    modes = ["tensor"] * len(costs)
    total = sum((cost["tensor"] for cost in costs), np.zeros(1))
    while total.max() > budget:
        best, move = 0.0, None
        over = np.maximum(total - budget, 0).sum()
        for site, cost in enumerate(costs):
            for mode in MODES[MODES.index(modes[site]) + 1 :]:
                gain = over - np.maximum(total - cost[modes[site]] + cost[mode] - budget, 0).sum()
                rate = gain / ((TIMES[mode] - TIMES[modes[site]]) * sizes[site])
                if rate > best:
                    best, move = rate, (site, mode)
        if move is None:
            break
        site, mode = move
        total = total - costs[site][modes[site]] + costs[site][mode]
        modes[site] = mode
    return modes
