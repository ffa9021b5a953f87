"""The tensors of a PyTorch checkpoint, whichever files hold them, read one at a time."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.source.tensors import Tensor, index_pickle, index_safetensors, parts, read
from shim.artifact import Origin, Source
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject
from shim.listing import File, entry_of
from shim.spec import ModelSpec

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
# What a directory without weights in PyTorch's formats may hold instead.
OTHERS = {
    "*.gguf": "weights quantized for llama.cpp",
    "**/*.onnx": "an ONNX graph",
    "*.h5": "TensorFlow weights",
    "*.msgpack": "Flax weights",
    "*.npz": "MLX weights",
}
# Beside the weights: what other loaders and the shim need to make the same vectors.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "chat_template.jinja")
# Files that the upstream library reads, beside those of modules: what it gives depends on them.
READ = (
    "config.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "adapter_*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.*",
    "*processor_config.json",
    "artifact.metadata",
)

if TYPE_CHECKING:
    from converter.source.facts import Facts
    from converter.source.layout import Layout


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An original: its parsed `config.json`, its tensors by final name, and what it is as a model.

    directory: of config.json, weights and tokenizer. root: of modules.json, mostly the same. upstream: what the upstream
    library is given, mostly root. origin: `repo` and `revision`: those of the hub, `pkg:MODULE` and its version, or `dir:NAME`
    and nothing. heads: the names of those tensors that belong to heads, the last ones in `tensors`.
    tables: the names of those whose rows are looked up, not multiplied.
    spec: the model, as recipe and files say together; facts: what the files say; overrides: {key: reason} where the recipe
    says otherwise on purpose. adapters: {task: folder in `directory`} of the model's own adapters, in the order of their
    numbers.
    """

    directory: Path
    origin: Origin
    config: JsonObject
    tensors: dict[str, Tensor]
    spec: ModelSpec
    root: Path
    upstream: Path
    layout: "Layout"
    facts: "Facts"
    adapters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heads: tuple[str, ...] = ()
    tables: frozenset[str] = frozenset()

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """{name: (rows, columns)} of what may be quantized: matrices and tables, but those of heads."""
        shapes = {name: tensor.shape for name, tensor in self.tensors.items() if name not in self.heads}
        return {name: (shape[0], shape[1]) for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")}

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
        for array in map(read, parts(tensor)):
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

    @functools.cached_property
    def files(self) -> dict[str, File]:
        """{name: {"sha256", "size"}} of every file whose content the artifact depends on."""
        used = {tensor.file for tensor in self.tensors.values()}
        for folder in {self.upstream, self.root, self.directory}:
            used |= {path for pattern in READ for path in folder.glob(pattern) if path.is_file()}
        used |= {path for folder in self.adapters.values() for path in (self.directory / folder).glob("*") if path.is_file()}
        used |= {path for folder in self.layout.folders for path in (self.root / folder).glob("*") if path.is_file()}
        return {self._name(path): entry_of(path) for path in sorted(used, key=self._name)}

    def _name(self, path: Path) -> str:
        """Relative to the checkpoint's directory, or to that of the adapter that was merged into it."""
        for folder, prefix in ((self.root, ""), (self.upstream, "adapter/")):
            if path.is_relative_to(folder):
                return prefix + path.relative_to(folder).as_posix()
        return path.name


def described(checkpoint: Checkpoint) -> Source:
    """What the manifest records of the original: where it is, its files, which file says what, and what is overridden; what
    its model card says of its languages and its task.
    """
    facts = {key: fact.file for key, fact in checkpoint.facts.items()}
    found = Source(**checkpoint.origin, files=checkpoint.files, facts=facts, overrides=dict(checkpoint.overrides))
    if language := checkpoint.facts.get("language"):
        found["language"] = language.value
    if pipeline_tag := checkpoint.facts.get("pipeline_tag"):
        found["pipeline_tag"] = pipeline_tag.value
    return found


def read_json(path: Path) -> JsonObject:
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
    """Every tensor of the checkpoint by the name it has there: safetensors or else pickles, either whole or sharded.

    Raises SourceError when files are missing, cut short or not what their names say.
    """
    for file, read_index in ((SAFETENSORS, index_safetensors), (PICKLE, index_pickle)):
        if (directory / file).is_file():
            return read_index(directory / file)
        if (directory / f"{file}.index.json").is_file():
            return _shards(directory / f"{file}.index.json", read_index)
    missing = f"no {SAFETENSORS}, {SAFETENSORS}.index.json or {PICKLE}"
    for pattern, what in OTHERS.items():
        if found := sorted(directory.glob(pattern)):
            raise UsageError(f"{directory}: {missing}, but {found[0].name}, {what}; convert the original in PyTorch's formats")
    raise SourceError(f"{directory}: {missing}; is the download complete?")


def _shards(path: Path, read_index: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise SourceError(f"{path}: weight_map is not a table of file names")
    found: dict[str, Tensor] = {}
    for name in sorted(set(map(str, shards.values()))):
        found |= read_index(path.parent / Path(name).name)
    if absent := shards.keys() - found.keys():
        raise SourceError(f"{path.name} lists {min(absent)}, but {shards[min(absent)]} has no such tensor")
    return found
