"""Which tensors are quantized, and how: the decision that the packers replay and the manifest records."""

import re

from converter.quantize.grid import Scheme

GROUP_SIZES = (64, 32)


def uniform(
    shapes: dict[str, tuple[int, ...]], full_precision: tuple[str, ...], bits: int, sizes: tuple[int, ...] = GROUP_SIZES
) -> dict[str, Scheme]:
    """{module: Scheme} with the same bits for every matrix and table, in groups of the first of `sizes` that divides a row.

    shapes: name -> shape of the model's tensors. full_precision: patterns of names that stay as they are.
    A weight whose rows no group size divides stays as it is, too.
    """
    plan = {}
    for name, shape in shapes.items():
        group = next((size for size in sizes if len(shape) == 2 and shape[1] % size == 0), None)
        if group and name.endswith(".weight") and not any(re.search(pattern, name) for pattern in full_precision):
            plan[name.removesuffix(".weight")] = Scheme(bits, group)
    return plan
