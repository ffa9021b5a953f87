"""MLX: `config.json` with its quantization and `model.safetensors`, as mlx-lm and mlx-embeddings write and load them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from converter.candidate import Candidate
from converter.quantize.grid import Codes, Grid, Scheme
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.targets import safetensors
from converter.targets.safetensors import Layout
from shim.jsons import JsonObject

TABLE_BITS = ()
GRID = Grid(np.float16, integer_zero=False)
INTEGERS = False
APART = ("sparse_linear.", "colbert_linear.", "score.", "dense.")


def stored(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """Bytes of a (rows, columns) weight: its codes, and a scale and an offset in float16 for each group."""
    count = shape[0] * shape[1]
    return 2 * count if scheme is None else count * scheme.bits // 8 + 4 * count // scheme.group_size


def write(
    recipe: Recipe,
    checkpoint: Checkpoint,
    candidate: Candidate,
    bits: int,
    directory: Path,
    done: Callable[[], None],
) -> None:
    """See Target.write. What is not quantized is float16.

    Heads that other loaders do not know have a file each, named after their module.
    """
    plan = candidate.plan
    apart = {name: name.split(".")[0] for name in checkpoint.heads if name.startswith(APART)}
    layouts: dict[str, Layout] = {}
    for name, tensor in checkpoint.tensors.items():
        if name not in apart:
            layouts |= _layout(name, tensor.shape, plan.get(name.removesuffix(".weight")))

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for name in checkpoint.tensors:
            if name in apart:
                continue
            scheme = plan.get(name.removesuffix(".weight"))
            if scheme is None:
                yield from ((name, part) for part in checkpoint.chunks(name, np.float16))
            else:
                yield from _packed(name, candidate.codes.parts(name.removesuffix(".weight")))
            done()

    safetensors.write(directory, layouts, tensors())
    for module in sorted(set(apart.values())):
        names = [name for name in apart if apart[name] == module]
        head = {name: Layout("F16", checkpoint.tensors[name].shape) for name in names}
        safetensors.write(directory, head, ((name, checkpoint.read(name, np.float16)) for name in names), module)
    config = dict(checkpoint.config)
    if recipe.task == "embed" and config.get("tie_word_embeddings") is False:
        config["tie_word_embeddings"] = True  # an embedding has no head, and mlx-lm would look for one
    if plan:
        config["quantization"] = config["quantization_config"] = quantization(plan, bits)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def quantization(plan: dict[str, Scheme], bits: int) -> JsonObject:
    """The `quantization` of `config.json`: the commonest settings, and an entry for every module that has others."""
    sizes = [scheme.group_size for scheme in plan.values()]
    common = Scheme(bits, max(set(sizes), key=sizes.count))
    others: JsonObject = {
        name: {"group_size": scheme.group_size, "bits": scheme.bits} for name, scheme in plan.items() if scheme != common
    }
    return {"group_size": common.group_size, "bits": common.bits, "mode": "affine", **others}


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """(rows, columns) uint8 codes as (rows, columns * bits / 32) uint32.

    Each row is one little-endian stream of bits, as `mx.quantize` lays it out.
    """
    rows = len(codes)
    if bits == 8:
        return np.ascontiguousarray(codes).view("<u4")
    stream = np.unpackbits(codes[..., None], axis=2, count=bits, bitorder="little").reshape(rows, -1)
    return np.packbits(stream, axis=1, bitorder="little").view("<u4")


def _layout(name: str, shape: tuple[int, ...], scheme: Scheme | None) -> dict[str, Layout]:
    if scheme is None:
        return {name: Layout("F16", shape)}
    module, (rows, columns) = name.removesuffix(".weight"), shape
    groups = Layout("F16", (rows, columns // scheme.group_size))
    return {name: Layout("U32", (rows, columns * scheme.bits // 32)), f"{module}.scales": groups, f"{module}.biases": groups}


def _packed(name: str, parts: Iterator[Codes]) -> Iterator[tuple[str, np.ndarray]]:
    module, scales, offsets = name.removesuffix(".weight"), [], []
    for part in parts:
        scales.append(part.scales.astype(np.float16))
        offsets.append(part.offsets.astype(np.float16))
        yield name, pack(part.codes, part.scheme.bits)
    yield f"{module}.scales", np.concatenate(scales)
    yield f"{module}.biases", np.concatenate(offsets)
