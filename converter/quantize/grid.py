"""Round-to-nearest on an affine grid: every group of weights in a row gets `bits`-bit codes, one scale and one offset."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

GROUP_SIZES = (64, 32)
CANDIDATE_SIZES = (32, 64, 128)
POSITIONS = "position_embeddings"
POSITION_BITS = 8  # at least; few weights, and every token has one


@dataclass(frozen=True)
class Scheme:
    """How one matrix is stored: bits per code, and how many weights of a row share a scale."""

    bits: int
    group_size: int


@dataclass(frozen=True)
class Grid:
    """What a target stores of a group beside its codes.

    dtype: of scales and offsets; codes are chosen for the rounded values. integer_zero: the zero point, -offset / scale, is a
    code itself, as ONNX Runtime stores it; the span then includes zero. Otherwise the offset is any number, as in MLX.
    half: bits of codes whose scales are float16 whatever dtype says.
    """

    dtype: type = np.float16
    integer_zero: bool = False
    half: tuple[int, ...] = ()

    def kind(self, bits: int) -> type:
        """The type of the scales of codes of so many bits."""
        return np.float16 if bits in self.half else self.dtype


@dataclass(frozen=True)
class Codes:
    """A quantized matrix (rows, columns): weight = codes * scales + offsets, the last two repeated over each group.

    codes: (rows, columns) uint8, below 2**bits. scales, offsets: (rows, columns / group_size) float32, rounded to `dtype`.
    """

    codes: np.ndarray
    scales: np.ndarray
    offsets: np.ndarray
    scheme: Scheme

    def dequantize(self) -> np.ndarray:
        """(rows, columns) float32."""
        rows, columns = self.codes.shape
        weight = self.codes.reshape(rows, -1, self.scheme.group_size).astype(np.float32)
        weight *= self.scales[..., None]  # in place: of a word table, each copy is a gigabyte
        weight += self.offsets[..., None]
        return weight.reshape(rows, columns)

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the scheme, by name."""
        return {"codes": self.codes, "scales": self.scales, "offsets": self.offsets}

    @classmethod
    def join(cls, parts: "list[Codes]") -> "Codes":
        """Parts of one matrix, in the order of their rows, as one."""
        if len(parts) == 1:
            return parts[0]
        codes, scales, offsets = zip(*((part.codes, part.scales, part.offsets) for part in parts), strict=True)
        return cls(np.concatenate(codes), np.concatenate(scales), np.concatenate(offsets), parts[0].scheme)


def round_to_nearest(weight: np.ndarray, scheme: Scheme, grid: Grid) -> Codes:
    """Codes of a (rows, columns) float32 matrix whose columns are a multiple of the group size.

    The grid is the one of `mx.quantize`: it spans the group's least and greatest weight, is anchored at the one of larger
    magnitude, and has zero on it.
    """
    rows, columns = weight.shape
    grouped = weight.reshape(rows, columns // scheme.group_size, scheme.group_size)
    low, high = grouped.min(axis=2), grouped.max(axis=2)
    if grid.integer_zero:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    top, kind = np.float32(2**scheme.bits - 1), grid.kind(scheme.bits)
    span = np.maximum((high - low) / top, np.float32(1e-7))
    scales = np.where(np.abs(low) > np.abs(high), span, -span)
    anchor = np.where(np.abs(low) > np.abs(high), low, high)
    steps = np.round(anchor / scales)
    scales = np.where(steps == 0, scales, anchor / np.where(steps == 0, 1, steps)).astype(kind).astype(np.float32)
    scales = np.where(scales == 0, np.float32(np.finfo(kind).tiny), scales)
    if grid.integer_zero:
        offsets = steps.astype(np.float32) * scales
    else:
        offsets = np.where(steps == 0, 0, anchor).astype(kind).astype(np.float32)
    codes = np.round((grouped - offsets[..., None]) / scales[..., None])
    return Codes(np.clip(codes, 0, top).astype(np.uint8).reshape(rows, columns), scales, offsets, scheme)


def uniform(
    shapes: Mapping[str, tuple[int, ...]], full_precision: tuple[str, ...], bits: int, sizes: tuple[int, ...] = GROUP_SIZES
) -> dict[str, Scheme]:
    """{module: Scheme} with the same bits for every matrix and table, in groups of the first of `sizes` that divides a row.

    shapes: name -> shape of the model's tensors. full_precision: patterns of names that stay as they are.
    A weight whose rows no group size divides stays as it is, too, and so does a table of positions at 8 bits and over.
    """
    plan = {}
    for name, shape in shapes.items():
        group = next((size for size in sizes if len(shape) == 2 and shape[1] % size == 0), None)
        if not group or not name.endswith(".weight") or any(re.search(pattern, name) for pattern in full_precision):
            continue
        if POSITIONS not in name:
            plan[name.removesuffix(".weight")] = Scheme(bits, group)
        elif bits < POSITION_BITS:
            plan[name.removesuffix(".weight")] = Scheme(POSITION_BITS, group)
    return plan


def schemes(name: str, columns: int, widths: tuple[int, ...]) -> list[Scheme]:
    """Every way to store the matrix `name` with one of these bits, for rows of `columns` weights."""
    least = POSITION_BITS if POSITIONS in name else 0
    return [Scheme(bits, size) for bits in widths for size in CANDIDATE_SIZES if columns % size == 0 and bits >= least]
