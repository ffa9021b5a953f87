"""Scaled dot-product attention as ONNX nodes: whole, or for long texts block by block of queries in a Loop."""

import numpy as np
import onnx_ir as ir

from converter.targets.onnx.recorder import Recorder

BLOCK = 512  # queries whose scores are in memory at once; texts up to this long take one turn of the loop


def attend(
    ops: Recorder, query: ir.Value, key: ir.Value, value: ir.Value, sizes: tuple[int, int, int], causal: bool
) -> ir.Value:
    """See shim.architectures.Ops.attention; sizes: heads of the query, heads of key and value, width of a head."""
    heads, groups, size = sizes
    query = ops.node("Mul", query, ops.constant(size**-0.5, ops.dtype))
    key = ops.node("Transpose", key, perm=[0, 1, 3, 2])
    if groups != heads:  # a further axis over the query heads that share a key, along which MatMul repeats the key
        query = ops.node("Reshape", query, ops.constant([0, groups, heads // groups, -1, size]))
        key, value = (ops.node("Unsqueeze", part, ops.constant([2])) for part in (key, value))
    rank = 4 if groups == heads else 5
    mask = _key_mask(ops, rank, causal)
    length = ops.length(ops.input("input_ids"), 1)
    if not ops.blocked:
        found = _scores_to_values(ops, query, key, value, mask, (ops.constant([0]), length) if causal else None)
        found = ops.node("Reshape", found, ops.constant([0, heads, -1, size]))
        joined = ops.node("Transpose", found, perm=[0, 2, 1, 3])
        return ops.node("Reshape", joined, ops.constant([0, 0, heads * size]))
    # `turns` blocks of `block` queries each, the last one filled up with zeros that are cut off again.
    one = ops.constant([1])
    turns = ops.node("Div", ops.node("Add", length, ops.constant([BLOCK - 1])), ops.constant([BLOCK]))
    block = ops.node("Div", ops.node("Sub", ops.node("Add", length, turns), one), turns)
    missing = ops.node("Sub", ops.node("Mul", block, turns), length)
    pads = ops.node("Concat", ops.constant([0]), missing, axis=0)
    query = ops.node("Pad", query, pads, ops.constant(0, ops.dtype), ops.constant([rank - 2]))
    turn = ir.Value(name=f"turn_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    go_on = ir.Value(name=f"go_on_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    outer, ops.nodes = ops.nodes, []
    start = ops.node("Mul", ops.node("Unsqueeze", turn, ops.constant([0])), block)
    end = ops.node("Add", start, block)
    part = ops.slice(query, start, end, rank - 2)
    if causal:
        key, value, mask = (
            ops.slice(key, 0, end, rank - 1),
            ops.slice(value, 0, end, rank - 2),
            ops.slice(mask, 0, end, rank - 1),
        )
    found = _scores_to_values(ops, part, key, value, mask, (start, end) if causal else None)
    body, ops.nodes = ops.nodes, outer
    again = ir.node("Identity", (go_on,), name=f"Identity_{ops.count}")
    again.outputs[0].name = f"{again.name}_output"
    loop = ir.Graph(inputs=(turn, go_on), outputs=(again.outputs[0], found), nodes=(*body, again), name=f"attend_{ops.count}")
    blocks = ops.node("Loop", ops.node("Squeeze", turns, ops.constant([0])), None, body=loop)
    blocks = ops.node("Reshape", blocks, ops.constant([0, 0, heads, -1, size]))
    joined = ops.node("Reshape", ops.node("Transpose", blocks, perm=[1, 0, 3, 2, 4]), ops.constant([0, -1, heads * size]))
    return ops.slice(joined, 0, length, 1)


def _scores_to_values(
    ops: Recorder,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value,
    places: tuple[ir.Value, ir.Value] | None,
) -> ir.Value:
    """softmax(query @ key, masked) @ value; places: the first query's and behind the last one's, where attention is causal."""
    scores = ops.node("MatMul", query, key)
    if places is None:
        scores = ops.node("Add", scores, mask)
    else:
        zero, one = ops.constant(0), ops.constant(1)
        start, end = (ops.node("Squeeze", place, ops.constant([0])) for place in places)
        rows = ops.node("Unsqueeze", ops.node("Range", start, end, one), ops.constant([1]))
        last = ops.node("Squeeze", ops.node("Shape", key, start=-1), ops.constant([0]))
        columns = ops.node("Unsqueeze", ops.node("Range", zero, last, one), ops.constant([0]))
        seen = ops.node("And", ops.node("LessOrEqual", columns, rows), mask)
        # Chosen, not added: where every key of a padded row is masked, a sum could be infinite, and the row NaN.
        scores = ops.node("Where", seen, scores, ops.constant(np.finfo(ops.dtype).min, ops.dtype))
    return ops.node("MatMul", ops.node("Softmax", scores, axis=-1), value)


def _key_mask(ops: Recorder, rank: int, causal: bool) -> ir.Value:
    """(n, 1, …, length) of `rank` axes. Causal: true on tokens; else 0 on tokens, the least finite number on padding."""
    name = ("mask", rank, causal)
    if name not in ops.made:
        axes = ops.constant(list(range(1, rank - 1)))
        seen = ops.cast(ops.node("Unsqueeze", ops.input("attention_mask"), axes), np.bool_)
        least = ops.constant(np.finfo(ops.dtype).min, ops.dtype)
        ops.made[name] = seen if causal else ops.node("Where", seen, ops.constant(0, ops.dtype), least)
    return ops.made[name]
