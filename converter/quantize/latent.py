"""Codes, scales and offsets as things that gradients can move: rounding that lets a gradient through.

Source: Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons (the straight-through estimator);
Esser et al. 2020, Learned step size quantization.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter.quantize.grid import Codes, Grid

NEAR = 0.45  # of a step: how far a weight begins from its code, so that it begins as that code and knows its other neighbour
TINY = 1e-12
ROOM = 0.5  # of a scale: the most that it may change by


class _Rounded(torch.autograd.Function):
    """latent (rows, columns), scale and offset (rows, groups) -> (rows, columns), rounded to codes of 0..top and scaled."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, scale: Tensor, offset: Tensor, top: int) -> Tensor:
        codes = latent.view(*scale.shape, -1).round().clamp_(0, top)
        ctx.save_for_backward(codes, scale)
        return (codes * scale[..., None]).add_(offset[..., None]).view(latent.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        codes, scale = ctx.saved_tensors
        grouped = gradient.float().reshape(codes.shape)
        latent = (grouped * scale[..., None]).view(gradient.shape)
        return latent, (grouped * codes).sum(dim=-1), grouped.sum(dim=-1), None


class Matrix:
    """One quantized matrix on its way to better codes.

    parts: what gradients move. The latent codes (rows, columns), and how much each scale and each offset has changed, both
    (rows, groups) and in units of the scale, so that one rate does for all matrices.
    """

    def __init__(self, weight: Tensor, codes: Codes, grid: Grid):
        self.start, self.grid, self.top = codes, grid, 2**codes.scheme.bits - 1
        self.scale, self.offset = torch.from_numpy(codes.scales), torch.from_numpy(codes.offsets)
        whole = torch.from_numpy(codes.codes).float().view(*self.scale.shape, -1)
        exact = (weight.view(whole.shape) - self.offset[..., None]) / self.scale[..., None]
        latent = torch.minimum(torch.maximum(exact, whole - NEAR), whole + NEAR).view(weight.shape)
        self.parts = [latent, torch.zeros_like(self.scale), torch.zeros_like(self.scale)]

    def weight(self) -> Tensor:
        """(rows, columns) float32, differentiable in `parts`."""
        return self._rounded(self.parts, self.scale, self.offset)

    def rows(self, numbers: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Those rows of the weight, and the leaves that they are differentiable in: a batch sees little of a large table."""
        leaves = [part[numbers].requires_grad_() for part in self.parts]
        return self._rounded(leaves, self.scale[numbers], self.offset[numbers]), leaves

    def codes(self) -> Codes:
        """What it has come to, in numbers that the grid can store; where nothing moved, what it started as."""
        with torch.no_grad():
            scale, offset = self._affine(self.parts, self.scale, self.offset)
            kind = self.grid.kind(self.start.scheme.bits)
            limit = float(np.finfo(kind).max)
            stored = scale.numpy().clip(-limit, limit).astype(kind).astype(np.float32)
            if self.grid.integer_zero:
                zero = np.round(self.start.offsets / self.start.scales)
                offsets = (zero * stored).astype(np.float32)
            else:
                offsets = offset.numpy().clip(-limit, limit).astype(kind).astype(np.float32)
            codes = self.parts[0].round().clamp_(0, self.top).to(torch.uint8).numpy()
        return Codes(codes, stored, offsets, self.start.scheme)

    def _affine(self, parts: list[Tensor], scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        stretch = 1 + parts[1].clamp(-ROOM, ROOM)
        if self.grid.integer_zero:  # the offset is a number of steps, so it grows with them
            return scale * stretch, offset * stretch
        return scale * stretch, offset + scale * parts[2]

    def _rounded(self, parts: list[Tensor], scale: Tensor, offset: Tensor) -> Tensor:
        found: Tensor = _Rounded.apply(parts[0], *self._affine(parts, scale, offset), self.top)
        return found


class RowAdam:
    """Adam for the rows of a table that a batch has, each with its own count of steps. Source: Kingma and Ba 2015."""

    def __init__(self, parts: list[Tensor], rates: tuple[float, ...]):
        self.parts, self.rates = parts, rates
        self.means, self.squares = ([torch.zeros_like(part) for part in parts] for _ in range(2))
        self.count = torch.zeros(len(parts[0]), 1)

    def step(self, numbers: Tensor, leaves: list[Tensor], factor: float, betas: tuple[float, float]) -> None:
        """Move the rows `numbers` by the gradients of their `leaves`, at `factor` times the rates."""
        self.count[numbers] += 1
        for place, leaf in enumerate(leaves):
            if leaf.grad is None or not self.rates[place]:
                continue
            mean = self.means[place][numbers].lerp_(leaf.grad, 1 - betas[0])
            square = self.squares[place][numbers].lerp_(leaf.grad.square(), 1 - betas[1])
            self.means[place][numbers], self.squares[place][numbers] = mean, square
            first, second = (1 - beta ** self.count[numbers] for beta in betas)
            self.parts[place][numbers] -= self.rates[place] * factor * (mean / first) / ((square / second).sqrt() + TINY)
