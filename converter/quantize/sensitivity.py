"""What each quantized tensor costs by itself: 1 - cosine of every text when that tensor alone is changed.

Errors of separate tensors are nearly uncorrelated, so that their costs add up to the cost of all together.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from converter.quantize.grid import Codes
from converter.quantize.losses import VECTORS, apart, scores_apart
from converter.quantize.variants import CLEAN, Lanes, VariantOps
from shim.text import Tokens

WORK = 2e13  # floating-point operations spent on the variants: one or two minutes of two cores
TOKENS = (64, 5000)  # fewest and most that are looked at
FLAT = 1e-4  # of the logits' mean square, under which their variance is that of one pair: none
SCORED = 2000  # tokens of the pairs that a reranker's variance is taken of
MEMORY = 1.2e9  # bytes of the lanes' activations
Run = Callable[[VariantOps], dict[str, Lanes]]  # a model's outputs, by the operations it is given


def costs(
    run: Run,
    read: Callable[[str], np.ndarray],
    codes: Mapping[str, Codes],
    batches: list[Tokens],
    layers: Collection[tuple[int, int]],
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """{module: (rows,) float64 costs} of each module in `codes`; a row is a text under a head, or for a reranker a pair.

    run: the model's outputs (shim.pooling.outputs) by the operations it is given. read: a tensor by name, float32.
    layers: the (out, in) shapes of those modules that are linear layers.
    As many of the batches are used as WORK allows; several passes are made where all variants at once would not fit MEMORY.
    """
    chosen, count = some(batches, affordable(len(codes), layers))
    widest = max((max(shape) for shape in layers), default=1)
    together = max(1, int(MEMORY / (8 * count * widest)))
    names = list(codes)
    found: dict[str, np.ndarray] = {}
    variance = None
    with torch.inference_mode():
        for start in range(0, len(names), together):
            part = set(names[start : start + together])

            def change(name: str, part: set[str] = part) -> Tensor | None:
                return torch.from_numpy(codes[name].dequantize()) if name in part else None

            ops = VariantOps(read, chosen, change)
            given = run(ops)
            if "logits" in given and variance is None:
                variance = _variance(run, read, some(batches, SCORED)[0])
            found |= {lane: _rows(given, lane, ops, variance) for lane in part}
            progress(min(start + together, len(names)), len(names))
    return found


def affordable(variants: int, layers: Collection[tuple[int, int]]) -> int:
    """How many tokens may be looked at, by that many variants of a model with linear layers of these (out, in) shapes."""
    weights = sum(rows * columns for rows, columns in layers)
    return int(np.clip(WORK / max(variants * weights, 1), *TOKENS))


def farthest(batches: list[Tokens], losses: np.ndarray, tokens: int) -> tuple[list[Tokens], np.ndarray]:
    """The texts with the greatest losses that are at most so many tokens together, one at least; and their losses.

    losses: (texts,) in the order of the batches, which is kept.
    """
    lengths = np.concatenate([np.full(len(batch.input_ids), batch.input_ids.shape[1]) for batch in batches])
    order = np.argsort(-losses)
    chosen = np.zeros(len(losses), bool)
    chosen[order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), tokens, side="right")))]] = True
    parts = np.split(chosen, np.cumsum([len(batch.input_ids) for batch in batches])[:-1])
    return [batch.texts(part) for batch, part in zip(batches, parts, strict=True) if part.any()], losses[chosen]


def some(batches: list[Tokens], tokens: int) -> tuple[list[Tokens], int]:
    """Texts of all lengths with about that many tokens together, in batches, and how many, padding included."""
    total = sum(batch.input_ids.size for batch in batches)
    step = max(1, round(total / tokens))
    chosen, place = [], step // 2  # where in the batch the next text is
    for batch in batches:
        count = len(batch.input_ids)
        if place < count:
            chosen.append(batch.texts(slice(place, None, step)))
        place = (place - count) % step if place < count else place - count
    chosen = chosen or [min(batches, key=lambda batch: batch.input_ids.shape[1]).texts(slice(1))]
    return chosen, sum(batch.input_ids.size for batch in chosen)


def _variance(run: Run, read: Callable[[str], np.ndarray], batches: list[Tokens]) -> Tensor:
    """Of the original's logits; the few texts of the variants show too little of it."""
    clean = run(VariantOps(read, batches, lambda _: None))
    logits = torch.cat(_of(clean["logits"], CLEAN)).double()
    spread = logits.var(correction=0)
    return (spread if spread > FLAT * logits.square().mean() else logits.square().mean()).clamp(min=1e-12)


def _rows(given: dict[str, Lanes], lane: str, ops: VariantOps, variance: Tensor | None) -> np.ndarray:
    if variance is not None:
        one, other = (torch.cat(_of(given["logits"], name)).double()[:, 0] for name in (CLEAN, lane))
        return scores_apart(other, one, variance).numpy()
    rows = []
    for head in VECTORS:
        if head in given:
            pairs = zip(_of(given[head], lane), _of(given[head], CLEAN), ops.batches, strict=True)
            rows += [apart(head, other.double(), one.double(), batch.mask) for other, one, batch in pairs]
    return torch.cat(rows).numpy()


def _of(value: Lanes, lane: str) -> list[Tensor]:
    return value.get(lane, value[CLEAN])
