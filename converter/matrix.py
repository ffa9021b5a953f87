"""Many conversions in order: what is there already is kept, a failure stops nothing, and each runs in a process of its own."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import shim
from converter import pipeline
from converter.job import Request, destination, settings
from converter.proof.apart import apart
from converter.proof.measure import Progress
from converter.source.locate import installed, package
from converter.source.open import open_source
from shim import artifact, integrity
from shim.artifact import Manifest
from shim.console import INTERRUPTED, interrupted, prepare
from shim.errors import IntegrityError, SealportError, UsageError
from shim.jsons import JsonObject

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Entry:
    """How one conversion ended. state: `converted`, `kept`, `failed`, `interrupted`, or `not started`.

    manifest: None where there is no artifact, as then `error` says why. exit_code: what `convert` alone would have ended with.
    """

    name: str
    path: Path
    state: str
    manifest: Manifest | None = None
    error: str = ""
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Name, path, state, exit code; of an artifact its verdict and figures, else the error."""
        found: JsonObject = {"name": self.name, "path": str(self.path), "state": self.state, "exit_code": self.exit_code}
        if self.manifest is None:
            return found | {"error": self.error} if self.error else found
        found |= {"verdict": self.manifest.verdict, "parity": {**self.manifest.parity.worst}, "size": self.manifest.size}
        return found | {"bits_per_weight": self.manifest.quantization["bits_per_weight"]}


def run(requests: list[Request], starting: Callable[[int], AbstractContextManager[Progress]]) -> Iterator[Entry]:
    """Carry the requests out one after the other. starting: gives the progress of the one of this number.

    force of a request: replace an artifact that was made otherwise or is broken; one that is the same is kept all the same.
    """
    for number, request in enumerate(requests):
        path = destination(request)
        try:
            with starting(number) as progress:
                entry = _carried_out(request, path, progress)
        except Exception as error:
            if interrupted.is_set():  # some libraries turn it into an error of their own
                raise KeyboardInterrupt from None
            entry = failed(path, error)
        yield entry


def failed(path: Path, error: Exception) -> Entry:
    """The entry of an artifact that there is not, by reason of this error."""
    if isinstance(error, SealportError):
        return Entry(path.name, path, "failed", error=str(error).replace("\n", " "), exit_code=error.exit_code)
    return Entry(path.name, path, "failed", error=f"{type(error).__name__}: {error}".replace("\n", " "), exit_code=1)


def _carried_out(request: Request, path: Path, progress: Progress) -> Entry:
    if path.exists():
        try:
            return _entry("kept", path, kept(request))
        except (UsageError, IntegrityError):
            if not request.force:
                raise

    def told(stage: tuple[str, int, int]) -> None:
        progress(*stage)

    _, manifest = apart(_convert, request, progress=told, name="the conversion's process", parent=True)
    return _entry("converted", path, manifest)


def kept(request: Request) -> Manifest:
    """The artifact that is there, where converting again would make the same.

    It is whole, measured, of this version, and of the same original, recipe and settings. Raises IntegrityError for one that is
    broken, UsageError naming what is otherwise.
    """
    path = destination(request)
    manifest = artifact.read(path)
    integrity.check_files(path, manifest)
    if "settings" not in manifest.tool:
        raise UsageError(f"{path} does not say how it was made, as it is of an older version; --force replaces it")
    wanted: dict[str, object] = {"version": shim.__version__, **settings(request)}
    there: dict[str, object] = {"version": manifest.tool["version"], **manifest.tool["settings"]}
    others = [key for key in {**wanted, **there} if there.get(key) != wanted.get(key)]
    if others or not _same_origin(request, manifest):
        what = others[0].replace("_", " ") if others else "original"
        raise UsageError(f"{path} was made with another {what}; --force replaces it")
    if manifest.verdict == "unverified":
        raise UsageError(f"{path} was not verified; `convert verify {path}` does, or --force converts again")
    return manifest


def _same_origin(request: Request, manifest: Manifest) -> bool:
    """A package's version and a commit of the hub say it by themselves; otherwise the files do."""
    source, origin = request.recipe.source, (manifest.source["repo"], manifest.source["revision"])
    if request.source is None and installed(source.package):
        return origin == tuple(package(source.package)[1].values())
    if request.source is None and COMMIT.fullmatch(source.revision):
        return origin == (source.repo, source.revision)
    return open_source(request.recipe, request.source).files == manifest.source["files"]


def _entry(state: str, path: Path, manifest: Manifest) -> Entry:
    return Entry(path.name, path, state, manifest, exit_code=1 if manifest.verdict == "fail" else 0)


def _convert(request: Request, report: Callable[[tuple[str, int, int]], None]) -> tuple[Path, Manifest]:
    """In a process of its own: a conversion, which ends as by Ctrl-C when the other process does not want it any more."""
    prepare("convert")
    try:
        return pipeline.convert(request, lambda *stage: report(stage))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
