"""All calibration batches through a model in step: every linear layer is seen once, with everything that will go into it.

So a layer can be quantized on what the already quantized layers before it give, in a single pass, with one layer's weights and
one layer's activations in memory.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

Hessian = Callable[[], Tensor]  # the mean x xᵀ of an input, (width, width) float64, computed when it is first asked for
# Takes a linear layer's name, its weight (out, in) and its Hessian, None for a table; gives the weight to go on with.
Replace = Callable[[str, Tensor, Hessian | None], Tensor]


class LayerwiseOps:
    """shim.architectures.Ops whose every value is a list, an entry for each batch.

    read: a tensor of the checkpoint by name, float32; called when its layer is reached, and not kept.
    replace: called once for each linear layer and each table.
    """

    def __init__(self, read: Callable[[str], np.ndarray], batches: list[Tokens], replace: Replace):
        self.read, self.replace = read, replace
        self.weights: dict[str, Tensor] = {}
        self.batches = [TorchOps(self.weights, tokens) for tokens in batches]

    def __getattr__(self, name: str) -> Callable[..., list[Tensor]]:
        """The operation `name` of torch_ops on each batch; those with weights are below."""

        def each(*arguments: object, **named: object) -> list[Tensor]:
            return [
                getattr(ops, name)(
                    *(_entry(part, place) for part in arguments), **{key: _entry(part, place) for key, part in named.items()}
                )
                for place, ops in enumerate(self.batches)
            ]

        return each

    def split(self, x: list[Tensor], parts: int) -> list[list[Tensor]]:
        return [list(part) for part in zip(*(piece.chunk(parts, dim=-1) for piece in x), strict=True)]

    def linear(self, name: str, x: list[Tensor], bias: bool = True) -> list[Tensor]:
        return self.linears([name], x, bias)[0]

    def linears(self, names: Sequence[str], x: list[Tensor], bias: bool = True) -> list[list[Tensor]]:
        shared, found = self.hessian(x), []
        for name in names:
            weight = torch.from_numpy(self.read(f"{name}.weight"))
            self.weights[f"{name}.weight"] = self.replace(name, weight, shared)
            found.append(self._with_weights("linear", name, x, bias))
        return found

    def hessian(self, x: list[Tensor]) -> Hessian:
        """That of an input, computed once for all layers that share it."""
        return cache(lambda: hessian(x, [ops.mask for ops in self.batches[: len(x)]]))

    def adapted(self, name: str, x: list[Tensor], y: list[Tensor], scale: float, table: bool = False) -> list[Tensor]:
        self.weights.update({tensor: torch.from_numpy(self.read(tensor)) for tensor in side_path(name)})
        pairs = zip(self.batches, x, y, strict=True)
        found = [ops.adapted(name, part, given, scale, table) for ops, part, given in pairs]
        self.weights.clear()
        return found

    def vocabulary(self, name: str, x: list[Tensor], sums: bool = False, twice: bool = False) -> list[Tensor]:
        weight = torch.from_numpy(self.read(f"{name}.weight"))
        self.weights[f"{name}.weight"] = self.replace(name, weight, self.hessian(x))
        return self._with_weights("vocabulary", name, x, sums, twice)

    def head(self, name: str, x: list[Tensor], bias: bool = True) -> list[Tensor]:
        return self._with_weights("head", name, x, bias)

    def embedding(self, name: str, ids: list[Tensor]) -> list[Tensor]:
        self.weights[f"{name}.weight"] = self.replace(name, torch.from_numpy(self.read(f"{name}.weight")), None)
        return self._with_weights("embedding", name, ids)

    def layer_norm(self, name: str, x: list[Tensor], eps: float, bias: bool = True) -> list[Tensor]:
        return self._with_weights("layer_norm", name, x, eps, bias)

    def rms_norm(self, name: str, x: list[Tensor], eps: float, offset: float = 0.0, full: bool = False) -> list[Tensor]:
        return self._with_weights("rms_norm", name, x, eps, offset, full)

    def _with_weights(self, kind: str, name: str, x: list[Tensor], *settings: object) -> list[Tensor]:
        for tensor in tensors_of(kind, name, *settings):
            if tensor not in self.weights:
                self.weights[tensor] = torch.from_numpy(self.read(tensor))
        found = [getattr(ops, kind)(name, part, *settings) for ops, part in zip(self.batches, x, strict=True)]
        self.weights.clear()
        return found


def _entry(part: object, place: int) -> object:
    return part[place] if isinstance(part, list) else part


def tensors_of(kind: str, name: str, *settings: object) -> list[str]:
    """The names of the tensors that the operation `kind` of the module `name` needs; settings: what follows its input."""
    bias = kind == "vocabulary" or (kind in ("linear", "head", "layer_norm") and settings[-1])
    return [f"{name}.weight", f"{name}.bias"] if bias else [f"{name}.weight"]


def side_path(name: str) -> list[str]:
    """The names of the tensors that `adapted` needs of the module `name`."""
    return [f"{name}.lora_A", f"{name}.lora_B"]


def hessian(inputs: list[Tensor], masks: list[Tensor]) -> Tensor:
    """The mean over the texts of their tokens' mean x xᵀ, (width, width) float64; masks: true on tokens, false on padding.

    Every text weighs the same, because every text's own vector must be right: a lone word is a text, too.
    """
    width = inputs[0].shape[-1]
    total, count = torch.zeros(width, width, dtype=torch.float64), 0
    for part, mask in zip(inputs, masks, strict=True):
        rows = part.float() * (mask / mask.sum(dim=1, keepdim=True)).sqrt()[..., None]
        rows = rows.flatten(0, 1)
        total += (rows.T @ rows).double()
        count += len(part)
    return total / count
