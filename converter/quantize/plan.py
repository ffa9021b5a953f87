"""Which tensors are quantized, and how: the decision that the packers replay and the manifest records."""

import re

from converter.quantize.grid import Scheme

GROUP_SIZES = (64, 32)
CANDIDATE_SIZES = (32, 64, 128)
POSITIONS = "position_embeddings"
POSITION_BITS = 8  # at least; few weights, and every token has one


def uniform(
    shapes: dict[str, tuple[int, ...]], full_precision: tuple[str, ...], bits: int, sizes: tuple[int, ...] = GROUP_SIZES
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


def candidates(name: str, columns: int, widths: tuple[int, ...]) -> list[Scheme]:
    """Every way to store the matrix `name` with one of these bits, for rows of `columns` weights."""
    least = POSITION_BITS if POSITIONS in name else 0
    return [Scheme(bits, size) for bits in widths for size in CANDIDATE_SIZES if columns % size == 0 and bits >= least]
