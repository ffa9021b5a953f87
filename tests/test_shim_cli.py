"""`shim embed` as a script sees it: exit code, one line on stderr, one object for each text on stdout."""

import json
import subprocess
from pathlib import Path

import pytest
from support.commands import one_line, run


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "stdin holds no lines"),
        ("\n  \n", "stdin holds no lines"),
        ("3\n", "line 1: the text is int, not a string"),
        ("NaN\n", "line 1: the text is float, not a string"),
        ('"ok"\n\n""\n', "line 3: the text is an empty string"),
        ('{"txt": "a"}\n', "line 1: not a JSON string or"),
        ('{"text": NaN}\n', "line 1: the text is float, not a string"),
        ("half\n", "line 1: not a JSON string or"),
        ('"\\ud800"\n', "lone surrogate"),
    ],
)
def test_embed_refuses_what_is_not_a_text(tiny_artifact: Path, line: str, message: str) -> None:
    assert message in one_line(run("shim", "embed", tiny_artifact, input=line, check=2), "shim")


def test_embed_writes_a_line_for_each_text_however_long(tiny_artifact: Path) -> None:
    texts = ["short", "word " * 200_000, "x" * 1_000_000]
    lines = [json.dumps(texts[0]), json.dumps({"text": texts[1]}), "", json.dumps(texts[2])]
    done = run("shim", "embed", tiny_artifact, input="\n".join(lines))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert [entry["truncated"] for entry in found] == [False, True, False]
    assert [entry["tokens"] for entry in found] == [3, 128, 3]  # a word of more than 100 characters is one [UNK]
    assert [len(entry["embedding"]) for entry in found] == [64] * 3


def test_embed_of_an_artifact_that_is_not_sealed_is_exit_code_4(below: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done = run("shim", "embed", below[1], input='"text"', check=4)
    assert "tiny-mlx-2bit: verdict is fail, not pass; " in one_line(done, "shim")
