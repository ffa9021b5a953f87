"""Each layer is asked to give what the original gives, and so makes up for what the layers before it got wrong.

The calibration batches go through the quantized model and, beside it, through the original.

For a layer with weight W, inputs x of the quantized model and x' of the original, the weight to quantize is not W but the one
with the least mean square of V x - (W x' + r' - r), where r and r' are the streams that the two models add its output to:
V = W + E[(W (x' - x) + r' - r) xᵀ] (E[x xᵀ] + damping)⁻¹. Source: the normal equations; Li et al. 2025, GPTAQ: efficient
finetuning-free quantization with asymmetric calibration, has the term without the streams.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from converter.quantize.layerwise import Hessian, LayerwiseOps, Replace, tensors_of
from shim.text import Tokens

DAMPING = 0.05  # of the Hessian's mean diagonal: a layer makes up for what the texts say clearly, and guesses nothing
STREAMS = ("add", "full", "layer_norm", "rms_norm")  # operations that give what a layer's output may be added to


class AsymmetricOps(LayerwiseOps):
    """LayerwiseOps whose lists have an entry for each batch of the quantized model, and then one for each of the original.

    replace: gets the weight that the layer should have in place of its own; where it gives that back, the layer keeps its own.
    run: the model, by the operations that it is given.
    """

    def __init__(
        self, read: Callable[[str], np.ndarray], batches: list[Tokens], replace: Replace, run: Callable[["_Trace"], object]
    ):
        super().__init__(read, [*batches, *batches], replace)
        self.count, self.streams = len(batches), streams(run)
        self.made, self.kept = 0, dict[int, list[Tensor]]()

    def linears(self, names: Sequence[str], x: list[Tensor], bias: bool = True) -> list[list[Tensor]]:
        square, found = self.hessian(x), []
        for name in names:
            weight = torch.from_numpy(self.read(f"{name}.weight"))
            found.append(self._both("linear", name, weight, self._wanted(name, weight, x, square()), square, x, bias))
        return found

    def hessian(self, x: list[Tensor]) -> Hessian:
        return super().hessian(x[: self.count])

    def embedding(self, name: str, ids: list[Tensor]) -> list[Tensor]:
        weight = torch.from_numpy(self.read(f"{name}.weight"))
        return self._both("embedding", name, weight, weight, None, ids)

    def vocabulary(self, name: str, x: list[Tensor], sums: bool = False, twice: bool = False) -> list[Tensor]:
        weight = torch.from_numpy(self.read(f"{name}.weight"))
        return self._both("vocabulary", name, weight, weight, self.hessian(x), x, sums, twice)

    def add(self, x: list[Tensor], y: list[Tensor]) -> list[Tensor]:
        return self._number(self.__getattr__("add")(x, y))

    def full(self, x: list[Tensor]) -> list[Tensor]:
        return self._number(self.__getattr__("full")(x))

    def layer_norm(self, name: str, x: list[Tensor], eps: float, bias: bool = True) -> list[Tensor]:
        return self._number(super().layer_norm(name, x, eps, bias))

    def rms_norm(self, name: str, x: list[Tensor], eps: float, offset: float = 0.0, full: bool = False) -> list[Tensor]:
        return self._number(super().rms_norm(name, x, eps, offset, full))

    def _number(self, value: list[Tensor]) -> list[Tensor]:
        if self.made in self.streams.values():
            self.kept[self.made] = value
        self.made += 1
        return value

    def _masks(self) -> list[Tensor]:
        return [ops.mask for ops in self.batches[: self.count]]

    def _wanted(self, name: str, weight: Tensor, x: list[Tensor], square: Tensor) -> Tensor:
        """The weight to quantize, (out, in); the layer's own where the inputs say nothing about it."""
        number = self.streams.pop(name, None)
        stream = self.kept.get(number) if number is not None else None
        if number not in self.streams.values():
            self.kept.pop(number, None)  # type: ignore[arg-type]
        cross = torch.zeros(weight.shape, dtype=torch.float64)
        for place, mask in enumerate(self._masks()):
            other = place + self.count
            missing = (x[other] - x[place]).float() @ weight.T
            if stream is not None:
                missing += stream[other] - stream[place]
            share = (mask / mask.sum(dim=1, keepdim=True))[..., None]  # every text weighs the same, as in the Hessian
            cross += ((missing * share).flatten(0, 1).T @ x[place].float().flatten(0, 1)).double()
        cross /= sum(len(mask) for mask in self._masks())
        damped = square + DAMPING * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
        lower, failed = torch.linalg.cholesky_ex(damped)
        found = weight + torch.cholesky_solve(cross.T, lower).T.float()
        return weight if failed or not torch.isfinite(found).all() else found

    def _both(
        self, kind: str, name: str, weight: Tensor, wanted: Tensor, square: Hessian | None, x: list[Tensor], *settings: object
    ) -> list[Tensor]:
        chosen = self.replace(name, wanted, square)
        if f"{name}.bias" in tensors_of(kind, name, *settings):
            self.weights[f"{name}.bias"] = torch.from_numpy(self.read(f"{name}.bias"))
        found = []
        for place, ops in enumerate(self.batches):
            self.weights[f"{name}.weight"] = chosen if place < self.count and chosen is not wanted else weight
            found.append(getattr(ops, kind)(name, x[place], *settings))
        self.weights.clear()
        return found


def streams(run: Callable[["_Trace"], object]) -> dict[str, int]:
    """{linear layer: which of the values that STREAMS give, counted from 0, its output is added to}; others are not in it."""
    trace = _Trace()
    run(trace)
    return trace.found


class _Trace:
    """Operations that compute nothing, and take note of what is added to what."""

    def __init__(self) -> None:
        self.numbers, self.layers, self.found = dict[object, int](), dict[object, str](), dict[str, int]()
        self.made = 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        def operation(*arguments: object, **_: object) -> object:
            value = object()
            if name == "add":
                for one, other in (arguments, arguments[::-1]):
                    if one in self.layers and other in self.numbers:
                        self.found[self.layers[one]] = self.numbers[other]
            if name in STREAMS:
                self.numbers[value] = self.made
                self.made += 1
            return value

        return operation

    def linear(self, name: str, x: object, bias: bool = True) -> object:
        return self.linears([name], x, bias)[0]

    def linears(self, names: Sequence[str], x: object, bias: bool = True) -> list[object]:
        values: list[object] = [object() for _ in names]
        self.layers.update(zip(values, names, strict=True))
        return values

    def adapted(self, name: str, x: object, y: object, scale: float, table: bool = False) -> object:
        return y

    def split(self, x: object, parts: int) -> list[object]:
        return [object() for _ in range(parts)]
