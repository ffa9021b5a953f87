"""What all rows of a batch begin with, as keys and values: an optional input of a causal graph, and the output that makes it.

Both are (2 * layers, tokens, groups * d): each layer's keys, then its values. See shim.runtimes.Runtime. The input's default is
one token that does not count, for OpenVINO, which takes an array without elements for a scalar.
"""

import numpy as np
import onnx_ir as ir

from converter.targets.onnx.recorder import Recorder
from shim.runtimes import PRESENT
from shim.runtimes.onnx import PAST, PAST_LENGTH, PRESENT_LENGTH


def length(ops: Recorder) -> ir.Value:
    """Tokens of the prefix, (1,)."""
    return ops.option(PAST_LENGTH, np.zeros(1, np.int64))


def extended(ops: Recorder, part: ir.Value, width: int) -> ir.Value:
    """A layer's keys or values (n, tokens, width), behind those of the prefix, which are the same for every row."""
    index = len(ops.present)
    _past(ops).shape = ir.Shape([index + 1, "past_length", width])
    rows = ops.node("Concat", ops.length(part, 0), ops.constant([1, 1]), axis=0)
    end = ops.node("Concat", ops.constant([index + 1]), length(ops), axis=0)
    own = ops.node("Slice", _past(ops), ops.constant([index, 0]), end, ops.constant([0, 1]))
    before = ops.node("Expand", own, rows)
    part = ops.node("Concat", before, part, axis=1)
    ends = ops.node("Concat", ops.constant([1]), ops.option(PRESENT_LENGTH, np.zeros(1, np.int64)), axis=0)
    ops.present.append(ops.node("Slice", part, ops.constant([0, 0]), ends, ops.constant([0, 1])))
    return part


def output(ops: Recorder) -> list[ir.Value]:
    """The output, where the graph takes a prefix; the default of that is then one for all layers."""
    if not ops.present:
        return []
    past = _past(ops)
    assert past.shape is not None
    count, _, width = past.shape
    past.const_value = ir.Tensor(np.zeros((len(ops.present), 1, int(width)), ops.dtype), name=PAST)
    found = ops.node("Concat", *ops.present, axis=0)
    found.name, found.type, found.shape = PRESENT, past.type, ir.Shape([count, "present_length", width])
    return [found]


def _past(ops: Recorder) -> ir.Value:
    return ops.option(PAST, np.zeros((0, 0, 0), ops.dtype))
