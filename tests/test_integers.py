"""Products in integers: the graph against the same arithmetic in torch, the weights, and how each layer is rounded."""

import dataclasses
import functools
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import bert_config, write_bert, write_recipe
from support.jobs import calibration_of

from converter import corpus, pipeline, recipe, show
from converter.candidate import Candidate, HeldCodes
from converter.corpus.calibration import prepare
from converter.int8 import quantize as int8_quantize
from converter.int8.inputs import MODES, Activation, allocate
from converter.int8.shared_inputs import Input, Integers, RoundedOps
from converter.int8.smoothing import Smoothing
from converter.int8.weights import nearest, per_channel
from converter.quantize.gptq import objective
from converter.quantize.layerwise import Hessian
from converter.quantize.losses import loss
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.source.open import open_source
from converter.targets import onnx as onnx_target
from converter.targets.onnx.tables import plane_widths, planes
from shim.architectures import bert
from shim.pooling import outputs
from shim.runtimes.onnx import open_runtime
from shim.text import Encoded, TextEncoder

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев"]


# Without VNNI, onnxruntime adds products of 8 bits in 16, which overflow: the README says so.
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else "vnni"
SATURATES = pytest.mark.skipif("vnni" not in FLAGS, reason="this CPU has no VNNI")


def write(loaded: Recipe, checkpoint: Checkpoint, made: Integers, folder: Path) -> None:
    onnx_target.write(loaded, checkpoint, Candidate(HeldCodes(made.codes), {}, made), 8, folder, lambda: None)


ASKED = {"target": "onnx", "cosine": 0.99, "bits": 8}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Checkpoint, Integers]:
    """Two narrow layers, quantized so that most inputs are in integers."""
    folder = tmp_path_factory.mktemp("small")
    directory = write_bert(folder / "checkpoint", bert_config())
    loaded = recipe.load(str(write_recipe(folder / "tiny.toml")))
    checkpoint = open_source(loaded, str(directory)).without(bert.OPTIONAL)
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    return (
        loaded,
        checkpoint,
        int8_quantize.quantize(calibration_of(checkpoint, loaded, tokens, **ASKED)),
    )


def test_every_layer_says_what_it_is(small: tuple[Recipe, Checkpoint, Integers]) -> None:
    found = small[2].describe()
    layers = {name for name in found if name.startswith("encoder.")}
    assert len(layers) == 12
    assert {found[name]["input"] for name in layers} <= set(MODES)
    assert {found[name]["input"] for name in layers} != {"none"}
    assert all(found[name]["bits"] == 8 for name in layers)
    assert found["embeddings.word_embeddings"]["bits"] == int8_quantize.TABLE_BITS
    assert small[2].inputs["encoder.layer.1.attention.self.key"].before == ("layer_norm", "encoder.layer.0.output.LayerNorm")


