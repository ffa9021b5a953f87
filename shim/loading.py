"""Loading an artifact: found, checked, held while it is read, and opened with its runtime."""

import importlib
import os
from pathlib import Path

from shim import artifact, hub, integrity, servable, signature
from shim.artifact import Manifest
from shim.errors import UsageError
from shim.held import ChangedError, held
from shim.listing import FileError
from shim.model import Model, model_of
from shim.text import TextEncoder

ATTEMPTS = 3  # at loading files that change meanwhile


def load(
    path: str | os.PathLike[str],
    runtime: str = "auto",
    device: str = "auto",
    allow_unverified: bool = False,
    min_parity: float | None = None,
    precision: str | None = None,
    require_signature: str | os.PathLike[str] | None = None,
    plain_text: bool = False,
) -> Model:
    """Load a sealed artifact: manifest, hashes and verdict are checked first.

    path: a directory, or as a string ORG/NAME[@REVISION], a repository of the hub, fetched unless it is in the cache.
    runtime: `auto` takes the one that the artifact was made for; `openvino` takes those for onnx that were verified with it.
    device: `auto`, `cpu`, `gpu` (mlx) or `cuda` (onnx).
    min_parity: accept an artifact that was sealed at this lower target. allow_unverified: skip the verdict, and the hashes of
    a directory. precision: of a repository that has several, such as `8bit`. require_signature: the PEM file of the public key
    of who must have signed it; then no hash is skipped. plain_text: control tokens in what users give are text; by default they
    mean what they mean upstream.
    Raises IntegrityError for an artifact that is not whole, not sealed or not signed, UsageError for a runtime, device or
    precision it cannot have, SourceError where the hub cannot give it.
    """
    found = hub.find(str(path), precision, require_signature) if hub.is_repository(path) else None
    directory = Path(os.path.realpath(path))  # a link that is swapped meanwhile leads nobody elsewhere
    manifest, runtime = _checked(
        directory, found.manifest if found else None, runtime, allow_unverified, min_parity, precision, require_signature
    )
    hashed = found is not None or require_signature is not None or not allow_unverified
    for attempt in range(ATTEMPTS):
        try:
            if found is not None:
                directory = hub.fetch(found, hashed=attempt > 0)
            elif hashed:
                integrity.check_files(directory, manifest, but=manifest.files)
            model = _open(directory, manifest, runtime, device, hashed, plain_text)
            break
        except FileError as error:  # our folder of the hub is made anew; and another process may be linking its files
            if attempt == ATTEMPTS - 1 or (found is None and not isinstance(error, ChangedError)):
                raise
    if found is not None:
        model.repository, model.revision = found.repository, found.revision
    return model


def describe(
    path: Path,
    runtime: str = "auto",
    device: str = "auto",
    allow_unverified: bool = False,
    min_parity: float | None = None,
    precision: str | None = None,
    require_signature: str | os.PathLike[str] | None = None,
) -> Manifest:
    """The manifest by which `load` would open a directory, so far as it can be told without reading the other files.

    Raises what `load` raises for the manifest.
    """
    return _checked(path, None, runtime, allow_unverified, min_parity, precision, require_signature)[0]


def _checked(
    directory: Path,
    manifest: Manifest | None,
    runtime: str,
    allow_unverified: bool,
    min_parity: float | None,
    precision: str | None,
    require_signature: str | os.PathLike[str] | None,
) -> tuple[Manifest, str]:
    """The manifest, read unless it is given, as it counts for the runtime; and that runtime."""
    known = [name for names in artifact.RUNTIMES.values() for name in names]
    if runtime not in ("auto", *known):
        raise UsageError(f"runtime {runtime!r} unknown (auto, {', '.join(known)})")
    if manifest is None:
        signed = None if require_signature is None else signature.check(directory, require_signature)
        manifest = artifact.read(directory, precision, signed)
    runtime = manifest.target if runtime == "auto" else runtime
    manifest = manifest.through(runtime)
    if not allow_unverified:
        integrity.check_verdict(manifest, min_parity)
    return manifest, runtime


def _open(directory: Path, manifest: Manifest, runtime: str, device: str, hashed: bool, plain_text: bool) -> Model:
    with held(directory, manifest.files, hashed, links=runtime != "openvino") as folder:
        servable.check(manifest, folder)
        opener = importlib.import_module(f"shim.runtimes.{runtime}").open_runtime
        spec = manifest.model
        encoder = TextEncoder(folder, spec.max_tokens, spec.lower_case, plain_text, spec.markers)
        model = model_of(manifest, encoder, opener(folder, manifest, device))
        encoder.name(directory)
        return model
