"""The manifest of a published repository, schema 5: several precisions of one model under one list of files."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from shim import seal
from shim.errors import IntegrityError, UsageError
from shim.jsons import JsonObject, strictly
from shim.listing import File, check_listing

SCHEMA = 5
SCHEMAS = (3, SCHEMA)  # the former has no seal of its own


@dataclass(frozen=True)
class Repository:
    """`artifact.json` of a repository, one attribute a key.

    precisions: a manifest for each, by its bits, such as `8bit`. default: the one that is loaded when nobody says which.
    files: every file that no precision lists, but the card, the manifest, its signature and dotfiles.
    """

    schema: int
    name: str
    default: str
    precisions: dict[str, dict[str, object]]
    files: dict[str, File]

    @property
    def listed(self) -> dict[str, File]:
        """Every file that is listed."""
        return {name: entry for files in self.of_precisions.values() for name, entry in files.items()} | self.files

    @property
    def of_precisions(self) -> dict[str, dict[str, File]]:
        """The files of each precision."""
        return {key: cast(dict[str, File], each["files"]) for key, each in self.precisions.items()}


def parse(raw: JsonObject, path: Path) -> Repository:
    """The repository that a JSON object describes; its manifests are still to be parsed, see `artifact.parse`.

    `path` names its file in errors. Raises IntegrityError for one that is malformed or contradicts itself.
    """
    new = raw.get("schema") == SCHEMA
    repository: Repository = strictly(Repository, seal.unsealed(raw) if new else raw, str(path), ())
    if repository.default not in repository.precisions:
        raise IntegrityError(f"{path}: default {repository.default!r} is none of its precisions")
    for key, each in repository.precisions.items():
        if key != f"{each.get('bits')}bit":
            raise IntegrityError(f"{path}: precision {key!r} is not a manifest of so many bits")
    found: dict[str, File] = {}
    for files in (repository.files, *(each.get("files") for each in repository.precisions.values())):
        for name, entry in check_listing(files, path).items():
            if found.setdefault(name, entry) != entry:
                raise IntegrityError(f"{path}: file {name!r} is listed with two contents")
    check_listing(found, path)
    if new:
        seal.check(raw, path)
    return repository


def choose(repository: Repository, path: Path, precision: str | None) -> dict[str, object]:
    """The manifest of one precision of the repository whose manifest is at `path`.

    None is the repository's default, or, in a folder that `shim pull` made, the one that is there. Raises UsageError for a
    precision that there is not.
    """
    if precision is None:
        there = {name for name in repository.listed if (path.parent / name).is_file()}
        alone = [key for key, files in repository.of_precisions.items() if files.keys() == there]
        precision = alone[0] if len(alone) == 1 else repository.default
    if precision not in repository.precisions:
        raise UsageError(f"{repository.name} has no precision {precision}; it has {', '.join(repository.precisions)}")
    return repository.precisions[precision]
