"""PEFT adapters of a model's own, one a task, in folders beside its weights: kept as side paths of the one base.

Source: PEFT's LoRA layers; jina-embeddings-v3-hf, whose folders are named after the tasks.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from converter.source.adapter import ADAPTER
from converter.source.checkpoint import read_json
from converter.source.tensors import Tensor, index_safetensors, stacked
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject
from shim.prompts import TASKS

WEIGHTS = "adapter_model.safetensors"
# What would change a side path beyond its matrices, rank and alpha; absent ones are these.
PLAIN: dict[str, object] = {
    **dict.fromkeys(("use_dora", "use_rslora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"), False),
    **{key: {} for key in ("alpha_pattern", "rank_pattern")},
    **dict.fromkeys(("modules_to_save", "layer_replication", "trainable_token_indices", "target_parameters"), None),
    "bias": "none",
    "peft_type": "LORA",
}


def find_adapters(directory: Path) -> dict[str, str]:
    """{task: folder} of the adapters beside the config.json in `directory`, in the order of our tasks.

    Raises UsageError for one that is named after no task.
    """
    tasks = {re.sub(r"\W", "_", task): task for task in TASKS}
    found: dict[str, str] = {}
    for path in sorted(directory.glob(f"*/{ADAPTER}")):
        folder = path.parent.name
        if (task := tasks.get(re.sub(r"\W", "_", folder))) is None:
            raise UsageError(f"{path}: an adapter {folder!r}, which is none of the tasks {', '.join(tasks)}")
        found[task] = folder
    return {task: found[task] for task in TASKS if task in found}


def described(directory: Path, adapters: Mapping[str, str]) -> JsonObject:
    """What `config.json` says of adapters, in the words of jina-embeddings-v3's own; empty where there are none.

    Raises UsageError for adapters that differ in rank or alpha, or that are no plain LoRA.
    """
    found: list[JsonObject] = []
    for folder in adapters.values():
        path = directory / folder / ADAPTER
        settings = read_json(path)
        for key, plain in PLAIN.items():
            if (settings.get(key) or plain) != plain:
                raise UsageError(f"{path}: {key} {settings[key]!r} is not supported (only {plain!r})")
        found.append({"lora_rank": settings.get("r"), "lora_alpha": settings.get("lora_alpha")})
        if found[-1] != found[0]:
            raise UsageError(f"{path}: {found[-1]}, and another adapter has {found[0]}; they must have the same")
    return {"lora_adaptations": list(adapters), **found[0]} if found else {}


def stacks(directory: Path, adapters: Mapping[str, str], wanted: Iterable[str]) -> dict[str, Tensor]:
    """`lora_A` (tasks, in, rank) and `lora_B` (tasks, rank, out) of each module, from the files of all adapters.

    wanted: their names. Raises SourceError where one adapter has other tensors, or of another shape.
    """
    names = list(wanted)
    files = [_renamed(directory / folder / WEIGHTS) for folder in adapters.values()]
    for found, folder in zip(files, adapters.values(), strict=True):
        if differing := found.keys() ^ set(names):
            name = min(differing)
            what = "has" if name in found else "lacks"
            raise SourceError(
                f"{directory / folder / WEIGHTS}: {what} {name} ({len(differing)} such); is the download complete?"
            )
        if odd := [name for name in names if found[name].shape != files[0][name].shape]:
            raise SourceError(f"{directory / folder / WEIGHTS}: {odd[0]} has another shape than in the other adapters")
    return {name: stacked([found[name] for found in files]) for name in names} if files else {}


def _renamed(path: Path) -> dict[str, Tensor]:
    """PEFT's tensors by our names: `base_model.model.X.lora_A.weight`, or of a table `….lora_embedding_A`, as `X.lora_A`."""
    pattern = r"^base_model\.model\.(?:roberta\.)?(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?$"
    return {re.sub(pattern, r"\1.lora_\2", key): tensor for key, tensor in index_safetensors(path).items()}
