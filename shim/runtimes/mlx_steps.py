"""A run of MLX that takes long, computed step by step, so that there are pauses: MLX computes one thing after another."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # MLX is imported where it is there
    from mlx.core import array as Array

CPU, GPU = 1 << 26, 1 << 34  # multiplications of a step: 1 ms on a CPU's core, and some 10 on a small GPU
VALUES = 1 << 19  # that exponentials are taken of in a step: on a CPU's core some 10 ms
ROWS = 16  # of a matrix; a product with fewer takes as long


class Steps:
    """The steps of one run; without `pause`, see shim.runtimes.Runtime, the run is one step."""

    def __init__(self, mx: ModuleType, pause: Callable[[], object] | None):
        self.mx, self.pause = mx, pause
        self.on_cpu: bool = mx.default_device() == mx.cpu
        self._work = 0
        self._ahead: tuple[Array, ...] = ()

    def after(self, work: int, *arrays: Array) -> None:
        """After so many more multiplications, which gave these: if they are enough, compute them, and pause."""
        if self.pause is None:
            return
        self._work += work
        if self._work < (CPU if self.on_cpu else GPU):
            return
        self._work, ready = 0, arrays
        self.mx.async_eval(arrays)
        if not self.on_cpu:  # it has one more step to compute meanwhile
            ready, self._ahead = self._ahead, arrays
        self.mx.eval(ready)
        self.pause()

    def rows(self, values: int, most: int) -> int:
        """How many rows of so many values, at most `most`, are a step on a CPU; a GPU takes that many.

        Products of few rows are rounded otherwise, by some 1e-7.
        """
        return most if self.pause is None or not self.on_cpu else min(most, max(ROWS, VALUES // values))

    def by_rows(self, function: Callable[[Array], Array], x: Array) -> Array:
        """function(x), which takes value by value, of hidden states (n, length, width)."""
        length = x.shape[1]
        rows = self.rows(x.size // length, length)
        if rows == length:
            return function(x)
        parts = []
        for start in range(0, length, rows):
            parts.append(function(x[:, start : start + rows]))
            self.after(CPU, *parts)
        return self.mx.concatenate(parts, axis=1)
