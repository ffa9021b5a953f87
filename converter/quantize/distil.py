"""Distillation: what stays free after GPTQ is moved until the quantized model's outputs are nearest to the original's.

Moved are the scales and offsets of all groups, norms and biases, and the codes themselves by rounding that lets gradients
through. The teacher is the same model in float32, on the same texts. Source: Hinton et al. 2015, Distilling the knowledge in a
neural network.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.quantize.grid import Codes, Grid
from converter.quantize.latent import TINY, Matrix, RowAdam
from converter.quantize.losses import VECTORS, apart, scores_apart
from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

Run = Callable[[TorchOps], dict[str, Tensor]]  # the model's named outputs, as shim.pooling.outputs gives them
WORST = 0.1  # weight of the worst text beside the mean, where results are compared
CHECKS = 10  # times in a run that the result so far is measured on the held-apart texts
PATIENCE = 4  # checks without a better result, after which there will be none
WARMUP = 10  # steps in which the rates rise
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Pace:
    """How long and how fast. Rates are of Adam, at their height; those of codes and scales are in units of a step of the grid.

    layers: weight of what the layers give beside what the model gives; it tells each layer its own part of the error.
    """

    steps: int
    codes: float = 2e-3
    scales: float = 5e-4
    others: float = 3e-5
    layers: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """codes: of each module. tensors: norms and biases that changed, float32. before, after: (mean, worst) of the difference
    from the original on the held-apart texts, 1 - cosine for vectors; equal where nothing better was found."""

    codes: dict[str, Codes]
    before: tuple[float, float]
    after: tuple[float, float]
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


def distil(
    weights: Mapping[str, Tensor],
    codes: dict[str, Codes],
    run: Run,
    batches: list[Tokens],
    held: list[Tokens],
    grid: Grid,
    pace: Pace,
    progress: Callable[[int, int], None],
) -> Distilled:
    """Codes of the same schemes and full-precision tensors that bring the outputs of `run` nearer to the original's.

    weights: every tensor that `run` reads, float32: the teacher's. batches: what is learned from; held: what judges, and no
    gradient sees. The result is never worse on `held` than `codes` are, in mean + WORST * worst; then it is `codes`. It depends
    on the arguments only, not on the clock.
    """
    student = _Student(weights, codes, run, grid, pace)
    with torch.inference_mode():
        targets = [run(_Watched(weights, tokens)) for tokens in held]
        spread = _spread(targets)
        before = best = _judge({**weights, **_dequantized(codes)}, run, held, targets, spread)
    found, stale = Distilled(codes, before, before), 0
    order = np.random.default_rng(pace.seed)
    queue: list[int] = []
    for step in range(pace.steps):
        queue = queue or order.permutation(len(batches)).tolist()
        factor = min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / pace.steps)) / 2
        student.step(batches[queue.pop()], factor, spread)
        progress(step + 1, pace.steps)
        if (step + 1) % max(1, pace.steps // CHECKS) and step + 1 < pace.steps:
            continue
        given, tensors = student.result()
        with torch.inference_mode():
            changed = {name: torch.from_numpy(value) for name, value in tensors.items()}
            now = _judge({**weights, **changed, **_dequantized(given)}, run, held, targets, spread)
        stale += 1
        if now[0] + WORST * now[1] < best[0] + WORST * best[1]:  # false for NaN
            found, best, stale = Distilled(given, before, now, tensors), now, 0
        if stale == PATIENCE:
            break
    progress(pace.steps, pace.steps)
    return found


class _Watched(TorchOps):
    """TorchOps that keep what the norms give, and look up the rows of a table that is being learned."""

    def __init__(self, weights: Mapping[str, Tensor], tokens: Tokens, tables: Mapping[str, Matrix] | None = None):
        super().__init__(weights, tokens)
        self.tables, self.seen = tables or {}, list[Tensor]()
        self.used: dict[str, tuple[Tensor, list[Tensor]]] = {}  # of each table: the rows, and their leaves

    def embedding(self, name: str, ids: Tensor) -> Tensor:
        if name not in self.tables:
            return super().embedding(name, ids)
        numbers, places = ids.unique(return_inverse=True)
        rows, leaves = self.tables[name].rows(numbers)
        self.used[name] = (numbers, leaves)
        return F.embedding(places, rows)

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return self._keep(super().layer_norm(name, x.float(), eps))

    def rms_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return self._keep(super().rms_norm(name, x.float(), eps))

    def head(self, name: str, x: Tensor, bias: bool = True) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().head(name, x.float(), bias)

    def _keep(self, x: Tensor) -> Tensor:
        if x.dim() == 3:  # not the norms of single attention heads: the residual stream says what is needed
            self.seen.append(x)
        return x


class _Student:
    """The quantized model whose free numbers are being moved."""

    def __init__(self, weights: Mapping[str, Tensor], codes: dict[str, Codes], run: Run, grid: Grid, pace: Pace):
        self.teacher, self.run, self.pace = weights, run, pace
        self.matrices = {name: Matrix(weights[f"{name}.weight"], part, grid) for name, part in codes.items()}
        self.others = {name: value.clone().requires_grad_() for name, value in weights.items() if value.dim() == 1}
        rates = (pace.codes, pace.scales, pace.scales)
        tables = {name for name in codes if "embed" in name}
        self.tables = {name: self.matrices[name] for name in tables}
        self.rows = {name: RowAdam(part.parts, rates) for name, part in self.tables.items()}
        groups: list[dict[str, Any]] = [{"params": list(self.others.values()), "lr": pace.others}]
        for place, rate in enumerate(rates):
            parts = [part.parts[place] for name, part in self.matrices.items() if name not in tables]
            if rate and parts:
                groups.append({"params": [part.requires_grad_() for part in parts], "lr": rate})
        self.optimizer = torch.optim.Adam(groups, betas=BETAS, eps=TINY, fused=True)
        self.rates = [group["lr"] for group in groups]

    def step(self, tokens: Tokens, factor: float, spread: float) -> None:
        """Learn from one batch, at `factor` times the rates. A loss or a gradient that is not finite teaches nothing."""
        with torch.no_grad(), _half():
            teacher = _Watched(self.teacher, tokens)
            wanted = self.run(teacher)
        weights = {**self.teacher, **self.others}
        weights |= {f"{name}.weight": part.weight() for name, part in self.matrices.items() if name not in self.tables}
        with _half():
            ops = _Watched(weights, tokens, self.tables)
            given = self.run(ops)
        off = differences(given, wanted, ops.mask, spread)
        worse = ((1 + off / off.mean().clamp(min=TINY)) / 2).detach()  # texts that are far off weigh more
        loss = (off * worse).mean()
        if self.pace.layers:
            loss = loss + self.pace.layers * _layers(ops, teacher)
        self.optimizer.zero_grad()
        loss.backward()
        moved = [part.grad for group in self.optimizer.param_groups for part in group["params"] if part.grad is not None]
        moved += [leaf.grad for _, leaves in ops.used.values() for leaf in leaves if leaf.grad is not None]
        if not all(torch.isfinite(gradient.sum()) for gradient in moved):
            return
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimizer.step()
        for name, (numbers, leaves) in ops.used.items():
            self.rows[name].step(numbers, leaves, factor, BETAS)

    def result(self) -> tuple[dict[str, Codes], dict[str, np.ndarray]]:
        tensors = {name: value.detach().numpy().copy() for name, value in self.others.items()}
        changed = {name: value for name, value in tensors.items() if not np.array_equal(value, self.teacher[name].numpy())}
        return {name: part.codes() for name, part in self.matrices.items()}, changed


def differences(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], mask: Tensor, spread: float) -> Tensor:
    """How far each text's outputs are from those wanted, (n,), added up over the heads.

    mask: (n, length), true on tokens. spread: the variance of a reranker's scores.
    """
    if "score" in wanted:
        return scores_apart(given["score"].float(), wanted["score"].float(), spread)
    return sum(apart(head, given[head].float(), wanted[head].float(), mask) for head in VECTORS if head in wanted)


def _layers(student: _Watched, teacher: _Watched) -> Tensor:
    """The mean relative square error of the tokens at the norms, every text and every norm weighing the same."""
    share = student.mask / student.mask.sum(dim=1, keepdim=True) / len(student.mask)
    parts = [
        ((one - other).square().sum(dim=-1) / other.square().sum(dim=-1).clamp(min=TINY) * share).sum()
        for one, other in zip(student.seen, teacher.seen, strict=True)
    ]
    return torch.stack(parts).mean()


def _judge(
    weights: Mapping[str, Tensor], run: Run, held: list[Tokens], targets: list[dict[str, Tensor]], spread: float
) -> tuple[float, float]:
    ops = [TorchOps(weights, tokens) for tokens in held]
    off = torch.cat([differences(run(one), wanted, one.mask, spread) for one, wanted in zip(ops, targets, strict=True)])
    return float(off.mean()), float(off.max())


def _spread(targets: list[dict[str, Tensor]]) -> float:
    scores = [wanted["score"].float() for wanted in targets if "score" in wanted]
    return max(float(torch.cat(scores).var(correction=0)), TINY) if scores else 1.0


def _dequantized(codes: dict[str, Codes]) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.from_numpy(part.dequantize()) for name, part in codes.items()}


def _half() -> AbstractContextManager[None]:
    """Products in bfloat16, four times as fast where the processor has them; sums, norms and gradients' sums in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16)
