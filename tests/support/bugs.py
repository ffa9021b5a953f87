"""Mistakes of our own in rotary encoders, adapters and heads, which the witness must catch; the table is test_witness.py's."""

import dataclasses
from typing import Any

import numpy as np

from converter.quantize.torch_ops import TorchOps
from converter.source import open as opening
from shim import encoding
from shim.architectures import gte, jina_embeddings_v3
from support import saved

JINA, GTE = "jina, adapters", "gte"
ADAPT, STACKS, ROTATE = TorchOps.adapted, opening.stacks, TorchOps.rotate
(WQKV, (QUERY, KEY, VALUE)), *_ = jina_embeddings_v3.FUSED
(GTE_QKV, (UP_GATE, (UP, GATE))) = gte.FUSED


def other(ops: TorchOps) -> TorchOps:
    """The same operations, each text through the next adapter."""
    tokens = ops.tokens
    moved = None if tokens.adapters is None else np.where(tokens.adapters < 0, -1, (tokens.adapters + 1) % len(saved.TASKS))
    return TorchOps(ops.weights, dataclasses.replace(tokens, adapters=moved))


def without(self: TorchOps, name: str, x: Any, y: Any, scale: float, table: bool = False) -> Any:
    """No adapters beside tables."""
    return y if table else ADAPT(self, name, x, y, scale)


def scaled(self: TorchOps, name: str, x: Any, y: Any, scale: float, table: bool = False) -> Any:
    """Alpha not over the rank."""
    return ADAPT(self, name, x, y, 4 * scale, table)


def always(self: TorchOps, name: str, x: Any, y: Any, scale: float, table: bool = False) -> Any:
    """The first adapter for texts that have none."""
    none, given = np.zeros(len(self.tokens.input_ids), np.int64), self.tokens.adapters
    moved = none if given is None else np.maximum(given, 0)
    return ADAPT(TorchOps(self.weights, dataclasses.replace(self.tokens, adapters=moved)), name, x, y, scale, table)


def backwards(folder: Any, found: dict[str, str], names: Any) -> Any:
    """Each task's adapter from another's folder."""
    return STACKS(folder, dict(zip(found, list(found.values())[::-1], strict=True)), names)


ROTARY: dict[str, tuple[str, Any, str, Any]] = {
    "jina's other rotary base": (JINA, TorchOps, "rotate", lambda self, x, base: ROTATE(self, x, base * 1.01)),
    "another adapter": (JINA, TorchOps, "adapted", lambda self, *given, **more: ADAPT(other(self), *given, **more)),
    "another scale of adapters": (JINA, TorchOps, "adapted", scaled),
    "no adapters beside tables": (JINA, TorchOps, "adapted", without),
    "an adapter where none is asked for": (JINA, TorchOps, "adapted", always),
    "adapters in another order": (JINA, opening, "stacks", backwards),
    "queries for keys": (JINA, jina_embeddings_v3, "FUSED", ((WQKV, (KEY, QUERY, VALUE)),)),
    "GTE's other rotary base": (GTE, TorchOps, "rotate", lambda self, x, base: ROTATE(self, x, base * 1.01)),
    "gates for inputs": (GTE, gte, "FUSED", (GTE_QKV, (UP_GATE, (GATE, UP)))),
}

VOCABULARY, LAYER_NORM, ATTEND, GELU = TorchOps.vocabulary, TorchOps.layer_norm, TorchOps.attention, TorchOps.gelu
NORMALIZE, OF_COLBERT, IS_QUERY = TorchOps.normalize, encoding._of_colbert, encoding.is_query
SPLADE, TWICE, SUMS = "splade, bert, max", "splade, distilbert, log1p twice", "splade, modernbert, sum"
PYLATE, NEAR, PLAIN, TWO = (
    "colbert, pylate over bert",
    "colbert, pylate over modernbert",
    "colbert, stanford",
    "colbert, two dense, prompts",
)


def padded(self: TorchOps, name: str, x: Any, sums: bool = False, twice: bool = False) -> Any:
    """Padding among the tokens."""
    mask = np.ones_like(self.tokens.attention_mask)
    return VOCABULARY(TorchOps(self.weights, dataclasses.replace(self.tokens, attention_mask=mask)), name, x, sums, twice)


def activated(self: TorchOps, x: Any) -> Any:
    """Another activation, of the masked language model's head alone, whose input is as wide as the states."""
    return x.relu() if x.shape[-1] == 64 else GELU(self, x)


def colbert(**changed: Any) -> Any:
    """ColBERT's tokens by other settings."""
    return lambda item, settings, query: OF_COLBERT(item, dataclasses.replace(settings, **changed), query)


def seen(self: TorchOps, query: Any, key: Any, value: Any, **settings: Any) -> Any:
    """Masks of an expansion that see themselves."""
    everything = dataclasses.replace(self.tokens, attention_mask=np.ones_like(self.tokens.attention_mask))
    ops = TorchOps(self.weights, everything) if settings.get("window") else self
    return ATTEND(ops, query, key, value, **settings)


HEADS: dict[str, tuple[str, Any, str, Any]] = {
    "SPLADE's sum for its max": (SPLADE, TorchOps, "vocabulary", lambda self, n, x, s, t: VOCABULARY(self, n, x, not s, t)),
    "SPLADE's max for its sum": (SUMS, TorchOps, "vocabulary", lambda self, n, x, s, t: VOCABULARY(self, n, x, not s, t)),
    "log1p once for twice": (TWICE, TorchOps, "vocabulary", lambda self, n, x, s, t: VOCABULARY(self, n, x, s, False)),
    "padding in SPLADE's sum": (SUMS, TorchOps, "vocabulary", padded),
    "SPLADE's head with another activation": (SPLADE, TorchOps, "gelu", activated),
    "SPLADE's head without its norm": (
        SPLADE,
        TorchOps,
        "layer_norm",
        lambda self, name, x, *how: x if name == "masked_lm.norm" else LAYER_NORM(self, name, x, *how),
    ),
    "no expansion": (PYLATE, encoding, "_of_colbert", colbert(expansion=0)),
    "an expansion with another token": (PYLATE, encoding, "_of_colbert", colbert(mask=1)),
    "an expansion that is attended to": (PYLATE, encoding, "_of_colbert", colbert(attended=True)),
    "punctuation that is not skipped": (PYLATE, encoding, "_of_colbert", colbert(skipped=[])),
    "punctuation that is skipped in queries, too": (
        PLAIN,
        encoding,
        "_of_colbert",
        colbert(skipped_in=["query", "document"]),
    ),
    "masks that windows see": (NEAR, TorchOps, "attention", seen),
    "queries as documents": (PYLATE, encoding, "is_query", lambda task=None, name=None: False),
    "vectors that are not normalised": (TWO, TorchOps, "normalize", lambda self, x: x),
}