def test_an_interrupted_run_goes_on_where_it_was(
    small: tuple[Recipe, Checkpoint, Integers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, checkpoint, fresh = small
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    layers = [name for name, mode in fresh.inputs.items() if mode.activation.mode != "none"]
    assert len(layers) > 5
    real = {name: getattr(int8_quantize, name) for name in ("per_channel", "_likely")}

    def quantize(last: int) -> tuple[Integers | None, dict[str, int]]:
        calls = dict.fromkeys(real, 0)

        def counted(name: str, *arguments: object) -> object:
            calls[name] += 1
            if calls["per_channel"] > last:
                raise KeyboardInterrupt
            return real[name](*arguments)

        for name in real:
            monkeypatch.setattr(int8_quantize, name, functools.partial(counted, name))
        try:
            return int8_quantize.quantize(calibration_of(checkpoint, loaded, tokens, **ASKED)), calls
        except KeyboardInterrupt:
            return None, calls

    assert quantize(3)[0] is None
    resumed, calls = quantize(99)
    assert calls == {"per_channel": len(layers) - 3, "_likely": 0}
    assert resumed is not None
    for name, codes in fresh.codes.items():
        np.testing.assert_array_equal(resumed.codes[name].dequantize(), codes.dequantize())


@SATURATES
@pytest.mark.parametrize("mode", MODES)
def test_the_graph_computes_what_was_meant(small: tuple[Recipe, Checkpoint, Integers], mode: str, tmp_path: Path) -> None:
    loaded, checkpoint, made = small
    inputs = dict(made.inputs)
    # One mode wherever a layer has 8-bit rows; smoothing stays as it is.
    for name, entry in made.inputs.items():
        if entry.activation.mode != "none" and mode != "none":
            scale = 0.05 if mode == "tensor" else 0.0
            inputs[name] = dataclasses.replace(entry, activation=Activation(mode, entry.activation.zero or 128, scale))
    made = dataclasses.replace(made, inputs=inputs)
    write(loaded, checkpoint, made, tmp_path)
    kinds = {node.op_type for node in onnx.load(tmp_path / "onnx/model.onnx").graph.node}
    assert "MatMulIntegerToFloat" in kinds
    runtime = open_runtime(tmp_path, loaded, "cpu")
    encoder = TextEncoder(checkpoint.directory, 128)
    batch = encoder.batch(encoder.encode(TEXTS))
    (found,) = runtime.run(batch, ("sentence_embedding",)).values()
    weights = {name: codes.dequantize() for name, codes in made.codes.items()}

    def replace(name: str, weight: torch.Tensor, hessian: Hessian | None) -> torch.Tensor:
        return torch.from_numpy(weights[name]) if name in weights else weight

    ops = RoundedOps(checkpoint.read, [batch], inputs, {}, replace)
    expected = outputs(ops, bert, bert.Config.read(checkpoint.config), "mean", ("dense",))["sentence_embedding"][0].numpy()
    assert (found * expected).sum(axis=1).min() > 0.9999
    assert np.abs(found - expected).max() < 0.003


def test_a_text_alone_is_what_it_is_in_a_batch_and_zeros_divide_nothing(
    small: tuple[Recipe, Checkpoint, Integers], tmp_path: Path
) -> None:
    loaded, checkpoint, made = small
    token = {name: dataclasses.replace(entry, activation=Activation("token")) for name, entry in made.inputs.items()}
    codes = {
        name: nearest(torch.from_numpy(found.dequantize())) if name in token else found for name, found in made.codes.items()
    }
    zeros = {name: np.zeros_like(values) for name, values in made.tensors.items() if "norm" in name}
    for number, tensors in enumerate((made.tensors, made.tensors | zeros)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write(loaded, checkpoint, Integers(codes, token, tensors), folder)
        runtime = open_runtime(folder, loaded, "cpu")
        encoder = TextEncoder(checkpoint.directory, 128)
        texts = [*encoder.encode(TEXTS), Encoded([101], [0], False)]
        whole = runtime.run(encoder.batch(texts), ("sentence_embedding",))["sentence_embedding"]
        assert np.isfinite(whole).all()
        for row, text in enumerate(texts):
            alone = runtime.run(encoder.batch([text]), ("sentence_embedding",))["sentence_embedding"][0]
            assert np.abs(alone - whole[row]).max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 300))
def test_no_row_of_8_bit_weights_is_worse_than_rounded(seed: int, tokens: int) -> None:
    make = torch.Generator().manual_seed(seed)
    x = (torch.randn(tokens, 12, generator=make) @ torch.randn(12, 160, generator=make)).double()
    weight, hessian = torch.randn(16, 160, generator=make), x.T @ x / tokens
    found, plain = per_channel(weight, hessian), nearest(weight)
    assert (objective(weight, found, hessian) <= objective(weight, plain, hessian)).all()
    assert found.codes.min() >= 1
    np.testing.assert_allclose(plain.dequantize(), weight, atol=0.501 * plain.scales.max())


def test_8_bit_weights_are_much_better_than_rounded_where_inputs_depend_on_each_other() -> None:
    make = torch.Generator().manual_seed(1)
    x = (torch.randn(400, 12, generator=make) @ torch.randn(12, 160, generator=make)).double()
    weight, hessian = torch.randn(16, 160, generator=make), x.T @ x / 400
    ours, plain = (objective(weight, codes, hessian).sum() for codes in (per_channel(weight, hessian), nearest(weight)))
    assert ours < plain / 4


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_useless_hessian_leaves_the_weights_rounded(value: float) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    found = per_channel(weight, torch.full((64, 64), value, dtype=torch.float64))
    np.testing.assert_array_equal(found.codes, nearest(weight).codes)
    assert (found.dequantize()[2] == 0).all()


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
def test_planes_hold_every_bit_once(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 64), dtype=np.uint8)
    packed = planes(codes, bits)
    assert packed.shape == (5, 8 * bits)
    found, start, below = np.zeros((5, 64), np.uint8), 0, 0
    for width in plane_widths(bits):
        size = 64 * width // 8
        for column in range(64):  # the column's place: its part of the row is its place in the byte
            byte = packed[:, start + column % size]
            found[:, column] |= ((byte >> (width * (column // size))) & (2**width - 1)) << below
        start, below = start + size, below + width
    np.testing.assert_array_equal(found, codes)


def test_slower_rounding_is_chosen_where_it_buys_most() -> None:
    def cost(tensor: float, token: float) -> dict[str, np.ndarray]:
        values = {"tensor": tensor, "token": token, "twice": 0.0, "none": 0.0}
        return {mode: np.array([value, value / 2]) for mode, value in values.items()}

    costs = [cost(1.0, 0.9), cost(8.0, 0.5), cost(0.2, 0.1)]
    assert allocate(costs, [10, 10, 10], 10.0) == ["tensor"] * 3
    assert allocate(costs, [10, 10, 10], 2.0) == ["tensor", "token", "tensor"]
    assert allocate(costs, [10, 10, 10], 0.0) == ["twice"] * 3
    assert allocate([cost(1.0, 0.0), cost(1.0, 0.0)], [10, 1], 1.0) == ["tensor", "token"]


def test_the_loss_is_the_worst_head() -> None:
    masks = [torch.tensor([[True, True], [True, False]])]
    one = {
        "sentence_embedding": [torch.tensor([[1.0, 0.0], [0.0, 1.0]])],
        "sparse_weights": [torch.tensor([[1.0, 0.0], [1.0, 5.0]])],
    }
    other = {
        "sentence_embedding": [torch.tensor([[0.6, 0.8], [0.0, 1.0]])],
        "sparse_weights": [torch.tensor([[1.0, 0.0], [1.0, 0.0]])],
    }
    np.testing.assert_allclose(loss(one, other, masks), [0.4, 0.0], atol=1e-6)


def test_smoothing_a_layer_before_is_borne_by_its_rows() -> None:
    from converter.int8.shared_inputs import layer

    make = torch.Generator().manual_seed(3)
    tensors = {"up.weight": torch.randn(6, 4, generator=make), "up.bias": torch.randn(6, generator=make)}
    smoothing = Smoothing(torch.randn(4, generator=make), torch.rand(4, generator=make) + 0.5)
    entry, rows = Input("up", ("layer_norm", "norm"), smoothing, Activation("token")), torch.rand(6, generator=make) + 0.5
    weight, bias = layer(lambda name: tensors[name].numpy(), "up", entry, rows, True)
    x = torch.randn(9, 4, generator=make)
    expected = (x @ tensors["up.weight"].T + tensors["up.bias"]) / rows
    torch.testing.assert_close(smoothing.input(x) @ weight.T + bias, expected)


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
