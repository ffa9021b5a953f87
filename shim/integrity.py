"""Whether an artifact may be loaded: its files are those that its manifest lists, and its verdict is a pass."""

from collections.abc import Collection
from pathlib import Path

from shim import repository
from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError
from shim.jsons import read_manifest
from shim.listing import MANIFEST, SIGNATURE, check_file
from shim.parity import PARITY_TARGET


def check_files(directory: Path, manifest: Manifest, but: Collection[str] = ()) -> None:
    """Compare every file that is there with its size, then its hash. Raises IntegrityError naming the first that differs.

    but: names whose hash another checks.

    Of a published repository the files of other precisions may be absent. A file that is not listed is refused, as a runtime
    might load it; dotfiles and a README are the hub's and a user's.
    """
    if not manifest.files:
        raise IntegrityError(f"{directory}: the manifest lists no files")
    path = directory / MANIFEST
    raw = read_manifest(path)
    listed = repository.parse(raw, path).listed if raw.get("schema") in repository.SCHEMAS else manifest.files
    try:
        found = [path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()]
    except OSError as error:
        raise IntegrityError(f"{directory}: cannot be read ({error.strerror})") from None
    there = {path.relative_to(directory).as_posix() for path in found}
    for name in sorted(there - listed.keys()):
        own = name in (MANIFEST, SIGNATURE, "README.md") or any(part.startswith(".") for part in name.split("/"))
        if not own:
            raise IntegrityError(f"{directory}: {name} is not listed in the manifest; remove it")
    for name, entry in listed.items():
        if name not in but and (name in there or name in manifest.files):
            check_file(directory, name, entry)


def check_verdict(manifest: Manifest, min_parity: float | None) -> None:
    """Raise IntegrityError unless the artifact is sealed `pass` at `min_parity` or higher (0.999 where None)."""
    if min_parity is not None and not 0 <= min_parity <= 1:
        raise UsageError(f"min_parity must be from 0 to 1, not {min_parity}")
    if manifest.verdict != "pass":
        if manifest.parity.runtime not in (None, manifest.target):
            how = f"`convert verify ARTIFACT --runtime {manifest.parity.runtime}` measures that"
            raise IntegrityError(
                f"{manifest.name}: verdict with {manifest.parity.runtime} is {manifest.verdict}, not pass; {how}, "
                "allow_unverified=True (--allow-unverified) loads it"
            )
        raise IntegrityError(
            f"{manifest.name}: verdict is {manifest.verdict}, not pass; allow_unverified=True (--allow-unverified) loads it"
        )
    target, wanted = manifest.parity.promised, PARITY_TARGET if min_parity is None else min_parity
    if not target >= wanted:
        raise IntegrityError(
            f"{manifest.name}: sealed at parity {target:g}, under {wanted:g}; "
            f"min_parity={target:g} (--min-parity {target:g}) loads it"
        )
