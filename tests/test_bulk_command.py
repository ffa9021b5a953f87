"""`shim embed --in … --out …` as a script sees it: counts, one line on stderr, exit codes."""

import json
import resource
from pathlib import Path

import pyarrow.dataset
import pytest
from support.commands import one_line, one_object, run

TEXTS = ["one", "два", "三", "word " * 300, "five", "six"]


def test_the_command_counts_and_says_what_a_million_cost(tiny_artifact: Path, tmp_path: Path) -> None:
    rows = [{"text": text} for text in [*TEXTS, ""]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = ("--in", tmp_path / "*.jsonl", "--out", tmp_path / "out", "--processes", 2, "--rows", 2)
    done = run("shim", "embed", tiny_artifact, *corpus, "--price", 2, "--json")
    counts = one_object(done)
    assert {name: counts[name] for name in ("texts", "truncated", "rejected", "skipped")} == {
        "texts": 6, "truncated": 1, "rejected": 1, "skipped": 0,
    }  # fmt: skip
    assert counts["cost_per_million"] == pytest.approx(2 * counts["hours_per_million"])
    assert "6 texts in " in done.stderr
    assert f"1 cut, 1 rejected (see {tmp_path}/out/_rejects); 1 M such texts take " in done.stderr
    found = pyarrow.dataset.dataset(tmp_path / "out", format="parquet").to_table()
    assert found["id"].to_pylist() == [f"a.jsonl:{line}" for line in range(1, 7)]
    again = run("shim", "embed", tiny_artifact, *corpus)
    assert "0 texts in " in again.stderr
    assert f"1 rejected (see {tmp_path}/out/_rejects); 6 rows were there already" in again.stderr
    assert "was made with dimensions 64, not 8" in one_line(
        run("shim", "embed", tiny_artifact, *corpus, "--dimensions", 8, check=2), "shim"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "o"], "--out is of a corpus, which needs --in and --out"),
        (["--in", "a.jsonl"], "--in is of a corpus"),
        (["--text", "t"], "--text is of a corpus"),
        (["--strict"], "--strict is of a corpus"),
        (["--in", "none*.jsonl", "--out", "o"], "there is no such file"),
        (["--in", "a.jsonl", "--in", "deep/a.jsonl", "--out", "o"], "would both be a.jsonl"),
        (["--in", "deep", "--out", "o"], "a folder's are found by a pattern"),
        (["--in", "a.doc", "--out", "o"], "its ending says no format"),
        (["--in", "nothing://a.jsonl", "--out", "o"], "nothing://a.jsonl: cannot be read"),
        (["--in", "a.csv", "--out", "o"], "a.csv: has no column 'text', but 'a', 'b'"),
        (["--in", "a.csv", "--in", "b*.jsonl", "--out", "o", "--text", "{a}: {titel}"], "no row of JSON Lines has 'titel'"),
        (["--in", "a.jsonl", "--out", "o", "--columns", "id"], "id is a column of ours"),
        (["--in", "a.jsonl", "--out", "o", "--columns", "a,a"], "a is named twice"),
        (["--in", "a.txt", "--out", "o", "--id", "a"], "one text a line, and no columns"),
        (["--in", "a.jsonl", "--out", "o", "--embedding-type", "int4"], "embedding_type 'int4' unknown"),
        (["--in", "a.jsonl", "--out", "o", "--dimensions", "12", "--embedding-type", "ubinary"], "12 are no multiple of 8"),
        (["--in", "a.jsonl", "--out", "o", "--heads", "sparse"], "heads sparse: tiny-onnx-32bit has dense"),
        (["--in", "a.jsonl", "--out", "o"], "none of 1 texts could be embedded; see o/_rejects"),
        (["--in", "empty.jsonl", "--out", "o"], "no rows"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tiny_artifact: Path, tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "deep").mkdir()
    for name, content in (
        ("a.jsonl", "{}\n"),
        ("deep/a.jsonl", "{}"),
        ("a.doc", ""),
        ("b.jsonl", '{"a": "b"}\n[]\n'),
        ("a.csv", "a,b\n1,2\n"),
        ("a.txt", "a\n"),
    ):
        (tmp_path / name).write_text(content)
    (tmp_path / "empty.jsonl").touch()
    code = 3 if "nothing://a.jsonl" in options else 2
    done = run(
        "shim", "embed", tiny_artifact, *options, *(("--processes", 1) if "--out" in options else ()), cwd=tmp_path, check=code
    )
    assert message in done.stderr
    assert done.stderr.count("\n") == (2 if message.startswith(("none of", "no rows")) else 1)


def test_a_shard_that_cannot_be_written_leaves_nothing(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, TEXTS)))
    given = ("--in", "a.jsonl", "--out", "out", "--processes", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # its processes get the same
    try:
        done = run("shim", "embed", tiny_artifact, *given, cwd=tmp_path, check=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "000000.parquet cannot be written ([Errno 27] File too large)" in one_line(done, "shim")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "_rejects"]
