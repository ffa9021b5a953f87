"""An original opened: found, read by its own files, held to its recipe, its tensors indexed."""

import dataclasses
import re
from collections.abc import Container
from pathlib import Path

import numpy as np

from converter.recipe import Recipe
from converter.source.adapter import ADAPTER, merged
from converter.source.checkpoint import PICKLE, SAFETENSORS, Checkpoint, index, read_json
from converter.source.cut import cut
from converter.source.derive import derive
from converter.source.facts import Facts
from converter.source.layout import Layout, check_code, read_layout
from converter.source.locate import hub, installed, locate, package
from converter.source.settle import settle
from converter.source.splade import masked_head
from converter.source.task_adapters import described, find_adapters, stacks
from converter.source.tensors import Tensor, index_pickle, index_safetensors, read
from shim.architectures import Architecture, Configuration, architecture
from shim.artifact import Origin
from shim.errors import IntegrityError, SealportError, SourceError, UsageError
from shim.jsons import JsonObject
from shim.pooling import LINEAR, head_tensors, layer_tensors
from shim.spec import ModelSpec
from shim.text import TextEncoder


@dataclasses.dataclass(frozen=True)
class Place:
    """An original before a recipe. root: its directory, of an adapter that of the merged model; upstream: as it was given."""

    root: Path
    upstream: Path
    origin: Origin
    layout: Layout
    facts: Facts


def find(source: str, weights: bool = True) -> Place:
    """Where `source` is, and what its files say; without `weights`, those of the hub stay there.

    Raises SourceError and UsageError, see `open_source`.
    """
    directory, origin = locate(source, weights)
    if not weights and (directory / ADAPTER).is_file():
        directory, origin = locate(source)
    return _place(directory, origin)


def open_source(recipe: Recipe, source: str | None = None) -> Checkpoint:
    """The original of `recipe`, from `source` where given: a directory, `pkg:MODULE`, or `REPO[@REV]` on the hub.

    Raises SourceError when it cannot be had or is not whole, UsageError when recipe and checkpoint contradict each other.
    """
    if source is not None:
        place = find(source)
    elif installed(recipe.source.package):
        place = _place(*package(recipe.source.package))
    else:
        place = _place(*hub(recipe.source.repo, recipe.source.revision))
    directory = place.root / place.layout.transformer
    module = architecture(recipe.architecture)
    adapters = find_adapters(directory) if hasattr(module, "side_paths") else {}
    whole = read_json(directory / "config.json") | described(directory, adapters)
    spec = dataclasses.replace(settle(recipe, place.facts), adapters=list(adapters) or None)
    config = whole if spec.layer in (None, -1) else cut(recipe, module, whole, spec.layer or 0)
    parsed = module.Config.read(config)
    _check_size(recipe, spec, parsed)
    _check_tokenizer(spec, directory, parsed.vocab_size)
    heads = head_tensors(module, parsed, spec.heads, spec.modules)
    found = index(directory)
    masked = _masked_head(spec, module, parsed, found)
    dropped = (*module.DROPPED, r"^linear\.") if place.layout.stanford else module.DROPPED
    tensors = _rename(_apart(found, getattr(module, "FUSED", ())), module.KEYS, dropped)
    behind = module.parameters(module.Config.read(whole)).keys() - module.parameters(parsed).keys()
    tensors = {name: tensor for name, tensor in tensors.items() if name not in behind}
    tensors |= stacks(directory, adapters, (name for name in module.parameters(parsed) if ".lora_" in name))
    tensors |= _head_tensors(place, directory, config, spec, module, found)
    tensors |= masked
    _check_tensors(recipe.name, tensors, layer_tensors(module, parsed, spec) | heads, module.OPTIONAL, heads)
    order = [*(name for name in tensors if name not in heads), *heads]
    return Checkpoint(
        directory=directory,
        origin=place.origin,
        config=config,
        tensors={name: tensors[name] for name in order},
        spec=spec,
        root=place.root,
        upstream=place.upstream,
        layout=place.layout,
        facts=place.facts,
        adapters=adapters,
        overrides=recipe.overrides,
        heads=tuple(heads),
        tables=frozenset(name for name in order if any(re.search(pattern, name) for pattern in module.TABLES)),
    )


def _place(given: Path, origin: Origin) -> Place:
    root = merged(given)
    check_code(root)
    try:
        layout = read_layout(root)
        return Place(root, given, origin, layout, derive(root, layout))
    except SealportError:
        raise
    except (
        TypeError,
        AttributeError,
        ValueError,
        KeyError,
        OverflowError,
    ) as error:  # other people's files, with a value of another kind
        raise SourceError(f"{given}: a configuration file is malformed ({type(error).__name__}: {error})") from None


