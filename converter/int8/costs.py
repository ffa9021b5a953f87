"""How each input could be rounded, and what that takes from the cosine of the texts that suffer most."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from converter import cache
from converter.calibration import Calibration
from converter.int8.inputs import BLOCK, WAYS, rounded
from converter.int8.shared_inputs import Input, Site, layer
from converter.int8.smoothing import search
from converter.int8.weights import nearest
from converter.quantize.losses import loss, masks_of
from converter.quantize.variants import CLEAN, Lanes, VariantOps
from shim.text import Tokens

MEMORY = 1.2e9  # bytes of the activations of all variants that are computed in one pass
HALF = 0.5  # of rounding's error in weights that GPTQ leaves, about; what it leaves of the square is a quarter
Read = Callable[[str], np.ndarray]  # a tensor of the checkpoint by name, float32


def choices(read: Read, site: Site) -> tuple[dict[str, Input], dict[str, float]]:
    """The best Input of each way for a site, and the mean square error of the products with it."""
    weight = torch.cat([torch.from_numpy(read(f"{name}.weight")) for name in site.members])
    ways = [way for way in WAYS if way != "block" or weight.shape[1] % BLOCK == 0]
    found = search(site.shown, weight, ways, bool(site.before[0]), site.before[0] == "layer_norm")
    found.setdefault("block", found["none"])  # a width that BLOCK does not divide has no blocks
    inputs = {
        way: Input(site.members[0], site.before, smoothing, activation) for way, (smoothing, activation, _) in found.items()
    }
    return inputs, {way: error for way, (*_, error) in found.items()}


def costs(
    calibration: Calibration,
    sites: list[Site],
    given: list[dict[str, Input]],
    errors: list[dict[str, float]],
    probes: list[Tokens],
    done: Callable[[], None],
) -> list[dict[str, np.ndarray]]:
    """For each site and way, what it alone takes from each text's cosine, (texts,) float64.

    Measured is the way `token`; the others cost that times the ratio of their products' errors.
    """
    masks, checkpoint = masks_of(probes), calibration.job.checkpoint
    tokens = sum(batch.input_ids.size for batch in probes)
    together = max(1, int(MEMORY / (8 * tokens * max(max(site.shape) for site in sites))))
    found = []
    entries = {site.members[0]: choice["token"] for site, choice in zip(sites, given, strict=True)}
    for start in range(0, len(sites), together):
        part = list(entries)[start : start + together]

        def measured(part: list[str] = part) -> dict[str, np.ndarray]:
            ops = RoundedVariantOps(checkpoint.read, probes, {name: entries[name] for name in part}, done)
            outputs = calibration.run(ops)
            exact = {head: value[CLEAN] for head, value in outputs.items()}
            lanes = {name: {head: value.get(name, value[CLEAN]) for head, value in outputs.items()} for name in part}
            return {name: loss(exact, lane, masks) for name, lane in lanes.items()}

        measured_part = cache.arrays(calibration.folder("integers"), ["costs", *part], measured)
        for name, error in zip(part, errors[start : start + together], strict=True):
            scale = max(error["token"], 1e-30)
            found.append({way: measured_part[name] * (error[way] / scale) for way in WAYS})
    return found


class RoundedVariantOps(VariantOps):
    """The model and, for each of some sites, a variant with that input alone rounded, named after the site's first layer.

    entries: {first layer: Input}. done: called when a site is reached.
    """

    def __init__(self, read: Read, batches: list[Tokens], entries: Mapping[str, Input], done: Callable[[], None]):
        super().__init__(read, batches, lambda _: None)
        self.entries, self.done = entries, done

    def linear(self, name: str, x: Lanes, bias: bool = True) -> Lanes:
        return self.linears([name], x, bias)[0]

    def linears(self, names: Sequence[str], x: Lanes, bias: bool = True) -> list[Lanes]:
        found = [self._with_weights("linear", name, x, bias) for name in names]
        if (entry := self.entries.get(names[0])) is None:
            return found
        inputs = [rounded(entry.smoothing.input(part), entry.activation) for part in x[CLEAN]]
        for name, lanes in zip(names, found, strict=True):
            weight, shift = layer(self.read, name, entry, None, bias)
            likely = weight + HALF * (torch.from_numpy(nearest(weight).dequantize()) - weight)
            lanes[names[0]] = [F.linear(part, likely, shift) for part in inputs]
        self.done()
        return found


def probes(tokens: list[Tokens], losses: np.ndarray, limit: int) -> list[Tokens]:
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
            found.append(batch.texts(rows, length))
    return found
