"""A published repository as its `artifact.json` of schema 5 says it: a manifest for each precision, and all other files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from shim import artifact, seal
from shim.artifact import Manifest
from shim.errors import IntegrityError
from shim.jsons import JsonObject, read_manifest
from shim.listing import MANIFEST, File
from shim.repository import SCHEMA, SCHEMAS, parse

CARD = "README.md"
Files = dict[str, File]  # by path in the repository


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
    def listed(self) -> Files:
        """Every file that `artifact.json` lists."""
        return {name: entry for manifest in self.precisions.values() for name, entry in manifest.files.items()} | self.files

    def write(self, directory: Path) -> None:
        """Write `artifact.json`."""
        value: JsonObject = {
            "schema": SCHEMA,
            "name": self.name,
            "default": self.default,
            "precisions": {key: manifest.as_json() for key, manifest in self.precisions.items()},
            "files": cast(JsonObject, self.files),
        }
        text = json.dumps(seal.sealed(value), ensure_ascii=False, indent=1, allow_nan=False)
        (directory / MANIFEST).write_text(text, encoding="utf-8")


def read(path: Path, id: str) -> Repository:
    """The repository that an `artifact.json` describes. Raises IntegrityError where it is none."""
    raw = read_manifest(path)
    if raw.get("schema") not in SCHEMAS:
        raise IntegrityError(f"{path}: not the manifest of a published repository")
    listing = parse(raw, path)
    precisions = {key: artifact.parse(manifest, path) for key, manifest in listing.precisions.items()}
    return Repository(id, listing.default, precisions, listing.files)
