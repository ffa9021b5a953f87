"""What is on this machine: recipes, which originals are here already, and artifacts."""

import importlib.util
from pathlib import Path
from typing import Any

from converter import recipe
from converter.source.checkpoint import PICKLE, SAFETENSORS
from converter.source.layout import SUPPORTED
from shim import artifact
from shim.architectures import architectures
from shim.errors import IntegrityError
from shim.pooling import POOLINGS


def inventory(out: Path) -> dict[str, list[dict[str, Any]]]:
    """`recipes` (name, repo, revision, license, available: package | cache | hub) and `artifacts` in `out` (path, verdict, …).

    A directory in `out` whose manifest cannot be read is listed with verdict `broken`.
    """
    recipes = []
    for name in recipe.names():
        known = recipe.load(name)
        recipes.append(
            {
                "name": name,
                "task": known.task,
                "repo": known.source.repo,
                "revision": known.source.revision,
                "license": known.license,
                "available": _available(known.source),
            }
        )
    return {"recipes": recipes, "artifacts": [_artifact(path.parent) for path in sorted(out.glob("[!.]*/artifact.json"))]}


def supported() -> dict[str, list[str]]:
    """What `convert` takes of a checkpoint: its model_type, and the modules of sentence-transformers."""
    return {"architectures": architectures(), "modules": list(SUPPORTED), "pooling": list(POOLINGS)}


def _available(source: recipe.Source) -> str:
    if source.package and importlib.util.find_spec(source.package) is not None:
        return "package"
    import huggingface_hub

    for name in (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLE):
        if isinstance(huggingface_hub.try_to_load_from_cache(source.repo, name, revision=source.revision), str):
            return "cache"
    return "hub"


def _artifact(path: Path) -> dict[str, Any]:
    try:
        manifest = artifact.read(path)
    except IntegrityError:
        return {"name": path.name, "path": str(path), "verdict": "broken", "size": 0}
    return {
        "name": manifest.name,
        "path": str(path),
        "verdict": manifest.verdict,
        "size": manifest.size,
        "target": manifest.target,
        "bits": manifest.bits,
        "parity": manifest.parity.worst,
    }
