"""Of an artifact's folder only what its manifest lists is opened, on whatever disk it lies, and all of it is closed again."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.published import publish, replace

import shim
from shim.errors import IntegrityError, SourceError
from shim.held import ChangedError, held
from shim.listing import entry_of


@pytest.mark.parametrize("unverified", [False, True])
def test_hidden_weights_are_not_opened(tiny_mlx: Path, tmp_path: Path, unverified: bool) -> None:
    """A Mac leaves such files on other systems' disks; what a tensor in one might stand for was never measured."""
    folder = Path(shutil.copytree(tiny_mlx, tmp_path / "artifact"))
    for name in (".x.safetensors", "._model.safetensors"):
        (folder / name).write_bytes(b"\0\5\x16\7 no tensors")
    expected = shim.load(tiny_mlx).embed(["text"]).dense
    np.testing.assert_array_equal(shim.load(folder, allow_unverified=unverified).embed(["text"]).dense, expected)


@pytest.mark.parametrize("hidden", ["onnx/.w.bin", "onnx/.w/bin", ".w.bin"])
@pytest.mark.parametrize("unverified", [False, True])
def test_external_data_in_a_hidden_file_is_refused(tiny_8bit: Path, tmp_path: Path, hidden: str, unverified: bool) -> None:
    folder = publish(tmp_path / "published", tiny_8bit, external=True)
    graph = folder / "onnx/model_quantized.onnx"
    (folder / hidden).parent.mkdir(exist_ok=True)
    shutil.copyfile(f"{graph}_data", folder / hidden)
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for each in tensor.external_data:
            if each.key == "location":
                each.value = os.path.relpath(folder / hidden, folder / "onnx")
    replace(folder, "onnx/model_quantized.onnx", model.SerializeToString())
    with pytest.raises(IntegrityError, match="onnxruntime cannot load it"):
        shim.load(folder, allow_unverified=unverified)


def test_a_folder_that_is_a_link_is_refused(tiny_8bit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_8bit, tmp_path / "artifact"))
    (folder / "onnx").rename(folder / ".hidden")
    (folder / "onnx").symlink_to(".hidden")
    with pytest.raises(IntegrityError, match="onnx is not listed"):
        shim.load(folder)


def test_a_pipe_in_place_of_a_file_holds_up_nobody(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(IntegrityError, match=r"tokenizer.json is missing"):
        shim.load(folder)


def test_only_listed_files_are_there_and_nothing_is_left(tiny_artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.txt").write_text("b")
    (tmp_path / ".c").write_text("c")
    listed = {"a/b.txt": entry_of(tmp_path / "a/b.txt")}
    with contextlib.suppress(ChangedError), held(tmp_path, listed) as folder:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there == {"a/b.txt"}
        assert folder.stat().st_mode & 0o777 == 0o700
        (tmp_path / "a/b.txt").unlink()
        assert (folder / "a/b.txt").read_text() == "b"
        (tmp_path / "a/b.txt").write_text("another")
        assert (folder / "a/b.txt").read_text() == "b"
    assert not folder.exists()


def test_a_file_that_is_written_to_while_it_is_held_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    before = path.stat().st_mtime_ns

    def change() -> None:
        with held(tmp_path, {"a": entry_of(path)}):
            path.write_text("b")
            os.utime(path, ns=(before, before))

    with pytest.raises(ChangedError, match="a was changed while it was loaded"):
        change()


def test_without_links_to_descriptors_files_are_copied(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on other systems than Linux."""
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    expected = shim.load(folder).embed(["text"]).dense
    monkeypatch.setattr("shim.held.DESCRIPTORS", tmp_path / "nowhere")
    np.testing.assert_array_equal(shim.load(folder).embed(["text"]).dense, expected)
    with (folder / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError, match="differs from the manifest"):
        shim.load(folder)


def test_a_disk_that_is_read_only_is_enough(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    made = tempfile.mkdtemp
    monkeypatch.setattr("shim.held.tempfile.mkdtemp", lambda **given: made(**given) if "dir" in given else full())
    assert shim.load(tiny_artifact).name == "tiny-onnx-32bit"
    monkeypatch.setattr("shim.held.tempfile.mkdtemp", full)
    with pytest.raises(SourceError, match="set TMPDIR"):
        shim.load(tiny_artifact)


def test_no_descriptor_is_left_open(tiny_artifact: Path, tiny_mlx: Path, tmp_path: Path) -> None:
    bad = Path(shutil.copytree(tiny_artifact, tmp_path / "bad"))
    (bad / "tokenizer.json").write_text("{}")
    for path in (tiny_artifact, tiny_mlx):  # what is opened once and for all
        shim.load(path)
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        shim.load(tiny_artifact), shim.load(tiny_mlx)
        with pytest.raises(IntegrityError):
            shim.load(bad)
    assert len(os.listdir("/dev/fd")) == before
