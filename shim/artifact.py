"""The manifest `artifact.json`: what an artifact is, which files belong to it, and the measured verdict that seals it."""

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import NotRequired, TypedDict

from shim import repository, seal
from shim.errors import IntegrityError, SourceError, UsageError
from shim.jsons import JsonObject, read_manifest, strictly
from shim.listing import MANIFEST, File, check_listing
from shim.nearest import nearest
from shim.parity import Parity, check_parity
from shim.spec import STEPS, ModelSpec

SCHEMA = 4
UNSEALED = 2  # the schema of artifacts whose manifest has no seal of its own
UNWITNESSED = 1  # of those, too, whose reference no upstream loader had confirmed; they have no keys of SINCE
ARTIFACTS = "artifacts"  # the folder that `convert` writes into
RUNTIMES = {"mlx": ("mlx",), "onnx": ("onnx", "openvino")}  # target -> what runs it, first what every artifact is sealed with
TARGETS = tuple(RUNTIMES)
SINCE = ("prompt_names", "default_prompt", "modules", "similarity", "activation", "lower_case", "runtimes")


class Origin(TypedDict):
    """Where an original is: a repository of the hub at a commit, `pkg:MODULE` at a version, or `dir:NAME`."""

    repo: str
    revision: str


class Source(Origin):
    """The original: its files; which of them says what; what the recipe says otherwise, and why.

    language, pipeline_tag: of its model card. base_model: the repository that a package or a folder stands for.
    """

    files: dict[str, File]
    facts: NotRequired[dict[str, str]]
    overrides: NotRequired[dict[str, str]]
    language: NotRequired[list[str]]
    pipeline_tag: NotRequired[str]
    license_link: NotRequired[str]
    non_commercial: NotRequired[bool]
    base_model: NotRequired[str]


class Stored(TypedDict):
    """How a module is stored; input: how what goes into it is rounded, where its product is in integers.

    Where a search chose it, its Record also has the bytes, the mean 1 - cosine that they cost, and its share of all modules'.
    """

    bits: int
    group_size: NotRequired[int]
    input: NotRequired[str]
    bytes: NotRequired[int]
    cost: NotRequired[float]
    share_of_error: NotRequired[float]


class Record(TypedDict, total=False):
    """`quantization.json`: how the modules were chosen; of a search also what it predicted, and all that it could choose.

    predicted, points of the curve: bits per weight, and 1 - cosine of the `worst` text and of the `mean`.
    """

    method: str
    parity_on: str
    predicted: dict[str, float]
    curve: list[dict[str, float]]
    tensors: dict[str, Stored]


class Quantization(TypedDict):
    """tensors: what is not in full precision. original_bits_per_weight: of the files that it was converted from."""

    bits_per_weight: float
    original_bits_per_weight: NotRequired[float]
    tensors: dict[str, Stored]


class Settings(TypedDict):
    """What was asked of the tool, beside original, target and bits.

    recipe: digest of the recipe as it is written. parity, parity_on: see Bar. corpus, calibration: SHA-256 of a file of texts.
    """

    recipe: str
    effort: str
    parity: float
    parity_on: str
    strict_bits: bool
    corpus: str
    calibration: NotRequired[str]
    max_size: NotRequired[int]


class Tool(TypedDict):
    """What made the artifact; command: what makes the same again."""

    version: str
    packages: dict[str, str]
    settings: NotRequired[Settings]
    command: NotRequired[str]


@dataclass(frozen=True)
class Manifest:
    """`artifact.json`, one attribute a key but its seal. Files of ours are read strictly: no key is unknown or missing.

    runtimes: the parity that was measured through further runtimes, by their names; `parity` is of the target's own.
    """

    schema: int
    name: str
    recipe: str
    task: str
    target: str
    bits: int
    source: Source
    model: ModelSpec
    quantization: Quantization
    files: dict[str, File]
    parity: Parity
    tool: Tool
    license: str
    created: str
    runtimes: dict[str, Parity] | None = None

    @property
    def verdict(self) -> str:
        return self.parity.verdict

    @property
    def size(self) -> int:
        """Bytes of all files listed."""
        return sum(entry["size"] for entry in self.files.values())

    def through(self, runtime: str) -> "Manifest":
        """The manifest as it counts for a runtime: `parity` is what was measured through it, unverified where nothing was.

        Raises UsageError for a runtime that cannot load the artifact.
        """
        if runtime not in RUNTIMES[self.target]:
            raise UsageError(f"{self.name} was made for {self.target}; runtime {runtime} cannot load it")
        if runtime == self.target:
            return self
        unmeasured = Parity(verdict="unverified", runtime=runtime)
        return replace(self, parity=(self.runtimes or {}).get(runtime, unmeasured), runtimes=None)

    def as_json(self) -> JsonObject:
        """The manifest as JSON values, as `write` writes it: with its seal, if its schema has one."""
        value = asdict(self, dict_factory=lambda pairs: {name: value for name, value in pairs if value is not None})
        return seal.sealed(value) if self.schema == SCHEMA else value


