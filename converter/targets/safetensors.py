"""Write safetensors files tensor by tensor, so that no more than one is in memory.

The library's own writers take all tensors of a file at once; those of bge-m3 in 16 bits are 1.1 GB.
"""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHARD = 5_000_000_000  # bytes, as the hub's own tools cut
TYPES = {"F16": np.float16, "F32": np.float32, "U32": np.uint32}


@dataclass(frozen=True)
class Layout:
    """A tensor's type (a key of TYPES) and shape, known before its values are."""

    type: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(TYPES[self.type]).itemsize


def write(
    directory: Path,
    layouts: dict[str, Layout],
    tensors: Iterable[tuple[str, np.ndarray]],
    stem: str = "model",
    shard: int = SHARD,
) -> None:
    """Write `tensors` to `stem`.safetensors behind a header made from the layouts alone, or to shards and their index.

    The tensors come in the order of `layouts`, each whole or in parts along its first axis. shard: bytes in a file.
    Raises ValueError when a tensor is not what its layout says: the file would be unreadable.
    Format: https://github.com/huggingface/safetensors, "Format"; shards as huggingface_hub names and indexes them.
    """
    files: list[dict[str, Layout]] = [{}]
    for name, layout in layouts.items():
        if files[-1] and sum(other.size for other in files[-1].values()) + layout.size > shard:
            files.append({})
        files[-1][name] = layout
    names = [f"{stem}-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    if len(files) == 1:
        names = [f"{stem}.safetensors"]
    else:
        weights = {name: file for file, part in zip(names, files, strict=True) for name in part}
        index = {"metadata": {"total_size": sum(layout.size for layout in layouts.values())}, "weight_map": weights}
        (directory / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    parts = iter(tensors)
    for name, part in zip(names, files, strict=True):
        _write_file(directory / name, part, parts)
    if next(parts, None) is not None:
        raise ValueError(f"{stem}: more tensors than layouts")


def _write_file(path: Path, layouts: dict[str, Layout], parts: Iterator[tuple[str, np.ndarray]]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, layout in layouts.items():
        header[name] = {"dtype": layout.type, "shape": layout.shape, "data_offsets": (end, end + layout.size)}
        end += layout.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, layout in layouts.items():
            written = 0
            while written < layout.size:
                found, array = next(parts, ("", np.empty(0)))
                if found != name or array.shape[1:] != layout.shape[1:] or array.dtype != TYPES[layout.type]:
                    raise ValueError(f"tensor {found}: {array.dtype} {array.shape} is not the layout of {name}, {layout}")
                written += array.nbytes
                file.write(np.ascontiguousarray(array).data)
            if written > layout.size:
                raise ValueError(f"tensor {name}: {written} bytes, its layout has {layout.size}")