def _masked_head(spec: ModelSpec, module: Architecture, config: Configuration, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of SPLADE's head, taken out of `found`. Raises UsageError for an architecture without one here."""
    if spec.splade is None:
        return {}
    if not hasattr(module, "masked_head"):
        raise UsageError(f"SPLADE over a masked language model of architecture {spec.architecture} is not supported")
    head = module.masked_head(config)
    table = _rename(found, module.KEYS, ()).get(f"{head.table}.weight")
    return masked_head(found, head, table)


def _head_tensors(
    place: Place, directory: Path, config: JsonObject, spec: ModelSpec, module: Architecture, found: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of the heads: in files of their own, in those of Dense modules, or rows of the language model's head."""
    tensors: dict[str, Tensor] = {}
    for head in sorted(set(LINEAR) & set(spec.heads)) if "dense" in spec.heads else ():
        linear = index_pickle(directory / f"{LINEAR[head]}.pt")
        tensors |= {f"{LINEAR[head]}.{key}": tensor for key, tensor in linear.items()}
    if place.layout.stanford and "linear.weight" in found:
        tensors["dense.0.weight"] = found["linear.weight"]
    elif spec.projected:
        for place_, folder in enumerate(folder for kind, folder in place.layout.steps if kind == "Dense"):
            path = place.root / folder
            whole = index_safetensors(path / SAFETENSORS) if (path / SAFETENSORS).is_file() else index_pickle(path / PICKLE)
            tensors |= {f"dense.{place_}.{key.removeprefix('linear.')}": tensor for key, tensor in whole.items()}
    if "score" in spec.heads and module.ROWS and not module.classifies(config):
        answers = _answers(place, TextEncoder(directory, spec.max_tokens), module, module.Config.read(config).vocab_size)
        tensors["score.weight"] = _rows(directory, config, _rename(found, module.KEYS, ()), module, answers)
    return tensors


def _check_size(recipe: Recipe, spec: ModelSpec, config: Configuration) -> None:
    width, places = config.hidden_size, config.max_tokens
    if not spec.projected and spec.splade is None and width != spec.dimensions:
        raise UsageError(f"{recipe.name}: dimensions {spec.dimensions}, but config.json has hidden_size {width}")
    if places is not None and places < spec.longest:
        raise UsageError(f"{recipe.name}: max_tokens {spec.longest}, but config.json has {places} positions")


def _check_tokenizer(spec: ModelSpec, directory: Path, rows: int) -> None:
    if not (directory / "tokenizer.json").is_file():
        raise SourceError(
            f"{directory}: tokenizer.json is missing; save the tokenizer with transformers' save_pretrained first"
        )
    try:
        encoder = TextEncoder(directory, spec.max_tokens)
        known = encoder.tokenizer.get_vocab_size()
        if "sparse" in spec.heads and spec.splade is None:
            encoder.unused()
    except IntegrityError as error:
        raise SourceError(str(error).replace("\n", " ")) from None
    if known > rows:
        raise SourceError(f"{directory}: tokenizer.json has {known} tokens, config.json {rows}; are they of one model?")


def _answers(place: Place, encoder: TextEncoder, module: Architecture, rows: int) -> tuple[int, ...]:
    """The ids of the tokens that mean "no" and "yes": those of a LogitScore module, else the tokenizer's own of these words."""
    if place.layout.logit_score is not None:
        path = place.root / place.layout.logit_score / "config.json"
        settings = read_json(path)
        stated = tuple(settings.get(key) for key in ("false_token_id", "true_token_id"))
        ids = tuple(id for id in stated if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < rows)
        if len(ids) < 2:
            raise UsageError(f"{path}: false_token_id and true_token_id must be two tokens, not {stated}")
        return ids
    found = tuple(id for id in map(encoder.tokenizer.token_to_id, module.ROWS) if id is not None)
    if len(found) < len(module.ROWS):
        raise SourceError(
            f"{encoder.directory}: tokenizer.json has no tokens {' and '.join(module.ROWS)}, with which a reranker answers"
        )
    return found


def _apart(found: dict[str, Tensor], fused: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, Tensor]:
    """The tensors, those of several modules as one for each, see `FUSED` of an architecture."""
    for pattern, names in fused:
        whole, found = found, {}
        for key, tensor in whole.items():
            if not re.search(pattern, key):
                found[key] = tensor
                continue
            rows, left = divmod(tensor.shape[0] if tensor.shape else 0, len(names))
            if left or not rows:
                raise SourceError(f"{tensor.file.name}: tensor {key} has no rows for {len(names)} modules")
            for place, name in enumerate(names):
                found[re.sub(pattern, name, key)] = tensor.rows_from(place * rows, rows)
    return found


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


def _rows(
    directory: Path, config: JsonObject, tensors: dict[str, Tensor], module: Architecture, ids: tuple[int, ...]
) -> Tensor:
    """These rows of the language model's head: of `lm_head.weight`, or of the word table that it is tied to.

    Raises SourceError where the head is missing, or is there although tied and says something else.
    """
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
