"""`shim embed --in … --out …`: which rows become which vectors, what is refused, and what a later run does."""

import csv
import gzip
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from conftest import made
from hypothesis import given
from hypothesis import strategies as st

import shim
from shim.bulk.embedder import Embedder
from shim.bulk.inputs import find
from shim.bulk.reader import Rows
from shim.bulk.request import REJECTS, Request
from shim.bulk.run import affordable, missing, run_identity, shares
from shim.bulk.shards import Folder, Written, cut, shards
from shim.bulk.workers import Loaded
from shim.runtimes.cores import memory

TEXTS = ["A short line.", "Что нового?", "天气很好，我们去散步。", 'two\nlines, with a "quote"', "word " * 300, "Soup."]
ROWS = [{"id": f"d{row}", "text": text, "n": row} for row, text in enumerate(TEXTS)]


def request(folder: Path, pattern: str, artifact: Path = Path("none"), **more: Any) -> Request:
    return Request(
        str(artifact), (str(folder / pattern),), str(folder / "out"), **{"id": "id", "keep": ("n",), "rows": 4} | more
    )


def embed(asked: Request) -> list[Written]:
    """What a run does, in this process."""
    embedder, folder = Embedder.of(asked), Folder(asked.out)
    identity = run_identity(asked, embedder.identity)
    there = folder.manifests(identity)
    todo = missing(find(asked.inputs, asked.out), asked, folder, there, lambda *_: None)
    return [folder.write(shard, embedder, asked, identity) for shard in todo]


def table(folder: Path | str) -> pa.Table:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


def write(path: Path, rows: Iterable[object]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_jsonl(folder: Path) -> str:
    write(folder / "a.jsonl", ROWS)
    return "a.jsonl"


def write_packed(folder: Path) -> str:
    (folder / "a.json.gz").write_bytes(gzip.compress("\n\n".join(map(json.dumps, ROWS)).encode()))
    return "*.gz"


def write_csv(folder: Path) -> str:
    with (folder / "a.csv").open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, ["n", "text", "id"])
        table.writeheader()
        table.writerows(ROWS)
    return "*.csv"


def write_parquet(folder: Path) -> str:
    columns = pa.table({name: [row[name] for row in ROWS] for name in ("text", "id")})
    pq.write_table(
        columns.append_column("n", pa.array([row["n"] for row in ROWS], pa.int8())), folder / "a.parquet", row_group_size=2
    )
    return "*.parquet"


def write_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("in/a.jsonl", "\n".join(map(json.dumps, ROWS)))
    return "a.zip"


@pytest.mark.parametrize("writer", [write_jsonl, write_packed, write_csv, write_parquet, write_zip])
def test_rows_of_every_format_get_the_librarys_vectors_in_order(
    tiny_artifact: Path, tmp_path: Path, writer: Callable[[Path], str]
) -> None:
    asked = request(tmp_path, writer(tmp_path), tiny_artifact)
    if writer is write_zip:
        asked = Request(
            str(tiny_artifact), (f"zip://in/*.jsonl::file://{tmp_path}/a.zip",), asked.out, id="id", keep=("n",), rows=4
        )
    assert [written.texts for written in embed(asked)] == [4, 2]
    found, wanted = table(asked.out), shim.load(tiny_artifact).embed(TEXTS)
    assert found["id"].to_pylist() == [row["id"] for row in ROWS]
    assert [int(n) for n in found["n"].to_pylist()] == list(range(6))
    assert np.abs(np.stack(found["embedding"].to_numpy()) - wanted.dense).max() < 1e-5
    assert found["tokens"].to_pylist() == wanted.tokens
    assert found["truncated"].to_pylist() == wanted.truncated == [False] * 4 + [True, False]
    assert found["n"].type == (pa.int8() if writer is write_parquet else pa.string())
    manifest = json.loads(pq.read_metadata(next(Path(asked.out).glob("*.parquet"))).metadata[b"sealport"])
    assert manifest["run"]["artifact"] == "tiny-onnx-32bit"


