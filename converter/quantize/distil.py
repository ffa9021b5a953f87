"""Distillation: what stays free after GPTQ is moved until the quantized model's outputs are nearest to the original's.

Moved are the scales and offsets of all groups, norms and biases; codes stay. The teacher is the same model in float32, on the
same texts. Source: Hinton et al. 2015, Distilling the knowledge in a neural network.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from converter.quantize.grid import Codes, Grid
from converter.quantize.losses import VECTORS, apart, scores_apart
from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

Run = Callable[[TorchOps], dict[str, Tensor]]  # the model's named outputs, as shim.pooling.outputs gives them
STEPS = 200  # batches that are learned from; more gain little
CHECKS = 10  # times in a run that the result so far is measured on the texts held apart
PATIENCE = 4  # checks without a better result, after which there will be none
WARMUP = 10  # steps in which the rates rise
BETAS = (0.9, 0.99)
SCALE_RATE, OTHER_RATE = 1e-4, 1e-5  # Adam's, at their height: of scales and offsets in parts of a scale; of norms and biases
WORST = 0.1  # weight of the worst text beside the mean, where results are compared
ROOM = 0.5  # of a scale: the most that it may change by
TINY = 1e-12


@dataclass(frozen=True)
class Distilled:
    """codes: of each module. tensors: norms and biases that changed, float32.

    before, after: (mean, worst) 1 - cosine of the texts held apart; equal where nothing better was found.
    """

    codes: dict[str, Codes]
    before: tuple[float, float]
    after: tuple[float, float]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def distil(
    weights: Mapping[str, Tensor],
    codes: Mapping[str, Codes],
    run: Run,
    batches: tuple[list[Tokens], list[Tokens]],
    grid: Grid,
    progress: Callable[[int, int], None],
) -> Distilled:
    """Codes of the same schemes and full-precision tensors that bring the outputs of `run` nearer to the original's.

    weights: every tensor that `run` reads, float32: the teacher's. batches: those that are learned from, and those that
    judge, which no gradient sees. The result is never worse there than `codes` are, in mean + WORST * worst.
    """
    learned, held = batches
    student = _Student(weights, codes, run, grid)
    with torch.inference_mode():
        wanted = [run(TorchOps(weights, tokens)) for tokens in held]
        variance = _variance(wanted)
        before = best = _judge(student.stored({}), run, held, wanted, variance)
    found, stale = Distilled(dict(codes), before, before), 0
    order, queue = np.random.default_rng(0), list[int]()
    for step in range(STEPS):
        queue = queue or order.permutation(len(learned)).tolist()
        student.step(learned[queue.pop()], _rate(step), variance)
        progress(step + 1, STEPS)
        if (step + 1) % max(1, STEPS // CHECKS) and step + 1 < STEPS:
            continue
        given, tensors = student.result()
        with torch.inference_mode():
            now = _judge(student.stored(tensors, given), run, held, wanted, variance)
        stale += 1
        if now[0] + WORST * now[1] < best[0] + WORST * best[1]:  # false for NaN
            found, best, stale = Distilled(given, before, now, tensors), now, 0
        if stale == PATIENCE:
            break
    progress(STEPS, STEPS)
    return found


class _Matrix:
    """One quantized matrix. moved: how much each scale and each offset has changed, (rows, groups), in parts of the scale."""

    def __init__(self, codes: Codes, grid: Grid):
        self.start, self.grid = codes, grid
        self.scale, self.offset = torch.from_numpy(codes.scales), torch.from_numpy(codes.offsets)
        self.moved = [torch.zeros_like(self.scale).requires_grad_() for _ in range(2)]

    def weight(self) -> Tensor:
        """(rows, columns) float32, differentiable in `moved`."""
        scale, offset = self._affine()
        codes = torch.from_numpy(self.start.codes).view(*scale.shape, -1)
        return (codes * scale[..., None] + offset[..., None]).view(self.start.codes.shape)

    def codes(self) -> Codes:
        """The codes with what their scales and offsets have come to, in numbers that the grid can store."""
        with torch.no_grad():
            scale, offset = (part.numpy() for part in self._affine())
        kind = self.grid.kind(self.start.scheme.bits)
        limit = float(np.finfo(kind).max)
        scale = scale.clip(-limit, limit).astype(kind).astype(np.float32)
        if self.grid.integer_zero:
            offset = (np.round(self.start.offsets / self.start.scales) * scale).astype(np.float32)
        else:
            offset = offset.clip(-limit, limit).astype(kind).astype(np.float32)
        return Codes(self.start.codes, scale, offset, self.start.scheme)

    def _affine(self) -> tuple[Tensor, Tensor]:
        stretch = 1 + self.moved[0].clamp(-ROOM, ROOM)
        if self.grid.integer_zero:  # the offset is a number of steps, so it grows with them
            return self.scale * stretch, self.offset * stretch
        return self.scale * stretch, self.offset + self.scale * self.moved[1]


class _Student:
    """The quantized model whose free numbers are being moved."""

    def __init__(self, weights: Mapping[str, Tensor], codes: Mapping[str, Codes], run: Run, grid: Grid):
        self.teacher, self.run = weights, run
        self.matrices = {name: _Matrix(part, grid) for name, part in codes.items()}
        self.others = {name: value.clone().requires_grad_() for name, value in weights.items() if value.dim() == 1}
        moved = [part for matrix in self.matrices.values() for part in matrix.moved]
        groups = [{"params": list(self.others.values()), "lr": OTHER_RATE}, {"params": moved, "lr": SCALE_RATE}]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS, eps=TINY, fused=True)

    def step(self, tokens: Tokens, rate: float, variance: float) -> None:
        """Learn from one batch, at `rate` times the rates. A loss or a gradient that is not finite teaches nothing."""
        with torch.no_grad(), _half():
            wanted = self.run(_FullNorms(self.teacher, tokens))
        weights = {**self.teacher, **self.others}
        weights |= {f"{name}.weight": part.weight() for name, part in self.matrices.items()}
        with _half():
            ops = _FullNorms(weights, tokens)
            given = self.run(ops)
        off = differences(given, wanted, ops.mask, variance)
        worse = ((1 + off / off.mean().clamp(min=TINY)) / 2).detach()  # texts that are far off weigh more
        self.optimizer.zero_grad()
        (off * worse).mean().backward()
        groups = self.optimizer.param_groups
        gradients = [part.grad for group in groups for part in group["params"] if part.grad is not None]
        if not all(torch.isfinite(gradient.sum()) for gradient in gradients):
            return
        for group, height in zip(groups, (OTHER_RATE, SCALE_RATE), strict=True):
            group["lr"] = height * rate
        self.optimizer.step()

    def result(self) -> tuple[dict[str, Codes], dict[str, np.ndarray]]:
        """The codes of all modules, and the other tensors that changed."""
        tensors = {name: value.detach().numpy().copy() for name, value in self.others.items()}
        changed = {name: value for name, value in tensors.items() if not np.array_equal(value, self.teacher[name].numpy())}
        return {name: part.codes() for name, part in self.matrices.items()}, changed

    def stored(self, tensors: Mapping[str, np.ndarray], codes: Mapping[str, Codes] | None = None) -> dict[str, Tensor]:
        """The weights of the model with these tensors and codes, those that it began with where none are given."""
        codes = codes or {name: part.start for name, part in self.matrices.items()}
        changed = {name: torch.from_numpy(value) for name, value in tensors.items()}
        return {**self.teacher, **changed, **{f"{name}.weight": torch.from_numpy(c.dequantize()) for name, c in codes.items()}}


class _FullNorms(TorchOps):
    """TorchOps whose norms and heads compute in float32 whatever is around them."""

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return super().layer_norm(name, x.float(), eps)

    def rms_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return super().rms_norm(name, x.float(), eps)

    def head(self, name: str, x: Tensor, bias: bool = True) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().head(name, x.float(), bias)


def differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], mask: Tensor, variance: float) -> Tensor:
    """How far each text's outputs are from those wanted, (n,), added up over the heads.

    mask: (n, length), true on tokens. variance: of a reranker's scores.
    """
    if "score" in wanted:
        return scores_apart(given["score"].float(), wanted["score"].float(), variance)
    return sum(apart(head, given[head].float(), wanted[head].float(), mask) for head in VECTORS if head in wanted)


def _rate(step: int) -> float:
    """The part of the rates that a step has: rising first, then falling as a cosine."""
    return min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / STEPS)) / 2


def _judge(
    weights: Mapping[str, Tensor], run: Run, held: list[Tokens], wanted: list[dict[str, Tensor]], variance: float
) -> tuple[float, float]:
    ops = [TorchOps(weights, tokens) for tokens in held]
    off = torch.cat([differences(run(one), other, one.mask, variance) for one, other in zip(ops, wanted, strict=True)])
    return float(off.mean()), float(off.max())


def _variance(wanted: list[dict[str, Tensor]]) -> float:
    scores = [outputs["score"].float() for outputs in wanted if "score" in outputs]
    return max(float(torch.cat(scores).var(correction=0)), TINY) if scores else 1.0


def _half() -> AbstractContextManager[None]:
    """Products in bfloat16, four times as fast where the processor has them; sums, norms and gradients' sums in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16)
