"""A model and many variants of it, each with one weight changed, in a single pass over the weights.

Every variant is a lane beside the clean one. A lane begins at the layer whose weight it has changed; before that it would be
the clean lane, and is not computed.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from converter.quantize.layerwise import side_path, tensors_of
from converter.quantize.torch_ops import TorchOps
from shim.text import Tokens

CLEAN = ""
Lanes = dict[str, list[Tensor]]  # the clean lane and those that differ from it, an entry for each batch
# Takes a linear layer's or table's name; gives the weight of the variant named after it, None for no variant.
Change = Callable[[str], Tensor | None]


class VariantOps:
    """shim.architectures.Ops whose every value is Lanes. read: a tensor of the checkpoint by name, float32; not kept."""

    def __init__(self, read: Callable[[str], np.ndarray], batches: list[Tokens], change: Change):
        self.read, self.change = read, change
        self.weights: dict[str, Tensor] = {}
        self.batches = [TorchOps(self.weights, tokens) for tokens in batches]

    def __getattr__(self, name: str) -> Callable[..., Lanes]:
        """The operation `name` of torch_ops on each lane and batch; those with weights are below."""

        def each(*arguments: object, **named: object) -> Lanes:
            given = (*arguments, *named.values())
            lanes = {CLEAN} | {lane for part in given if isinstance(part, dict) for lane in part}
            return {
                lane: [
                    getattr(ops, name)(
                        *(_entry(part, lane, place) for part in arguments),
                        **{key: _entry(part, lane, place) for key, part in named.items()},
                    )
                    for place, ops in enumerate(self.batches)
                ]
                for lane in lanes
            }

        return each

    def split(self, x: Lanes, parts: int) -> list[Lanes]:
        pieces = {lane: [tensor.chunk(parts, dim=-1) for tensor in value] for lane, value in x.items()}
        return [{lane: [piece[number] for piece in value] for lane, value in pieces.items()} for number in range(parts)]

    def linear(self, name: str, x: Lanes, bias: bool = True) -> Lanes:
        return self._with_weights("linear", name, x, bias)

    def linears(self, names: Sequence[str], x: Lanes, bias: bool = True) -> list[Lanes]:
        return [self.linear(name, x, bias) for name in names]

    def adapted(self, name: str, x: Lanes, y: Lanes, scale: float, table: bool = False) -> Lanes:
        self.weights.update({tensor: torch.from_numpy(self.read(tensor)) for tensor in side_path(name)})
        found = self.__getattr__("adapted")(name, x, y, scale, table)
        self.weights.clear()
        return found

    def vocabulary(self, name: str, x: Lanes, sums: bool = False, twice: bool = False) -> Lanes:
        return self._with_weights("vocabulary", name, x, sums, twice)

    def head(self, name: str, x: Lanes, bias: bool = True) -> Lanes:
        return self._with_weights("head", name, x, bias)

    def embedding(self, name: str, ids: Lanes) -> Lanes:
        return self._with_weights("embedding", name, ids)

    def layer_norm(self, name: str, x: Lanes, eps: float, bias: bool = True) -> Lanes:
        return self._with_weights("layer_norm", name, x, eps, bias)

    def rms_norm(self, name: str, x: Lanes, eps: float, offset: float = 0.0, full: bool = False) -> Lanes:
        return self._with_weights("rms_norm", name, x, eps, offset, full)

    def _with_weights(self, kind: str, name: str, x: Lanes, *settings: object) -> Lanes:
        def run(value: list[Tensor]) -> list[Tensor]:
            return [getattr(ops, kind)(name, part, *settings) for ops, part in zip(self.batches, value, strict=True)]

        for tensor in tensors_of(kind, name, *settings):
            self.weights[tensor] = torch.from_numpy(self.read(tensor))
        found = {lane: run(value) for lane, value in x.items()}
        del self.weights[f"{name}.weight"]  # a word table is a gigabyte, and so is its variant
        changed = self.change(name) if kind in ("linear", "embedding", "vocabulary") else None
        if changed is not None:
            self.weights[f"{name}.weight"] = changed
            found[name] = run(x[CLEAN])
        self.weights.clear()
        return found


def _entry(part: object, lane: str, place: int) -> object:
    return part[lane if lane in part else CLEAN][place] if isinstance(part, dict) else part
