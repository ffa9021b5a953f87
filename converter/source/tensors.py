"""Single tensors in the files of a checkpoint, safetensors or pickles: where each lies, and its values."""

import contextlib
import dataclasses
import functools
import json
import math
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shim.errors import SourceError

# Weights as numpy reads them (BF16 is the upper half of a float32), and what else a file may hold beside them.
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
SIZES = OTHERS | {name: np.dtype(kind).itemsize for name, kind in FLOATS.items()}  # bytes of an element
CHUNK = 1 << 25  # bytes of float32 that are read at a time
NOWHERE = -1  # offset of a tensor in a pickle from before torch 1.6, which is read whole
MAX_HEADER = 100_000_000  # bytes; the format's own limit


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, its name there, its shape, its type (a key of SIZES), and its first byte.

    strides: elements from one index to the next on each axis; empty where rows follow each other.
    rows: those of the file's rows that this tensor is made of; empty for all of them.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    type: str
    offset: int
    strides: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


def index_safetensors(path: Path) -> dict[str, Tensor]:
    """Format: https://github.com/huggingface/safetensors, "Format". Only the header is read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        start, end, found = 8 + length, 8 + length, {}
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            first, last = entry["data_offsets"]
            shape = tuple(int(axis) for axis in entry["shape"])
            if start + first != end:
                raise ValueError(f"tensor {key} does not begin where the one before it ends")
            if entry["dtype"] not in SIZES:
                raise ValueError(f"tensor {key} has type {entry['dtype']}, which is not supported")
            if last - first != math.prod(shape) * SIZES[entry["dtype"]]:
                raise ValueError(f"tensor {key} has {last - first} bytes for {entry['dtype']} {list(shape)}")
            found[key] = Tensor(path, key, shape, entry["dtype"], start + first)
            end = start + last
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing; is the download complete?") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise SourceError(f"{path}: not readable as safetensors ({error}); is the download complete?") from None
    if end != size:
        raise SourceError(f"{path}: {size} bytes, but its header lists {end}; is the download complete?")
    return found


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor as tensors of CHUNK bytes at most, cut along its first axis where the file has its rows in order."""
    if tensor.strides or tensor.rows or tensor.offset == NOWHERE:
        yield tensor
        return
    width = math.prod(tensor.shape[1:])
    rows = max(1, CHUNK // (4 * max(1, width)))
    for start in range(0, tensor.shape[0], rows):
        shape = (min(rows, tensor.shape[0] - start), *tensor.shape[1:])
        yield dataclasses.replace(tensor, shape=shape, offset=tensor.offset + start * width * SIZES[tensor.type])


def read(tensor: Tensor) -> np.ndarray:
    """The values in float32 (float64 stays as it is)."""
    # Plain reads, not a memory map: pages of a map count as ours until the system wants them back.
    if tensor.type not in FLOATS:
        raise SourceError(f"{tensor.file.name}: tensor {tensor.key} has type {tensor.type}, not a floating-point one")
    kind = np.dtype(FLOATS[tensor.type])
    if tensor.offset == NOWHERE:
        whole = _legacy(tensor.file)[tensor.key].float().numpy()
        return whole[list(tensor.rows)] if tensor.rows else whole
    if tensor.rows:
        width = tensor.shape[1] * kind.itemsize
        offsets = [tensor.offset + row * width for row in tensor.rows]
        array = np.stack([np.fromfile(tensor.file, kind, tensor.shape[1], offset=offset) for offset in offsets])
    elif tensor.strides:
        count = 1 + sum((axis - 1) * stride for axis, stride in zip(tensor.shape, tensor.strides, strict=True))
        flat = np.fromfile(tensor.file, kind, count, offset=tensor.offset)
        if len(flat) < count:
            raise SourceError(f"{tensor.file}: tensor {tensor.key} ends behind the file; is the download complete?")
        bytes_apart = [stride * kind.itemsize for stride in tensor.strides]
        array = np.lib.stride_tricks.as_strided(flat, tensor.shape, bytes_apart, writeable=False)
    else:
        array = np.fromfile(tensor.file, kind, math.prod(tensor.shape), offset=tensor.offset).reshape(tensor.shape)
    if tensor.type == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array if tensor.type == "F64" else array.astype(np.float32, copy=False)


@functools.lru_cache(maxsize=1)
def _legacy(path: Path) -> dict[str, Any]:
    import torch

    tables: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return tables


def index_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by name: what `torch.load` makes of it with `weights_only`, without reading their values.

    Raises SourceError for a file that is damaged or that needs to run code.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    types = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.bool: "BOOL"}
    types |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        with FakeTensorMode() if zipped else contextlib.nullcontext():
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing; is the download complete?") from None
    except pickle.UnpicklingError:
        raise SourceError(f"{path}: refused, it is damaged or unpickling it needs more than tensors (weights_only)") from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise SourceError(f"{path}: not readable ({str(error).splitlines()[0]}); is the download complete?") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise SourceError(f"{path}: not a table of tensors")
    found = {}
    for key, value in tensors.items():
        kind, strides = types.get(value.dtype, str(value.dtype)), () if value.is_contiguous() else value.stride()
        if not zipped:
            found[key] = Tensor(path, key, tuple(value.shape), kind, NOWHERE)
            continue
        # Fake tensors carry the place of their storage in the file: https://pytorch.org/docs/stable/notes/serialization.html
        start = value.untyped_storage()._checkpoint_offset + value.storage_offset() * value.element_size()
        count = (
            1 + sum((axis - 1) * stride for axis, stride in zip(value.shape, strides, strict=True))
            if strides
            else value.numel()
        )
        if start + count * value.element_size() > size:
            raise SourceError(f"{path}: tensor {key} ends behind the file; is the download complete?")
        found[key] = Tensor(path, key, tuple(value.shape), kind, start, strides)
    return found
