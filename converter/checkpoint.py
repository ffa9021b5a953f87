"""The tensors of a PyTorch checkpoint, whichever files hold them, read one at a time."""

import dataclasses
import functools
import json
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from shim.artifact import hash_file
from shim.errors import SourceError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
# Beside the weights: what other loaders and the shim need to make the same vectors.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# Weights as numpy reads them (BF16 is the upper half of a float32), and what else a file may hold beside them.
FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}
OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8}
SIZES = OTHERS | {name: np.dtype(kind).itemsize for name, kind in FLOATS.items()}  # bytes of an element
MAX_HEADER = 100_000_000  # bytes; the format's own limit


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, its name there, its shape, and in safetensors its type and first byte."""

    file: Path
    key: str
    shape: tuple[int, ...]
    type: str = ""
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An original: its directory, its parsed `config.json`, and its tensors by final name.

    origin: `repo` and `revision`: those of the hub, `pkg:MODULE` and its version, or `dir:NAME` and nothing.
    """

    directory: Path
    origin: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def read(self, name: str, dtype: type = np.float32) -> np.ndarray:
        """The tensor `name` as `dtype`, float32 or float16. Raises SourceError when it is not finite, there or as `dtype`."""
        tensor = self.tensors[name]
        array = _read_pickled(tensor) if tensor.file.name == PICKLE else _read_safetensors(tensor)
        if not np.isfinite(array).all():
            raise SourceError(f"{tensor.file.name}: tensor {tensor.key} holds NaN or infinity")
        if np.abs(array).max(initial=0) > np.finfo(dtype).max:
            raise SourceError(f"{tensor.file.name}: tensor {tensor.key} is out of the range of {np.dtype(dtype).name}")
        return array.astype(dtype, copy=False)

    def without(self, patterns: tuple[str, ...]) -> "Checkpoint":
        """The same checkpoint less the tensors that a pattern matches."""
        kept = {n: t for n, t in self.tensors.items() if not any(re.search(pattern, n) for pattern in patterns)}
        return dataclasses.replace(self, tensors=kept)

    def companions(self) -> list[str]:
        """The names of COMPANIONS that this checkpoint has."""
        return [name for name in COMPANIONS if (self.directory / name).is_file()]

    @functools.cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """{name: {"sha256", "size"}} of every file whose content the artifact depends on."""
        used = {tensor.file.name for tensor in self.tensors.values()} | {"config.json", *self.companions()}
        return {
            name: {"sha256": hash_file(self.directory / name), "size": (self.directory / name).stat().st_size}
            for name in sorted(used)
        }


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises SourceError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{path.parent}: {path.name} is missing; is the download complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise SourceError(f"{path}: not a JSON object")
    return value


def index(directory: Path) -> dict[str, Tensor]:
    """Every tensor of the checkpoint by the name it has there: safetensors, whole or sharded, or else the pickle.

    Raises SourceError when files are missing, cut short or not what their names say.
    """
    sharded = directory / f"{SAFETENSORS}.index.json"
    if (directory / SAFETENSORS).is_file():
        return _index_safetensors(directory / SAFETENSORS)
    if sharded.is_file():
        shards = read_json(sharded).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise SourceError(f"{sharded}: weight_map is not a table of file names")
        found: dict[str, Tensor] = {}
        for name in sorted(set(shards.values())):
            found |= _index_safetensors(directory / Path(name).name)
        if absent := shards.keys() - found.keys():
            raise SourceError(f"{sharded.name} lists {min(absent)}, but {shards[min(absent)]} has no such tensor")
        return found
    if (directory / PICKLE).is_file():
        pickled = _open_pickle(directory / PICKLE)
        return {key: Tensor(directory / PICKLE, key, tuple(value.shape)) for key, value in pickled.items()}
    raise SourceError(f"{directory}: no {SAFETENSORS}, {SAFETENSORS}.index.json or {PICKLE}; is the download complete?")


def _index_safetensors(path: Path) -> dict[str, Tensor]:
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


def _read_safetensors(tensor: Tensor) -> np.ndarray:
    # A plain read, not a memory map: pages of a map count as ours until the system wants them back.
    if tensor.type not in FLOATS:
        raise SourceError(f"{tensor.file.name}: tensor {tensor.key} has type {tensor.type}, not a floating-point one")
    array = np.fromfile(tensor.file, FLOATS[tensor.type], math.prod(tensor.shape), offset=tensor.offset)
    if tensor.type == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False).reshape(tensor.shape)


@functools.lru_cache(maxsize=1)
def _open_pickle(path: Path) -> dict[str, Any]:
    """The tensors of a pickle, read with `weights_only` and memory-mapped; one that needs to run code is refused."""
    import torch

    try:
        with path.open("rb") as file:
            mapped = file.read(2) == b"PK"  # files from before torch 1.6 are no zip archives and cannot be mapped
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        raise SourceError(f"{path}: refused, it is damaged or unpickling it needs more than tensors (weights_only)") from None
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise SourceError(f"{path}: not readable ({str(error).splitlines()[0]}); is the download complete?") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise SourceError(f"{path}: not a table of tensors")
    return tensors


def _read_pickled(tensor: Tensor) -> np.ndarray:
    return _open_pickle(tensor.file)[tensor.key].float().numpy()
