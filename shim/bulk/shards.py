"""Shards: which rows belong into which file of vectors, which are there already, and how one is written at once.

A shard's manifest is in its Parquet footer, under KEY: the run's identity, a hash of the rows that went in, and counts. A shard
is written beside and renamed, so what has the name is whole; its rejects are there before it.
"""

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from shim.bulk.embedder import Embedder
from shim.bulk.inputs import Input
from shim.bulk.reader import Rows, joined, rows
from shim.bulk.request import REJECTS, Request
from shim.errors import SourceError, UsageError
from shim.jsons import JsonObject

KEY = b"sealport"
SIZE = 16_000_000  # of a shard, at most, as it is in memory: characters of its texts, and bytes of what is carried along
NUMBER = re.compile(r"-(\d{6,})\.parquet$")


@dataclass(frozen=True)
class Shard:
    """Rows that become one file, `name`; digest: SHA-256 of all that they hold. input: the file that they are from."""

    name: str
    input: str
    digest: str
    rows: Rows


@dataclass(frozen=True)
class Written:
    """What a shard came to: rows written, their tokens, how many of them were cut, how many others were rejected."""

    name: str
    texts: int
    tokens: int
    truncated: int
    rejected: int


def shards(input: Input, request: Request) -> Iterator[Shard]:
    """A file's shards, in order: `request.rows` rows each, or fewer where the texts are long. The same file gives the same."""
    for index, part in enumerate(cut(rows(input, request), request.rows, SIZE)):
        content = repr((part.ids.to_pylist(), part.texts, part.faults, str(part.carried.schema), part.carried.to_pydict()))
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        yield Shard(f"{stem(input)}-{index:06}.parquet", input.name, digest, part)


def cut(parts: Iterable[Rows], most: int, limit: int) -> Iterator[Rows]:
    """The rows again, `most` in each part, or as many as are of the size `limit`; a larger row is by itself.

    The size is that of SIZE; of what is carried each row has an equal share of what was read with it.
    """
    held: list[Rows] = []
    count = size = 0
    for part in parts:
        start, carried = 0, part.carried.nbytes // max(1, len(part.texts))
        for row, text in enumerate(part.texts):
            length = carried + (len(text) if isinstance(text, str) else 0)
            if count and (count == most or size + length > limit):
                yield joined([*held, part.part(start, row)])
                held, start, count, size = [], row, 0, 0
            count, size = count + 1, size + length
        held.append(part.part(start, len(part.texts)))
    if count:
        yield joined(held)


def stem(input: Input) -> str:
    """What the names of a file's shards begin with: its own name, and a hash of all of its path."""
    plain = re.sub(r"[^\w.-]+", "_", input.name.rsplit("/", 1)[-1].split(".")[0])[:60].strip(".-_") or "file"
    return f"{plain}-{hashlib.sha256(input.name.encode()).hexdigest()[:12]}"


def orphans(inputs: Iterable[Input], there: Iterable[str]) -> list[str]:
    """The shards that are of none of the inputs: renamed, moved or removed since. They may be all there is of them."""
    stems = set(map(stem, inputs))
    return [name for name in there if NUMBER.sub("", name) not in stems]


