"""Originals on the hub: one over loopback, its local cache, and neither."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from support.checkpoints import bert_config, write_bert, write_recipe
from support.commands import run, run_process
from support.hub import Fault, Hub, environment

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # where no hub is asked
REPO = "nobody/tiny"


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def repository(checkpoint: Path) -> Path:
    """What a repository may hold: the small checkpoint, and what nobody wants beside it."""
    for name in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"not wanted")
    return checkpoint


def at_commit(folder: Path, revision: str = COMMIT) -> Path:
    """The small recipe, pinned."""
    path = write_recipe(folder / "tiny.toml")
    path.write_text(path.read_text().replace('"nobody/tiny"', f'"nobody/tiny"\nrevision = "{revision}"'))
    return path


convert = partial(run_process, "converter")  # a process of its own: the hub's client reads its environment once, when imported


def test_a_repository_is_fetched_at_its_pinned_revision(hub: Hub, repository: Path, tmp_path: Path) -> None:
    """One that breaks down gives one line; the next run fetches only the rest, and one cut in the middle goes on there."""
    write_bert(repository, bert_config(max_position_embeddings=100000))  # the client keeps no less than 10 MB of a transfer
    commit = hub.put(REPO, repository)
    hub.put(REPO, {"config.json": b"other"})
    command = (at_commit(tmp_path, commit), "--to", "onnx", "--bits", 32, "--out", tmp_path / "out", "--no-verify", "--json")
    hub.faults.append(Fault("GET", "model.safetensors", 500))
    failed = convert(*command, check=3, env=hub.environment(tmp_path))
    line = json.loads(failed.stdout)["error"]
    assert line.startswith(f"{REPO}@{commit}: cannot be fetched from the hub (")
    assert failed.stderr.splitlines()[-1] == f"convert: {line}"
    assert not (tmp_path / "out").exists()
    whole = {entry.target for entry in hub.log if (entry.method, entry.status) == ("GET", 200) and "/resolve/" in entry.target}
    assert whole, "files come side by side, so that some are there before the one that fails"
    before = len(hub.log)
    hub.faults.append(Fault("GET", "model.safetensors", cut_after=(repository / "model.safetensors").stat().st_size // 2))
    done = convert(*command, env=hub.environment(tmp_path))
    assert json.loads(done.stdout)["source"]["repo"] == REPO
    assert json.loads(done.stdout)["source"]["revision"] == commit
    first, second = (entry for entry in hub.log[before:] if entry in hub.requests("GET", "model.safetensors"))
    assert (first.status, first.range, second.status) == (200, "", 206)
    assert int(second.range.removesuffix("-")) > 0, "the second request must ask for the rest only"
    assert not [entry for entry in hub.log[before:] if entry.method == "GET" and entry.target in whole]
    assert len(hub.requests("GET", "vocab.txt")) == 1
    assert not [entry for entry in hub.log if re.search(r"onnx/|\.bin|\.h5", entry.target)]


@pytest.mark.convert
def test_a_repository_with_a_pickle_alone_is_fetched(reached: Hub, repository: Path, tmp_path: Path) -> None:
    weights = load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, repository / "pytorch_model.bin")
    commit = reached.put(REPO, repository)
    command = (at_commit(tmp_path, commit), "--to", "mlx", "--effort", "fast", "--no-verify", "--out", tmp_path / "out")
    done = run("converter", *command, "--json")
    assert "pytorch_model.bin" in json.loads(done.stdout)["source"]["files"]


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_offline_the_cache_serves_and_its_commit_is_recorded(checkpoint: Path, tmp_path: Path, revision: str) -> None:
    repo = tmp_path / "hf/hub/models--nobody--tiny"
    shutil.copytree(checkpoint, repo / f"snapshots/{COMMIT}")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    command = (at_commit(tmp_path, revision), "--to", "mlx", "--effort", "fast", "--no-verify", "--out", tmp_path / "out")
    done = convert(*command, env=environment(tmp_path, HF_HUB_OFFLINE="1"))
    assert not [line for line in done.stderr.splitlines() if not line.startswith("writing ")]
    source = json.loads((tmp_path / "out/tiny-mlx-4bit/artifact.json").read_text())["source"]
    assert (source["repo"], source["revision"]) == ("nobody/tiny", COMMIT)


def test_offline_without_a_cache_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    command = (at_commit(tmp_path), "--to", "mlx", "--out", tmp_path / "out")
    done = convert(*command, check=3, env=environment(tmp_path, HF_HUB_OFFLINE="1"))
    assert re.fullmatch(
        rf"convert: nobody/tiny@{COMMIT}: cannot be fetched from the hub \(.+\); --source DIR takes a local copy\n", done.stderr
    )
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.convert
def test_a_repository_without_a_recipe_is_read_and_converted_at_its_commit(
    reached: Hub, repository: Path, tmp_path: Path
) -> None:
    """Its recipe is printed without its weights being fetched."""
    commit = reached.put(REPO, repository)
    printed = run("converter", "recipe", f"{REPO}@{commit}").stdout
    assert f'revision = "{commit}"' in printed
    assert not [entry for entry in reached.log if entry.method == "GET" and re.search(r"safetensors|\.bin|\.h5", entry.target)]
    command = (f"{REPO}@{commit}", "--to", "onnx", "--bits", 32, "--out", tmp_path, "--no-verify", "--json")
    made = json.loads(run("converter", *command).stdout)
    assert (made["name"], made["source"]["repo"], made["source"]["revision"]) == ("tiny-onnx-32bit", REPO, commit)
