"""What the command line gives to be served: artifacts by name, and folders of artifacts that are loaded on demand."""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shim.artifact import Manifest
from shim.errors import SealportError, UsageError
from shim.listing import MANIFEST
from shim.model import Model

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._:/@+-]*)=(.+)", re.DOTALL)
UNITS = {
    "": 1,
    "s": 1,
    "m": 60,
    "h": 3600,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
SECONDS, BYTES = ("", "s", "m", "h"), ("", "b", "kb", "mb", "gb", "kib", "mib", "gib")


@dataclass(frozen=True)
class Given:
    """An artifact to serve. name: in place of its own. manifest: of one that is loaded on demand."""

    opener: Callable[[], Model]
    name: str | None = None
    manifest: Manifest | None = None


def named(text: str) -> tuple[str | None, str]:
    """The name and the artifact of NAME=ARTIFACT; a path that exists wins."""
    found = None if os.path.exists(text) else NAMED.fullmatch(text)
    return (found[1], found[2]) if found else (None, text)


def pair(text: str, option: str) -> tuple[str, str]:
    """Both sides of NAME=VALUE. Raises UsageError for anything else."""
    found = NAMED.fullmatch(text)
    if not found:
        raise UsageError(f"{option} {text!r:.100}: not NAME=VALUE")
    return found[1], found[2]


def folder(path: Path, read: Callable[[Path], Manifest]) -> list[tuple[Path, Manifest]]:
    """The artifacts in a folder, by name; one that `read` refuses is left out with a warning.

    Raises UsageError where there are none.
    """
    found = []
    for each in sorted(path.iterdir()) if path.is_dir() else ():
        if (each / MANIFEST).exists():
            try:
                found.append((each, read(each)))
            except SealportError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
    if not found:
        raise UsageError(f"--models {path}: no folder in it is an artifact that can be served")
    return found


def amount(text: str, option: str, units: tuple[str, ...]) -> float:
    """A number with a unit, of SECONDS or BYTES. Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in units:
        raise UsageError(f"{option} {text!r:.100}: not a number with one of the units {', '.join(filter(None, units))}")
    return float(found[1]) * UNITS[found[2]]
