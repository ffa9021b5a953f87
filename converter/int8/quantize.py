"""Products in integers: how each layer's input is rounded, measured on calibration texts, and the weights that go with it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from converter import cache
from converter.calibration import Calibration, Outputs
from converter.int8.inputs import MODES, Activation, allocate
from converter.int8.shared_inputs import Input, Integers, Observer, RoundedOps, Site, layer
from converter.int8.smoothing import Smoothing, search
from converter.int8.weights import nearest, per_channel
from converter.quantize.gptq import gptq, searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.layerwise import Hessian, Replace
from converter.quantize.losses import loss, masks_of
from converter.source.checkpoint import Checkpoint
from shim.text import Tokens

SHARE = 0.4  # of what parity allows that layers may take of a text; the rest is for tables, and texts unlike calibration
PROBE = 1200  # tokens of the texts that suffer most, on which each way of rounding is measured
HALF = 0.5  # of rounding's error in weights that GPTQ leaves, about; what it leaves of the square is a quarter
MEASURED = ("tensor", "token", "twice")
TABLE_BITS = 7  # of a table that is a large part of the model
LARGE = 0.02  # the part of all weights from which on a table is such a one
GROUPS = (64, 32)  # weights that share a scale where products are in float32, and in tables
GRID = Grid(np.float32, integer_zero=True, half=(TABLE_BITS,))


def quantize(calibration: Calibration) -> Integers:
    """Codes and rounded inputs of every layer and table that takes them.

    Each layer gets the fastest way that leaves the calibration texts within SHARE of what the bar allows, measured with all
    others exact: errors add up. What was measured and made is kept in the calibration's part of the cache.
    """
    with torch.inference_mode():
        observer = Observer(calibration.job.checkpoint.read, calibration.tokens)
        exact = calibration.run(observer)
        steps = _Steps(calibration, observer.sites)
        entries = _entries(calibration, observer.sites, exact, steps)
        return _made(calibration, observer, entries, steps)


class _Steps:
    """Counts what is done: each site searched, each of its modes measured, each layer made."""

    def __init__(self, calibration: Calibration, sites: list[Site]):
        self.progress, self.done = calibration.progress, 0
        self.total = (1 + len(MEASURED)) * len(sites) + sum(len(site.members) for site in sites)

    def __call__(self, count: int = 1) -> None:
        self.done = min(self.done + count, self.total)
        self.progress("quantize", self.done, self.total)


def _entries(calibration: Calibration, sites: list[Site], exact: Outputs, steps: _Steps) -> list[Input]:
    """How each site's input is rounded. exact: the original's outputs."""
    job, tokens = calibration.job, calibration.tokens
    choices = []
    for site in sites:
        choices.append(_choices(job.checkpoint, site))
        steps()
    harmed = calibration.run(_rounded(job.checkpoint.read, tokens, sites, [choice["token"] for choice in choices]))
    probes = _probes(tokens, loss(exact, harmed, masks_of(tokens)), PROBE)
    costs = _costs(calibration, sites, choices, probes, steps)
    modes = allocate(costs, [site.size for site in sites], SHARE * job.bar.allowed)
    return [choice[mode] for choice, mode in zip(choices, modes, strict=True)]


def _made(calibration: Calibration, observer: Observer, entries: list[Input], steps: _Steps) -> Integers:
    """The codes, each layer's made on what the layers before it, already in integers, give."""
    checkpoint, folder = calibration.job.checkpoint, calibration.folder("integers")
    total = sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values())
    found: dict[str, Codes] = {}

    def scheme_of(name: str, columns: int, table: bool) -> Scheme | None:
        if table:
            return _table(observer.tables[name], total) if name in observer.tables else None
        if inputs[name].activation.mode != "none":
            return Scheme(8, columns)
        return next((Scheme(8, size) for size in GROUPS if columns % size == 0), None)

    def replace(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
        scheme = scheme_of(name, weight.shape[1], hessian is None)
        if scheme is None:
            return weight

        def make() -> dict[str, np.ndarray]:
            if hessian is None:
                return searched(weight, scheme, GRID).arrays()
            floats = inputs[name].activation.mode == "none"
            return (gptq(weight, hessian(), scheme, GRID) if floats else per_channel(weight, hessian())).arrays()

        found[name] = Codes(**cache.arrays(folder, f"{name}.codes", make), scheme=scheme)
        steps()
        return torch.from_numpy(found[name].dequantize())

    final = _rounded(checkpoint.read, calibration.tokens, observer.sites, entries, replace)
    inputs = final.inputs
    calibration.run(final)
    return Integers(found, inputs, _tensors(checkpoint, observer.sites, inputs, final.rows))


def _choices(checkpoint: Checkpoint, site: Site) -> dict[str, Input]:
    """The best Input of each mode for a site."""
    weight = torch.cat([torch.from_numpy(checkpoint.read(f"{name}.weight")) for name in site.members])
    found = {}
    for mode in MEASURED:
        smoothing, activation, _ = search(site.shown, weight, mode, bool(site.before[0]), site.before[0] == "layer_norm")
        found[mode] = Input(site.members[0], site.before, smoothing, activation)
    found["none"] = Input(site.members[0], site.before, Smoothing.identity(weight.shape[1]), Activation("none"))
    return found


def _probes(tokens: list[Tokens], losses: np.ndarray, limit: int) -> list[Tokens]:
    """The texts with the greatest losses, as many as have `limit` tokens together, in batches as they were.

    losses: (texts,) in the order of the batches. At least one text is taken.
    """
    lengths = np.concatenate([batch.attention_mask.sum(axis=1) for batch in tokens])
    order = np.argsort(-losses, kind="stable")
    chosen = np.zeros(len(order), bool)
    chosen[order[np.cumsum(lengths[order]) <= limit]] = True
    chosen[order[0]] = True
    found, first = [], 0
    for batch in tokens:
        rows = np.flatnonzero(chosen[first : first + len(batch.input_ids)])
        first += len(batch.input_ids)
        if len(rows):
            length = int(batch.attention_mask[rows].sum(axis=1).max())
            parts = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            found.append(Tokens(*(part[rows, :length] for part in parts)))
    return found


def _costs(
    calibration: Calibration, sites: list[Site], choices: list[dict[str, Input]], probes: list[Tokens], steps: _Steps
) -> list[dict[str, np.ndarray]]:
    """For each site and mode, what it alone takes from each text's cosine, (texts,) float64."""
    masks, run, folder = masks_of(probes), calibration.run, calibration.folder("integers")
    small: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:  # small tensors once, large ones again and again, never all in memory
        if name in small:
            return small[name]
        array = calibration.job.checkpoint.read(name)
        if array.size <= 1 << 21:
            small[name] = array
        return array

    exact = run(_rounded(read, probes, [], []))
    none = np.zeros(len(loss(exact, exact, masks)))
    found = []
    for site, choice in zip(sites, choices, strict=True):

        def measured(site: Site = site, choice: dict[str, Input] = choice) -> dict[str, np.ndarray]:
            ways = {mode: _rounded(read, probes, [site], [choice[mode]], _likely(site)) for mode in MEASURED}
            return {mode: loss(exact, run(ops), masks) for mode, ops in ways.items()}

        found.append(dict.fromkeys(MODES, none) | cache.arrays(folder, f"{site.members[0]}.costs", measured))
        steps(len(MEASURED))
    return found


def _likely(site: Site) -> Replace:
    """Weights of a site about as far from the true ones as they will be, before they are there."""

    def replace(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
        if name not in site.members:
            return weight
        return weight + HALF * (torch.from_numpy(nearest(weight).dequantize()) - weight)

    return replace


def _exactly(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
    return weight


def _rounded(
    read: Callable[[str], np.ndarray],
    tokens: list[Tokens],
    sites: list[Site],
    entries: list[Input],
    replace: Replace = _exactly,
) -> RoundedOps:
    """The model with the inputs of these sites rounded, and its weights as they are, or as `replace` makes them."""
    inputs: dict[str, Input] = {}
    rows = {}
    for site, entry in zip(sites, entries, strict=True):
        inputs |= dict.fromkeys(site.members, entry)
        if site.before[0] == "linear":
            rows[site.before[1]] = entry.smoothing.scale
    return RoundedOps(read, tokens, inputs, rows, replace)


def _table(shape: tuple[int, ...], total: int) -> Scheme | None:
    group = next((size for size in GROUPS if shape[1] % size == 0), None)
    if group is None or shape[0] < 16:
        return None
    return Scheme(TABLE_BITS if shape[0] * shape[1] > LARGE * total else 8, group)


def _tensors(
    checkpoint: Checkpoint, sites: list[Site], inputs: dict[str, Input], rows: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """See Integers.tensors."""
    found = {}
    for site in sites:
        entry, (kind, norm) = inputs[site.members[0]], site.before
        if kind.endswith("norm") and not entry.smoothing.is_identity:
            bias = torch.from_numpy(checkpoint.read(f"{norm}.bias")) if kind == "layer_norm" else None
            parts = entry.smoothing.norm(torch.from_numpy(checkpoint.read(f"{norm}.weight")), bias)
            for name, part in zip(("weight", "bias"), parts, strict=True):
                if part is not None:
                    found[f"{site.members[0]}.norm.{name}"] = part.numpy()
        for name in site.members:
            biased = f"{name}.bias" in checkpoint.tensors
            shift = layer(checkpoint.read, name, entry, rows.get(name), biased)[1]
            if shift is not None:
                found[f"{name}.bias"] = shift.numpy()
    return found
