"""Where a model's inputs are rounded: the linear layers that share an input, what comes before, and what goes in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from converter.int8.inputs import Activation, rounded
from converter.int8.smoothing import Shown, Smoothing
from converter.quantize.gptq import searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.layerwise import Hessian, LayerwiseOps, Replace
from shim.artifact import Stored
from shim.text import Tokens

SAMPLE = 128  # tokens of an input that are kept


@dataclass(frozen=True)
class Site:
    """One input, named after the first linear layer that takes it.

    members: those layers. before: what gives the input and can bear a Smoothing, and its name: `layer_norm`, `rms_norm` (any
    norm without a bias) or `linear` (which is multiplied with something else); two empty strings where nothing can. shape: all
    their (outputs, inputs). offset: what that norm adds to its weight.
    """

    members: list[str]
    before: tuple[str, str]
    shape: tuple[int, int]
    shown: Shown
    offset: float = 0.0


class ObserverOps(LayerwiseOps):
    """Runs the model as it is and collects `sites`, the names of `tables` with their shapes, and `weights_only`."""

    def __init__(self, read: Callable[[str], np.ndarray], batches: list[Tokens]):
        super().__init__(read, batches, exactly)
        self.sites: list[Site] = []
        self.tables: dict[str, tuple[int, ...]] = {}
        self.weights_only: list[str] = []  # layers whose products are never in integers
        self.offsets: dict[str, float] = {}  # of norms
        self.came: list[tuple[object, tuple[str, str]]] = []  # the latest values that could be of use, and where they came from

    def _from(self, value: list[Tensor], kind: str, name: str) -> list[Tensor]:
        self.came = [*self.came[-3:], (value, (kind, name))]
        return value

    def _origin(self, value: object) -> tuple[str, str]:
        return next((origin for known, origin in self.came if known is value), ("", ""))

    def linears(self, names: Sequence[str], x: list[Tensor], bias: bool = True) -> list[list[Tensor]]:
        kind, before = self._origin(x)
        rows = torch.cat([part[ops.mask] for part, ops in zip(x, self.batches, strict=True)])
        picked = torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).long()
        shown = Shown(rows[picked], rows.amin(dim=0), rows.amax(dim=0))
        found = [self._from(self._with_weights("linear", name, x, bias), "product", name) for name in names]
        shape = sum(part[0].shape[-1] for part in found), x[0].shape[-1]
        kind, before = ("", "") if kind == "product" else (kind, before)
        self.sites.append(Site(list(names), (kind, before), shape, shown, self.offsets.get(before, 0.0)))
        return found

    def multiply(self, x: list[Tensor], y: list[Tensor]) -> list[Tensor]:
        found = [one * other for one, other in zip(x, y, strict=True)]
        origins = [name for kind, name in map(self._origin, (x, y)) if kind == "product"]
        return self._from(found, "linear", origins[0]) if origins else found

    def layer_norm(self, name: str, x: list[Tensor], eps: float, bias: bool = True) -> list[Tensor]:
        return self._from(super().layer_norm(name, x, eps, bias), "layer_norm" if bias else "rms_norm", name)

    def rms_norm(self, name: str, x: list[Tensor], eps: float, offset: float = 0.0, full: bool = False) -> list[Tensor]:
        self.offsets[name] = offset
        return self._from(super().rms_norm(name, x, eps, offset, full), "rms_norm", name)

    def vocabulary(self, name: str, x: list[Tensor], sums: bool = False, twice: bool = False) -> list[Tensor]:
        self.weights_only.append(name)
        return super().vocabulary(name, x, sums, twice)

    def embedding(self, name: str, ids: list[Tensor]) -> list[Tensor]:
        weight = self.weights[f"{name}.weight"] = torch.from_numpy(self.read(f"{name}.weight"))
        self.tables[name] = tuple(weight.shape)
        return self._with_weights("embedding", name, ids)


@dataclass(frozen=True)
class Input:
    """How a layer gets its input: the site's first member, which names what is shared, the smoothing and the rounding."""

    site: str
    before: tuple[str, str]
    smoothing: Smoothing
    activation: Activation


