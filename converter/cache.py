"""The cache folder: what costs minutes to compute again and depends only on its key."""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import converter
import shim
from shim.cache import folder


def arrays(kind: str, key: object, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that were stored under `key` (any JSON value), or what `make` returns, stored for the next time.

    A cache that cannot be read is made again; one that cannot be written is done without.
    """
    path = _path(kind, key)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        found = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as beside:
            np.savez(Path(beside, path.name), **found)  # type: ignore[arg-type]
            Path(beside, path.name).replace(path)
    return found


def has(kind: str, key: object) -> bool:
    """Whether something is stored under `key`."""
    return os.path.isfile(_path(kind, key))  # a Path's own raises where the folder may not be read


@functools.cache
def code() -> str:
    """A digest of this program's own files but the server's, for keys of what other code would make otherwise."""
    digest = hashlib.sha256()
    for package in (converter, shim):
        folder = Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            if folder / "serve" not in path.parents:
                digest.update(path.read_bytes())
    return digest.hexdigest()


class Claim:
    """A folder of the cache that is in use, perhaps by other processes, too, that make the same.

    A lock on the folder says so; a process that dies lets go of it. Where there is no locking, this one counts as alone.
    """

    def __init__(self, kind: str):
        self.path = folder() / kind
        self.lock: int | None = None
        try:
            while not self._locked():
                self.close()  # somebody removed the folder between its opening and its locking
        except OSError:
            self.close()

    def _locked(self) -> bool:
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self.lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self.lock, fcntl.LOCK_SH)
            return os.path.samestat(os.fstat(self.lock), self.path.stat())
        return False

    def close(self) -> None:
        """Keep what is there: for the next time."""
        if self.lock is not None:
            os.close(self.lock)
        self.lock = None

    def remove(self) -> None:
        """Nothing of it is needed any more: the folder goes, unless it is in use, and then with the last who uses it."""
        with contextlib.suppress(OSError):
            if self.lock is not None:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def _path(kind: str, key: object) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder() / kind / f"{digest}.npz"
