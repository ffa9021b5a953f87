"""Which products are in integers: the fastest ways that reach the bar, with calibration and without."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.jobs import calibration_of

from converter import corpus, pipeline, recipe, show
from converter.candidate import Candidate, Judged
from converter.corpus.calibration import prepare
from converter.int8.fastest import fastest
from converter.int8.inputs import WAYS, allocate
from converter.source.open import open_source
from shim.architectures import bert


def test_slower_ways_are_chosen_where_they_buy_most() -> None:
    def cost(tensor: float, apart: float) -> dict[str, np.ndarray]:
        values = dict.fromkeys(WAYS, apart) | {"tensor": tensor, "none": 0.0}
        return {way: np.array([value, value / 2]) for way, value in values.items()}

    costs, shape = [cost(1.0, 0.9), cost(8.0, 0.5), cost(0.2, 0.1)], (1024, 1024)
    assert allocate(costs, [shape] * 3, 10.0) == ["tensor"] * 3
    assert allocate(costs, [shape] * 3, 2.0) == ["tensor", "tensor+8", "tensor"]
    assert allocate(costs, [shape] * 3, 0.0) == ["none"] * 3
    assert allocate([cost(1.0, 0.0), cost(1.0, 0.0)], [shape, (512, 1024)], 1.0) == ["tensor", "tensor+8"]
    assert allocate([cost(8.0, 0.5)], [(1, 64)], 10.0) == ["none"]  # so few products are fastest in float32


@pytest.mark.filterwarnings("ignore:only .* calibration tokens")
@pytest.mark.parametrize(("parity", "expected"), [(0.9, True), (0.99999, False)])
def test_products_are_in_integers_only_where_that_is_near_enough(
    tiny: Path, tmp_path: Path, corpus_file: Path, few_to_learn_from: Path, parity: float, expected: bool
) -> None:
    loaded = recipe.load(str(tiny / "tiny.toml"))
    given = {"corpus": corpus_file, "calibration": few_to_learn_from, "effort": "balanced", "parity": parity}
    request = pipeline.Request(loaded, "onnx", 8, str(tiny / "checkpoint"), tmp_path / "out", **given)  # type: ignore[arg-type]
    said = nullcontext() if expected else pytest.warns(UserWarning, match=r"products in integers reach 0\.\d+, under 0\.99999")
    with said:
        path, manifest = pipeline.convert(request, lambda *_: None)
    nodes = {node.op_type for node in onnx.load(str(path / "onnx/model.onnx")).graph.node}
    assert ("MatMulIntegerToFloat" in nodes) == expected
    assert any("input" in entry for entry in manifest.quantization["tensors"].values()) == expected
    assert manifest.verdict == "pass"
    assert show.tensors(manifest, json.loads((path / "quantization.json").read_text()))


def test_what_falls_short_is_made_again_with_the_costliest_inputs_rounded_more_finely(tiny: Path) -> None:
    loaded = recipe.load(str(tiny / "tiny.toml"))
    checkpoint = open_source(loaded, str(tiny / "checkpoint")).without(bert.OPTIONAL)
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    calibration = calibration_of(checkpoint, loaded, tokens, target="onnx", cosine=0.99, bits=8)
    shown: list[dict[str, str]] = []

    def judge(candidate: Candidate) -> Judged:
        assert candidate.integers
        shown.append({name: entry.activation.way for name, entry in candidate.integers.inputs.items()})
        return Judged(len(shown) == 3, 0.009 if len(shown) == 3 else 0.02)

    assert fastest(calibration.job, calibration, judge) is None
    assert len(shown) == 3
    exact = [sum(way == "none" for way in ways.values()) for ways in shown]
    assert exact[0] < exact[2] < len(shown[2]), "more is exact, and what costs little stays as it was"


@pytest.mark.parametrize(("parity", "kind"), [(0.99, "MatMulNBits"), (0.99999, "MatMul")])
def test_without_calibration_inputs_are_rounded_by_block_or_not_at_all(
    tiny: Path, tmp_path: Path, corpus_file: Path, parity: float, kind: str
) -> None:
    given = {"corpus": corpus_file, "effort": "fast", "parity": parity}
    loaded, source = recipe.load(str(tiny / "tiny.toml")), str(tiny / "checkpoint")
    path, _ = pipeline.convert(pipeline.Request(loaded, "onnx", 8, source, tmp_path / "out", **given), lambda *_: None)  # type: ignore[arg-type]
    layers = [node for node in onnx.load(str(path / "onnx/model.onnx")).graph.node if node.name.startswith("encoder.")]
    assert {node.op_type for node in layers} == {kind}
    levels = {attribute.i for node in layers for attribute in node.attribute if attribute.name == "accuracy_level"}
    assert levels == ({4} if kind == "MatMulNBits" else set())
