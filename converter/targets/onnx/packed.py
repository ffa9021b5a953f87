"""Packed codes of 4 or 8 bits: multiplied by ORT's own operator, widened, or looked up as the rows of a table."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from converter.quantize.grid import Codes, Scheme
from converter.targets.onnx.recorder import CONTRIB, Recorder

ROUNDED = 4  # the accuracy level of MatMulNBits at which inputs are rounded to 8 bits
Pack = Callable[[np.ndarray], np.ndarray]  # (rows, n) whole numbers to the bytes of each row


def stored(rows: int, columns: int, scheme: Scheme) -> int:
    """Bytes of a matrix: codes, and of each group a scale in float32 and a zero point as wide as a code."""
    groups = columns // scheme.group_size
    return rows * (columns * scheme.bits // 8 + 4 * groups + -(-groups * scheme.bits // 8))


def gather(ops: Recorder, name: str, scheme: Scheme, ids: ir.Value) -> ir.Value:
    """The rows `ids` of the table `name`, (n, length, columns)."""
    codes, scales, zeros = _initializers(ops, name, scheme, ops.checkpoint.tensors[f"{name}.weight"].shape)
    parts, bits, size = (codes, ids, scales, zeros), scheme.bits, scheme.group_size
    return ops.node("GatherBlockQuantized", *parts, domain=CONTRIB, bits=bits, block_size=size, gather_axis=0, quantize_axis=1)


def multiply(ops: Recorder, name: str, scheme: Scheme, x: ir.Value, level: int) -> ir.Value:
    """The product with packed codes; with the level ROUNDED of inputs that the kernel rounds to 8 bits, a scale a group."""
    rows, columns = ops.checkpoint.tensors[f"{name}.weight"].shape
    codes, scales, zeros = _initializers(ops, name, scheme, (rows, columns // scheme.group_size, scheme.group_size))
    parts = {"K": columns, "N": rows, "bits": scheme.bits, "block_size": scheme.group_size}
    inputs = x, codes, scales, zeros
    return ops.node("MatMulNBits", *inputs, domain=CONTRIB, name=name, **parts, accuracy_level=level)


def widened(ops: Recorder, name: str, scheme: Scheme) -> ir.Value:
    """The (in, out) matrix that 8-bit codes stand for, of constants alone: a runtime computes it once, when it loads.

    Multiplying by 8-bit codes as they are, onnxruntime's MatMulNBits unpacks the whole matrix for each batch.
    """
    rows, columns = ops.checkpoint.tensors[f"{name}.weight"].shape
    groups = columns // scheme.group_size
    codes, scales, zeros = _initializers(ops, name, scheme, (rows, groups, scheme.group_size))
    steps, points = (ops.node("Reshape", part, ops.constant([rows, groups, 1])) for part in (scales, zeros))
    centred = ops.node("Sub", ops.cast(codes, np.float32), ops.cast(points, np.float32))
    whole = ops.node("Reshape", ops.node("Mul", centred, steps), ops.constant([rows, columns]))
    return ops.node("Transpose", whole, perm=[1, 0])


def _initializers(ops: Recorder, name: str, scheme: Scheme, shape: tuple[int, ...]) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The codes (in `shape`), scales and zero points of a matrix; each row's zero points begin a byte of their own."""

    def packs(numbers: np.ndarray) -> np.ndarray:
        return pack(numbers, scheme.bits)

    return initializers(ops, name, scheme, (*shape[:-1], shape[-1] * scheme.bits // 8), ops.dtype, packs, packs)


def initializers(
    ops: Recorder,
    name: str,
    scheme: Scheme,
    shape: tuple[int, ...],
    dtype: type,
    pack_codes: Pack,
    pack_points: Pack,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The codes, scales and zero points of the matrix `name`, made once, when the codes are written.

    shape: of the codes' bytes. dtype: of the scales.
    """
    rows, columns = ops.checkpoint.tensors[f"{name}.weight"].shape
    groups = columns // scheme.group_size
    wide = pack_points(np.zeros((1, groups), np.uint8)).shape[1]  # bytes of a row's zero points
    scales: list[np.ndarray] = []
    zeros: list[np.ndarray] = []

    def codes() -> Iterator[np.ndarray]:
        scales.clear()
        zeros.clear()
        for part in ops.codes.parts(name):
            found, scale, zero = unsigned(part)
            scales.append(scale.astype(dtype))
            zeros.append(pack_points(zero))
            yield pack_codes(found)
        ops.done()

    return (  # written in this order
        ops.weight(f"{name}.weight_quant", shape, np.uint8, codes),
        ops.weight(f"{name}.weight_scales", (rows, groups), dtype, lambda: scales),
        ops.weight(f"{name}.weight_zero_points", (rows, wide), np.uint8, lambda: zeros),
    )


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) codes of 1, 2, 4 or 8 bits, 8 / bits to a byte, the first in its lowest bits; (rows, bytes) uint8.

    What is left over of a last byte holds the middle code, as in ONNX Runtime's own packing.
    """
    per_byte = 8 // bits
    whole = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_byte)), constant_values=2 ** (bits - 1))
    found = whole[:, ::per_byte]
    for place in range(1, per_byte):
        found = found | (whole[:, place::per_byte] << (bits * place))
    return found


def unsigned(codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, positive scales and uint8 zero points with weight = (code - zero) * scale, from codes with an integer zero.

    A group with a negative scale is turned over: q and z become top - q and top - z, and the scale changes its sign.
    """
    top = 2**codes.scheme.bits - 1
    zeros = np.round(-codes.offsets / codes.scales)
    flip = codes.scales < 0
    rows, columns = codes.codes.shape
    grouped = codes.codes.reshape(rows, -1, codes.scheme.group_size)
    turned = np.where(flip[..., None], top - grouped, grouped).astype(np.uint8)
    return turned.reshape(rows, columns), np.abs(codes.scales), np.where(flip, top - zeros, zeros).astype(np.uint8)
