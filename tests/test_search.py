"""The search for the fewest bits, on a small model: it raises what it must, keeps to a size, and says what it did."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shim
from converter import cache, pipeline, recipe
from converter.calibration import Calibration
from converter.quantize import sensitivity
from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError
from shim.parity import Parity
from shim.text import Tokens

Request = pipeline.Request


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / "cache"))
    warnings.filterwarnings("ignore", message="the mlx runtime is on a CPU")


@pytest.fixture
def request_(tiny: Path, tmp_path: Path, corpus_file: Path, few_to_learn_from: Path) -> Request:
    loaded = recipe.load(str(tiny / "tiny.toml"))
    return Request(
        loaded, "mlx", 4, str(tiny / "checkpoint"), tmp_path / "out", corpus=corpus_file, calibration=few_to_learn_from
    )


def made(request: Request, **changes: object) -> tuple[Path, Manifest]:
    return pipeline.convert(dataclasses.replace(request, force=True, **changes), lambda *_: None)  # type: ignore[arg-type]


def bits(manifest: Manifest) -> set[int]:
    return {entry["bits"] for name, entry in manifest.quantization["tensors"].items() if "position" not in name}


def short_of(parity: Parity, worst: float) -> Parity:
    """The same, failed on its worst text."""
    heads = {name: dataclasses.replace(figures, worst=worst) for name, figures in parity.heads.items()}
    return dataclasses.replace(parity, verdict="fail", heads=heads)


@pytest.mark.parametrize("target", ["mlx", "onnx"])
def test_bits_are_raised_until_parity_holds_and_no_further(request_: Request, target: str) -> None:
    _, strict = made(request_, target=target, strict_bits=True)
    path, raised = made(request_, target=target)
    _, eight = made(request_, target=target, bits=8)
    assert (strict.verdict, bits(strict)) == ("fail", {4})
    assert (raised.verdict, eight.verdict) == ("pass", "pass")
    assert min(bits(raised)) >= 4
    assert strict.quantization["bits_per_weight"] < raised.quantization["bits_per_weight"]
    assert raised.quantization["bits_per_weight"] < eight.quantization["bits_per_weight"]
    record = json.loads((path / "quantization.json").read_text())
    stored = {name: entry["bits"] for name, entry in raised.quantization["tensors"].items()}
    assert {name: entry["bits"] for name, entry in record["tensors"].items() if name in stored} == stored
    assert sum(entry["share_of_error"] for entry in record["tensors"].values()) == pytest.approx(1)
    shim.load(path)


@pytest.mark.parametrize("target", ["mlx", "onnx"])
def test_where_rounding_everything_alike_falls_short_some_stay_whole(request_: Request, target: str) -> None:
    _, alike = made(request_, target=target, bits=8, strict_bits=True)
    goal = 1 - (1 - alike.parity.heads["dense"].worst) / 10
    _, raised = made(request_, target=target, bits=8, parity=goal)
    weights = {entry["bits"] for entry in raised.quantization["tensors"].values()}
    assert (raised.verdict, weights) == ("pass", {8})
    assert 0 < len(raised.quantization["tensors"]) < len(alike.quantization["tensors"])


@pytest.mark.parametrize("target", ["mlx", "onnx"])
def test_a_size_is_kept_and_more_of_it_comes_nearer(request_: Request, target: str) -> None:
    request_ = dataclasses.replace(request_, target=target)
    least = made(request_, strict_bits=True)[1].size
    worst = []
    for size in (least + 100_000, least + 1_600_000):
        _, manifest = made(request_, max_size=size)
        assert manifest.size <= size
        worst.append(manifest.parity.heads["dense"].worst)
    assert worst[0] < worst[1]


def test_a_size_that_cannot_be_had_is_refused_and_nothing_is_left(request_: Request) -> None:
    with pytest.raises(UsageError, match=r"--max-size: at 4 bits it comes to \d+\.\d MB"):
        made(request_, max_size=1000)
    assert not list(request_.out.iterdir())


def test_an_artifact_that_passes_on_the_mean_says_so_and_must_be_asked_for(request_: Request) -> None:
    path, manifest = made(request_, parity_on="mean", parity=0.98)
    figures = manifest.parity.heads["dense"]
    assert (manifest.verdict, manifest.parity.on) == ("pass", "mean")
    assert figures.worst < figures.mean < 0.999
    assert figures.mean >= 0.98
    promised = f"{figures.worst - 5e-5:.4f}".rstrip("0")  # rounded down
    with pytest.raises(IntegrityError, match=rf"sealed at parity {promised}, under 0\.999; min_parity={promised} "):
        shim.load(path)
    shim.load(path, min_parity=0.9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"effort": "fast", "max_size": 10**9}, "--effort fast calibrates on nothing; leave out --max-size"),
        ({"bits": 16, "max_size": 10**9}, "--bits 16 quantizes nothing; leave out --max-size"),
        ({"strict_bits": True, "max_size": 10**9}, "--strict-bits"),
    ],
)
def test_what_contradicts_itself_is_refused(request_: Request, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(dataclasses.replace(request_, calibration=None), **changes)


def test_what_never_passes_ends_as_the_nearest_that_was_tried(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([0.9, 0.95, 0.92, 0.93, 0.94, 0.95])
    real, sizes = pipeline.measure, []

    def measure(directory: Path, *rest: Any) -> tuple[Parity, Any]:
        report, cosines = real(directory, *rest)
        sizes.append(sum(path.stat().st_size for path in directory.glob("*.safetensors")))
        return short_of(report, next(measured)), cosines

    monkeypatch.setattr(pipeline, "measure", measure)
    path, manifest = made(request_, bits=4)
    assert manifest.verdict == "fail"
    assert sizes[0] < min(sizes[1:]), "what fell short is followed by more"
    assert sizes[-1] == sizes[1] != sizes[-2], "which came nearest, and is made once more"
    assert sum(file.stat().st_size for file in path.glob("*.safetensors")) == sizes[1]


def test_the_widest_codes_are_not_tried_where_the_texts_that_judge_rule_them_out(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = pipeline.measure, []

    def measure(directory: Path, manifest: Manifest, *rest: Any) -> tuple[Parity, Any]:
        report, cosines = real(directory, manifest, *rest)
        tried.append(manifest.quantization["tensors"])
        return (report if len(tried) > 1 else short_of(report, 0.9)), cosines

    monkeypatch.setattr(pipeline, "measure", measure)
    assert made(request_, bits=4)[1].verdict == "pass"
    assert len(tried[0]) == len(tried[0] | tried[1]) > len(tried[1]), "a hundred times as far off as may be: some is left whole"


def test_texts_that_were_calibrated_on_must_be_near_enough_too(request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    real, told = Calibration.losses, []
    measure, measured = pipeline.measure, []
    costs, looked = sensitivity.costs, []

    def seen(*arguments: Any) -> np.ndarray:
        losses = real(*arguments)
        losses[0, 0] = losses[0, 0] if told else 0.002
        told.append(losses.max())
        return losses

    def record(run: Any, read: Any, codes: Any, tokens: list[Tokens], *rest: Any) -> dict[str, np.ndarray]:
        looked.append(tokens)
        return costs(run, read, codes, tokens, *rest)

    monkeypatch.setattr(sensitivity, "costs", record)

    monkeypatch.setattr(Calibration, "losses", seen)
    monkeypatch.setattr(pipeline, "measure", lambda *given: measured.append(given) or measure(*given))
    assert made(request_, bits=4)[1].verdict == "pass"
    assert min(told) <= 0.001, "all were near enough after one was said to be too far off"
    assert len(measured) == sum(off <= 0.001 for off in told), "only what those let pass was held to the texts that judge"
    far, text = looked[1][0].input_ids, looked[0][0].input_ids[0]
    assert (far == text).all(axis=1).any(), "what each tensor costs a text that is farther off than foretold is looked at"


def test_nothing_is_left_whole_for_the_sake_of_texts_that_do_not_judge(
    request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Calibration.losses
    monkeypatch.setattr(Calibration, "losses", lambda *given: np.full_like(real(*given), 0.5))
    path, manifest = made(request_, bits=4)
    assert manifest.verdict == "pass"
    assert 8 in bits(manifest)
    assert len(manifest.quantization["tensors"]) == len(json.loads((path / "quantization.json").read_text())["tensors"])


def test_one_that_ends_leaves_what_another_still_needs(request_: Request, tmp_path: Path) -> None:
    ends = []

    def progress(stage: str, *_: object) -> None:
        if stage == "convert" and not ends:  # the first codes have been written, and others follow
            ends.append(None)
            ends.append(made(dataclasses.replace(request_, out=tmp_path / "other"))[1])

    first = pipeline.convert(request_, progress)[1]
    assert first.files == ends[1].files
    assert not list((cache.folder() / "quantize").iterdir()), "who ends last removes it"
