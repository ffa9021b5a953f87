"""MLX: `config.json` with its quantization and `model.safetensors`, as mlx-lm and mlx-embeddings write and load them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from converter.checkpoint import Checkpoint
from converter.quantize.grid import Codes, Scheme, round_to_nearest
from converter.recipe import Recipe
from converter.targets import safetensors
from converter.targets.safetensors import Layout

BITS = (2, 3, 4, 5, 6, 8, 16)
DEFAULT_BITS = 4
ROWS = 8192  # rows packed at a time: a bit per byte is eight times the codes


def write(
    recipe: Recipe, checkpoint: Checkpoint, plan: dict[str, Scheme], bits: int, directory: Path, done: Callable[[], None]
) -> None:
    """Write the weights into `directory`: quantized as `plan` says, the others in float16.

    `done` is called after each tensor.
    """
    del recipe  # `config.json` says what other loaders ask
    layouts: dict[str, Layout] = {}
    for name, tensor in checkpoint.tensors.items():
        layouts |= _layout(name, tensor.shape, plan.get(name.removesuffix(".weight")))

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name in checkpoint.tensors:
            scheme = plan.get(name.removesuffix(".weight"))
            if scheme is None:
                yield name, checkpoint.read(name, np.float16)
            else:
                codes = round_to_nearest(checkpoint.read(name), scheme)
                yield name, pack(codes.codes, scheme.bits)
                yield from _scales(name, codes)
            done()

    safetensors.write(directory / "model.safetensors", layouts, tensors())
    config = dict(checkpoint.config)
    if plan:
        config["quantization"] = config["quantization_config"] = quantization(plan, bits)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def quantization(plan: dict[str, Scheme], bits: int) -> dict[str, object]:
    """The `quantization` of `config.json`: the commonest settings, and an entry for every module that has others."""
    sizes = [scheme.group_size for scheme in plan.values()]
    common = Scheme(bits, max(set(sizes), key=sizes.count))
    others = {name: {"group_size": scheme.group_size, "bits": scheme.bits} for name, scheme in plan.items() if scheme != common}
    return {"group_size": common.group_size, "bits": common.bits, "mode": "affine", **others}


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, columns) uint8 codes as (rows, columns * bits / 32) uint32.

    Each row is one little-endian stream of bits, as `mx.quantize` lays it out.
    """
    rows, columns = codes.shape
    if bits == 8:
        return np.ascontiguousarray(codes).view("<u4")
    packed = np.empty((rows, columns * bits // 32), "<u4")
    for start in range(0, rows, ROWS):
        chunk = codes[start : start + ROWS, :, None]
        stream = np.unpackbits(chunk, axis=2, count=bits, bitorder="little").reshape(len(chunk), -1)
        packed[start : start + ROWS] = np.packbits(stream, axis=1, bitorder="little").view("<u4")
    return packed


def _layout(name: str, shape: tuple[int, ...], scheme: Scheme | None) -> dict[str, Layout]:
    if scheme is None:
        return {name: Layout("F16", shape)}
    module, (rows, columns) = name.removesuffix(".weight"), shape
    groups = Layout("F16", (rows, columns // scheme.group_size))
    return {name: Layout("U32", (rows, columns * scheme.bits // 32)), f"{module}.scales": groups, f"{module}.biases": groups}


def _scales(name: str, codes: Codes) -> Iterator[tuple[str, np.ndarray]]:
    module = name.removesuffix(".weight")
    yield f"{module}.scales", codes.scales.astype(np.float16)
    yield f"{module}.biases", codes.offsets.astype(np.float16)
