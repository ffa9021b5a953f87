"""Which files and rows a corpus has, and what a later run makes of those that are there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import one_object, run
from test_bulk import ROWS, embed, request, table, write

import shim
from shim.bulk import reader
from shim.bulk.embedder import Embedder
from shim.bulk.inputs import find
from shim.bulk.shards import cut
from shim.spec import ColBert


def test_a_file_is_read_once_and_what_a_run_wrote_is_no_input(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep/a.jsonl", [*ROWS[:2], {"id": "none", "text": "", "n": 1}])
    asked = request(tmp_path, "**/*.*", tiny_artifact)
    assert len(embed(asked)) == 1
    (tmp_path / "out/.a.parquet.half.tmp").touch()
    assert embed(asked) == []
    (tmp_path / "out/.a.parquet.half.tmp").unlink()
    assert table(asked.out)["id"].to_pylist() == ["d0", "d1"]
    twice = find([*asked.inputs, f"file://{tmp_path}/deep/*"], asked.out)
    assert [input.name for input in twice] == ["deep/a.jsonl"]
    assert {input.name for input in find(asked.inputs, str(tmp_path / "other"))} > {"deep/a.jsonl"}
    with pytest.raises(shim.UsageError, match="no such file"):
        find([f"{asked.out}/*.parquet"], asked.out)


def test_queries_and_documents_of_colbert_are_not_mixed(tiny_artifact: Path) -> None:
    query, document = (Embedder(str(tiny_artifact), task=task) for task in ("query", "document"))
    assert query.identity == document.identity  # without prompts a dense model has one side
    for embedder in (query, document):
        own = embedder.model.manifest
        embedder.model.manifest = replace(own, model=replace(own.model, colbert=ColBert(8)))
    assert query.identity != document.identity


def test_a_later_run_says_what_is_gone_and_what_was_rejected(tiny_artifact: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [*ROWS[:2], {"text": "", "n": 1}])
    write(tmp_path / "b.jsonl", ROWS[:1])
    corpus = ("embed", tiny_artifact, "--in", tmp_path / "*.jsonl", "--out", tmp_path / "out", "--processes", 1, "--json")
    assert one_object(run("shim", *corpus, "--columns", " n, "))["orphans"] == []
    (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
    before = {path.name for path in (tmp_path / "out").glob("b-*.parquet")}
    done = run("shim", *corpus, "--columns", "n")
    counts = one_object(done)
    assert {name: counts[name] for name in ("texts", "skipped", "rejected")} == {"texts": 1, "skipped": 2, "rejected": 1}
    assert set(counts["orphans"]) == before == {path.name for path in (tmp_path / "out").glob("b-*.parquet")}
    assert f"; left of inputs that are gone: 1 ({counts['orphans'][0]})" in done.stderr
    done = run("shim", *corpus, "--columns", "n", "--strict", check=2)
    assert json.loads(done.stdout) == {"error": "a.jsonl:3: the text is an empty string", "exit_code": 2}
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3


def test_where_nothing_could_be_embedded_any_settings_may_follow(tiny_artifact: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": ""}])
    corpus = ("embed", tiny_artifact, "--in", tmp_path / "*.jsonl", "--out", tmp_path / "out", "--processes", 1, "--json")
    for more in ((), (), ("--dimensions", 8)):
        done = run("shim", *corpus, *more, check=2)
        assert one_object(done)["error"].startswith("none of 1 texts could be embedded")
    write(tmp_path / "b.jsonl", ROWS[:1])
    assert one_object(run("shim", *corpus))["texts"] == 1
    assert len(table(tmp_path / "out")) == 1
    assert "was made with dimensions 64, not 8" in run("shim", *corpus, "--dimensions", 8, check=2).stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", 'id,n,text\n1,2,"one\ntwo"\n3,4,"never closed\n5,6,more\n', "a.csv: the row that begins in line 4 is no CSV"),
        ("a.json", '\n [{"id": "a",\n"text": "b"}]', "a.json: is one JSON array; a corpus takes JSON Lines"),
        ("a.json", "\ufeff[\n", "a.json: is one JSON array"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    asked = request(tmp_path, name)
    (input,) = find(asked.inputs, asked.out)
    with pytest.raises(shim.UsageError, match=message):
        list(reader.rows(input, asked))


def test_endings_may_be_capitals_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "A.TSV").write_text("\ufeffid\tn\ttext\n1\t2\tone\n", encoding="utf-8")
    (tmp_path / "A.TXT").write_text("\ufeffone\n\ufefftwo\n", encoding="utf-8")
    for asked, texts in (
        (request(tmp_path, "A.TSV"), ["one"]),
        (request(tmp_path, "A.TXT", id=None, keep=()), ["one", "\ufefftwo"]),
    ):
        (input,) = find(asked.inputs, asked.out)
        assert [text for rows in reader.rows(input, asked) for text in rows.texts] == texts


def test_what_is_carried_along_counts_for_the_size_of_a_shard(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"id": f"{row}", "text": "ab", "n": "c" * 1000} for row in range(700)])
    asked = request(tmp_path, "a.jsonl")
    (input,) = find(asked.inputs, asked.out)
    parts = list(cut(reader.rows(input, asked), 4096, 100_000))
    assert sum(len(part.texts) for part in parts) == 700
    assert 50_000 < max(part.carried.nbytes for part in parts) <= 100_000
