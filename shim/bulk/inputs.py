"""The files of a corpus: found by globs, of this machine or of any fsspec address."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

import fsspec

from shim.bulk.request import REJECTS
from shim.errors import SourceError, UsageError

PACKED = (".gz", ".bz2", ".xz", ".zst")
KINDS = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
KINDS |= {".csv": "csv", ".tsv": "csv", ".txt": "text", ".text": "text"}
MAGIC = re.compile(r"[*?\[{]")


@dataclass(frozen=True)
class Input:
    """One file. name: its path behind the part of the glob that is no pattern; ids and shards are named after it."""

    files: fsspec.AbstractFileSystem
    path: str
    name: str
    size: int

    @property
    def packed(self) -> bool:
        return self.path.endswith(PACKED)

    @property
    def ending(self) -> str:
        """In lower case, without that of what packs it."""
        endings = [ending.lower() for ending in PurePosixPath(self.path).suffixes if ending not in PACKED]
        return endings[-1] if endings else ""

    @property
    def kind(self) -> str:
        """Its format, by its ending. Raises UsageError for one that is none of ours."""
        if self.ending not in KINDS:
            raise UsageError(f"{self.path}: its ending says no format of ours ({', '.join(KINDS)})")
        return KINDS[self.ending]

    def open(self) -> IO[bytes]:
        """The content, unpacked."""
        return self.files.open(self.path, "rb", compression="infer" if self.packed else None)


def find(patterns: Iterable[str], out: str) -> list[Input]:
    """The files of the globs, in order, each once, without what runs have written to the folder `out`.

    Raises UsageError where there are none, SourceError for an address that fails.
    """
    found: dict[str, Input] = {}
    known: set[tuple[fsspec.AbstractFileSystem, str]] = set()
    for pattern in patterns:
        try:
            files, path = fsspec.core.url_to_fs(pattern)
            pieces = MAGIC.split(path)
            start = path.rfind("/", 0, len(pieces[0])) + 1
            paths = sorted(files.glob(path)) if len(pieces) > 1 else [path] * files.exists(path)
            paths = [each for each in paths if not files.isdir(each) and not _written(files, each, out)]
            sizes = [int(files.size(each) or 0) for each in paths]
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"{pattern}: cannot be read ({' '.join(str(error).split()):.200})") from None
        if not paths:
            raise UsageError(f"{pattern}: there is no such file; a folder's are found by a pattern such as 'docs/*.parquet'")
        for each, size in zip(paths, sizes, strict=True):
            if (files, each) in known:
                continue
            known.add((files, each))
            input = Input(files, each, each[start:], size)
            if (other := found.setdefault(input.name, input)) is not input:
                raise UsageError(f"{other.path} and {each} would both be {input.name}; give one pattern for both")
            _ = input.kind
    return list(found.values())


def _written(files: fsspec.AbstractFileSystem, path: str, out: str) -> bool:
    """Whether a file is of those that a run writes to the folder `out`: vectors, rejects, and what is half written."""
    own, root = fsspec.core.url_to_fs(out)
    folder, _, name = path.rpartition("/")
    there = folder == f"{root}/{REJECTS}" or (folder == root and (name.endswith(".parquet") or name.startswith(".")))
    return there and files == own


def absolute(pattern: str) -> str:
    """A glob as it is whatever the folder is that one stands in."""
    files, path = fsspec.core.url_to_fs(pattern)
    return str(files.unstrip_protocol(path))
