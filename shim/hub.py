"""Artifacts in repositories of the Hugging Face hub: found at one commit, fetched, checked, and kept as plain files.

The hub's own client fetches into its cache. That holds symlinks, behind which not every onnxruntime takes a graph's external
data, and files of other precisions; what was checked is linked into a folder of ours.
"""

import contextlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shim import artifact, cache, integrity, signature
from shim.artifact import ARTIFACTS, Manifest
from shim.errors import IntegrityError, SealportError, SourceError, UsageError
from shim.jsons import MAX_MANIFEST, read_manifest
from shim.listing import MANIFEST, SIGNATURE, File, hash_file

REPOSITORY = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@((?!\.)[\w.-]+(?:/(?!\.)[\w.-]+)*))?", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
LOG_IN = "set HF_TOKEN, or run `hf auth login`"


@dataclass(frozen=True)
class Found:
    """An artifact in a repository at one commit. own: its `artifact.json`, and the signature if asked for, in its cache."""

    repository: str
    revision: str
    manifest: Manifest
    own: dict[str, Path]


def is_repository(source: str | os.PathLike[str]) -> bool:
    """Whether a string names a repository, ORG/NAME[@REVISION]; what exists here is a path, and so is all in `artifacts/`."""
    if not isinstance(source, str) or REPOSITORY.fullmatch(source) is None or os.path.lexists(source):
        return False
    return not (source.startswith(f"{ARTIFACTS}/") and os.path.isdir(ARTIFACTS))


def find(source: str, precision: str | None = None, require_signature: str | os.PathLike[str] | None = None) -> Found:
    """The artifact in the repository `source`, at the commit that its revision is now; only its manifest is fetched.

    require_signature: the public key of who must have signed it. Raises SourceError where the hub or the cache cannot give it,
    IntegrityError for a repository that holds no artifact, UsageError for a precision that there is not.
    """
    match = REPOSITORY.fullmatch(source)
    if match is None:
        raise UsageError(f"{source!r} is not ORG/NAME or ORG/NAME@REVISION")
    path = _get(match[1], match[2] or "main", MANIFEST, MAX_MANIFEST)
    if path is None:
        raise IntegrityError(f"{source} has no {MANIFEST}, so it is no artifact; `convert {source} --to onnx` makes one of it")
    revision = path.parent.name
    if not COMMIT.fullmatch(revision):
        raise SourceError(f"{source}: the hub gives no commit, but {revision!r}")
    own = {MANIFEST: path} | (_signature(match[1], revision) if require_signature is not None else {})
    with tempfile.TemporaryDirectory(prefix="sealport-") as folder:
        for name, file in own.items():
            shutil.copyfile(file, Path(folder, name))
        try:
            if require_signature is not None:
                signature.check(Path(folder), require_signature)
                _check_name(Path(folder, MANIFEST), match[1])
            manifest = artifact.read(Path(folder), precision)
        except IntegrityError as error:
            raise IntegrityError(str(error).replace(folder, f"{match[1]}@{revision}")) from None
    return Found(match[1], revision, manifest, own)


def fetch(found: Found, hashed: bool = True) -> Path:
    """The folder that holds the artifact, every file of it checked: fetched unless it is there.

    hashed: False leaves the hashes of a folder that is there to the caller, whom it cannot be trusted without.

    Files lie in the hub's cache first, so that what an interrupted run has fetched is kept; the folder gets hard links to them,
    or copies. Raises SourceError as `find` does, IntegrityError for a file that is not what the manifest says.
    """
    place = cache.folder() / "hub" / found.repository.replace("/", "--") / found.revision / f"{found.manifest.bits}bit"
    if not _whole(place, found, hashed):
        files = {name: _checked(found, name, entry) for name, entry in found.manifest.files.items()}
        files |= _signature(found.repository, found.revision) | found.own
        try:
            _build(place, files, found)
        except OSError as error:
            raise SourceError(f"{error.filename or place}: cannot be written ({error.strerror})") from None
    return place


def _signature(repository: str, revision: str) -> dict[str, Path]:
    """The signature by its name, where there is one."""
    path = _get(repository, revision, SIGNATURE, signature.MAX_SIGNATURE)
    return {SIGNATURE: path} if path else {}


