"""What goes into a matrix product in integers: rounded to 8 bits with one scale for all tokens, or with one for each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WAYS = ("tensor", "tensor+8", "tensor+32", "tensor+128", "token", "block", "none")  # a mode, and how many channels are apart
# A product's time by mode: of each weight, of each number that goes in, and of each that comes out (onnxruntime 1.31, VNNI).
TIMES = {"tensor": (1.0, 290.0, 0.0), "token": (1.0, 380.0, 230.0), "block": (2.0, 500.0, 0.0), "none": (3.6, 0.0, 0.0)}
GROUPS = (64, 32)  # weights that share a scale where the product is in float32, the first that divides a row
IN_GROUPS = ("block", "none")  # the modes whose weights are stored so, with offsets; the others' have a scale a row
APART = (200.0, 4.0)  # what channels apart add to each number that comes out: for all, and for each of them
BLOCK = 32  # channels that share a scale, as weights do: what MatMulNBits rounds by itself
MARGIN = 1.15  # of what calibration shows of an input: other texts reach further, and what is beyond the range is cut off
LEAST = 1e-30  # of a token's scale: a row of zeros is divided by this, and stays one
TOP = 255


@dataclass(frozen=True)
class Activation:
    """How the input of a product is rounded: x is about (q - zero) * scale with q from 0 to 255.

    mode: `tensor`, the `scale` of calibration for everything; `token`, a scale from each token's own range; `block`, one from
    each BLOCK of a token's channels; `none`, not at all: weights only. apart: channels that are not rounded but multiplied in
    float32, as they reach far beyond the others.
    No scale depends on another token, so a text's vector does not depend on its neighbours in the batch.
    """

    mode: str
    zero: int = 128
    scale: float = 0.0
    apart: tuple[int, ...] = ()

    @property
    def way(self) -> str:
        """Its name, one of WAYS."""
        return f"{self.mode}+{len(self.apart)}" if self.apart else self.mode


def parsed(way: str) -> tuple[str, int]:
    """The mode of a way, and how many channels are apart."""
    mode, _, count = way.partition("+")
    return mode, int(count or 0)


def token_scales(x: Tensor, zero: int) -> Tensor:
    """The least scales (…, 1) with which every number of a row of x (…, width) fits into 0..255 around `zero` (1..254)."""
    above, below = x.amax(-1, keepdim=True) / (TOP - zero), x.amin(-1, keepdim=True) / -zero
    return torch.maximum(above, below).clamp_min(LEAST)


def rounded(x: Tensor, activation: Activation) -> Tensor:
    """x (…, width) float32 as the integers of `activation` give it back."""
    if activation.mode == "none":
        return x
    if activation.mode == "block":
        blocks = x.unflatten(-1, (-1, BLOCK))
        steps = (blocks.abs().amax(-1, keepdim=True) / (TOP // 2)).clamp_min(LEAST)
        return ((blocks / steps).round_() * steps).flatten(-2)
    zero = activation.zero
    scale = torch.tensor(activation.scale) if activation.mode == "tensor" else token_scales(x, zero)
    found = (x / scale).round_().add_(zero).clamp_(0, TOP).sub_(zero).mul_(scale)
    if activation.apart:
        channels = list(activation.apart)
        found[..., channels] = x[..., channels]
    return found


def whole_range(low: float, high: float) -> Activation:
    """The `tensor` mode that takes everything from low to high and a little beyond, zero included."""
    low, high = MARGIN * min(low, 0.0), MARGIN * max(high, 0.0)
    scale = max((high - low) / TOP, LEAST)
    return Activation("tensor", int(min(max(round(-low / scale), 0), TOP)), scale)


def group_of(mode: str, columns: int) -> int | None:
    """How many weights of a row share a scale where its input is rounded so: all of a row's where products are in integers.

    None for weights that are not quantized: of rows that no size of groups divides.
    """
    if mode not in IN_GROUPS:
        return columns
    if mode == "block" and columns % BLOCK == 0:
        return BLOCK
    return next((size for size in GROUPS if columns % size == 0), None)


def duration(way: str, shape: tuple[int, int]) -> float:
    """What the products of a site take for a token, in TIMES' unit; shape: (outputs, inputs) of all its layers together."""
    mode, apart = parsed(way)
    weight, entering, leaving = TIMES[mode]
    if apart:
        leaving += APART[0] + APART[1] * apart
    return weight * shape[0] * shape[1] + entering * shape[1] + leaving * shape[0]


def allocate(costs: list[dict[str, np.ndarray]], shapes: list[tuple[int, int]], budget: float) -> list[str]:
    """The way of each site: the fastest one everywhere, then others where time buys most, until no text is over.

    costs: for each site, {way: (texts,) its part of 1 - cosine}; shapes: for each site, see `duration`.
    """
    ways = [min(WAYS, key=lambda way: duration(way, shape)) for shape in shapes]
    total = sum((cost[way] for cost, way in zip(costs, ways, strict=True)), np.zeros(1))
    while total.max() > budget:
        best, move = 0.0, None
        over = np.maximum(total - budget, 0).sum()
        for site, cost in enumerate(costs):
            for way in WAYS:
                gain = over - np.maximum(total - cost[ways[site]] + cost[way] - budget, 0).sum()
                longer = duration(way, shapes[site]) - duration(ways[site], shapes[site])
                rate = gain / max(longer, 1e-9)
                if rate > best:
                    best, move = rate, (site, way)
        if move is None:
            break
        site, way = move
        total = total - costs[site][ways[site]] + costs[site][way]
        ways[site] = way
    return ways
