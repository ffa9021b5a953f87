"""Scaled dot-product attention as fused ONNX nodes: whole, or for long texts block by block of queries in a Loop.

Attention is the faster operator for short texts. MultiHeadAttention is for long ones, and never has all their scores in memory,
but only without a mask of its own. The values are (n, length, heads * d).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converter.targets.onnx import prefix
from converter.targets.onnx.recorder import CONTRIB, Recorder

SHORT = 512  # tokens up to which all queries attend at once, where longer texts may come
MASKED_BLOCK = 512  # queries of a longer text whose scores are in memory at once
BLOCK = 2048  # the same where the operator holds no scores, unless it does not know the size of the CPU's cache


@dataclass(frozen=True)
class Attention:
    """The attention of one layer: how many heads its queries, and its keys and values (`groups`) have, and their width.

    causal, window, bias: as in shim.architectures.Ops.attention.
    """

    ops: Recorder
    heads: int
    groups: int
    size: int
    causal: bool
    window: int | None = None
    bias: ir.Value | None = None

    def __call__(self, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        """See shim.architectures.Ops.attention."""
        ops = self.ops
        if ops.prefixed:
            key, value = (prefix.extended(ops, part, self.groups * self.size) for part in (key, value))
        everything = not self.causal and self.window is None and self.bias is None and self.heads == self.groups  # but padding
        if ops.dtype is np.float16 and everything:  # a graph for GPUs, where this operator is the faster at any length
            return self._unmasked(*self._widened(query, key), value)
        bias, reached = self._bias_of_all(), self._reached_of_all()
        if not self._in_blocks:
            return self._masked(query, key, value, bias, reached)
        short = self._short()
        if everything:
            self._further()  # made outside the branch

        def in_blocks() -> ir.Value:
            if not everything:
                attend = self._whole if self.window is None else self._near
                return self._blocks(query, MASKED_BLOCK, lambda part, start, end: attend(part, key, value, start, end))
            wide, keys = self._widened(query, key)
            return self._blocks(wide, BLOCK, lambda part, *_: self._unmasked(part, keys, value))

        whole, blocks = ops.body(lambda: self._masked(query, key, value, bias, reached)), ops.body(in_blocks)
        return ops.node("If", short, then_branch=whole, else_branch=blocks)

    def _masked(
        self, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value, reached: ir.Value | None = None
    ) -> ir.Value:
        """bias: (n, 1, queries, keys), what is added to the scores. reached: `_reached` of it, where that is made already."""
        found = self.ops.node("Attention", query, key, value, bias, q_num_heads=self.heads, kv_num_heads=self.groups)
        if self.window is None or self.causal:
            return found
        return self.ops.node("Mul", found, reached or self._reached(bias))

    def _reached(self, bias: ir.Value) -> ir.Value:
        """(n, queries, 1): 1 for a query with any key, and 0 for one with none in its window, which gives 0 upstream, too."""
        ops = self.ops
        one = ops.constant(1, ops.dtype)
        keys = ops.node("ReduceSum", ops.node("Relu", ops.node("Add", bias, one)), ops.constant([3]), keepdims=1)
        return ops.node("Squeeze", ops.node("Min", keys, one), ops.constant([1]))

    def _reached_of_all(self) -> ir.Value | None:
        """`_reached` of all queries, made once for all layers that have the same; None where all of them have a key."""
        ops, name = self.ops, ("reached", self.window)
        if self.window is None or self.causal:
            return None
        if name not in ops.made:
            ops.made[name] = self._reached(self._bias_of_all())
        return ops.made[name]

    def _unmasked(self, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        """The operator that never has all scores in memory, as long as it is given no mask: `_widened` puts that elsewhere."""
        scale = self.size**-0.5
        return self.ops.node("MultiHeadAttention", query, key, value, domain=CONTRIB, num_heads=self.heads, scale=scale)

    def _widened(self, query: ir.Value, key: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Both with the further columns in each head."""
        ops = self.ops
        split, joined = (ops.constant([0, 0, *shape]) for shape in ((self.heads, self.size), (-1,)))
        pairs = zip((query, key), self._further(), strict=True)
        wide = [ops.node("Concat", ops.node("Reshape", part, split), columns, axis=3) for part, columns in pairs]
        query, key = (ops.node("Reshape", part, joined) for part in wide)
        return query, key

    def _further(self) -> tuple[ir.Value, ir.Value]:
        """What masks padding, (n, tokens, heads, columns) each: ones for queries; for keys 0 on tokens, on padding what no
        score reaches, and what is finite in sum with one.
        """
        ops, least = self.ops, -1e30 if self.ops.dtype is np.float32 else -1e4
        columns = 1 if self.ops.dtype is np.float32 else 8  # CUDA's fused kernels take multiples of 8
        if "ones" not in ops.made:
            seen = ops.node("Unsqueeze", ops.cast(ops.input("attention_mask"), np.bool_), ops.constant([2, 3]))
            added = ops.node("Where", seen, ops.constant(0, ops.dtype), ops.constant(least, ops.dtype))
            ops.made["padding"] = ops.node("Expand", added, ops.constant([1, 1, self.heads, columns]))
            ops.made["ones"] = ops.node("Expand", ops.constant(1, ops.dtype), ops.node("Shape", ops.made["padding"]))
        return ops.made["ones"], ops.made["padding"]

    def _short(self) -> ir.Value:
        """Whether the keys are few enough to be taken whole, a scalar."""
        ops = self.ops
        if "short" not in ops.made:
            length = ops.node("Squeeze", ops.length(self._seen(), 3))
            ops.made["short"] = ops.node("LessOrEqual", length, ops.constant(SHORT))
        return ops.made["short"]

    def _seen(self) -> ir.Value:
        """(n, 1, 1, keys), true on tokens; those of a prefix are all tokens."""
        ops = self.ops
        if "seen" not in ops.made:
            seen = ops.node("Unsqueeze", ops.cast(ops.input("attention_mask"), np.bool_), ops.constant([1, 2]))
            if ops.prefixed:
                count = ops.node("Concat", ops.length(seen, 0), ops.constant([1, 1]), prefix.length(ops), axis=0)
                seen = ops.node("Concat", ops.node("Expand", ops.constant(True, np.bool_), count), seen, axis=3)
            ops.made["seen"] = seen
        return ops.made["seen"]

    @property
    def _in_blocks(self) -> bool:
        """Whether the queries of a long text go block by block; a bias of all pairs is in memory whole, as it is upstream."""
        return self.ops.blocked and self.bias is None

    def _bias_of_all(self) -> ir.Value:
        """The bias of all queries, made once for all layers that have the same; of none where they go in blocks."""
        ops, name = self.ops, ("bias", self.causal, self.window, self.bias if self.bias is None else self.bias.name)
        if name not in ops.made:
            length = ops.length(ops.input("input_ids"), 1)
            if self._in_blocks:
                length = ops.node("Where", self._short(), length, ops.constant([0]))
            found = self._bias(self._seen(), ops.constant([0]), length)
            if self.bias is not None:
                found = ops.node("Add", found, ops.node("Transpose", self.bias, perm=[2, 0, 1]))
            ops.made[name] = found
        return ops.made[name]

    def _bias(self, seen: ir.Value, start: ir.Value, end: ir.Value, first: ir.Value | None = None) -> ir.Value:
        """(n, 1, end - start, keys): 0 on the keys that these queries attend to, else the least number.

        seen: of the keys from `first` on, from 0 on where that is None.
        """
        ops = self.ops
        # Half of it: added to a score it must stay finite, or a padded row without any key is NaN.
        kept, least = (ops.constant(number, ops.dtype) for number in (0, np.finfo(ops.dtype).min / 2))
        if not self.causal and self.window is None:
            rows = ops.node("Concat", ops.constant([1, 1]), ops.node("Sub", end, start), ops.constant([1]), axis=0)
            return ops.node("Expand", ops.node("Where", seen, kept, least), rows)
        if ops.prefixed:
            start, end = (ops.node("Add", place, prefix.length(ops)) for place in (start, end))
        keys = ops.length(seen, 3)
        rows, columns = self._places(start, end), self._places(first, keys if first is None else ops.node("Add", first, keys))
        rows = ops.node("Unsqueeze", rows, ops.constant([1]))
        if self.causal:
            seen = ops.node("And", ops.node("LessOrEqual", columns, rows), seen)
        if self.window is not None:
            reach = ops.constant(self.window)
            for low, high in ((columns, rows), (rows, columns)):
                seen = ops.node("And", ops.node("LessOrEqual", ops.node("Sub", low, reach), high), seen)
        return ops.node("Where", seen, kept, least)

    def _places(self, start: ir.Value | None, end: ir.Value) -> ir.Value:
        """start, start + 1, … before end; from 0 where start is None."""
        ops = self.ops
        first = ops.constant(0) if start is None else ops.node("Squeeze", start)
        return ops.node("Range", first, ops.node("Squeeze", end), ops.constant(1))

    def _whole(self, query: ir.Value, key: ir.Value, value: ir.Value, start: ir.Value, end: ir.Value) -> ir.Value:
        """The attention of the queries start to end; where it is causal, the keys behind them are as if there were none."""
        if not self.causal:
            return self._masked(query, key, value, self._bias(self._seen(), start, end))
        last = self.ops.node("Add", end, prefix.length(self.ops)) if self.ops.prefixed else end
        seen = self.ops.slice(self._seen(), 0, last, 3)
        key, value = (self.ops.slice(part, 0, last, 1) for part in (key, value))
        return self._masked(query, key, value, self._bias(seen, start, end))

    def _near(self, query: ir.Value, key: ir.Value, value: ir.Value, start: ir.Value, end: ir.Value) -> ir.Value:
        """The attention of the queries start to end, for which the keys that no window of theirs holds are as if none."""
        ops, reach = self.ops, self.ops.constant([self.window or 0])
        first = ops.node("Max", ops.node("Sub", start, reach), ops.constant([0]))
        last = end if self.causal else ops.node("Add", end, reach)
        seen = ops.slice(self._seen(), first, last, 3)
        key, value = (ops.slice(part, first, last, 1) for part in (key, value))
        return self._masked(query, key, value, self._bias(seen, start, end, first))

    def _blocks(self, query: ir.Value, most: int, attend: Callable[[ir.Value, ir.Value, ir.Value], ir.Value]) -> ir.Value:
        """What `attend` gives for blocks of up to `most` queries, joined. It gets a block and where that starts and ends."""
        ops, one = self.ops, self.ops.constant([1])
        # `turns` blocks of `block` queries each, the last one filled up with the first queries, which are cut off again.
        length = ops.length(query, 1)
        turns = ops.node("Div", ops.node("Add", length, ops.constant([most - 1])), ops.constant([most]))
        block = ops.node("Div", ops.node("Sub", ops.node("Add", length, turns), one), turns)
        missing = ops.node("Sub", ops.node("Mul", block, turns), length)
        query = ops.node("Concat", query, ops.slice(query, 0, missing, 1), axis=1)
        turn = ir.Value(name=f"turn_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
        go_on = ir.Value(name=f"go_on_{ops.count}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))

        def attended() -> tuple[ir.Value, ir.Value]:
            start = ops.node("Mul", ops.node("Unsqueeze", turn, ops.constant([0])), block)
            end = ops.node("Add", start, block)
            return ops.node("Identity", go_on), attend(ops.slice(query, start, end, 1), start, end)

        loop = ops.node("Loop", ops.node("Squeeze", turns), None, body=ops.body(attended, (turn, go_on)))
        joined = ops.node("Transpose", loop, perm=[1, 0, 2, 3])
        joined = ops.node("Reshape", joined, ops.constant([0, -1, self.heads * self.size]))
        return ops.slice(joined, 0, length, 1)


def relative(ops: Recorder, values: tuple[int, ...]) -> ir.Value:
    """See shim.architectures.Ops.relative."""
    reach, one = len(values) // 2, ops.constant(1)
    length = ops.node("Squeeze", ops.length(ops.input("input_ids"), 1))
    places = ops.node("Range", ops.constant(0), length, one)
    away = ops.node("Sub", places, ops.node("Unsqueeze", places, ops.constant([1])))
    near = ops.node("Min", ops.node("Max", away, ops.constant(-reach)), ops.constant(reach))
    return ops.node("Gather", ops.constant(values), ops.node("Add", near, ops.constant(reach)))
