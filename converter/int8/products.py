"""Products in integers: how each layer's input is rounded, measured on calibration texts, and the weights that go with it."""

import numpy as np
import torch
from torch import Tensor

from converter import cache
from converter.calibration import Calibration
from converter.int8.costs import choices, costs, probes
from converter.int8.inputs import GROUPS, IN_GROUPS, allocate, group_of, parsed
from converter.int8.shared_inputs import Input, Integers, ObserverOps, RoundedTableOps, Site, layer, rounded_model
from converter.int8.weights import joined, per_channel
from converter.quantize.gptq import gptq, searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.layerwise import Hessian, Replace
from converter.quantize.losses import by_head, loss, masks_of
from converter.quantize.sensitivity import some
from converter.source.checkpoint import Checkpoint

LEAST = 4000  # tokens of calibration that a model gets, however large it is
PASS = 4e11  # floating-point operations of one pass over those tokens: seconds of two cores
PROBES = 5e12  # the same of the passes that measure the sites one by one: a minute or two
PROBE = (200, 1200)  # fewest and most tokens that each site is measured on
LARGE_TABLE_BITS = 7  # of a table that is a large part of the model, where that costs little and bits are not strict
TABLE_SHARE = 0.35  # of the 1 - cosine that is allowed, at most what large tables may take; above it they have 8 bits
LARGE = 0.02  # the part of all weights from which on a table is such a one
GRID = Grid(np.float32, integer_zero=True, half=(LARGE_TABLE_BITS,))


