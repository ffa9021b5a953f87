"""The cache folder: what costs minutes to compute again and depends only on its key."""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def folder() -> Path:
    """`$SEALPORT_CACHE`, or `sealport` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sealport"
    return Path(os.environ.get("SEALPORT_CACHE") or default)


def arrays(kind: str, key: Any, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
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


def has(kind: str, key: Any) -> bool:
    """Whether something is stored under `key`."""
    return _path(kind, key).is_file()


def _path(kind: str, key: Any) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder() / kind / f"{digest}.npz"
