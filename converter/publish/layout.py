"""The layout of a repository, one folder for many loaders: sealed artifacts under the names that each looks for.

ONNX artifacts of one model share a repository: their graphs are named as sentence-transformers, text-embeddings-inference and
transformers.js expect, all other files are the same in each and lie at the top. An MLX artifact keeps its own layout.
"""

import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from converter.card import markdown, pictures
from converter.publish import graph, heads
from converter.publish.graph import ARTIFACT, DATA, GRAPHS
from converter.publish.repository import CARD, Files, Repository
from converter.publish.sealed import Sealed
from shim.artifact import Manifest
from shim.errors import UsageError
from shim.jsons import JsonObject, read_object
from shim.listing import MANIFEST, File, entry_of

CONFIG = "config.json"
COSINES = "cosines.json"
OWN = ("quantization.json", "quantization.svg", COSINES)  # files that are about one precision
ASSETS = "assets"
JS = "transformers.js_config"


@dataclass(frozen=True)
class Kept:
    """What a repository has already and keeps: manifests of precisions, its other files, and a folder with the small ones."""

    precisions: dict[str, Manifest] = field(default_factory=dict)
    files: Files = field(default_factory=dict)
    folder: Path = Path()


def build(artifacts: list[Sealed], into: Path, id: str, kept: Kept | None = None) -> Repository:
    """Write the repository ORG/NAME into an empty folder, all but the weights of kept precisions, and say what it holds.

    Files of an artifact become hard links where the folder is on the same disk. Raises UsageError, naming the file, where
    artifacts and kept precisions should share one and do not.
    """
    kept, first = kept or Kept(), artifacts[0].manifest
    onnx = first.target == "onnx"
    precisions = {each.precision: replace(each.manifest, files=_lay(each, into, onnx)) for each in artifacts} | kept.precisions
    precisions = dict(sorted(precisions.items(), key=lambda pair: -pair[1].bits))
    others: Files = {}
    if onnx:
        for manifest in kept.precisions.values():
            for name in (name for name in manifest.files if name.startswith(f"{ASSETS}/")):
                _place(kept.folder / name, into / name)
        others = _most_exact(artifacts[0], kept, precisions, into)
        _check_shared(precisions)
        precisions = _configured(artifacts, kept, precisions, others, into)
    heads.write(artifacts[0].path, first, into)
    default = "8bit" if onnx and "8bit" in precisions else next(iter(precisions))
    drawn = _draw(precisions, default, into)
    repository = Repository(id, default, precisions, others)
    repository = replace(repository, files=others | _unlisted(into, repository.listed))
    repository.write(into)
    (into / CARD).write_text(markdown.card(precisions, default, id, drawn), encoding="utf-8")
    return repository


def _lay(sealed: Sealed, into: Path, onnx: bool) -> Files:
    """Put an artifact's files where they belong; those of the repository that are the precision's, with their hashes."""
    files: Files = {}
    name = GRAPHS[sealed.manifest.bits] if onnx else ""
    moved = {ARTIFACT: name, ARTIFACT + DATA: name + DATA, **{own: f"{ASSETS}/{sealed.precision}/{own}" for own in OWN}}
    for path, entry in sealed.manifest.files.items():
        place = moved.get(path, path) if onnx else path
        files[place] = entry
        content = graph.renamed(sealed.path / path, Path(name).name) if place == name != ARTIFACT else None
        if content:
            files[place] = _write(content, into / place)
        elif not (into / place).exists():  # else it is another artifact's, too: see _check_shared
            _place(sealed.path / path, into / place)
    return files


def _most_exact(sealed: Sealed, kept: Kept, precisions: dict[str, Manifest], into: Path) -> Files:
    """Where no precision has the name that most loaders look for, the most exact one's graph has it, too."""
    most, names = next(iter(precisions)), (ARTIFACT, ARTIFACT + DATA)
    if ARTIFACT in precisions[most].files:
        return {}
    if most in kept.precisions:
        return {name: kept.files[name] for name in names if name in kept.files}
    files = {name: sealed.manifest.files[name] for name in names if name in sealed.manifest.files}
    for name in files:
        _place(sealed.path / name, into / name)
    return files


def _check_shared(precisions: dict[str, Manifest]) -> None:
    """Raise UsageError unless all have the same files beside graphs, what is their own, and `config.json`."""
    first, *rest = [
        (key, {name: entry["sha256"] for name, entry in manifest.files.items() if _shared(name)})
        for key, manifest in precisions.items()
    ]
    for key, files in rest:
        for name in sorted(files.keys() | first[1].keys()):
            if files.get(name) != first[1].get(name):
                raise UsageError(f"{first[0]} and {key} cannot share a repository: {name} is not the same; --name parts them")


def _shared(name: str) -> bool:
    return name != CONFIG and not name.startswith(("onnx/", f"{ASSETS}/"))


def _configured(
    artifacts: list[Sealed], kept: Kept, precisions: dict[str, Manifest], others: Files, into: Path
) -> dict[str, Manifest]:
    """The precisions with one `config.json`, which tells transformers.js the graphs that have a file of external data.

    Raises UsageError where these files say different things.
    """
    folders = [each.path for each in artifacts] + [kept.folder] * bool(kept.precisions)
    configs = [read_object(folder / CONFIG) for folder in folders]
    stripped = [{key: value for key, value in config.items() if key != JS} for config in configs]
    if any(config != stripped[0] for config in stripped):
        raise UsageError(f"artifacts cannot share a repository: {CONFIG} is not the same; --name parts them")
    names = {name for manifest in precisions.values() for name in manifest.files} | others.keys()
    data = sorted(name for name in names if name.startswith("onnx/") and name.endswith(DATA))
    external = {Path(name).name.removesuffix(DATA): 1 for name in data}  # each has one file of data
    given = configs[0].get(JS)  # the original's, of whose files this one's are not
    settings: JsonObject = dict(given) if isinstance(given, dict) else {}
    settings.pop("use_external_data_format", None)
    settings |= {"use_external_data_format": external} if external else {}
    config = stripped[0] | ({JS: settings} if settings else {})
    entry = artifacts[0].manifest.files[CONFIG]
    if config != configs[0]:
        entry = _write((json.dumps(config, indent=1) + "\n").encode(), into / CONFIG)
    return {key: replace(manifest, files={**manifest.files, CONFIG: entry}) for key, manifest in precisions.items()}


def _unlisted(into: Path, listed: Files) -> Files:
    names = (path.relative_to(into).as_posix() for path in sorted(into.rglob("*")) if path.is_file())
    return {name: entry_of(into / name) for name in names if name not in listed and name not in (CARD, MANIFEST)}


def _draw(precisions: dict[str, Manifest], default: str, into: Path) -> dict[str, str]:
    """Write the card's pictures; {name: path in the repository}."""
    cosines: dict[str, pictures.Cosines] = {}
    for key, manifest in precisions.items():
        for name in (name for name in manifest.files if Path(name).name == COSINES):
            cosines[key] = cast(pictures.Cosines, read_object(into / name))  # its hash is the artifact's
    made = pictures.draw(precisions, default, cosines)
    drawn = {name: f"{ASSETS}/{name}" for name in made}
    for name, path in drawn.items():
        _write(made[name].encode(), into / path)
    return drawn


def _write(content: bytes, path: Path) -> File:
    """Write a file of its own, not into another's that it is linked to; its hash and size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return entry_of(path)


def _place(source: Path, path: Path) -> None:
    """Have a file there, too: by a hard link, or as a copy on another disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:
        shutil.copyfile(source, path)
