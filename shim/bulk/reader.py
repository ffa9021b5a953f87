"""Files to rows: Parquet, JSON Lines, CSV and text."""

import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from shim.bulk.inputs import Input
from shim.bulk.request import Request
from shim.errors import SourceError, UsageError

CHUNK = 512  # rows that are read at a time
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Rows:
    """Rows that follow each other in one file.

    ids, carried: as they are written. texts: None where there is none, and then `faults` may say why. read: the share of the
    file that is read when the last of them is, from 0 to 1.
    """

    ids: pa.Array
    texts: list[object]
    faults: list[str | None]
    carried: pa.Table
    read: float

    def part(self, start: int, stop: int) -> "Rows":
        """Some of them."""
        rows, length = slice(start, stop), stop - start
        return Rows(self.ids[rows], self.texts[rows], self.faults[rows], self.carried.slice(start, length), self.read)


def joined(parts: list[Rows]) -> Rows:
    """Rows one after the other."""
    ids = pa.concat_arrays([part.ids for part in parts])
    texts, faults = ([value for part in parts for value in getattr(part, name)] for name in ("texts", "faults"))
    return Rows(ids, texts, faults, pa.concat_tables([part.carried for part in parts]).combine_chunks(), parts[-1].read)


def rows(input: Input, request: Request) -> Iterator[Rows]:
    """A file's rows, in runs of at most CHUNK.

    Ids that are made are NAME:ROW, counting from 1; of JSON Lines and text that is the line. Raises UsageError for a column
    that is not there, SourceError for a file that cannot be read.
    """
    reading = {"parquet": _parquet, "json": _json, "csv": _csv, "text": _text}[input.kind]
    with _opened(input) as file:
        yield from reading(input, file, request)


def check_lines(inputs: Iterable[Input], request: Request) -> None:
    """Raise UsageError for a column that no row of JSON Lines has; they are read until each column was met."""
    lacking, last = set(_wanted(request)), dict[str, object]()
    for input in inputs:
        if input.kind == "json":
            with _opened(input) as file:
                for _, value, _, _ in _objects(input, file, request):
                    last = value or last
                    lacking -= last.keys()
                    if not lacking:
                        return
    if last:
        raise UsageError(f"no row of JSON Lines has {min(lacking)!r:.100}; the last one has {', '.join(map(repr, last)):.500}")


