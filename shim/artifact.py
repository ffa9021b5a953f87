"""The manifest `artifact.json`: what an artifact is, which files belong to it, and the measured verdict that seals it."""

import hashlib
import json
import math
import os
import typing
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from shim.errors import IntegrityError, SourceError, UsageError
from shim.spec import STEPS, ModelSpec, Module

MANIFEST = "artifact.json"
SCHEMA = 2
UNWITNESSED = 1  # the schema of artifacts whose reference no upstream loader had confirmed; they have no keys of SINCE
PARITY_TARGET = 0.999
WITNESS_TOLERANCE = 1e-4  # |ours - upstream's| / |upstream's|, of a text's output in fp32, at most
VERDICTS = ("pass", "fail", "unverified")
TARGETS = ("mlx", "onnx")


SINCE = ("prompt_names", "default_prompt", "modules", "similarity", "activation", "lower_case")


@dataclass(frozen=True)
class Manifest:
    """`artifact.json`, one attribute a key. Files of ours are read strictly: an unknown or missing key is an error."""

    schema: int
    name: str
    recipe: str
    task: str
    target: str
    bits: int
    source: dict[str, Any]
    model: ModelSpec
    quantization: dict[str, Any]
    files: dict[str, dict[str, Any]]
    parity: dict[str, Any]
    tool: dict[str, Any]
    license: str
    created: str

    @property
    def verdict(self) -> str:
        return str(self.parity["verdict"])

    @property
    def size(self) -> int:
        """Bytes of all files listed."""
        return sum(int(entry["size"]) for entry in self.files.values())


def read(directory: Path) -> Manifest:
    """The manifest in `directory`. Raises IntegrityError when it is absent, malformed, or contradicts itself."""
    path = directory / MANIFEST
    if not path.exists():
        what = "is not a directory" if not directory.is_dir() else f"has no {MANIFEST}; a finished `convert` writes one"
        raise IntegrityError(f"{directory} {what}")
    return parse(read_object(path), path)


def parse(raw: dict[str, Any], path: Path) -> Manifest:
    """The manifest that a JSON object is; `path` names its file in errors. Raises IntegrityError, see `read`."""
    if not isinstance(raw.get("model"), dict):
        raise IntegrityError(f"{path}: not an artifact manifest")
    if raw.get("schema") not in (UNWITNESSED, SCHEMA):
        raise IntegrityError(f"{path}: schema {raw.get('schema')!r} unknown; this version reads {UNWITNESSED} and {SCHEMA}")
    model = raw["model"]
    if raw["schema"] == SCHEMA:
        steps = model.get("modules")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise IntegrityError(f"{path}: modules must be a list of objects, not {steps!r}")
        model = {**model, "modules": [_strict(Module, step, path) for step in steps]}
    absent = SINCE if raw["schema"] == UNWITNESSED else ()
    manifest = _strict(Manifest, {**raw, "model": _strict(ModelSpec, model, path, absent)}, path)
    _check_seal(manifest, path)
    return manifest


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an artifact. Raises IntegrityError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: not a JSON object")
    return value


def _strict(cls: Any, raw: dict[str, Any], path: Path, absent: tuple[str, ...] = ()) -> Any:
    names = {f.name for f in fields(cls)} - set(absent)
    for problem, keys in (("unknown", raw.keys() - names), ("missing", names - raw.keys())):
        if keys:
            raise IntegrityError(f"{path}: key {', '.join(sorted(keys))} {problem}")
    for name, hint in typing.get_type_hints(cls).items():
        kind = typing.get_origin(hint) or hint
        if name in names and (not isinstance(raw[name], kind) or (isinstance(raw[name], bool) and kind is not bool)):
            raise IntegrityError(f"{path}: {name} must be {kind.__name__}, not {raw[name]!r}")
    return cls(**raw)


