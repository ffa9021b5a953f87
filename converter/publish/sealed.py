"""What may be published: artifacts whose verdict and hashes hold, of one model, and what the hub has of that model already."""

from dataclasses import dataclass
from pathlib import Path

from converter.publish.repository import Repository
from shim import artifact, integrity
from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError


@dataclass(frozen=True)
class Sealed:
    """An artifact and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def precision(self) -> str:
        return f"{self.manifest.bits}bit"


def gather(paths: list[Path], allow_unverified: bool = False) -> list[Sealed]:
    """The artifacts by their manifests, the most exact first.

    Raises IntegrityError for one that is not sealed as a pass unless `allow_unverified`; UsageError for artifacts that cannot
    share a repository.
    """
    found = sorted((_sealed(path, allow_unverified) for path in paths), key=lambda each: -each.manifest.bits)
    first = found[0].manifest
    for each in found[1:]:
        if each.manifest.target != first.target or first.target == "mlx":
            raise UsageError(f"{first.name} and {each.manifest.name}: only ONNX artifacts of one model share a repository")
        if difference := _difference(first, each.manifest):
            raise UsageError(f"{first.name} and {each.manifest.name} cannot share a repository: they differ in {difference}")
    if len({each.precision for each in found}) < len(found):
        raise UsageError(f"two artifacts of the same precision ({', '.join(each.precision for each in found)})")
    return found


def check(artifacts: list[Sealed]) -> None:
    """Hash every file. Raises IntegrityError for an artifact that is not what its manifest says."""
    for each in artifacts:
        integrity.check_files(each.path, each.manifest)


def keep(published: Repository, artifacts: list[Sealed]) -> dict[str, Manifest]:
    """The precisions that a repository has and that are not given: they stay.

    Raises UsageError where they cannot, as they are of another original, and where all of it is another model's or target's.
    """
    given, first = {each.precision for each in artifacts}, artifacts[0].manifest
    rest = {key: manifest for key, manifest in published.precisions.items() if key not in given}
    for key, manifest in published.precisions.items():
        here = f"{published.id} has {key}"
        if (manifest.target, manifest.recipe) != (first.target, first.recipe) or (rest and first.target == "mlx"):
            raise UsageError(
                f"{here}, {manifest.name}; --name gives {first.name} another repository, --replace removes that one"
            )
        if key in rest and (difference := _difference(manifest, first)):
            raise UsageError(f"{here}, which differs from {first.name} in {difference}; give its artifact too, or --replace")
    return rest


def _sealed(path: Path, allow_unverified: bool) -> Sealed:
    manifest = artifact.read(path)
    if manifest.schema != artifact.SCHEMA:
        raise IntegrityError(f"{path}: sealed by an older version; `convert verify` seals it anew")
    if manifest.verdict != "pass" and not allow_unverified:
        raise IntegrityError(f"{path}: verdict is {manifest.verdict}, not pass; --allow-unverified publishes it, marked so")
    return Sealed(path, manifest)


def _difference(one: Manifest, other: Manifest) -> str:
    """What tells apart the models that two artifacts were made of; nothing where they are the same."""
    for what in ("recipe", "task", "model", "license"):
        if getattr(one, what) != getattr(other, what):
            return what
    there, here = one.source, other.source
    same_commit = there["revision"] and (there["repo"], there["revision"]) == (here["repo"], here["revision"])
    return "" if same_commit or there["files"] == here["files"] else "the original (repository, revision or files)"
