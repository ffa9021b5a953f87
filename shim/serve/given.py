"""What the command line gives to be served: artifacts by name, and folders of artifacts that are loaded on demand."""

import os
import re
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from shim.artifact import Manifest
from shim.errors import SealportError, UsageError
from shim.listing import MANIFEST
from shim.model import Model

NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*"
NAMED = re.compile(rf"({NAME})=(.+)", re.DOTALL)
SPELLED = "a NAME is of letters a-z, digits and . _ : / @ + -, and begins with a letter or a digit"
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
        raise UsageError(f"{option} {text!r:.100}: not NAME=VALUE; {SPELLED}")
    return found[1], found[2]


def check_name(text: str, option: str) -> str:
    """The text itself. Raises UsageError unless it may be a model's name."""
    if not re.fullmatch(NAME, text):
        raise UsageError(f"{option} {text!r:.100}: {SPELLED}")
    return text


def folder(path: Path, read: Callable[[Path], Manifest], given: Collection[str] = ()) -> list[tuple[Path, Manifest]]:
    """The artifacts in a folder, by name, but those that are `given` already.

    One that `read` refuses, and one of a name that another has, is left out with a warning. Raises UsageError where the folder
    is none, and where no artifact is in it.
    """
    if not path.is_dir():
        raise UsageError(f"--models {path}: there is no such folder")
    if (path / MANIFEST).exists():
        raise UsageError(f"--models {path}: an artifact itself; give it without --models")
    skipped = {Path(each).resolve() for each in given}
    here = [each for each in sorted(path.iterdir()) if (each / MANIFEST).exists()]
    found: dict[str, tuple[Path, Manifest]] = {}
    for each in here:
        if each.resolve() in skipped:
            continue
        try:
            manifest = read(each)
            if manifest.name in found:
                raise UsageError(f"{each}: holds {manifest.name}, as {found[manifest.name][0]} does")
            found[manifest.name] = each, manifest
        except SealportError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    if not found and not any(each.resolve() in skipped for each in here):
        raise UsageError(f"--models {path}: no folder in it is an artifact that can be served")
    return list(found.values())


def amount(text: str, option: str, units: tuple[str, ...]) -> float:
    """A number with a unit, of SECONDS or BYTES. Raises UsageError for anything else."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([a-z]*)", text.strip().lower())
    if not found or found[2] not in units:
        raise UsageError(f"{option} {text!r:.100}: not a number with one of the units {', '.join(filter(None, units))}")
    return float(found[1]) * UNITS[found[2]]
