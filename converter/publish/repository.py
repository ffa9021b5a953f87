"""A published repository as its `artifact.json` of schema 3 says it: a manifest for each precision, and all other files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shim import artifact
from shim.artifact import MANIFEST, Manifest
from shim.errors import IntegrityError

SCHEMA = 3
SIGNATURE = "artifact.json.sig"
CARD = "README.md"
Files = dict[str, dict[str, Any]]  # path in the repository -> {"sha256", "size"}


@dataclass(frozen=True)
class Repository:
    """What a repository of the hub holds.

    id: ORG/NAME. precisions: the manifest of each (`8bit`), the most exact first; their `files` are complete, with paths of
    the repository. files: every other file but the card, `artifact.json`, its signature and dotfiles.
    default: the precision that is loaded when nobody says which.
    """

    id: str
    default: str
    precisions: dict[str, Manifest]
    files: Files

    @property
    def name(self) -> str:
        return self.id.split("/")[1]

    @property
    def target(self) -> str:
        return self.precisions[self.default].target

    @property
    def verified(self) -> bool:
        """Whether every precision is sealed as a pass."""
        return all(manifest.verdict == "pass" for manifest in self.precisions.values())

    @property
    def listed(self) -> Files:
        """Every file that `artifact.json` lists."""
        return {name: entry for manifest in self.precisions.values() for name, entry in manifest.files.items()} | self.files

    def write(self, directory: Path) -> None:
        """Write `artifact.json`."""
        value = {
            "schema": SCHEMA,
            "name": self.name,
            "default": self.default,
            "precisions": {key: asdict(manifest) for key, manifest in self.precisions.items()},
            "files": self.files,
        }
        (directory / MANIFEST).write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False), encoding="utf-8")


def read(path: Path, id: str) -> Repository:
    """The repository that an `artifact.json` describes. Raises IntegrityError where it is not one of schema 3."""
    raw = artifact.read_object(path)
    precisions, files, default = (raw.get(key) for key in ("precisions", "files", "default"))
    if raw.get("schema") != SCHEMA or not isinstance(precisions, dict) or not isinstance(files, dict):
        raise IntegrityError(f"{path}: not the manifest of a published repository")
    if (
        not isinstance(default, str)
        or default not in precisions
        or not all(isinstance(manifest, dict) for manifest in precisions.values())
    ):
        raise IntegrityError(f"{path}: malformed (default {default!r}, precisions {', '.join(map(repr, precisions))})")
    artifact.check_names(files, path)
    return Repository(id, default, {key: artifact.parse(manifest, path) for key, manifest in precisions.items()}, files)