def test_text_files_have_a_text_a_line_and_ids_are_made_of_file_and_line(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.txt").write_bytes("one\r\n\n  \nтри".encode() + b"\n\xff\n")
    write(tmp_path / "b.jsonl", ["four", {"text": "five"}])
    written = embed(request(tmp_path, "**/*.[tj]*", tiny_artifact, id=None, keep=()))
    assert table(tmp_path / "out")["id"].to_pylist() == ["deep/a.txt:1", "deep/a.txt:4", "b.jsonl:1", "b.jsonl:2"]
    assert [each.rejected for each in written] == [0, 1]
    rejects = [json.loads(line) for path in (tmp_path / "out" / REJECTS).iterdir() for line in path.read_text().splitlines()]
    assert [(each["id"], each["input"]) for each in rejects] == [("deep/a.txt:5", "deep/a.txt")]
    assert "lone surrogate" in rejects[0]["reason"]


def test_a_template_is_filled_in_and_what_is_empty_is_no_text() -> None:
    asked = Request("none", ("x",), "out", "{title}: {body} {title}")
    assert asked.parts == ["title", "body"]
    assert asked.text_of({"title": "{body}", "body": None}) == "{body}:  {body}"
    assert asked.text_of({"title": "", "body": None}) is None
    assert asked.text_of({"title": 3, "body": "b", "other": 1}) == "3: b 3"


@pytest.mark.parametrize(
    ("line", "id", "reason"),
    [
        ('{"id": "a", "text": ""}', "a", "the text is an empty string"),
        ('{"id": "a", "text": null}', "a", "there is no text"),
        ('{"id": "a", "txt": "b"}', "a", "there is no text"),
        ('{"id": "a", "text": 3}', "a", "the text is int, not a string"),
        ('{"id": "a", "text": "\\ud800"}', "a", "the text has a lone surrogate"),
        ('{"id": "\\ud800", "text": "b"}', "x.jsonl:1", "id is not valid Unicode"),
        ('{"id": "a", "text": "b", "n": "\\ud800"}', "a", "n is not valid Unicode"),
        ('{"id": null, "text": "b"}', "x.jsonl:1", "id is null"),
        ("[3]", "x.jsonl:1", "neither a JSON object nor a string"),
        ("half", "x.jsonl:1", "no JSON value"),
        ("[" * 100_000, "x.jsonl:1", "no JSON value"),
    ],
)
def test_what_cannot_be_embedded_is_rejected_with_its_reason_or_ends_a_strict_run(
    tiny_artifact: Path, tmp_path: Path, line: str, id: str, reason: str
) -> None:
    (tmp_path / "x.jsonl").write_text(line + '\n{"id": 17, "text": "good", "n": [1, "ä"]}\n')
    asked = request(tmp_path, "x.jsonl", tiny_artifact)
    with pytest.raises(shim.UsageError, match=reason):
        embed(request(tmp_path, "x.jsonl", tiny_artifact, strict=True))
    assert not list(Path(asked.out).glob("*.parquet"))
    assert not list(Path(asked.out).rglob("*.tmp"))
    assert [(each.texts, each.rejected) for each in embed(asked)] == [(1, 1)]
    assert table(asked.out).select(["id", "n"]).to_pylist() == [{"id": "17", "n": '[1, "ä"]'}]
    (path,) = (Path(asked.out) / REJECTS).iterdir()
    found = json.loads(path.read_text())
    assert found["id"] == id
    assert reason in found["reason"]
    write(tmp_path / "x.jsonl", ROWS[:2])
    embed(asked)
    assert not list((Path(asked.out) / REJECTS).iterdir())  # with the row the reject goes


def test_a_csv_row_with_other_columns_and_a_parquet_row_without_id_are_rejected(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n,text\n1,2\n3,4,five\n6,7,eight,9\n")
    assert [(each.texts, each.rejected) for each in embed(request(tmp_path, "a.csv", tiny_artifact))] == [(1, 2)]
    pq.write_table(pa.table({"id": [5, None], "n": [1, 2], "text": ["a", "b"]}), tmp_path / "a.parquet")
    asked = request(tmp_path, "a.parquet", tiny_artifact)
    with pytest.raises(shim.UsageError, match="was made with in "):
        embed(asked)
    written = embed(Request(**vars(asked) | {"out": str(tmp_path / "more")}))
    assert [(each.texts, each.rejected) for each in written] == [(1, 1)]
    assert table(tmp_path / "more").select(["id", "n"]).to_pylist() == [{"id": 5, "n": 1}]


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "ubinary"])
def test_vectors_have_the_type_that_is_asked_for(tiny_artifact: Path, kind: str) -> None:
    found = Embedder(str(tiny_artifact), dimensions=32, embedding_type=kind)(pa.table({"text": TEXTS}))
    wanted = shim.load(tiny_artifact).embed(TEXTS, dimensions=32).dense
    vectors = np.stack(found["embedding"].to_numpy())
    assert vectors.dtype == np.dtype("uint8" if kind == "ubinary" else kind)
    if kind == "ubinary":
        assert vectors.shape == (6, 4)
        assert (np.unpackbits(vectors, axis=1) == (wanted > 0)).mean() > 0.99
    else:
        large = vectors.astype(np.float32)
        cosines = (large * wanted).sum(1) / np.linalg.norm(large, axis=1)
        assert cosines.min() > {"float32": 1 - 1e-6, "float16": 1 - 1e-5, "int8": 0.999}[kind]


def test_all_heads_of_one_pass_are_the_librarys() -> None:
    path, heads = made("bge-m3", "onnx", 32)[0], ("sparse", "colbert")
    embedder = Embedder(str(path), heads=heads)
    found, wanted = embedder.table(["one two", "", "три"]), shim.load(path).embed(["one two", "три"], heads=heads)
    assert found["rejected"].to_pylist() == [None, "the text is an empty string", None]
    assert all(found[name].to_pylist()[1] is None for name in found.column_names[:-1])
    assert wanted.sparse is not None
    assert wanted.colbert is not None
    for place, row in enumerate((0, 2)):
        assert found["sparse_indices"].to_pylist()[row] == list(wanted.sparse[place])
        assert np.allclose(found["sparse_values"].to_pylist()[row], list(wanted.sparse[place].values()), atol=1e-5)
        assert np.allclose(found["colbert"].to_pylist()[row], wanted.colbert[place], atol=1e-5)
        assert np.allclose(found["embedding"].to_pylist()[row], wanted.dense[place], atol=1e-5)


