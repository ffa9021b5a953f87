"""However a conversion ends, nothing half-made has the final name, and what was there is kept unless it is to be replaced."""

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import shim
from converter import pipeline, recipe
from converter.staging import staged
from shim.errors import SourceError, UsageError


def stop(tiny: Path, tmp_path: Path, appeared: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Convert, send a signal as soon as a file `appeared` in the partial folder with its first bytes, return how that ended."""
    out = tmp_path / "out"
    command = (tiny / "tiny.toml", "--to", "mlx", "--effort", "fast", "--source", tiny / "checkpoint", "--out", out)
    process = subprocess.Popen(
        [sys.executable, "-m", "converter", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background ignores it
    )
    limit = time.monotonic() + 300
    while not any(path.stat().st_size for path in out.glob(f".*.partial-*/{appeared}")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.001)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("number", "appeared"),
    [
        (signal.SIGINT, "model.safetensors"),
        (signal.SIGTERM, "model.safetensors"),
        (signal.SIGINT, "artifact.json"),
    ],
    ids=["ctrl-c while writing", "term while writing", "ctrl-c while verifying"],
)
def test_interrupted_leaves_nothing(tiny: Path, tmp_path: Path, number: signal.Signals, appeared: str) -> None:
    done = stop(tiny, tmp_path, appeared, number)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "convert: interrupted"
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path / "out") == []


def test_killed_leaves_nothing_under_the_final_name_and_the_next_run_works(tiny: Path, tmp_path: Path) -> None:
    assert stop(tiny, tmp_path, "model.safetensors", signal.SIGKILL).returncode == -signal.SIGKILL
    assert [name for name in os.listdir(tmp_path / "out") if not name.startswith(".")] == []
    made, _ = pipeline.convert(request(tiny, tmp_path), lambda *_: None)
    assert made == tmp_path / "out/tiny-mlx-4bit"


@pytest.fixture
def small_files() -> Iterator[None]:
    """The disk is full after a hundred kilobytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("target", "bits"), [("mlx", 8), ("onnx", 32), ("onnx", 8)])
def test_a_full_disk_is_one_line(
    tiny: Path,
    tmp_path: Path,
    small_files: None,
    convert: Callable[..., subprocess.CompletedProcess[str]],
    corpus_file: Path,
    few_to_learn_from: Path,
    target: str,
    bits: int,
) -> None:
    out = tmp_path / "out"
    command = (tiny / "tiny.toml", "--to", target, "--bits", bits, "--source", tiny / "checkpoint", "--out", out, "--json")
    command += ("--corpus", corpus_file, *(("--calibration", few_to_learn_from) if (target, bits) == ("onnx", 8) else ()))
    done = convert(*command, check=3)
    name = out / f"tiny-{target}-{bits}bit"
    assert done.stderr == f"convert: {name}: cannot be written (File too large); nothing was left there\n"
    assert os.listdir(out) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of a hundred kilobytes, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if not sys.platform.startswith("linux") or os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_is_one_line(
    tiny: Path, small_disk: Path, corpus_file: Path, convert: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    command = (tiny / "tiny.toml", "--to", "onnx", "--source", tiny / "checkpoint", "--out", small_disk, "--json")
    command += ("--effort", "fast", "--corpus", corpus_file)
    done = convert(*command, check=3)
    assert done.stderr.endswith("cannot be written (No space left on device); nothing was left there\n")
    assert done.stderr.count("\n") == 1
    assert os.listdir(small_disk) == []


def request(tiny: Path, tmp_path: Path) -> pipeline.Request:
    """A quick conversion, not verified."""
    loaded = recipe.load(str(tiny / "tiny.toml"))
    return pipeline.Request(loaded, "mlx", 4, str(tiny / "checkpoint"), tmp_path / "out", effort="fast", verified=False)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_artifact_is_kept_without_force_and_replaced_with_it(tiny: Path, tmp_path: Path) -> None:
    asked = request(tiny, tmp_path)
    made, _ = pipeline.convert(asked, lambda *_: None)
    (made / "mark").touch()
    with pytest.raises(UsageError, match=r"tiny-mlx-4bit exists; --force replaces it"):
        pipeline.convert(asked, lambda *_: None)
    assert (made / "mark").exists()
    pipeline.convert(dataclasses.replace(asked, force=True), lambda *_: None)
    assert not (made / "mark").exists()
    assert os.listdir(tmp_path / "out") == ["tiny-mlx-4bit"]
    assert shim.load(made, allow_unverified=True).dimensions == 64


@pytest.mark.parametrize("kind", ["folder", "file", "empty folder"])
def test_what_is_not_an_artifact_is_kept_even_with_force(tiny: Path, tmp_path: Path, kind: str) -> None:
    there = tmp_path / "out/tiny-mlx-4bit"
    there.parent.mkdir()
    if kind == "file":
        there.write_text("precious")
    else:
        there.mkdir()
    if kind == "folder":
        (there / "precious").touch()
    with pytest.raises(UsageError, match="exists and is not an artifact; it is kept even with --force"):
        pipeline.convert(dataclasses.replace(request(tiny, tmp_path), force=True), lambda *_: None)
    assert there.is_file() == (kind == "file")
    assert os.listdir(tmp_path / "out") == ["tiny-mlx-4bit"]


def test_a_failing_conversion_with_force_keeps_the_old_artifact(tiny: Path, tmp_path: Path) -> None:
    asked = request(tiny, tmp_path)
    made, _ = pipeline.convert(asked, lambda *_: None)
    before = contents(made)
    broken = Path(shutil.copytree(tiny / "checkpoint", tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"][0, 0] = np.nan
    save_file(weights, broken / "model.safetensors")
    with pytest.raises(SourceError, match="NaN"):
        pipeline.convert(dataclasses.replace(asked, force=True, source=str(broken)), lambda *_: None)
    assert contents(made) == before
    assert os.listdir(tmp_path / "out") == ["tiny-mlx-4bit"]


def artifact_folder(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "artifact.json").write_text(text)
    return path


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", [1, 2])
def test_stopped_in_the_middle_of_the_swap_keeps_the_old_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], step: int
) -> None:
    """The one moment without anything under the final name must not outlast the run."""
    destination = artifact_folder(tmp_path / "out/name", "old")
    rename, calls = Path.rename, []

    def stopping(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == step:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stopping)
    with pytest.raises((KeyboardInterrupt, SourceError)), staged(destination, force=True) as directory:
        artifact_folder(directory / "new", "new")
    assert len(calls) >= step
    assert (destination / "artifact.json").read_text() == "old"
    assert os.listdir(tmp_path / "out") == ["name"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(SourceError, match=r"out: cannot be written \(Permission denied\)"),
        staged(tmp_path / "out/name", False),
    ):
        pass


def test_out_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(SourceError, match=r"out: cannot be written"), staged(tmp_path / "out/name", False):
        pass


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with staged(tmp_path / "name", False) as directory:
            (directory / "file").touch()
    finally:
        os.umask(old)
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o755