@contextlib.contextmanager
def _opened(input: Input) -> Iterator[IO[bytes]]:
    """The content; what goes wrong while it is read is a SourceError."""
    try:
        with input.open() as file:
            yield file
    except (OSError, EOFError, pa.ArrowException, csv.Error, ImportError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise SourceError(f"{input.path}: cannot be read ({' '.join(str(error).split()):.200})") from None


def _parquet(input: Input, file: IO[bytes], request: Request) -> Iterator[Rows]:
    table = pq.ParquetFile(file, buffer_size=1 << 20)
    wanted = _wanted(request)
    _check_columns(input, wanted, table.schema_arrow.names)
    count = 0
    for batch in table.iter_batches(CHUNK, columns=wanted):
        values = {name: batch.column(name).to_pylist() for name in request.parts}
        texts = [request.text_of({name: column[row] for name, column in values.items()}) for row in range(len(batch))]
        ids = batch.column(request.id) if request.id else _numbers(input, range(count + 1, count + len(batch) + 1))
        carried = pa.Table.from_batches([batch.select(list(request.keep))])
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        valid = ids.is_valid().to_pylist()
        faults = [None if good else f"{request.id} is null in row {count + row}" for row, good in enumerate(valid, 1)]
        count += len(batch)
        yield Rows(ids, texts, faults, carried, count / max(table.metadata.num_rows, 1))


def _json(input: Input, file: IO[bytes], request: Request) -> Iterator[Rows]:
    return _named(input, _objects(input, file, request), request)


def _objects(
    input: Input, file: IO[bytes], request: Request
) -> Iterator[tuple[int, dict[str, object] | None, str | None, int]]:
    begun = False
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if not begun and input.ending == ".json" and line.removeprefix(BOM).lstrip().startswith(b"["):
            raise UsageError(f"{input.path}: is one JSON array; a corpus takes JSON Lines, a row a line (.jsonl)")
        begun = True
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, None, f"no JSON value ({error})", len(line)
            continue
        if isinstance(value, str):
            value = {request.parts[0]: value}
        fault = None if isinstance(value, dict) else "neither a JSON object nor a string"
        yield number, value if fault is None else None, fault, len(line)


def _csv(input: Input, file: IO[bytes], request: Request) -> Iterator[Rows]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    table = csv.DictReader(text, delimiter="\t" if input.ending == ".tsv" else ",", strict=True)
    names = list(table.fieldnames or ())
    _check_columns(input, _wanted(request), names)

    def values() -> Iterator[tuple[int, object, str | None, int]]:
        begins = table.line_num + 1
        try:
            for number, row in enumerate(table, 1):
                fault = f"{len(names)} columns are named, and it has others" if None in row or None in row.values() else None
                yield number, row, fault, sum(len(value) + 1 for value in row.values() if isinstance(value, str))
                begins = table.line_num + 1
        except csv.Error as error:
            raise UsageError(f"{input.path}: the row that begins in line {begins} is no CSV ({error})") from None

    return _named(input, values(), request)


def _text(input: Input, file: IO[bytes], request: Request) -> Iterator[Rows]:
    if request.id or request.keep or request.text != "text":
        raise UsageError(f"{input.path}: a file of text has one text a line, and no columns")

    def values() -> Iterator[tuple[int, object, str | None, int]]:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BOM) if number == 1 else line
            if line.strip():
                yield number, {"text": line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")}, None, len(line)

    return _named(input, values(), request)


def _named(input: Input, found: Iterator[tuple[int, object, str | None, int]], request: Request) -> Iterator[Rows]:
    """Rows of values by name: ids and what is carried are strings, other JSON values their JSON."""
    seen = 0
    while some := list(islice(found, CHUNK)):
        ids: list[str | None] = []
        texts: list[object] = []
        faults: list[str | None] = []
        kept: list[list[str | None]] = []
        for number, value, fault, size in some:
            row = value if isinstance(value, dict) else {}
            id, carried = f"{input.name}:{number}", [_string(row.get(name)) for name in request.keep]
            if fault is None and request.id:
                given = _string(row.get(request.id))
                fault = f"{request.id} is null" if given is None else _surrogate(request.id, given)
                id = id if fault else str(given)
            for name, each in zip(request.keep, carried, strict=True):
                fault = fault or _surrogate(name, each)
            ids.append(id)
            texts.append(None if fault else request.text_of(row))
            faults.append(fault)
            kept.append([None] * len(carried) if fault else carried)
            seen += size
        columns = [pa.array([row[place] for row in kept], pa.string()) for place in range(len(request.keep))]
        # Of what is packed the end is known when it is there, as the size is that of the file.
        read = 0.0 if input.packed else min(1.0, seen / max(input.size, 1))
        yield Rows(pa.array(ids, pa.string()), texts, faults, pa.table(columns, list(request.keep)), read)


def _string(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _surrogate(name: str, value: str | None) -> str | None:
    """What is wrong with a string that Parquet could not hold."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        return f"{name} is not valid Unicode"
    return None


def _numbers(input: Input, numbers: Iterable[int]) -> pa.Array:
    return pa.array([f"{input.name}:{number}" for number in numbers], pa.string())


def _wanted(request: Request) -> list[str]:
    return list(dict.fromkeys([*request.parts, *request.keep, *([request.id] if request.id else [])]))


def _check_columns(input: Input, wanted: Iterable[str], names: list[str]) -> None:
    missing = [name for name in wanted if name not in names]
    if missing:
        raise UsageError(f"{input.path}: has no column {missing[0]!r:.100}, but {', '.join(map(repr, names)):.500}")