def read(directory: Path, precision: str | None = None, content: bytes | None = None) -> Manifest:
    """The manifest in `directory`; of a published repository, that of one precision, such as `8bit` (see repository.choose).

    content: what was read of its file already. Raises IntegrityError when it is absent, malformed, contradicts itself or was
    changed after it was sealed, UsageError for a precision that is not there.
    """
    path = directory / MANIFEST
    if not path.is_file():
        if directory.is_dir():
            raise IntegrityError(f"{directory} has no {MANIFEST}; a finished `convert` writes one")
        raise IntegrityError(f"{directory} is not a directory{_meant(directory)}")
    raw = read_manifest(path, content)
    if raw.get("schema") in repository.SCHEMAS:
        manifest = parse(repository.choose(repository.parse(raw, path), path, precision), path)
    else:
        manifest = parse(raw, path)
    if precision not in (None, f"{manifest.bits}bit"):
        raise UsageError(f"{manifest.name} has no precision {precision}; it has {manifest.bits}bit")
    return manifest


def _meant(directory: Path) -> str:
    """The artifact beside it, or in the folder of `convert`, that was meant."""
    places = dict.fromkeys((directory.parent, Path(ARTIFACTS)))
    paths = {path.parent.name: path.parent for place in places for path in place.glob(f"*/{MANIFEST}")}
    near = nearest(directory.name, paths)
    return f"; did you mean {paths[near[0]]}?" if near else ""


def parse(raw: object, path: Path) -> Manifest:
    """The manifest that a JSON value is; `path` names its file in errors. Raises IntegrityError, see `read`."""
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), dict):
        raise IntegrityError(f"{path}: not an artifact manifest")
    if (schema := raw.get("schema")) not in (UNWITNESSED, UNSEALED, SCHEMA):
        readable = f"this version reads {UNWITNESSED} to {repository.SCHEMA}"
        raise IntegrityError(f"{path}: schema {schema!r:.50} unknown; {readable}")
    own = seal.unsealed(raw) if schema == SCHEMA else raw
    manifest: Manifest = strictly(Manifest, own, str(path), SINCE if schema == UNWITNESSED else ())
    _check_verdict(manifest, path)
    if schema == SCHEMA:
        seal.check(raw, path)
    return manifest


def _check_verdict(manifest: Manifest, path: Path) -> None:
    """A hand-edited verdict contradicts the figures beside it."""
    if manifest.target not in TARGETS:
        raise IntegrityError(f"{path}: target {manifest.target!r} unknown ({', '.join(TARGETS)})")
    if manifest.model.max_tokens < 1 or manifest.model.dimensions < 1:
        raise IntegrityError(f"{path}: max_tokens and dimensions must be positive")
    for step in manifest.model.modules:
        if step.activation not in STEPS.get(step.type, ()) or (step.type == "dense") != (step.width > 0):
            raise IntegrityError(f"{path}: module {step} unknown ({', '.join(STEPS)})")
    check_parity(manifest.parity, manifest.model.heads, manifest.schema != UNWITNESSED, path)
    for runtime, parity in (manifest.runtimes or {}).items():
        if runtime not in RUNTIMES[manifest.target][1:] or parity.runtime != runtime:
            raise IntegrityError(f"{path}: runtimes: {runtime!r} unknown, or its figures are of {parity.runtime!r}")
        check_parity(parity, manifest.model.heads, True, path)
    check_listing(manifest.files, path)
    try:
        datetime.fromisoformat(manifest.created).timestamp()
    except (ValueError, OverflowError):
        raise IntegrityError(f"{path}: created {manifest.created!r:.50} is no time as in 2026-01-31T12:00:00Z") from None


def write(directory: Path, manifest: Manifest) -> None:
    """Write the manifest to a temporary name, then rename it: a reader never sees half of it."""
    temporary = directory / (MANIFEST + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(manifest.as_json(), file, ensure_ascii=False, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / MANIFEST)
    except OSError as error:
        raise SourceError(f"{temporary}: cannot be written ({error.strerror})") from None
