"""Write a safetensors file tensor by tensor, so that no more than one is in memory."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def write(path: Path, layouts: dict[str, Layout], tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write `tensors`, which come in the order of `layouts`, behind a header made from the layouts alone.

    Raises ValueError when a tensor is not what its layout says: the file would be unreadable.
    Format: https://github.com/huggingface/safetensors, "Format".
    """
    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name, layout in layouts.items():
        header[name] = {"dtype": layout.type, "shape": layout.shape, "data_offsets": (end, end + layout.size)}
        end += layout.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    names = iter(layouts)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, array in tensors:
            layout = layouts[name]
            if name != next(names) or array.shape != layout.shape or array.dtype != TYPES[layout.type]:
                raise ValueError(f"tensor {name}: {array.dtype} {array.shape} is not the layout {layout}")
            file.write(np.ascontiguousarray(array).data)
        if next(names, None) is not None:
            raise ValueError(f"{path.name}: tensors missing")
