"""`convert all`: what is kept, what goes on, how it ends, and what an interrupt or a killed process leaves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_bert
from support.commands import one_line, one_object
from support.hub import WRITE, Fault, Hub, environment
from support.published import edit

from converter import matrix, pipeline

Convert = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions run in this process, which has the libraries already."""

    def here(_: Any, request: Any, *, progress: Any, **__: Any) -> Any:
        return pipeline.convert(request, lambda *stage: progress(stage))

    monkeypatch.setattr(matrix, "apart", here)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("matrix") / "small")


@pytest.fixture(scope="module")
def made(checkpoint: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory, convert: Convert) -> Path:
    """A folder with the whole matrix; tests that change it copy it first."""
    out = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        together.__wrapped__(patch)  # type: ignore[attr-defined]
        done = convert(*command(checkpoint, corpus_file, out), "--json")
    found = one_object(done)
    assert [(entry["name"], entry["state"], entry["verdict"], entry["exit_code"]) for entry in found["artifacts"]] == [
        ("small-mlx-8bit", "converted", "pass", 0),
        ("small-onnx-8bit", "converted", "pass", 0),
        ("small-onnx-32bit", "converted", "pass", 0),
    ]
    assert all(entry["parity"]["dense"] >= 0.999 and entry["size"] > 0 for entry in found["artifacts"])
    return out


def command(checkpoint: Path, corpus: Path, out: Path) -> tuple[object, ...]:
    """32 bits are ONNX's alone."""
    return ("all", checkpoint, "--to", "mlx,onnx", "--bits", "8,32", "--corpus", corpus, "--out", out)


