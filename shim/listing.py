"""The files that a manifest lists: what may be listed, the entry of a file, and whether a file is still what its entry says."""

import hashlib
import os
import re
import stat
import unicodedata
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import TypedDict

from shim.errors import IntegrityError

MANIFEST = "artifact.json"
SIGNATURE = "artifact.json.sig"
HASH = re.compile(r"[0-9a-f]{64}")
MAX_FILES = 256  # each is held open while an artifact is loaded, beside a server's connections
MAX_NAME = 255  # bytes of one part of a path
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows opens these in place of a file


class FileError(IntegrityError):
    """A file is not there, or not what is listed."""


class File(TypedDict):
    """A file of an artifact, or of its original; size: bytes."""

    sha256: str
    size: int


def check_listing(files: object, path: Path) -> dict[str, File]:
    """The files, of the manifest at `path`. Raises IntegrityError unless they are {relative name: {"sha256", "size"}}.

    Refused are two names that a file system may take for one, by case or Unicode form, and a file that is another's folder.
    """
    if not isinstance(files, dict):
        raise IntegrityError(f"{path}: files must be an object, not {type(files).__name__}")
    if len(files) > MAX_FILES:
        raise IntegrityError(f"{path}: lists {len(files)} files, over {MAX_FILES}")
    taken: dict[str, str] = {}
    for name, entry in files.items():
        if fault := _fault(name):
            raise IntegrityError(f"{path}: file {name[:MAX_NAME]!r} {fault}")
        if other := taken.get(_folded(name)):
            raise IntegrityError(f"{path}: files {other!r} and {name!r} are one on some systems")
        taken[_folded(name)] = name
        if not _is_entry(entry):
            raise IntegrityError(f"{path}: file {name!r} has no sha256 and size")
    for folded, name in taken.items():
        for folder in PurePosixPath(folded).parents:
            if str(folder) in taken:
                raise IntegrityError(f"{path}: file {taken[str(folder)]!r} is the folder of {name!r}, too")
    return files


def check_file(directory: Path, name: str, entry: File) -> None:
    """Raise FileError unless a file that is listed is there, and of the size and the hash that are listed."""
    with open_file(directory, name) as file:
        check_content(file, directory, name, entry)


def open_file(directory: Path, name: str) -> BufferedReader:
    """The file, open; nothing that waits for a writer or a device. Raises FileError where it is not there."""
    path = directory / name
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(directory, name) from None
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _missing(directory, name)
    return open(descriptor, "rb")


def check_content(file: BufferedReader, directory: Path, name: str, entry: File) -> None:
    """Raise FileError unless what is open is of the size and the hash that are listed for this name."""
    try:
        same = os.fstat(file.fileno()).st_size == entry["size"] and _hash(file) == entry["sha256"]
    except OSError as error:
        raise FileError(f"{directory / name}: cannot be read ({error.strerror})") from None
    if not same:
        raise FileError(f"{directory}: {name} differs from the manifest; convert or download the artifact again")


def _missing(directory: Path, name: str) -> FileError:
    return FileError(f"{directory}: {name} is missing; convert or download the artifact again")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return _hash(file)


def entry_of(path: Path) -> File:
    """A file as a manifest lists it."""
    return {"sha256": hash_file(path), "size": path.stat().st_size}


def hash_files(directory: Path) -> dict[str, File]:
    """{relative name: entry} of every file under `directory` but the manifest and its signature."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in (MANIFEST, SIGNATURE))
    return {path.relative_to(directory).as_posix(): entry_of(path) for path in paths}


def _hash(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        return "lies outside the artifact"
    if _folded(name) in (MANIFEST, SIGNATURE):
        return "is the manifest itself"
    if not name.isprintable() or any(not part or part[0] == "." or part[-1] in ". " for part in parts):
        return "has a name that hides it or that not every system has"
    if any(DEVICES.fullmatch(part) or len(part.encode()) > MAX_NAME for part in parts) or len(parts) > 16:
        return "has a name that not every system has"
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"sha256", "size"}:
        return False
    size, digest = entry["size"], entry["sha256"]
    return type(size) is int and size >= 0 and isinstance(digest, str) and HASH.fullmatch(digest) is not None