@dataclass(frozen=True)
class Integers:
    """What a graph of integer products is made of.

    codes: {module: Codes} of every quantized layer and table. inputs: {layer: Input}. tensors: vectors that differ from the
    checkpoint's, by its names; those of the norms before a site, by the site's: `SITE.norm.weight`, `SITE.norm.bias`; and of
    layers the columns that are apart, `LAYER.beside`, (rows, n).
    """

    codes: dict[str, Codes]
    inputs: dict[str, Input]
    tensors: dict[str, np.ndarray]

    def describe(self) -> dict[str, Stored]:
        """{module: bits, group size, and for a layer how its input is rounded}, for the manifest."""
        found: dict[str, Stored] = {}
        for name, codes in self.codes.items():
            found[name] = {"bits": codes.scheme.bits, "group_size": codes.scheme.group_size}
            if name in self.inputs:
                found[name]["input"] = self.inputs[name].activation.way
        return found


class RoundedOps(LayerwiseOps):
    """Runs the model with rounded inputs.

    inputs: {layer: Input}; layers that are not in it get theirs as it is. rows: {layer: (rows,) what its output is divided by},
    for the layer that takes it. replace: see LayerwiseOps.
    """

    def __init__(
        self,
        read: Callable[[str], np.ndarray],
        batches: list[Tokens],
        inputs: dict[str, Input],
        rows: dict[str, Tensor],
        replace: Replace,
    ):
        super().__init__(read, batches, replace)
        self.inputs, self.rows = inputs, rows

    def linears(self, names: Sequence[str], x: list[Tensor], bias: bool = True) -> list[list[Tensor]]:
        entry, inputs = self.inputs.get(names[0]), x
        if entry is not None:
            if entry.before[0] != "linear":  # that layer's rows are divided already
                inputs = [entry.smoothing.input(part) for part in inputs]
            inputs = [rounded(part, entry.activation) for part in inputs]
        shared, found = self.hessian(inputs), []
        for name in names:
            weight, shift = layer(self.read, name, entry, self.rows.get(name), bias)
            self.weights[f"{name}.weight"] = self.replace(name, weight, shared)
            if shift is not None:
                self.weights[f"{name}.bias"] = shift
            found.append(self._with_weights("linear", name, inputs, shift is not None))
        return found


class RoundedTableOps(LayerwiseOps):
    """Runs the model with the rows of some tables rounded; only those that are looked up are.

    schemes: {table: how}.
    """

    def __init__(self, read: Callable[[str], np.ndarray], batches: list[Tokens], schemes: dict[str, Scheme], grid: Grid):
        super().__init__(read, batches, exactly)
        self.schemes, self.grid = schemes, grid

    def embedding(self, name: str, ids: list[Tensor]) -> list[Tensor]:
        if name not in self.schemes:
            return super().embedding(name, ids)
        weight, found = torch.from_numpy(self.read(f"{name}.weight")), []
        for part in ids:
            rows, places = torch.unique(part, return_inverse=True)
            table = searched(weight[rows], self.schemes[name], self.grid).dequantize()
            found.append(F.embedding(places, torch.from_numpy(table)))
        return found


def exactly(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
    """A Replace that leaves the weight as it is."""
    return weight


def rounded_model(
    read: Callable[[str], np.ndarray], tokens: list[Tokens], sites: list[Site], entries: list[Input], replace: Replace = exactly
) -> RoundedOps:
    """The model with the inputs of these sites rounded, and its weights as they are, or as `replace` makes them."""
    inputs: dict[str, Input] = {}
    rows = {}
    for site, entry in zip(sites, entries, strict=True):
        inputs |= dict.fromkeys(site.members, entry)
        if site.before[0] == "linear":
            rows[site.before[1]] = entry.smoothing.scale
    return RoundedOps(read, tokens, inputs, rows, replace)


def layer(
    read: Callable[[str], np.ndarray], name: str, entry: Input | None, rows: Tensor | None, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """The weight (out, in) and the bias of a layer for its smoothed input, and with its output divided by `rows`."""
    weight = torch.from_numpy(read(f"{name}.weight"))
    shift = torch.from_numpy(read(f"{name}.bias")) if bias else None
    if rows is not None:
        weight, shift = weight / rows[:, None], None if shift is None else shift / rows
    if entry is not None and not entry.smoothing.is_identity:
        if entry.smoothing.shift.any():
            moved = entry.smoothing.bias(weight)
            shift = moved if shift is None else shift + moved
        weight = entry.smoothing.weight(weight)
    return weight, shift