class IntegerProducts:
    """A model whose products are in integers: measured once, made for as many choices of ways as are wanted.

    Measuring is what the constructor does, and takes a minute or more. Errors of separate inputs add up, so each is measured
    with all others exact. What was measured and made is kept in the calibration's part of the cache.
    """

    def __init__(self, calibration: Calibration):
        checkpoint = calibration.job.checkpoint
        self.calibration, self.read = calibration, checkpoint.read
        layers = [shape for name, shape in checkpoint.matrices.items() if name not in checkpoint.tables]
        pass_cost = 2 * max(sum(rows * columns for rows, columns in layers), 1)
        self.tokens, _ = some(calibration.tokens, max(LEAST, int(PASS / pass_cost)))
        with torch.inference_mode():
            self.observer = ObserverOps(self.read, self.tokens)
            exact = calibration.run(self.observer)
            self.sites = self.observer.sites
            self.tables = self._tables(exact)
            self.beside: dict[tuple[str, str], np.ndarray] = {}
            self.codes: dict[tuple[str, str], Codes] = {}  # of each module in each way that was made
            done = _Steps(calibration, 2 * len(self.sites))
            self.choices, errors = [], []
            for site in self.sites:
                inputs, error = choices(self.read, site)
                self.choices.append(inputs)
                errors.append(error)
                done()
            harmed = calibration.run(
                rounded_model(self.read, self.tokens, self.sites, self._entries(["token"] * len(self.sites)))
            )
            limit = int(np.clip(PROBES / (pass_cost * len(self.sites)), *PROBE))
            worst = probes(self.tokens, loss(exact, harmed, masks_of(self.tokens)), limit)
            found = costs(calibration, self.sites, self.choices, errors, worst, done)
            mean = calibration.job.bar.on == "mean"
            self.costs = [{way: cost.mean(keepdims=True) if mean else cost for way, cost in each.items()} for each in found]

    def ways(self, budget: float) -> list[str]:
        """The fastest way of each site's input with which rounding takes at most `budget` from the cosine that counts."""
        return allocate(self.costs, [site.shape for site in self.sites], budget)

    def predicted(self, ways: list[str]) -> float:
        """What rounding the inputs so takes from the cosine that counts, the worst text's or the mean."""
        return float(np.sum([cost[way] for cost, way in zip(self.costs, ways, strict=True)], axis=0).max())

    def made(self, ways: list[str]) -> Integers:
        """The codes for these ways, each layer's made on what the layers before it, already in integers, give."""
        checkpoint = self.calibration.job.checkpoint
        tables = self.tables
        done = _Steps(self.calibration, len(tables) + len(self._ways_of(ways)))
        with torch.inference_mode():
            final = rounded_model(self.read, self.tokens, self.sites, self._entries(ways), self._replace(tables, ways, done))
            ways_of = self._ways_of(ways)
            wanted = dict.fromkeys(tables, "") | {name: way for name, way in ways_of.items() if self._scheme(name, way)}
            if not all(item in self.codes for item in wanted.items()):
                self.calibration.run(final)
            codes = {name: self.codes[name, way] for name, way in wanted.items()}
            tensors = _tensors(checkpoint, self.sites, final.inputs, final.rows)
            beside = {f"{name}.beside": self.beside[name, way] for name, way in wanted.items() if self.beside[name, way].size}
            return Integers(codes, final.inputs, tensors | beside)

    def _ways_of(self, ways: list[str]) -> dict[str, str]:
        """The way of each layer."""
        found = {name: way for site, way in zip(self.sites, ways, strict=True) for name in site.members}
        return found | dict.fromkeys(self.observer.weights_only, "none")

    def _entries(self, ways: list[str]) -> list[Input]:
        return [choice[way] for choice, way in zip(self.choices, ways, strict=True)]

    def _scheme(self, name: str, way: str) -> Scheme | None:
        columns = self.calibration.job.checkpoint.matrices[f"{name}.weight"][1]
        size = group_of(parsed(way)[0], columns)
        return Scheme(8, size) if size else None

    def _tables(self, exact: dict[str, list[Tensor]]) -> dict[str, Scheme]:
        """How each table is rounded. exact: the model's outputs."""
        calibration = self.calibration
        total = sum(int(np.prod(tensor.shape)) for tensor in calibration.job.checkpoint.tensors.values())
        found = {}
        for name, (rows, columns) in self.observer.tables.items():
            group = next((size for size in GROUPS if columns % size == 0), None)
            if group is not None and rows >= 16:
                large = rows * columns > LARGE * total and not calibration.job.request.strict_bits
                found[name] = Scheme(LARGE_TABLE_BITS if large else 8, group)
        fewer = {name: scheme for name, scheme in found.items() if scheme.bits == LARGE_TABLE_BITS}
        bar = calibration.job.bar
        if fewer:
            rounded = calibration.run(RoundedTableOps(self.read, self.tokens, fewer, GRID))
            if bar.loss(by_head(exact, rounded, masks_of(self.tokens))) > TABLE_SHARE * bar.allowed:
                found |= {name: Scheme(8, scheme.group_size) for name, scheme in fewer.items()}
        return found

    def _replace(self, tables: dict[str, Scheme], ways: list[str], done: "_Steps") -> Replace:
        """Makes the codes of each module that is not there yet, and goes on with what they stand for."""
        folder = self.calibration.folder("integers")
        apart = {
            name: choice[way].activation.apart
            for site, choice, way in zip(self.sites, self.choices, ways, strict=True)
            for name in site.members
        }
        way_of = self._ways_of(ways)

        def replace(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
            way = way_of.get(name, "")
            scheme = tables.get(name) if hessian is None else self._scheme(name, way)
            if scheme is None:
                return weight

            def make() -> dict[str, np.ndarray]:
                if hessian is None:
                    return searched(weight, scheme, GRID).arrays()
                if way in IN_GROUPS:
                    return gptq(weight, hessian(), scheme, GRID).arrays()
                codes, beside = per_channel(weight, hessian(), apart[name])
                return codes.arrays() | {"beside": beside.numpy()}

            if (name, way) not in self.codes:
                arrays = cache.arrays(folder, f"{name}.{way}.codes", make)
                self.beside[name, way] = arrays.pop("beside", np.empty((len(weight), 0), np.float32))
                self.codes[name, way] = Codes(**arrays, scheme=scheme)
            done()
            return joined(self.codes[name, way], torch.from_numpy(self.beside[name, way]), apart.get(name, ()))

        return replace


class _Steps:
    """Counts what is done."""

    def __init__(self, calibration: Calibration, total: int):
        self.progress, self.done, self.total = calibration.progress, 0, total

    def __call__(self) -> None:
        self.done += 1
        self.progress("quantize", self.done, self.total)


def _tensors(
    checkpoint: Checkpoint, sites: list[Site], inputs: dict[str, Input], rows: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """See Integers.tensors."""
    found = {}
    for site in sites:
        entry, (kind, norm) = inputs[site.members[0]], site.before
        if kind.endswith("norm") and not entry.smoothing.is_identity:
            bias = torch.from_numpy(checkpoint.read(f"{norm}.bias")) if kind == "layer_norm" else None
            weight, bias = entry.smoothing.norm(torch.from_numpy(checkpoint.read(f"{norm}.weight")) + site.offset, bias)
            found[f"{site.members[0]}.norm.weight"] = (weight - site.offset).numpy()
            if bias is not None:
                found[f"{site.members[0]}.norm.bias"] = bias.numpy()
        for name in site.members:
            biased = f"{name}.bias" in checkpoint.tensors
            shift = layer(checkpoint.read, name, entry, rows.get(name), biased)[1]
            if shift is not None:
                found[f"{name}.bias"] = shift.numpy()
    return found
