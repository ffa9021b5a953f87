"""Seeded weights at the spread of trained ones, with outlier channels, where the trained ones cannot be had."""

import re
import zlib
from collections.abc import Iterator

import numpy as np

OUTLIERS = 0.005  # share of a tensor's rows, which are output channels, that are scaled up; at least one
BLOCK = 1 << 25  # values drawn at a time
# The first pattern that a name has: (level, spread, greatest factor of an outlier). A spread of None: GAINS, by the width.
KINDS = (
    (r"[qk]_norm\.weight$", 1.2, 0.2, 1),
    (r"(norm\d?|LayerNorm|layernorm|emb_ln)\.weight$", 1.0, 0.1, 3),
    (r"bias$", 0.0, 0.01, 2),
    (r"position_embeddings|token_type", 0.0, 0.01, 1),
    (r"embed", 0.0, 0.05, 1),
    (r"", 0.0, None, 10),
)
# How much longer or shorter than a typical input a matrix makes it: queries and keys more, so that attention picks, and the
# feed-forward part less, as it draws the vectors of all texts together.
GAINS = (
    (r"(query|key|q_proj|k_proj)\.weight$", 1.25),
    (r"(intermediate\.dense|up_proj|gate_proj|down_proj|\d\.output\.dense)\.weight$", 0.5),
    (r"", 1.0),
)
RESIDUAL = r"\.(\d+)\..*(output\.dense|o_proj|down_proj)"  # matrices that add to the residual stream, and their layer


def blocks(name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The float32 tensor `name` in blocks of rows: the same for the same name and shape, whatever else is drawn."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    level, spread, factor = next(kind[1:] for kind in KINDS if re.search(kind[0], name))
    if spread is None:
        spread = next(gain for pattern, gain in GAINS if re.search(pattern, name)) / shape[-1] ** 0.5
        # The deeper, the less is added: otherwise rounding errors grow from layer to layer as in no trained model.
        layer = re.search(RESIDUAL, name)
        spread /= (1 + int(layer[1])) ** 0.5 if layer else 1
    factors = np.ones((shape[0],) + (1,) * (len(shape) - 1), np.float32)
    outliers = rng.choice(shape[0], max(1, round(OUTLIERS * shape[0])), replace=False)
    factors[outliers] = rng.uniform(factor / 2.5 if factor > 2 else 1, factor, factors[outliers].shape)
    step = max(1, BLOCK * shape[0] // int(np.prod(shape)))
    for start in range(0, shape[0], step):
        rows = factors[start : start + step]
        values = rng.standard_normal((len(rows), *shape[1:]), np.float32)
        values *= np.float32(spread)
        values += np.float32(level)
        values *= rows
        yield values


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The whole of it."""
    return np.concatenate(list(blocks(name, shape)))
