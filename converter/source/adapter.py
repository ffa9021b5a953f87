"""PEFT adapters: merged into their base by the peft library, once, into the cache folder."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from converter import cache
from converter.source.checkpoint import read_json
from converter.source.locate import locate
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject
from shim.listing import hash_file

ADAPTER = "adapter_config.json"
LOADERS = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}  # of others, AutoModel


def merged(directory: Path) -> Path:
    """The directory itself; or, where it holds an adapter, that of its base with the adapter merged in.

    Raises SourceError when the base cannot be had or does not fit, UsageError without the peft library.
    """
    if not (directory / ADAPTER).is_file():
        return directory
    settings = read_json(directory / ADAPTER)
    name = settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise SourceError(f"{directory / ADAPTER}: base_model_name_or_path names no base model")
    inside = directory / name
    base, _ = locate(str(inside) if inside.is_dir() else f"{name}@{settings['revision']}" if settings.get("revision") else name)
    try:
        import peft
    except ImportError:
        raise UsageError(f"{directory} is an adapter; merging it needs peft: pip install 'sealport[peft]'") from None
    parts = [path for folder in (directory, base) for path in sorted(folder.iterdir()) if path.is_file()]
    digest = hashlib.sha256(repr([peft.__version__, *map(hash_file, parts)]).encode()).hexdigest()[:16]
    target = cache.folder() / "merged" / f"{directory.resolve().name}-{digest}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as beside:
            _merge(directory, base, settings, Path(beside) / "merged")
            if not target.is_dir():
                (Path(beside) / "merged").rename(target)
    return target


def _merge(directory: Path, base: Path, settings: JsonObject, target: Path) -> None:
    """The base's files, then the adapter's, then the merged weights and their config.json."""
    import torch
    import transformers
    from peft import PeftModel

    loader = getattr(transformers, LOADERS.get(str(settings.get("task_type")), "AutoModel"))
    try:
        model = loader.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        model = PeftModel.from_pretrained(model, str(directory)).merge_and_unload()
    except Exception as error:  # whatever transformers and peft raise
        reason = str(error).strip().split("\n")[0]
        raise SourceError(f"{directory}: the adapter does not fit {base} ({type(error).__name__}: {reason})") from None
    weights = shutil.ignore_patterns("*.safetensors", "*.bin", "*.index.json", "adapter_*")
    for folder in (base, directory):  # only the transformer's own weights are merged: those of modules stay

        def at_the_top(path: str, names: list[str], folder: Path = folder) -> set[str]:
            return weights(path, names) if Path(path) == folder else set()

        shutil.copytree(folder, target, ignore=at_the_top, dirs_exist_ok=True)
    model.save_pretrained(target)
