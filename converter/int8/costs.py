"""How each input could be rounded, and what that takes from the cosine of the texts that suffer most."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from converter import cache
from converter.calibration import Calibration, Outputs
from converter.int8.inputs import BLOCK, WAYS, Activation
from converter.int8.shared_inputs import Input, RoundedOps, Site
from converter.int8.smoothing import Smoothing, search
from converter.int8.weights import nearest
from converter.quantize.layerwise import Hessian, Replace
from converter.quantize.losses import loss, masks_of
from shim.text import Tokens

HELD = 1.5e9  # bytes of tensors that are read once for all sites; to read them takes longer than to multiply by them
HALF = 0.5  # of rounding's error in weights that GPTQ leaves, about; what it leaves of the square is a quarter
Read = Callable[[str], np.ndarray]  # a tensor of the checkpoint by name, float32


def choices(read: Read, site: Site) -> tuple[dict[str, Input], dict[str, float]]:
    """The best Input of each way for a site; and of each way that rounds, the mean square error of the products."""
    weight = torch.cat([torch.from_numpy(read(f"{name}.weight")) for name in site.members])
    inputs = {"none": Input(site.members[0], site.before, Smoothing.identity(weight.shape[1]), Activation("none"))}
    errors = {}
    bears = bool(site.before[0]), site.before[0] == "layer_norm"
    for way in WAYS[:-1]:
        if way == "block" and weight.shape[1] % BLOCK:
            inputs[way] = inputs["none"]
            continue
        smoothing, activation, errors[way] = search(site.shown, weight, way, *bears)
        inputs[way] = Input(site.members[0], site.before, smoothing, activation)
    return inputs, errors


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
    masks, folder = masks_of(probes), calibration.folder("integers")
    held: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        if name in held:
            return held[name]
        array = calibration.job.checkpoint.read(name)
        if array.nbytes + sum(each.nbytes for each in held.values()) <= HELD:
            held[name] = array
        return array

    exact: Outputs = {}
    found = []
    for site, choice, error in zip(sites, given, errors, strict=True):

        def measured(site: Site = site, choice: dict[str, Input] = choice) -> dict[str, np.ndarray]:
            if not exact:
                exact.update(calibration.run(rounded(read, probes, [], [])))
            ops = rounded(read, probes, [site], [choice["token"]], _likely(site))
            return {"token": loss(exact, calibration.run(ops), masks)}

        token = cache.arrays(folder, f"{site.members[0]}.costs", measured)["token"]
        scale = max(error["token"], 1e-30)
        found.append({way: token * (error.get(way, 0.0) / scale) for way in WAYS})
        done()
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
            parts = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            found.append(Tokens(*(part[rows, :length] for part in parts)))
    return found


def _likely(site: Site) -> Replace:
    """Weights of a site about as far from the true ones as they will be, before they are there."""

    def replace(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
        if name not in site.members:
            return weight
        return weight + HALF * (torch.from_numpy(nearest(weight).dequantize()) - weight)

    return replace


def exactly(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
    """A Replace that leaves the weight as it is."""
    return weight


def rounded(
    read: Read, tokens: list[Tokens], sites: list[Site], entries: list[Input], replace: Replace = exactly
) -> RoundedOps:
    """The model with the inputs of these sites rounded, and its weights as they are, or as `replace` makes them."""
    inputs: dict[str, Input] = {}
    rows = {}
    for site, entry in zip(sites, entries, strict=True):
        inputs |= dict.fromkeys(site.members, entry)
        if site.before[0] == "linear":
            rows[site.before[1]] = entry.smoothing.scale
    return RoundedOps(read, tokens, inputs, rows, replace)
