"""The products of tokens with the words of a vocabulary, reduced over the tokens block by block in a Loop."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from converter.targets.onnx.recorder import Recorder

BLOCK = 512  # tokens whose products are in memory at once, with 30,000 words 60 MB


def reduced(
    ops: Recorder, multiply: Callable[[ir.Value], ir.Value], bias: ir.Value, x: ir.Value, sums: bool, twice: bool
) -> ir.Value:
    """See shim.architectures.Ops.vocabulary. multiply: the product with the words; bias: (words,) that is added to it."""
    one, count, length = ops.constant([1]), ops.length(x, 0), ops.length(x, 1)
    block = ops.node("Max", ops.node("Div", ops.constant([BLOCK]), count), one)  # tokens of each text
    turns = ops.node("Div", ops.node("Sub", ops.node("Add", length, block), one), block)
    mask = ops.node("Unsqueeze", ops.cast(ops.input("attention_mask"), ops.dtype), ops.constant([2]))
    shape = ops.node("Concat", count, ops.length(bias, 0), axis=0)
    before = ops.node("Expand", ops.constant(0, np.float32), shape)
    turn = ir.Value(name=f"turn_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    go_on = ir.Value(name=f"go_on_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    kept = ir.Value(name=f"kept_{ops.count}", shape=ir.Shape([None, None]), type=ir.TensorType(ir.DataType.FLOAT))

    def logged(logits: ir.Value) -> ir.Value:
        for _ in range(1 + twice):
            logits = ops.node("Log", ops.node("Add", logits, ops.constant(1, np.float32)))
        return logits

    def block_of() -> tuple[ir.Value, ir.Value]:
        start = ops.node("Mul", ops.node("Unsqueeze", turn, ops.constant([0])), block)
        tokens, seen = (ops.slice(part, start, ops.node("Add", start, block), 1) for part in (x, mask))
        logits = ops.node("Mul", ops.node("Relu", ops.node("Add", multiply(tokens), bias)), seen)
        axis = ops.constant([1])
        if sums:
            total = ops.node("ReduceSum", logged(ops.cast(logits, np.float32)), axis, keepdims=0)
            return ops.node("Identity", go_on), ops.node("Add", kept, total)
        greatest = ops.node("ReduceMax", logits, axis, keepdims=0)
        return ops.node("Identity", go_on), ops.node("Max", kept, ops.cast(greatest, np.float32))

    found = ops.node("Loop", ops.node("Squeeze", turns), None, before, body=ops.body(block_of, (turn, go_on, kept)))
    return found if sums else logged(found)
