"""The tensors of a PyTorch checkpoint, whichever files hold them, read one at a time."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converter.tensors import Tensor, index_pickle, index_safetensors, parts, read
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
    "1_LogitScore/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An original: its directory, its parsed `config.json`, and its tensors by final name.

    origin: `repo` and `revision`: those of the hub, `pkg:MODULE` and its version, or `dir:NAME` and nothing.
    heads: the names of those tensors that belong to heads, the last ones in `tensors`.
    """

    directory: Path
    origin: dict[str, Any]
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    heads: tuple[str, ...] = ()
    changed: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)  # float32, instead of what the files hold

    def read(self, name: str, dtype: type = np.float32) -> np.ndarray:
        """The tensor `name` as `dtype`, float32 or float16. Raises SourceError when it is not finite, there or as `dtype`."""
        array: np.ndarray = np.empty(self.tensors[name].shape, dtype)
        start = 0
        for part in self.chunks(name, dtype):
            array[start : start + len(part)] = part
            start += len(part)
        return array

    def chunks(self, name: str, dtype: type = np.float32) -> Iterator[np.ndarray]:
        """`read`, some rows at a time, so that a word table is never in memory whole."""
        tensor = self.tensors[name]
        for array in [self.changed[name]] if name in self.changed else map(read, parts(tensor)):
            if not np.isfinite(array).all():
                raise SourceError(f"{tensor.file.name}: tensor {tensor.key} holds NaN or infinity")
            if np.abs(array).max(initial=0) > np.finfo(dtype).max:
                raise SourceError(f"{tensor.file.name}: tensor {tensor.key} is out of the range of {np.dtype(dtype).name}")
            yield array.astype(dtype, copy=False)

    def without(self, patterns: tuple[str, ...]) -> "Checkpoint":
        """The same checkpoint less the tensors that a pattern matches; those of heads stay."""
        kept = {
            name: tensor
            for name, tensor in self.tensors.items()
            if name in self.heads or not any(re.search(pattern, name) for pattern in patterns)
        }
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
        return index_safetensors(directory / SAFETENSORS)
    if sharded.is_file():
        shards = read_json(sharded).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise SourceError(f"{sharded}: weight_map is not a table of file names")
        found: dict[str, Tensor] = {}
        for name in sorted(set(shards.values())):
            found |= index_safetensors(directory / Path(name).name)
        if absent := shards.keys() - found.keys():
            raise SourceError(f"{sharded.name} lists {min(absent)}, but {shards[min(absent)]} has no such tensor")
        return found
    if (directory / PICKLE).is_file():
        return index_pickle(directory / PICKLE)
    raise SourceError(f"{directory}: no {SAFETENSORS}, {SAFETENSORS}.index.json or {PICKLE}; is the download complete?")
