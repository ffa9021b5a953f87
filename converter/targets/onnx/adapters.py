"""Adapters by task: side paths of low rank, chosen for each text by an optional input of the graph; without it, none.

Their weights are gathered by that input before they are widened, so that no runtime keeps a second copy of them in float32.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from converter.targets.onnx.recorder import Recorder
from shim.runtimes.onnx import ADAPTERS


def side_path(ops: Recorder, name: str, x: ir.Value, scale: float, table: bool) -> ir.Value:
    """What `Ops.adapted` adds; for a table x holds ids."""
    number = _number(ops)
    tasks, rows, rank = ops.checkpoint.tensors[f"{name}.lora_A"].shape
    if table:
        first = ops.node("Unsqueeze", ops.node("Mul", number, ops.constant(rows)), ops.constant([1]))
        stored = _stored(ops, f"{name}.lora_A", (tasks * rows, rank))
        inner = ops.cast(ops.node("Gather", stored, ops.node("Add", first, x)), ops.dtype)
    else:
        inner = ops.node("MatMul", x, _chosen(ops, f"{name}.lora_A", number))
    inner = ops.node("Mul", inner, _factor(ops, scale))
    return ops.node("MatMul", inner, _chosen(ops, f"{name}.lora_B", number))


def _given(ops: Recorder) -> ir.Value:
    """The number of each text's adapter, -1 for none; by default no text has one."""
    value = ops.option(ADAPTERS, np.full(1, -1, np.int64))
    value.shape = ir.Shape(["adapted_texts"])
    return value


def _number(ops: Recorder) -> ir.Value:
    """The same, 0 for none."""
    if "adapter" not in ops.made:
        ops.made["adapter"] = ops.node("Max", _given(ops), ops.constant(0))
    return ops.made["adapter"]


def _factor(ops: Recorder, scale: float) -> ir.Value:
    """(texts, 1, 1) what a side path is multiplied by, 0 for a text without an adapter."""
    key = ("adapter", scale)
    if key not in ops.made:
        has = ops.cast(ops.node("GreaterOrEqual", _given(ops), ops.constant(0)), ops.dtype)
        factor = ops.node("Mul", has, ops.constant(scale, ops.dtype))
        ops.made[key] = ops.node("Unsqueeze", factor, ops.constant([1, 2]))
    return ops.made[key]


def _chosen(ops: Recorder, name: str, number: ir.Value) -> ir.Value:
    """(texts, …) of each text its adapter's matrix."""
    return ops.cast(ops.node("Gather", _stored(ops, name, ops.checkpoint.tensors[name].shape), number, axis=0), ops.dtype)


def _stored(ops: Recorder, name: str, shape: tuple[int, ...]) -> ir.Value:
    """The tensor in float16, or at 32 bits in float32, in this shape."""
    kind = np.float32 if ops.dtype is np.float32 and not ops.codes.plan else np.float16

    def make() -> Iterator[np.ndarray]:
        yield from (part.reshape(-1, *shape[1:]) for part in ops.checkpoint.chunks(name, kind))
        ops.done()

    return ops.weight(name, shape, kind, make)
