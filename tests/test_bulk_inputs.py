"""Which files and rows a corpus has, and what a later run makes of those that are there."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_bulk import ROWS, embed, request, table, write

import shim
from shim.bulk import reader
from shim.bulk.embedder import Embedder
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
    twice = reader.find([*asked.inputs, f"file://{tmp_path}/deep/*"], asked.out)
    assert [input.name for input in twice] == ["deep/a.jsonl"]
    assert {input.name for input in reader.find(asked.inputs, str(tmp_path / "other"))} > {"deep/a.jsonl"}
    with pytest.raises(shim.UsageError, match="no such file"):
        reader.find([f"{asked.out}/*.parquet"], asked.out)


def test_queries_and_documents_of_colbert_are_not_mixed(tiny_artifact: Path) -> None:
    query, document = (Embedder(str(tiny_artifact), task=task) for task in ("query", "document"))
    assert query.identity == document.identity  # without prompts a dense model has one side
    for embedder in (query, document):
        own = embedder.model.manifest
        embedder.model.manifest = replace(own, model=replace(own.model, colbert=ColBert(8)))
    assert query.identity != document.identity