class Folder:
    """Where shards go: of this machine, or an fsspec address."""

    def __init__(self, path: str):
        """Raises SourceError for an address that cannot be written to."""
        self.path = path
        try:
            self.files, self.root = fsspec.core.url_to_fs(path)
            self.files.makedirs(f"{self.root}/{REJECTS}", exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            raise SourceError(f"{path}: cannot be written ({' '.join(str(error).split()):.200})") from None
        self.local = isinstance(self.files, fsspec.implementations.local.LocalFileSystem)

    def manifests(self, identity: JsonObject) -> dict[str, JsonObject]:
        """The manifest of each shard that is there, by name. Raises UsageError for one of another identity, or none of ours."""
        found: dict[str, JsonObject] = {}
        for path in sorted(self.files.ls(self.root, detail=False, refresh=True)):
            name = path.rsplit("/", 1)[-1]
            if name.endswith(".parquet") and not name.startswith((".", "_")):
                found[name] = self._manifest(name)
                if found[name].get("texts") == 0 and found[name]["run"] != identity:
                    found[name] = {}  # no vector is in it, so it is made again
                else:
                    check_identity(f"{self.path}: {name}", found[name], identity)
        return found

    def _manifest(self, name: str) -> JsonObject:
        try:
            with self.files.open(f"{self.root}/{name}", "rb") as file:
                own = (pq.read_metadata(file).metadata or {}).get(KEY)
            value = json.loads(own) if own else None
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.path}: {name} cannot be read ({' '.join(str(error).split()):.200}); remove it") from None
        if not isinstance(value, dict) or not isinstance(value.get("run"), dict):
            raise UsageError(f"{self.path}: {name} is not of `shim embed`; give another --out")
        return value

    def litter(self) -> None:
        """Remove what killed processes left half written; only for who has the folder for himself."""
        for folder in (self.root, f"{self.root}/{REJECTS}"):
            for path in self.files.ls(folder, detail=False, refresh=True):
                if (name := path.rsplit("/", 1)[-1]).startswith(".") and name.endswith(".tmp"):
                    self.files.rm_file(path)

    def remove_beyond(self, input: Input, count: int, there: Iterable[str]) -> None:
        """Remove the shards that a file had when it was longer; it has `count` now."""
        for name in there:
            number = NUMBER.search(name)
            if name.startswith(stem(input) + "-") and number and int(number[1]) >= count:
                self._remove(f"{self.root}/{name}")
                self._remove(self._rejects(name))

    def write(self, shard: Shard, embedder: Embedder, request: Request, run: JsonObject) -> Written:
        """Embed a shard and write it: window by window, beside, then renamed; its rejects before it.

        Raises UsageError for the first text that cannot be embedded where the request is strict, SourceError for a full disk.
        """
        given, found = shard.rows, embedder.schema.remove(embedder.schema.get_field_index("rejected"))
        schema = pa.schema([pa.field("id", given.ids.type), *given.carried.schema, *found])
        target, rejects = f"{self.root}/{shard.name}", []
        texts = tokens = truncated = 0
        temporary = _beside(target)
        try:
            with (
                self.files.open(temporary, "wb") as file,
                pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=list(request.keep)) as writer,
            ):
                for window in embedder.windows(given.texts):
                    table = embedder.table([t if f is None else None for t, f in _pairs(given, window)])
                    reasons = [f or r for f, r in zip(given.faults[window], table["rejected"].to_pylist(), strict=True)]
                    table = pa.table(
                        [given.ids[window], *given.carried.slice(window.start, len(table)).columns, *table.columns[:-1]], schema
                    )
                    for row, reason in enumerate(reasons, window.start):
                        if reason is not None:
                            rejects.append({"id": given.ids[row].as_py(), "input": shard.input, "reason": reason})
                    if rejects and request.strict:
                        id = str(rejects[0]["id"])
                        where = id if id.startswith(f"{shard.input}:") else f"{shard.input}: {id}"
                        raise UsageError(f"{where}: {rejects[0]['reason']}")
                    table = table.filter(pa.array([reason is None for reason in reasons]))
                    texts, tokens = texts + len(table), tokens + sum(table["tokens"].to_pylist())
                    truncated += sum(table["truncated"].to_pylist())
                    writer.write_table(table)
                written = Written(shard.name, texts, tokens, truncated, len(rejects))
                counts: JsonObject = {"texts": texts, "tokens": tokens, "truncated": truncated, "rejected": len(rejects)}
                manifest: JsonObject = {"run": run, "input": shard.input, "rows": shard.digest, **counts}
                writer.add_key_value_metadata({KEY: json.dumps(manifest, ensure_ascii=False).encode()})
            self._write_rejects(shard.name, rejects)
            self._rename(temporary, target)
        except BaseException as error:
            self._remove(temporary)
            if isinstance(error, OSError):
                raise SourceError(
                    f"{self.path}: {shard.name} cannot be written ({' '.join(str(error).split()):.200})"
                ) from None
            raise
        return written

    def _write_rejects(self, name: str, rejects: Sequence[Mapping[str, object]]) -> None:
        path = self._rejects(name)
        if not rejects:
            self._remove(path)
            return
        temporary = _beside(path)
        with self.files.open(temporary, "wb") as file:
            for reject in rejects:
                file.write(json.dumps(reject, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
        self._rename(temporary, path)

    def _rejects(self, name: str) -> str:
        return f"{self.root}/{REJECTS}/{name.removesuffix('.parquet')}.jsonl"

    def _rename(self, temporary: str, target: str) -> None:
        if not self.local:
            self.files.mv(temporary, target)
            return
        with open(temporary, "rb") as file:  # renamed only when the disk has it: a machine may lose power
            os.fsync(file.fileno())
        os.replace(temporary, target)

    def _remove(self, path: str) -> None:
        if self.files.exists(path):
            self.files.rm_file(path)


def check_identity(where: str, manifest: JsonObject, identity: JsonObject) -> None:
    """Raise UsageError unless the manifest is of a run with this identity."""
    before = manifest["run"]
    assert isinstance(before, dict)
    for key, value in identity.items():
        if before.get(key) != value:
            what = (
                "another version of the artifact" if key == "sha256" else f"{key} {before.get(key)!r:.100}, not {value!r:.100}"
            )
            raise UsageError(f"{where} was made with {what}; give another --out, or remove what is there")


def _pairs(rows: Rows, window: slice) -> Iterator[tuple[object, str | None]]:
    return zip(rows.texts[window], rows.faults[window], strict=True)


def _beside(path: str) -> str:
    """A name beside `path` that no other process takes, and that readers of the folder pass over."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}.{socket.gethostname()}-{os.getpid()}.tmp"
