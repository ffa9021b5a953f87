"""What a commit has to change: the files to send and to delete, and the words for it."""

import dataclasses
import hashlib
from collections.abc import Container
from pathlib import Path

from converter.publish.hub import Changes, File, State
from converter.publish.repository import Repository
from shim.artifact import Manifest
from shim.listing import MANIFEST, SIGNATURE, hash_file


def plan(folder: Path, repository: Repository, before: Repository | None, state: State) -> Changes:
    """What makes a repository with these files into the one in `folder`.

    Deleted is only what the repository's own `artifact.json` lists (`before`) and the new one does not, and a signature of
    the old one. Everything else stays: dotfiles such as `.gitattributes`, and whatever others put beside it.
    """
    hashes = local(folder, repository)
    send = [name for name, sha256 in hashes.items() if not same(folder / name, sha256, state.files.get(name))]
    gone = {name for name in (before.listed if before else ()) if name not in repository.listed}
    gone |= {SIGNATURE} if MANIFEST in send else set()
    return Changes(send, sorted(gone & state.files.keys() - hashes.keys()))


def local(folder: Path, repository: Repository) -> dict[str, str]:
    """SHA-256 of every file of the folder; those that are listed are known."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    listed = repository.listed
    return {name: listed[name]["sha256"] if name in listed else hash_file(folder / name) for name in names}


def same(path: Path, sha256: str, there: File | None) -> bool:
    """Whether the hub's file has the content of the local one."""
    if there is None or there.sha256 is not None:
        return there is not None and there.sha256 == sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == there.blob


def message(repository: Repository, before: Repository | None, made: Changes, there: Container[str]) -> tuple[str, str]:
    """The title and the description of a commit: precisions, then files. there: the files before it."""
    old = before.precisions if before else {}
    words = {
        "add": [key for key in repository.precisions if key not in old],
        "change": [key for key, manifest in repository.precisions.items() if key in old and _differs(manifest, old[key])],
        "remove": [key for key in old if key not in repository.precisions],
    }
    changes = [f"{word} {', '.join(keys)}" for word, keys in words.items() if keys]
    files = [*made.send, *made.delete]
    title = "; ".join(changes) or f"change {', '.join(files[:3])}" + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    lines = [f"{'~' if name in there else '+'} {name}" for name in made.send] + [f"- {name}" for name in made.delete]
    return title[0].upper() + title[1:], "\n".join(lines)


def _differs(manifest: Manifest, old: Manifest) -> bool:
    """But for `config.json`, which changes with any other precision."""
    one, other = ({name: entry for name, entry in each.files.items() if name != "config.json"} for each in (manifest, old))
    return one != other or dataclasses.replace(manifest, files={}) != dataclasses.replace(old, files={})
