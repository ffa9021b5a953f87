"""Mistakes of our own in rotary encoders and adapters, which the witness must catch; the table is that of test_witness.py."""

import dataclasses
from typing import Any

import numpy as np

from converter.quantize.torch_ops import TorchOps
from converter.source import open as opening
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
