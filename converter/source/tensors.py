"""Single tensors in the files of a checkpoint, safetensors or pickles: where each lies, and its values."""

import contextlib
import dataclasses
import functools
import math
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from shim.errors import SourceError

if TYPE_CHECKING:
    import torch

FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F64": np.float64}
OTHERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")  # what a file may hold beside weights
CHUNK = 1 << 25  # bytes of float32 that are read at a time
LEGACY = -1  # offset of a tensor in a pickle from before torch 1.6, which is read whole


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, its name there, its shape, and its type, one of FLOATS or OTHERS.

    first: the row of the file's tensor that it begins with. rows: those that it is made of; empty for all from `first` on.
    offset: its first byte in a pickle. strides: elements from one index to the next on each axis; empty where rows follow
    each other. stack: tensors that are this one's parts on a new first axis, each with its two axes swapped.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    type: str
    first: int = 0
    rows: tuple[int, ...] = ()
    offset: int | None = None
    strides: tuple[int, ...] = ()
    stack: "tuple[Tensor, ...]" = ()

    def rows_from(self, first: int, count: int) -> "Tensor":
        """`count` of its rows. Raises SourceError where the file does not have them in order."""
        if self.strides or self.offset == LEGACY:
            raise SourceError(f"{self.file.name}: tensor {self.key} is of several modules; save it as safetensors first")
        return dataclasses.replace(self, first=self.first + first, shape=(count, *self.shape[1:]))


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """(tensors, columns, rows) of matrices of one shape."""
    first = tensors[0]
    return dataclasses.replace(first, shape=(len(tensors), *first.shape[::-1]), stack=tuple(tensors))


def index_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Only the header is read. Raises SourceError for a file that is not whole."""
    try:
        with safe_open(path, "np") as file:
            slices = {key: file.get_slice(key) for key in file.offset_keys()}  # in the file's order
            found = {key: Tensor(path, key, tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing; is the download complete?") from None
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path}: not readable as safetensors ({error}); is the download complete?") from None
    for key, tensor in found.items():
        if tensor.type not in (*FLOATS, *OTHERS):
            raise SourceError(f"{path}: tensor {key} has type {tensor.type}, which is not supported")
    return found


def parts(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor as tensors of CHUNK bytes at most, cut along its first axis where the file has its rows in order."""
    if tensor.stack:
        yield from (dataclasses.replace(tensor, shape=(1, *tensor.shape[1:]), stack=(part,)) for part in tensor.stack)
        return
    if tensor.strides or tensor.rows or tensor.offset == LEGACY or not tensor.shape:
        yield tensor
        return
    rows = max(1, CHUNK // (4 * max(1, math.prod(tensor.shape[1:]))))
    for start in range(0, tensor.shape[0], rows):
        shape = (min(rows, tensor.shape[0] - start), *tensor.shape[1:])
        yield dataclasses.replace(tensor, shape=shape, first=tensor.first + start)


def read(tensor: Tensor) -> np.ndarray:
    """The values in float32 (float64 stays as it is)."""
    if tensor.stack:
        return np.stack([read(part).T for part in tensor.stack])
    if tensor.type not in FLOATS:
        raise SourceError(f"{tensor.file.name}: tensor {tensor.key} has type {tensor.type}, not a floating-point one")
    array = _from_safetensors(tensor) if tensor.offset is None else _from_pickle(tensor)
    return array if tensor.type == "F64" else array.astype(np.float32, copy=False)


def _from_safetensors(tensor: Tensor) -> np.ndarray:
    try:
        with safe_open(tensor.file, "np") as file:
            if not tensor.shape:
                return np.asarray(file.get_tensor(tensor.key))
            whole = file.get_slice(tensor.key)
            if tensor.rows:
                return np.concatenate([whole[row : row + 1] for row in tensor.rows])
            return np.asarray(whole[tensor.first : tensor.first + tensor.shape[0]])
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{tensor.file}: tensor {tensor.key} cannot be read ({error})") from None


def _from_pickle(tensor: Tensor) -> np.ndarray:
    if tensor.offset == LEGACY:
        whole: np.ndarray = _legacy(tensor.file)[tensor.key].float().numpy()
        return whole[list(tensor.rows)] if tensor.rows else whole
    kind, width = np.dtype(FLOATS[tensor.type]), math.prod(tensor.shape[1:])
    begin = (tensor.offset or 0) + tensor.first * width * kind.itemsize
    if tensor.rows:
        offsets = [begin + row * width * kind.itemsize for row in tensor.rows]
        return np.stack([np.fromfile(tensor.file, kind, width, offset=offset) for offset in offsets])
    if not tensor.strides:
        return np.fromfile(tensor.file, kind, math.prod(tensor.shape), offset=begin).reshape(tensor.shape)
    count = 1 + sum((axis - 1) * stride for axis, stride in zip(tensor.shape, tensor.strides, strict=True))
    flat = np.fromfile(tensor.file, kind, count, offset=begin)
    if len(flat) < count:
        raise SourceError(f"{tensor.file}: tensor {tensor.key} ends behind the file; is the download complete?")
    bytes_apart = [stride * kind.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, bytes_apart, writeable=False)


@functools.lru_cache(maxsize=1)
def _legacy(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    tables: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
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
            if zipped and any(entry.compress_type for entry in zipfile.ZipFile(file).infolist()):
                raise SourceError(f"{path}: refused, it is compressed, as torch.save leaves no file: it may fill the memory")
        with FakeTensorMode() if zipped else contextlib.nullcontext():
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing; is the download complete?") from None
    except pickle.UnpicklingError:
        raise SourceError(f"{path}: refused, it is damaged or unpickling it needs more than tensors (weights_only)") from None
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: not readable ({str(error).splitlines()[0]}); is the download complete?") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise SourceError(f"{path}: not a table of tensors")
    found = {}
    for key, value in tensors.items():
        kind, strides = types.get(value.dtype, str(value.dtype)), () if value.is_contiguous() else value.stride()
        if not zipped:
            found[key] = Tensor(path, key, tuple(value.shape), kind, offset=LEGACY)
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
        found[key] = Tensor(path, key, tuple(value.shape), kind, offset=start, strides=strides)
    return found
