"""The two command lines as a script sees them: exit code, one line on stderr, one object on stdout."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import bert_config, bert_weights, write_bert
from support.checkpoints import minilm as minilm_checkpoint
from support.commands import one_line, one_object, run

import shim
from shim.errors import IntegrityError

Convert = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(("target", "known"), [("mlx", "2, 3, 4, 5, 6, 8, 16"), ("onnx", "4, 8, 16, 32")])
@pytest.mark.parametrize("bits", [0, 7])
def test_bits_that_a_target_has_not(tiny: Path, tmp_path: Path, convert: Convert, target: str, known: str, bits: int) -> None:
    done = convert(tiny / "tiny.toml", "--to", target, "--bits", bits, "--out", tmp_path / "out", check=2)
    assert f"--bits {bits}: {target} has " in one_line(done)
    assert done.stderr.endswith(f"{known}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny.toml",), "Missing option '--to'. Choose from: mlx, onnx"),
        (("tiny.toml", "--to", "tflite"), "'tflite' is not one of"),
        (("tiny.toml", "--to", "mlx", "--parity", "1.5"), "'--parity': 1.5 is not in the range"),
        (("tiny.toml", "--to", "mlx", "--fast"), "No such option"),
        (("all-minilm", "--to", "mlx"), "recipe 'all-minilm' unknown; did you mean all-minilm-l6-v2"),
        (("bge-small-zh", "--to", "mlx"), "recipe 'bge-small-zh' unknown; did you mean bge-m3, multilingual-e5-small"),
        (("inspct", "artifacts/x"), "no command 'inspct'; did you mean inspect?"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(
    tiny: Path, convert: Convert, arguments: tuple[str, ...], message: str
) -> None:
    assert message in one_line(convert(*arguments, check=2, cwd=tiny))


@pytest.mark.parametrize("program", ["converter", "shim"])
def test_without_arguments_it_shows_its_help(program: str) -> None:
    shown = [run(program, *given).stdout for given in ((), ("-h",), ("--help",))]
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].startswith("Usage: ")
    assert "\n  Exit codes: 0 done" in shown[0] or "\n  everything is read" in shown[0]


def test_a_mistyped_command_of_shim_is_offered_the_right_one() -> None:
    assert "no command 'srve'; did you mean serve?" in one_line(run("shim", "srve", "x", check=2), "shim")


def test_a_package_that_is_missing_is_one_line() -> None:
    code = "import sys; sys.modules['rich'] = None  # as if it were not installed\nfrom converter.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "convert: rich is not installed: pip install 'sealport[convert]'\n")


def test_help_mentions_every_option(convert: Convert) -> None:
    shown = convert("--help").stdout
    options = ("--to", "--bits", "--source", "--out", "--parity", "--corpus", "--no-verify", "--force", "--json")
    assert [option for option in (*options, "verify", "inspect", "list") if option not in shown] == []
    assert convert("--version").stdout == f"{shim.__version__}\n"


def test_progress_goes_to_stderr_and_the_result_to_stdout(
    below: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, path = below
    assert "writing 100%" in done.stderr
    assert "the artifact 100%" in done.stderr
    assert "writing" not in done.stdout
    assert "\r" not in done.stderr
    assert done.stdout.splitlines()[:2] == ["tiny-mlx-2bit: fail", f"  path     {path}"]


def test_below_parity_is_exit_code_1_and_kept_marked_fail(below: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, path = below
    manifest = json.loads((path / "artifact.json").read_text())
    worst = manifest["parity"]["heads"]["dense"]["worst"]
    assert manifest["parity"]["verdict"] == "fail"
    assert worst < 0.999
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"convert: tiny-mlx-2bit failed: worst cosine of dense {worst:.5f} on text ")
    assert f" is {0.999 - worst:.5f} short of 0.999" in last
    with pytest.raises(IntegrityError, match="verdict is fail"):
        shim.load(path)


def test_a_lower_parity_seals_and_must_be_accepted(tiny: Path, tmp_path: Path, corpus_file: Path, convert: Convert) -> None:
    arguments = ("--to", "mlx", "--bits", 3, "--source", tiny / "checkpoint", "--corpus", corpus_file, "--out", tmp_path)
    found = one_object(convert(tiny / "tiny.toml", *arguments, "--parity", 0.5, "--effort", "fast", "--json"))
    assert found["parity"]["verdict"] == "pass"
    assert found["parity"]["target"] == 0.5
    assert 0.5 <= found["parity"]["heads"]["dense"]["worst"] < 0.999
    with pytest.raises(IntegrityError, match=r"min_parity=0\.5 \(--min-parity 0\.5\) loads it"):
        shim.load(found["path"])
    assert shim.load(found["path"], min_parity=0.5).name == "tiny-mlx-3bit"


def test_unverified_until_verify_seals_it(tiny: Path, tmp_path: Path, convert: Convert) -> None:
    arguments = ("--to", "onnx", "--bits", 32, "--source", tiny / "checkpoint", "--out", tmp_path, "--no-verify", "--json")
    made = one_object(convert(tiny / "tiny.toml", *arguments))
    assert made["parity"] == {"verdict": "unverified", "target": 0.999, "on": "worst"}
    with pytest.raises(IntegrityError, match="verdict is unverified"):
        shim.load(made["path"])
    assert "give it with --source DIR" in one_line(convert("verify", made["path"], check=2))
    sealed = one_object(convert("verify", made["path"], "--source", tiny / "checkpoint", "--json"))
    assert sealed["parity"]["verdict"] == "pass"
    assert sealed["parity"]["texts"] >= 200
    assert json.loads(Path(made["path"], "artifact.json").read_text())["parity"] == sealed["parity"]
    assert json.loads(Path(made["path"], "artifact.json").read_text())["files"] == sealed["files"]
    cosines = json.loads(Path(made["path"], "cosines.json").read_text())["dense"]
    assert sum(map(len, cosines.values())) == sealed["parity"]["texts"]
    assert {language: min(each) for language, each in cosines.items()} == {
        language: round(worst, 7) for language, worst in sealed["parity"]["heads"]["dense"]["by_language"].items()
    }
    card, measured = Path(made["path"], "README.md"), f"| {sealed['parity']['heads']['dense']['worst']:.5f} |"
    assert measured in card.read_text()
    card.write_text("of my own")
    convert("verify", made["path"], "--source", tiny / "checkpoint")
    assert card.read_text() == "of my own"
    assert shim.load(made["path"]).name == "tiny-onnx-32bit"


def test_verify_with_another_original_is_exit_code_4(tiny_artifact: Path, tmp_path: Path, convert: Convert) -> None:
    other = write_bert(tmp_path / "other", weights=bert_weights(bert_config(), seed=1))
    before = (tiny_artifact / "artifact.json").read_bytes()
    done = convert("verify", tiny_artifact, "--source", other, check=4)
    assert f"the files in {other} are not the ones it was converted from" in one_line(done)
    assert (tiny_artifact / "artifact.json").read_bytes() == before


def test_verify_on_ones_own_texts_shows_and_does_not_seal(
    below: tuple[subprocess.CompletedProcess[str], Path], tiny: Path, tmp_path: Path, convert: Convert
) -> None:
    path = below[1]
    before = [(path / name).read_bytes() for name in ("artifact.json", "cosines.json")]
    texts = tmp_path / "mine.jsonl"
    texts.write_text('{"text": "a first text", "lang": "en"}\n{"text": "два"}\n', encoding="utf-8")
    done = convert("verify", path, "--source", tiny / "checkpoint", "--corpus", texts, "--json", check=1)
    assert one_object(done)["parity"]["texts"] == 2
    assert set(one_object(done)["parity"]["heads"]["dense"]["by_language"]) == {"en", "und"}
    assert [(path / name).read_bytes() for name in ("artifact.json", "cosines.json")] == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "missing.txt: cannot be read (No such file"),
        ("empty.txt", b"\n \n", "empty.txt: holds no texts"),
        ("list.jsonl", b'{"text": "ok"}\n["x"]\n', "list.jsonl:2: not an object with a text"),
        ("half.jsonl", b'{"text": "ok"}\n\n{"text": ', "half.jsonl:3: not an object with a text"),
        ("latin.txt", "café".encode("latin-1"), "latin.txt: not UTF-8"),
    ],
)
def test_a_corpus_that_cannot_be_read(
    tiny: Path, tmp_path: Path, convert: Convert, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    arguments = ("--to", "onnx", "--source", tiny / "checkpoint", "--corpus", tmp_path / name, "--out", tmp_path / "out")
    assert message in one_line(convert(tiny / "tiny.toml", *arguments, check=2))
    assert not (tmp_path / "out").exists()


def test_inspect_shows_the_bits_of_each_tensor(below: tuple[subprocess.CompletedProcess[str], Path], convert: Convert) -> None:
    found = one_object(convert("inspect", below[1], "--json"))
    assert found["quantization"]["tensors"]["encoder.layer.0.attention.self.query"]["bits"] == 2
    assert found["size"] == sum(
        path.stat().st_size
        for path in below[1].rglob("*")
        if path.is_file() and path.name not in ("artifact.json", "README.md")
    )
    shown = convert("inspect", below[1]).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("  encoder.layer.0.attention.self.query ")] == [
        "2"
    ]


def test_inspect_of_a_changed_artifact_is_exit_code_4(tiny_artifact: Path, tmp_path: Path, convert: Convert) -> None:
    changed = Path(shutil.copytree(tiny_artifact, tmp_path / "changed"))
    (changed / "vocab.txt").write_text("changed")
    done = convert("inspect", changed, "--json", check=4)
    error = f"{changed}: vocab.txt differs from the manifest; convert or download the artifact again"
    assert one_object(done) == {"error": error, "exit_code": 4}
    assert done.stderr == f"convert: {error}\n"


def test_list_shows_recipes_and_artifacts_even_broken_ones(tiny_artifact: Path, tmp_path: Path, convert: Convert) -> None:
    shutil.copytree(tiny_artifact, tmp_path / "whole")
    (tmp_path / "not-one").mkdir()
    manifest = json.loads((tiny_artifact / "artifact.json").read_text())
    failed = {**manifest, "parity": {"verdict": "fail", "heads": {"dense": {}}}}
    for name, text in (("garbage", "{"), ("odd", json.dumps(failed))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "artifact.json").write_text(text)
    found = one_object(convert("list", "--out", tmp_path, "--json"))
    assert found.keys() == {"recipes", "artifacts", "cached"}
    minilm = next(entry for entry in found["recipes"] if entry["name"] == "all-minilm-l6-v2")
    size = sum(path.stat().st_size for path in minilm_checkpoint().rglob("*") if path.is_file())
    known = {
        "name": "all-minilm-l6-v2",
        "task": "embed",
        "repo": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        "license": "apache-2.0",
        "available": "package",
        "size": size,
    }
    assert {key: minilm[key] for key in known} == known
    verdicts = {Path(entry["path"]).name: entry["verdict"] for entry in found["artifacts"]}
    assert verdicts == {"garbage": "broken", "odd": "broken", "whole": "pass"}
    whole = next(entry for entry in found["artifacts"] if entry["verdict"] == "pass")
    assert (whole["name"], whole["target"], whole["bits"], whole["size"] > 0) == ("tiny-onnx-32bit", "onnx", 32, True)
    assert whole["parity"]["dense"] >= 0.999
    shown = convert("list", "--out", tmp_path).stdout
    assert [line.split()[1] for line in shown.splitlines() if "garbage" in line] == ["broken"]


def test_list_of_a_folder_that_is_not_there(tmp_path: Path, convert: Convert) -> None:
    assert one_object(convert("list", "--out", tmp_path / "nowhere", "--json"))["artifacts"] == []
