"""What is on this machine of each recipe: the original, artifacts, ports in the hub's cache; and the next step."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from converter import recipe
from converter.hub_cache import HubCache, Port
from converter.source.layout import SUPPORTED
from converter.source.locate import installed, package
from converter.targets import DEFAULT_BITS
from converter.targets import TARGETS as WIDTHS
from shim import artifact
from shim.architectures import architectures
from shim.artifact import TARGETS
from shim.errors import IntegrityError, SourceError
from shim.pooling import POOLINGS

NATIVE = "mlx" if sys.platform == "darwin" else "onnx"  # what this machine serves best


def inventory(out: Path) -> dict[str, list[dict[str, Any]]]:
    """`recipes`, `artifacts` in the folder `out`, and `cached` ports of the hub (see hub_cache.Port).

    Of a recipe: name, task, repo, revision, license; `available`, where the original is (package, cache, partial, hub), and its
    `size` here in bytes; the `missing` targets; and `next`, a command. A directory in `out` whose manifest cannot be read has
    the verdict `broken`. Verdicts are those that manifests state: hashes are not computed.
    """
    hub = HubCache()
    known = [recipe.load(name) for name in recipe.names()]
    artifacts = [_artifact(path.parent) for path in sorted(out.glob("[!.]*/artifact.json"))]
    cached = hub.ports({each.source.repo.lower(): each.name for each in known})
    recipes = []
    for each in known:
        available, size = _original(each.source, hub)
        made = [entry for entry in artifacts if entry.get("recipe") == each.name]
        fetched = [port for port in cached if port.recipe == each.name and port.verdict == "pass"]
        sound = {entry["target"] for entry in made if entry["verdict"] == "pass"} | {port.target for port in fetched}
        missing = [target for target in TARGETS if target not in sound]
        recipes.append(
            {
                "name": each.name,
                "task": each.task,
                "repo": each.source.repo,
                "revision": each.source.revision,
                "license": each.license,
                "available": available,
                "size": size,
                "missing": missing,
                "next": _next(each.name, made, fetched, missing, out),
            }
        )
    return {"recipes": recipes, "artifacts": artifacts, "cached": [asdict(port) for port in cached]}


def supported() -> dict[str, list[str]]:
    """What `convert` takes of a checkpoint: its model_type, and the modules of sentence-transformers."""
    return {"architectures": architectures(), "modules": list(SUPPORTED), "pooling": list(POOLINGS)}


def _original(source: recipe.Source, hub: HubCache) -> tuple[str, int]:
    if installed(source.package):
        try:
            folder = package(source.package)[0]
            return "package", sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        except SourceError:  # the package holds no checkpoint
            pass
    return hub.original(source)


def _next(name: str, made: list[dict[str, Any]], cached: list[Port], missing: list[str], out: Path) -> str:
    """What brings the recipe further: a verdict for what has none, then a target without a sound port, then serving."""
    where = "" if out == Path("artifacts") else f" --out {shlex.quote(str(out))}"
    for entry in made:
        if entry["verdict"] == "unverified":
            return f"convert verify {shlex.quote(entry['path'])}"
    if not missing:
        served = [(entry["target"], entry["path"]) for entry in made if entry["verdict"] == "pass"]
        served += [(port.target, port.repo) for port in cached]
        return f"shim serve {shlex.quote(next(where for target, where in served if target == NATIVE))}"
    if len(missing) == len(TARGETS) and not made:
        return f"convert all {name}{where}"
    target = NATIVE if NATIVE in missing else missing[0]  # an artifact of it may be here, below parity: then more bits
    free = [bits for bits in WIDTHS[target] if not (out / f"{name}-{target}-{bits}bit").exists()]
    more = [bits for bits in free if bits >= DEFAULT_BITS[target]]
    bits = " --force" if not more else f" --bits {more[0]}" if more[0] != DEFAULT_BITS[target] else ""
    return f"convert {name} --to {target}{bits}{where}"


def _artifact(path: Path) -> dict[str, Any]:
    try:
        manifest = artifact.read(path)
    except IntegrityError:
        return {"name": path.name, "path": str(path), "verdict": "broken", "size": 0}
    return {
        "name": manifest.name,
        "path": str(path),
        "recipe": manifest.recipe,
        "verdict": manifest.verdict,
        "size": manifest.size,
        "target": manifest.target,
        "bits": manifest.bits,
        "parity": manifest.parity.worst,
    }