def test_a_later_run_embeds_what_is_new_and_removes_what_is_gone(tiny_artifact: Path, tmp_path: Path) -> None:
    asked = request(tmp_path, "*.jsonl", tiny_artifact, rows=2)
    write(tmp_path / "a.jsonl", ROWS)
    assert len(embed(asked)) == 3
    before = {path: path.stat().st_mtime_ns for path in Path(asked.out).glob("*.parquet")}
    assert embed(asked) == []
    assert {path: path.stat().st_mtime_ns for path in Path(asked.out).glob("*.parquet")} == before
    write(tmp_path / "a.jsonl", [*ROWS, {"id": "last", "text": "new"}])
    write(tmp_path / "b.jsonl", [{"id": "other", "text": "another file"}])
    assert [each.texts for each in embed(asked)] == [1, 1]
    write(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], "n": "changed"}, ROWS[2]])  # what is carried counts, too
    assert [each.texts for each in embed(asked)] == [2, 1]
    assert table(asked.out).select(["id", "n"]).to_pydict() == {
        "id": ["d0", "d1", "d2", "other"],
        "n": ["0", "changed", "2", None],
    }


def test_vectors_of_another_run_are_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path)
    asked = request(tmp_path, "*.jsonl", tiny_artifact)
    embed(asked)
    for change, what in (
        ({"settings": {"dimensions": 8}}, "dimensions 64, not 8"),
        ({"settings": {"embedding_type": "int8"}}, "embedding_type 'float32', not 'int8'"),
        ({"rows": 5}, "rows 4, not 5"),
        ({"keep": ()}, r"columns \['n'\], not \[\]"),
        ({"id": None}, "id 'id', not None"),
        ({"text": "{text}"}, "text 'text', not '{text}'"),
    ):
        with pytest.raises(shim.UsageError, match=what):
            embed(Request(**vars(asked) | change))
    (path,) = list(Path(asked.out).glob("*0.parquet"))
    pq.write_table(pa.table({"a": [1]}), Path(asked.out) / "mine.parquet")
    with pytest.raises(shim.UsageError, match="mine.parquet is not of `shim embed`"):
        embed(asked)
    (Path(asked.out) / "mine.parquet").unlink()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(shim.SourceError, match="cannot be read"):
        embed(asked)


@given(
    st.lists(st.lists(st.one_of(st.none(), st.text(max_size=9)), max_size=7), max_size=5), st.integers(1, 4), st.integers(1, 20)
)
def test_cutting_keeps_every_row_once_whatever_it_was_read_in(
    texts: list[list[str | None]], most: int, characters: int
) -> None:
    def parts(runs: list[list[str | None]]) -> list[list[str | None]]:
        number, given = 0, []
        for texts in runs:
            ids = pa.array([f"{number + row}" for row in range(len(texts))], pa.string())
            given.append(Rows(ids, list(texts), [None] * len(texts), pa.table({}), 0.0))
            number += len(texts)
        found = list(cut(given, most, characters))
        assert [id for part in found for id in part.ids.to_pylist()] == [f"{row}" for row in range(number)]
        return [part.texts for part in found]  # type: ignore[misc]

    found, flat = parts(texts), [text for run in texts for text in run]
    assert [text for part in found for text in part] == flat
    assert found == parts([[text] for text in flat])
    assert all(len(part) <= most for part in found)
    assert all(len(part) == 1 or sum(len(text or "") for text in part) <= characters for part in found)


def test_processes_are_as_many_as_cores_and_memory_allow() -> None:
    loaded = Loaded({}, None, "cpu", 1_000_000_000)
    assert affordable(loaded, 1) == 1
    assert affordable(Loaded({}, None, "cuda", 1), 8) == 1
    assert affordable(Loaded({}, None, "cpu", 10**15), 8) == 1
    assert shares([0, 1, 2, 3], 2) == [[0, 1], [2, 3]]
    assert shares([0, 1], 4) == [[0], [1], [0], [1]]
    assert shares([0, 1, 2], 2) == [[0], [1]]


def test_memory_is_what_a_container_may_still_take(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (tmp_path / "a/b").mkdir(parents=True)
    assert memory(tmp_path, own) > 10**8  # no limit: the machine's
    for name, value in (("max", "90000000"), ("current", "50000000"), ("stat", "anon 1\ninactive_file 10000000\n")):
        (tmp_path / f"a/memory.{name}").write_text(value)
    assert memory(tmp_path, own) == 50_000_000


def test_what_a_run_is_given_twice_is_cut_alike(tmp_path: Path) -> None:
    write_jsonl(tmp_path)
    asked = request(tmp_path, "*.jsonl")
    (input,) = find(asked.inputs, asked.out)
    assert [(shard.name, shard.digest) for shard in shards(input, asked)] == [
        (shard.name, shard.digest) for shard in shards(input, asked)
    ]