def _check_name(path: Path, repository: str) -> None:
    """A signature of one repository's manifest says nothing of another repository of the same owner."""
    name = read_manifest(path).get("name")
    if name != repository.split("/")[1]:
        raise IntegrityError(f"{path}: the manifest signed is that of {name!r:.100}")


def _whole(place: Path, found: Found, hashed: bool = True) -> bool:
    try:
        same = all(Path(place, name).read_bytes() == path.read_bytes() for name, path in found.own.items())
        integrity.check_files(place, found.manifest, but=() if hashed else found.manifest.files)
    except (OSError, IntegrityError):
        return False
    return same


def _checked(found: Found, name: str, entry: File) -> Path:
    """A file in the hub's cache that is what the manifest says."""
    where = f"{found.repository}@{found.revision}"
    path = _get(found.repository, found.revision, name, entry["size"])
    if path is None:
        raise IntegrityError(f"{where}: {name} is missing from the repository")
    if path.stat().st_size != entry["size"] or hash_file(path) != entry["sha256"]:
        raise IntegrityError(f"{where}: {name} differs from the manifest; if only {path.resolve()} is damaged, remove it")
    return path


def _build(place: Path, files: dict[str, Path], found: Found) -> None:
    """Make the folder beside its place, and rename it: it is whole or not there, whoever else makes it at the same time."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".", ignore_cleanup_errors=True) as beside:
        new = Path(beside, "new")
        for name, path in files.items():
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name not in found.manifest.files or not _linked(path.resolve(), target):
                shutil.copyfile(path, target)  # the manifest, too: who changes it here changes what a hash cannot mend
        try:
            new.rename(place)
        except OSError:
            if _whole(place, found):
                return  # another process was faster, and may be reading it
            with contextlib.suppress(FileNotFoundError):
                place.rename(Path(beside, "old"))
            new.rename(place)


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:  # another disk, or a file system or a user that has no hard links
        return False
    return True


def _get(repository: str, revision: str, name: str, size: int) -> Path | None:
    """A file of the repository in the hub's cache, fetched unless it is there; None where the repository has none such.

    size: bytes that it may have; what is larger is given up before it is written. Raises SourceError and IntegrityError.
    """
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ImportError:
        raise UsageError("huggingface_hub is not installed: pip install 'sealport[hub]'") from None
    bar = _bar_of(size, f"{repository}: {name}")
    try:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision, library_name="sealport", tqdm_class=bar)
    except errors.RemoteEntryNotFoundError:
        return None
    except SealportError:
        raise
    except Exception as error:  # the client raises its own, httpx's, OSError and ValueError
        if name == SIGNATURE and constants.HF_HUB_OFFLINE:
            return None  # nobody wanted it when there was a network
        raise SourceError(f"{repository}@{revision}: {_reason(error)}") from None
    return Path(path)


def _bar_of(size: int, what: str) -> type:
    """The client's progress bar, which it tells of every part before writing it, and which stops it over `size` bytes."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: object, total: float | None = None, initial: float = 0, **more: object):
            super().__init__(*args, total=total, initial=initial, **more)
            self.received = initial
            self.check(total or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            self.check(self.received)
            return super().update(n)

        def update_transfer(self, n: float) -> None:
            """Bytes on the wire, which Xet counts apart from the file's."""

        def check(self, count: float) -> None:
            if count > size:
                raise IntegrityError(f"{what} is larger than the {size} bytes that it may have")

    return Bar


def _reason(error: Exception) -> str:
    """Why the client could not give a file, in our words: its own are several lines, and show addresses."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the hub was not asked, or did not answer
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "not in the hub's cache, and HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        return f"gated: ask for access on its page, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"neither a directory here nor a repository that the hub shows you; if it is private, {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        known = {401: f"the token is refused; {LOG_IN}", 429: f"too many requests; wait, or {LOG_IN}"}
        return f"the hub answers {status}" + (f" ({known[status]})" if status in known else "")
    lines = str(error).strip().splitlines()
    return f"cannot be fetched from the hub ({lines[0] if lines else type(error).__name__})"