def _check_seal(manifest: Manifest, path: Path) -> None:
    """A hand-edited verdict contradicts the figures beside it."""
    parity = manifest.parity
    if manifest.target not in TARGETS:
        raise IntegrityError(f"{path}: target {manifest.target!r} unknown ({', '.join(TARGETS)})")
    if manifest.model.max_tokens < 1 or manifest.model.dimensions < 1:
        raise IntegrityError(f"{path}: max_tokens and dimensions must be positive")
    for step in manifest.model.modules:
        if step.activation not in STEPS.get(step.type, ()) or (step.type == "dense") != (step.width > 0):
            raise IntegrityError(f"{path}: module {step} unknown ({', '.join(STEPS)})")
    try:
        str(manifest.source["repo"]), str(manifest.source["revision"]), manifest.source["files"].items()
        float(manifest.quantization["bits_per_weight"]), manifest.quantization["tensors"].items()
        if parity["verdict"] not in VERDICTS:
            raise IntegrityError(f"{path}: verdict {parity['verdict']!r} unknown ({', '.join(VERDICTS)})")
        on = parity.get("on", "worst")
        if on not in ("worst", "mean"):
            raise IntegrityError(f"{path}: parity on {on!r} unknown (worst, mean)")
        if parity["verdict"] != "unverified":
            worst = min(float(head[on]) for head in parity["heads"].values())
            unmeasured = set(manifest.model.heads) - set(parity["heads"])
            if parity["verdict"] == "pass" and (unmeasured or not worst >= float(parity["target"])):
                raise IntegrityError(f"{path}: verdict pass contradicts its own figures ({on} {worst:.6f})")
            if parity["verdict"] == "pass" and manifest.schema != UNWITNESSED:
                _check_witness(parity.get("witness"), path)
        check_names(manifest.files, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: malformed ({type(error).__name__}: {error})") from None


def check_names(files: dict[str, dict[str, Any]], path: Path) -> None:
    """Raise IntegrityError where a file that is listed has no size and hash, or a name that leads out of the artifact."""
    for name, entry in files.items():
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise IntegrityError(f"{path}: file {name} lies outside the artifact")
        try:
            int(entry["size"]), str(entry["sha256"])
        except (KeyError, TypeError, ValueError):
            raise IntegrityError(f"{path}: file {name} has no size and sha256") from None


def _check_witness(witness: Any, path: Path) -> None:
    """A pass needs an upstream library's word that the original was read as it reads it."""
    if not isinstance(witness, dict) or not witness.get("library") or not witness.get("version"):
        raise IntegrityError(f"{path}: verdict pass without a witness; `convert verify` asks the upstream library")
    if not float(witness["worst"]) <= float(witness["tolerance"]) <= WITNESS_TOLERANCE or int(witness["texts"]) < 1:
        raise IntegrityError(f"{path}: verdict pass contradicts its witness (off by {float(witness['worst']):.2g})")


def write(directory: Path, manifest: Manifest) -> None:
    """Write the manifest to a temporary name, then rename it: a reader never sees half of it."""
    temporary = directory / (MANIFEST + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(asdict(manifest), file, ensure_ascii=False, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / MANIFEST)
    except OSError as error:
        raise SourceError(f"{temporary}: cannot be written ({error.strerror})") from None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(directory: Path) -> dict[str, dict[str, Any]]:
    """{relative name: {"sha256", "size"}} of every file under `directory` but the manifest."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(directory).as_posix(): {"sha256": hash_file(path), "size": path.stat().st_size} for path in paths}


def check_files(directory: Path, manifest: Manifest) -> None:
    """Compare every listed file with its size, then its hash. Raises IntegrityError naming the first that differs.

    A file that is not listed is refused, too, as a runtime might load it; dotfiles and a README are the hub's and a user's.
    """
    if not manifest.files:
        raise IntegrityError(f"{directory}: the manifest lists no files")
    there = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    for path in there:
        own = path.as_posix() in (MANIFEST, "README.md") or any(part.startswith(".") for part in path.parts)
        if not own and path.as_posix() not in manifest.files:
            raise IntegrityError(f"{directory}: {path.as_posix()} is not listed in the manifest; remove it")
    for name, entry in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise IntegrityError(f"{directory}: {name} is missing; convert or download the artifact again")
        try:
            same = path.stat().st_size == entry["size"] and hash_file(path) == entry["sha256"]
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read ({error.strerror})") from None
        if not same:
            raise IntegrityError(f"{directory}: {name} differs from the manifest; convert or download the artifact again")


def check_verdict(manifest: Manifest, min_parity: float | None) -> None:
    """Raise IntegrityError unless the artifact is sealed `pass` at `min_parity` or higher (0.999 where None)."""
    if min_parity is not None and not 0 <= min_parity <= 1:
        raise UsageError(f"min_parity must be from 0 to 1, not {min_parity}")
    if manifest.verdict != "pass":
        raise IntegrityError(
            f"{manifest.name}: verdict is {manifest.verdict}, not pass; allow_unverified=True (--allow-unverified) loads it"
        )
    target, wanted = float(manifest.parity["target"]), PARITY_TARGET if min_parity is None else min_parity
    if manifest.parity.get("on") == "mean":  # what it promises of every text is its worst one's cosine, rounded down
        target = math.floor(1e4 * min(float(head["worst"]) for head in manifest.parity["heads"].values())) / 1e4
    if not target >= wanted:
        raise IntegrityError(
            f"{manifest.name}: sealed at parity {target:g}, under {wanted:g}; "
            f"min_parity={target:g} (--min-parity {target:g}) loads it"
        )
