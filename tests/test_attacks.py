"""Repositories made to do harm: one line, the right exit code, no code that is run, and nothing outside the cache."""

import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import one_line, run
from support.hub import Hub
from support.hub.answers import Answer
from support.hub.server import Connection
from support.published import edit, publish, refused, replace

import shim
from shim.listing import entry_of

REPO = "acme/tiny-onnx"
NAMES = [
    "../../evil",
    "/tmp/evil",
    "a/../../../evil",
    "..\\evil",
    "C:\\evil",
    "\\\\host\\evil",
    ".git/hooks/evil",
    "evil\0",
    "nul",
]
Tamper = Callable[[str, Callable[[Answer], object]], None]


@pytest.fixture
def tamper(monkeypatch: pytest.MonkeyPatch) -> Tamper:
    """Have the hub change its answers to whatever has `part` in its path."""

    def install(part: str, change: Callable[[Answer], object]) -> None:
        send = Connection.send

        def changed(connection: Connection, answer: Answer) -> None:
            if part in connection.path:
                change(answer)
            send(connection, answer)

        monkeypatch.setattr(Connection, "send", changed)

    return install


def written(folder: Path) -> int:
    """Bytes that lie in the caches of a test."""
    paths = [path for name in ("cache", "sealport") for path in (folder / name).rglob("*")]
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


def test_a_file_larger_than_the_manifest_says_is_given_up(reached: Hub, repository: Path, tmp_path: Path) -> None:
    (repository / "vocab.txt").write_bytes(os.urandom(30_000_000))
    reached.put(REPO, repository)
    line = one_line(run("shim", "pull", REPO, check=4), "shim")
    assert "vocab.txt is larger than the" in line
    assert written(tmp_path) < 1_000_000


@pytest.mark.parametrize("name", ["onnx/model_quantized.onnx", "artifact.json"])
def test_a_hub_that_sends_more_than_it_says_is_cut_off(reached: Hub, repository: Path, tmp_path: Path, name: str) -> None:
    commit = reached.put(REPO, repository)
    stored = (reached.store.repo(REPO) or {})["commits"][commit]["files"][name]
    reached.store.content(stored).write_bytes(os.urandom(30_000_000))
    assert f"{name} is larger than the" in one_line(run("shim", "pull", REPO, check=4), "shim")
    assert written(tmp_path) < 1_000_000


def test_an_answer_that_unpacks_to_gigabytes_is_cut_off(reached: Hub, repository: Path, tmp_path: Path, tamper: Tamper) -> None:
    bomb = gzip.compress(b" " * 300_000_000)
    reached.put(REPO, repository)

    def pack(answer: Answer) -> None:
        answer.body = bomb
        answer.headers["Content-Encoding"] = "gzip"

    tamper("/artifact.json", pack)
    assert "artifact.json is larger than the" in one_line(run("shim", "pull", REPO, check=4), "shim")
    assert written(tmp_path) < 1_000_000


@pytest.mark.parametrize("commit", ["../../evil", "/tmp/evil", "main", "x" * 40, ""])
def test_a_commit_that_is_none_is_no_folder(
    reached: Hub, repository: Path, tmp_path: Path, tamper: Tamper, commit: str
) -> None:
    reached.put(REPO, repository)
    tamper("/resolve/", lambda answer: answer.headers.update({"X-Repo-Commit": commit}))
    one_line(run("shim", "pull", REPO, check=3), "shim")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "sealport").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["precision", "beside"])
def test_a_name_that_leads_outside_is_never_asked_for(
    reached: Hub, repository: Path, tmp_path: Path, name: str, where: str
) -> None:
    """The repository has such a file, too."""
    content = b"evil"
    listed = {"sha256": entry_of(repository / "README.md")["sha256"], "size": len(content)}
    edit(
        repository, lambda m: (m["precisions"]["8bit"]["files"] if where == "precision" else m["files"]).update({name: listed})
    )
    files = {path.relative_to(repository).as_posix(): path for path in repository.rglob("*") if path.is_file()}
    reached.put(REPO, {**files, name: content})
    one_line(run("shim", "pull", REPO, check=4), "shim")
    assert {entry.path.split("/")[-1] for entry in reached.log if "/resolve/" in entry.path} == {"artifact.json"}
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil").exists()


def test_a_symlink_of_a_repository_is_the_text_that_git_holds_of_it(reached: Hub, repository: Path, tmp_path: Path) -> None:
    """The hub gives where it leads as its content, and nobody follows it."""
    (tmp_path / "secret").write_text("secret")
    replace(repository, "config.json", os.fsencode(tmp_path / "secret"))
    reached.put(REPO, repository)
    folder = Path(run("shim", "pull", REPO).stdout.strip())
    assert not (folder / "config.json").is_symlink()
    assert "secret\n" not in one_line(run("shim", "embed", REPO, check=4), "shim")


def test_the_manifest_of_another_repository_does_not_fit(reached: Hub, repository: Path) -> None:
    wanted = json.loads((repository / "artifact.json").read_text())["precisions"]["8bit"]["files"]
    reached.put(REPO, {name: b"x" * wanted[name]["size"] for name in wanted} | {"artifact.json": repository / "artifact.json"})
    assert "differs from the manifest" in one_line(run("shim", "pull", REPO, check=4), "shim")


class Touch:
    """Creates a file when it is unpickled by a loader that trusts it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(reached: Hub, repository: Path, tiny_mlx: Path, tmp_path: Path) -> None:
    """Neither beside the model, where other loaders want one, nor under the name of a file that is read."""
    bait = pickle.dumps({"weight": Touch(tmp_path / "touched")})
    (repository / "sparse_linear.pt").write_bytes(bait)
    edit(repository, lambda m: m["files"].update({"sparse_linear.pt": entry_of(repository / "sparse_linear.pt")}))
    replace(repository, "pytorch_model.bin", bait)
    reached.put(REPO, repository)
    assert shim.load(REPO).embed(["hello"]).dense.shape == (1, 64)
    assert shim.load(repository).embed(["hello"]).dense.shape == (1, 64)
    mlx = publish(tmp_path / "mlx", tiny_mlx, name="tiny-mlx-8bit")
    for folder, name in ((repository, "onnx/model_quantized.onnx"), (repository, "tokenizer.json"), (mlx, "model.safetensors")):
        replace(folder, name, bait)
        refused(folder)
    assert not (tmp_path / "touched").exists()
    pickle.loads(bait)  # the bait is real
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["\x1b[2J\x1b]0;title\x07", "a\r\nb", "\ud800", "\u202ea", "x" * 100_000])
def test_what_a_manifest_says_cannot_take_over_a_terminal(tiny_8bit: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_8bit, tmp_path / "artifact"))
    edit(folder, lambda m: m.update(name=name, parity={"verdict": "unverified"}))
    line = one_line(run("shim", "embed", folder, check=4), "shim")
    assert line.removesuffix("\n").isprintable()
    assert len(line) < 3000
