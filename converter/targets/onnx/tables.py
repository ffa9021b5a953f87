"""Tables of 5 to 7 bits, in standard operators: codes in planes of 4, 2 and 1 bits, put together for the rows looked up."""

import numpy as np
import onnx_ir as ir

from converter.quantize.grid import Scheme
from converter.targets.onnx.packed import initializers
from converter.targets.onnx.recorder import Recorder

BITS = (5, 6, 7)


def stored(rows: int, columns: int, scheme: Scheme) -> int:
    """Bytes of a table: its planes, and of each group a scale in float16 and a zero point of 8 bits."""
    return rows * (columns * scheme.bits // 8 + 3 * (columns // scheme.group_size))


def gather(ops: Recorder, name: str, scheme: Scheme, ids: ir.Value) -> ir.Value:
    """The rows `ids` of the table `name`, float32 (n, length, columns)."""
    rows, columns = ops.checkpoint.tensors[f"{name}.weight"].shape
    groups = columns // scheme.group_size
    table, steps, points = initializers(
        ops,
        name,
        scheme,
        (rows, columns * scheme.bits // 8),
        np.float16,
        lambda codes: planes(codes, scheme.bits),
        lambda zeros: zeros,
    )
    packed = ops.node("Gather", table, ids)
    whole, start, below = None, 0, 0
    for width in plane_widths(scheme.bits):
        end = start + columns * width // 8
        part = _unpacked(ops, ops.slice(packed, start, end, -1), width, below)
        whole = part if whole is None else ops.node("BitwiseOr", whole, part)
        start, below = end, below + width
    assert whole is not None
    shape = ops.node("Shape", ids)
    split, flat = (ops.constant(axes) for axes in ([groups, scheme.group_size], [columns]))
    grouped = ops.node("Reshape", ops.cast(whole, np.float32), ops.node("Concat", shape, split, axis=0))
    step, point = (
        ops.node("Unsqueeze", ops.cast(ops.node("Gather", part, ids), np.float32), ops.constant([-1]))
        for part in (steps, points)
    )
    found = ops.node("Mul", ops.node("Sub", grouped, point), step)
    return ops.node("Reshape", found, ops.node("Concat", shape, flat, axis=0))


def _unpacked(ops: Recorder, packed: ir.Value, width: int, below: int) -> ir.Value:
    """The codes' bits of one plane, `below` bits up, from its bytes."""
    parts = []
    for shift in range(0, 8, width):
        part = ops.node("BitShift", packed, ops.constant(shift, np.uint8), direction="RIGHT") if shift else packed
        parts.append(ops.node("BitwiseAnd", part, ops.constant(2**width - 1, np.uint8)))
    whole = ops.node("Concat", *parts, axis=-1)
    return ops.node("BitShift", whole, ops.constant(below, np.uint8), direction="LEFT") if below else whole


def plane_widths(bits: int) -> list[int]:
    """The widths of the planes that codes of 1 to 7 bits are stored in, lowest bits first."""
    return [width for width in (4, 2, 1) if bits & width]


def planes(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, columns) codes of `bits` bits, columns a multiple of 8, as (rows, columns * bits / 8) bytes.

    Plane after plane: of one of 2 bits, a byte holds those of a column of each quarter of the row, the first quarter's lowest.
    """
    found, below = [], 0
    for width in plane_widths(bits):
        parts = np.split((codes >> below) & (2**width - 1), 8 // width, axis=1)
        found.append(sum(part << (place * width) for place, part in enumerate(parts)))
        below += width
    return np.concatenate(found, axis=1).astype(np.uint8)
