"""Seeded weights at the spread of trained ones, with outlier channels, for checkpoints whose own cannot be had."""

import re
import zlib

import numpy as np

OUTLIERS = 0.005  # share of the output channels that are scaled up, at least one
# What a matrix multiplies the size of its input by; queries and keys more, so that attention picks.
GAINS = (
    (r"(query|key|q_proj|k_proj)\.weight$", 1.6),
    (r"(intermediate\.dense|up_proj|gate_proj)\.weight$", 0.8),
    (r"(output\.dense|down_proj)\.weight$", 1.0),
)
SPREADS = (
    (r"position_embeddings\.weight$", 0.01),
    (r"embed", 0.05),
    (r"bias$", 0.02),
)


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """The float32 tensor `name`, of `shape`: the same for the same three arguments."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, np.float32)
    outliers = rng.choice(shape[0], max(1, round(OUTLIERS * shape[0])), replace=False)
    if re.search(r"[qk]_norm\.weight$", name):
        return 1.5 + values * np.float32(0.2)
    if re.search(r"(norm\d?|LayerNorm|emb_ln)\.weight$", name):
        values = 1 + values * np.float32(0.1)
        values[outliers] *= rng.uniform(2, 4, len(outliers)).astype(np.float32)
        return values
    for pattern, spread in SPREADS:
        if re.search(pattern, name):
            return values * np.float32(spread)
    gain = next((gain for pattern, gain in GAINS if re.search(pattern, name)), 1.0)
    values *= np.float32(gain / shape[-1] ** 0.5)
    values[outliers] *= rng.uniform(4, 10, (len(outliers), 1)).astype(np.float32)
    return values