def states(found: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return {entry["name"].removeprefix("small-"): (entry["state"], entry["exit_code"]) for entry in found["artifacts"]}


def test_what_is_there_is_kept(
    made: Path, checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert, together: None
) -> None:
    """Only what is missing is converted; the other manifests stay, to the byte."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    shutil.rmtree(out / "small-onnx-8bit")
    before = {path: path.read_bytes() for path in out.glob("*/artifact.json")}
    done = convert(*command(checkpoint, corpus_file, out))
    rows = [line.split()[:3] for line in done.stdout.splitlines()[1:]]
    assert rows == [
        ["small-mlx-8bit", "kept", "pass"],
        ["small-onnx-8bit", "converted", "pass"],
        ["small-onnx-32bit", "kept", "pass"],
    ]
    assert "small-onnx-8bit (2 of 3)" in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    forced = one_object(convert(*command(checkpoint, corpus_file, out), "--force", "--json"))
    assert {state for state, _ in states(forced).values()} == {"kept"}, "--force replaces what is otherwise"


def test_a_single_conversion_is_kept_and_continued(
    tiny: Path, tiny_artifact: Path, corpus_file: Path, tmp_path: Path, convert: Convert, together: None
) -> None:
    out = tmp_path / "out"
    one = ("--to", "onnx", "--bits", 32, "--corpus", corpus_file, "--out", out)
    convert(tiny / "checkpoint", *one)
    assert states(one_object(convert("all", tiny / "checkpoint", *one, "--json"))) == {"checkpoint-onnx-32bit": ("kept", 0)}


def test_what_is_otherwise_is_named_and_only_force_replaces_it(
    made: Path, checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert, together: None
) -> None:
    """Of three artifacts one was made with another setting, one of another original, one has changed since."""
    out, other = Path(shutil.copytree(made, tmp_path / "out")), Path(shutil.copytree(checkpoint, tmp_path / "small"))
    edit(out / "small-mlx-8bit", lambda manifest: manifest["tool"]["settings"].update(effort="max"))
    edit(out / "small-onnx-8bit", lambda manifest: manifest["source"]["files"]["config.json"].update(size=1))
    (out / "small-onnx-32bit/vocab.txt").write_text("changed")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = one_object(convert(*command(other, corpus_file, out), "--json", check=4))
    assert states(found) == {"mlx-8bit": ("failed", 2), "onnx-8bit": ("failed", 2), "onnx-32bit": ("failed", 4)}
    assert found["exit_code"] == 4
    errors = [entry["error"] for entry in found["artifacts"]]
    assert errors[0] == f"{out}/small-mlx-8bit was made with another effort; --force replaces it"
    assert errors[1] == f"{out}/small-onnx-8bit was made with another original; --force replaces it"
    assert "vocab.txt differs from the manifest" in errors[2]
    assert {path: path.read_bytes() for path in before} == before
    found = one_object(convert(*command(other, corpus_file, out), "--force", "--json"))
    assert {state for state, _ in states(found).values()} == {"converted"}


def test_an_artifact_below_parity_is_kept_as_that_and_one_without_a_verdict_is_not(
    made: Path, checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert, together: None
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    edit(out / "small-mlx-8bit", lambda manifest: manifest["parity"].update(verdict="fail"))
    edit(out / "small-onnx-8bit", lambda manifest: manifest["parity"].update(verdict="unverified"))
    edit(out / "small-onnx-32bit", lambda manifest: manifest["tool"].pop("settings"))
    found = one_object(convert(*command(checkpoint, corpus_file, out), "--json", check=2))
    assert states(found) == {"mlx-8bit": ("kept", 1), "onnx-8bit": ("failed", 2), "onnx-32bit": ("failed", 2)}
    assert "was not verified; `convert verify" in found["artifacts"][1]["error"]
    assert "does not say how it was made" in found["artifacts"][2]["error"]


def test_a_failure_stops_nothing(checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert, together: None) -> None:
    """A model that cannot be read, one below parity, one that is good; the exit code is the highest."""
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut short")
    options = ("--to", "mlx", "--bits", "2,8", "--effort", "fast", "--strict-bits", "--corpus", corpus_file)
    done = convert("all", broken, checkpoint, *options, "--out", tmp_path / "out", "--json", check=3)
    found = one_object(done)
    assert [(entry["name"], entry["exit_code"]) for entry in found["artifacts"]] == [
        ("broken-mlx-2bit", 3),
        ("broken-mlx-8bit", 3),
        ("small-mlx-2bit", 1),
        ("small-mlx-8bit", 0),
    ]
    assert "model.safetensors" in found["artifacts"][0]["error"]
    assert found["artifacts"][2]["verdict"] == "fail"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["small-mlx-2bit", "small-mlx-8bit"]


def test_an_error_of_our_own_stops_nothing_either(
    checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "apart", lambda *_, **__: 1 / 0)
    found = one_object(convert(*command(checkpoint, corpus_file, tmp_path), "--json", check=1))
    assert [entry["error"] for entry in found["artifacts"]] == ["ZeroDivisionError: division by zero"] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bge-m4",), "recipe 'bge-m4' unknown; did you mean bge-m3"),
        (("bge-m3", "--to", "mlx,coreml"), "--to coreml: there are mlx, onnx"),
        (("bge-m3", "--bits", "4,7"), "--bits 7: mlx has 2, 3, 4, 5, 6, 8, 16; onnx has 4, 8, 16, 32"),
        (("bge-m3", "--to", "mlx", "--bits", "32"), "--bits 32: mlx has"),
        (("bge-m3", "--bits", "four"), "--bits four: mlx has"),
        (("bge-m3", "--corpus", "nowhere.txt"), "nowhere.txt: cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    tmp_path: Path, convert: Convert, arguments: tuple[str, ...], message: str
) -> None:
    assert message in one_line(convert("all", *arguments, check=2, cwd=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def working(checkpoint: Path, corpus_file: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], Path]:
    """A matrix of two whose first conversion is at work, and its folder."""
    out = tmp_path / "out"
    line = ["all", checkpoint, "--to", "onnx", "--bits", "32,16", "--corpus", corpus_file, "--out", out]
    started = subprocess.Popen(
        [sys.executable, "-m", "converter", *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while started.poll() is None and not list(out.glob(".small-onnx-32bit.partial-*")):
        time.sleep(0.05)
    return started, out


def nobody_left(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        for _ in range(300):
            os.killpg(group, 0)
            time.sleep(0.1)
        return False
    return True


def test_ctrl_c_ends_it_in_one_line_and_the_table(working: tuple[subprocess.Popen[str], Path]) -> None:
    started, out = working
    os.killpg(started.pid, signal.SIGINT)  # as a terminal sends it
    shown, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert [line for line in said.splitlines() if ": " in line] == ["convert: interrupted"]
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert rows == [["small-onnx-32bit", "interrupted"], ["small-onnx-16bit", "not", "started"]]
    assert nobody_left(started.pid)
    assert list(out.iterdir()) == []


def test_a_command_that_is_killed_leaves_nobody_at_work(working: tuple[subprocess.Popen[str], Path]) -> None:
    started, _ = working
    started.kill()
    started.communicate(timeout=60)
    assert nobody_left(started.pid)


def test_a_conversion_that_is_killed_stops_nothing(working: tuple[subprocess.Popen[str], Path]) -> None:
    """As the system does it when memory runs out. What it leaves goes with the next run of the same."""
    started, out = working
    [partial] = out.glob(".small-onnx-32bit.partial-*")
    os.kill(int(partial.name.split("-")[-2]), signal.SIGKILL)
    shown, _ = started.communicate(timeout=300)
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert " ".join(rows[0]) == "small-onnx-32bit failed the conversion's process ended with -9: out of memory?"
    assert rows[1][:3] == ["small-onnx-16bit", "converted", "pass"]
    assert started.returncode == 3
    assert nobody_left(started.pid)


def test_what_passes_is_published_at_the_end(
    hub: Hub, made: Path, checkpoint: Path, corpus_file: Path, tmp_path: Path, convert: Convert
) -> None:
    """ONNX precisions share a repository, an artifact below parity stays here; the same again changes nothing."""
    out = Path(shutil.copytree(made, tmp_path / "out"))
    edit(out / "small-onnx-8bit", lambda manifest: manifest["parity"].update(verdict="fail"))
    command_ = (*command(checkpoint, corpus_file, out), "--org", "acme", "--json")
    line = [sys.executable, "-m", "converter", *map(str, command_)]
    for state in ("published", "unchanged"):
        done = subprocess.run(line, capture_output=True, text=True, env=hub.environment(tmp_path, token=WRITE), check=False)
        assert done.returncode == 1, done.stderr
        assert [(each["artifacts"], each["state"]) for each in json.loads(done.stdout)["published"]] == [
            (["small-mlx-8bit"], state),
            (["small-onnx-32bit"], state),
        ]
    assert hub.store.repo("acme/small-mlx-8bit") is not None
    assert hub.store.repo("acme/small-onnx") is not None
    hub.faults.append(Fault("POST", "acme/small-onnx/commit", 500, times=99))
    edit(out / "small-onnx-8bit", lambda manifest: manifest["parity"].update(verdict="pass"))
    done = subprocess.run(line, capture_output=True, text=True, env=hub.environment(tmp_path, token=WRITE), check=False)
    assert done.returncode == 3
    mlx, onnx = json.loads(done.stdout)["published"]
    assert (mlx["state"], onnx["state"], onnx["exit_code"]) == ("unchanged", "failed", 3)
    assert onnx["artifacts"] == ["small-onnx-8bit", "small-onnx-32bit"]
    assert WRITE not in done.stdout + done.stderr


def test_without_a_token_nothing_is_converted(hub: Hub, checkpoint: Path, corpus_file: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "converter", *map(str, command(checkpoint, corpus_file, tmp_path / "out")), "--org", "acme"]
    done = subprocess.run(line, capture_output=True, text=True, env=hub.environment(tmp_path), check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no token for the hub" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_repository_that_cannot_be_had_stops_nothing(made: Path, checkpoint: Path, corpus_file: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    first, *rest = command(checkpoint, corpus_file, out)
    line = [sys.executable, "-m", "converter", *map(str, (first, "nobody/gone", *rest, "--json"))]
    offline = environment(tmp_path, HF_HUB_OFFLINE="1")
    done = subprocess.run(line, capture_output=True, text=True, env=offline, check=False)
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"] == 3
    assert [(entry["name"], entry["state"]) for entry in found["artifacts"]] == [
        ("gone", "failed"),
        ("small-mlx-8bit", "kept"),
        ("small-onnx-8bit", "kept"),
        ("small-onnx-32bit", "kept"),
    ]
    assert found["artifacts"][0]["error"].startswith("nobody/gone@main: cannot be fetched from the hub (")
