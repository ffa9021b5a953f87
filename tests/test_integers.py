"""Products in integers: the graph against the same arithmetic in torch, the weights, and how each layer is rounded."""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support.checkpoints import bert_config, write_bert, write_recipe
from support.jobs import calibration_of

from converter import corpus, recipe
from converter.calibration import Calibration
from converter.candidate import Candidate, HeldCodes
from converter.corpus.calibration import prepare
from converter.int8 import costs as int8_costs
from converter.int8 import products as int8_products
from converter.int8.inputs import WAYS, Activation, parsed
from converter.int8.products import IntegerProducts
from converter.int8.shared_inputs import Integers, RoundedOps
from converter.int8.weights import ZERO, joined, nearest
from converter.quantize.layerwise import Hessian
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.source.open import open_source
from converter.targets import onnx as onnx_target
from shim.architectures import bert
from shim.pooling import outputs
from shim.runtimes.onnx import open_runtime, overflows
from shim.text import Encoded, TextEncoder

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев"]


# Without VNNI, onnxruntime adds products of 8 bits in 16, which overflow: the README says so.
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else "vnni"
SATURATES = pytest.mark.skipif("vnni" not in FLAGS, reason="this CPU has no VNNI")


def listed(loaded: Recipe) -> Any:
    """As much of a manifest as the runtime reads."""
    return SimpleNamespace(name=loaded.name, task=loaded.task, model=loaded.model, files={"onnx/model.onnx": {}})


def write(loaded: Recipe, checkpoint: Checkpoint, made: Integers, folder: Path) -> None:
    onnx_target.write(loaded, checkpoint, Candidate(HeldCodes(made.codes), {}, made), 8, folder, lambda: None)


def quantized(calibration: Calibration) -> Integers:
    products = IntegerProducts(calibration)
    return products.made(products.ways(0.005))


ASKED = {"target": "onnx", "cosine": 0.99, "bits": 8}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Checkpoint, Integers]:
    """Two narrow layers, quantized so that most inputs are in integers."""
    folder = tmp_path_factory.mktemp("small")
    directory = write_bert(folder / "checkpoint", bert_config())
    loaded = recipe.load(str(write_recipe(folder / "tiny.toml")))
    checkpoint = open_source(loaded, str(directory)).without(bert.OPTIONAL)
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    return loaded, checkpoint, quantized(calibration_of(checkpoint, loaded, tokens, **ASKED))


def test_every_layer_says_what_it_is(small: tuple[Recipe, Checkpoint, Integers]) -> None:
    found = small[2].describe()
    layers = {name for name in found if name.startswith("encoder.")}
    assert len(layers) == 12
    assert {found[name]["input"] for name in layers} <= set(WAYS)
    assert {found[name]["input"] for name in layers} != {"none"}
    assert all(found[name]["bits"] == 8 for name in layers)
    assert found["embeddings.word_embeddings"]["bits"] == int8_products.LARGE_TABLE_BITS
    assert small[2].inputs["encoder.layer.1.attention.self.key"].before == ("layer_norm", "encoder.layer.0.output.LayerNorm")


@pytest.mark.parametrize(
    ("asked", "bits"), [({}, int8_products.LARGE_TABLE_BITS), ({"cosine": 0.999999}, 8), ({"strict_bits": True}, 8)]
)
def test_a_large_table_has_fewer_bits_where_they_take_little_of_what_is_allowed(
    small: tuple[Recipe, Checkpoint, Integers], asked: dict[str, Any], bits: int
) -> None:
    loaded, checkpoint, _ = small
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    products = IntegerProducts(calibration_of(checkpoint, loaded, tokens, **ASKED | asked))
    assert products.tables["embeddings.word_embeddings"].bits == bits


def test_an_interrupted_run_goes_on_where_it_was(
    small: tuple[Recipe, Checkpoint, Integers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, checkpoint, fresh = small
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    layers = [name for name, entry in fresh.inputs.items() if entry.activation.mode in ("tensor", "token")]
    assert len(layers) > 5
    real = {"per_channel": int8_products.per_channel, "RoundedVariantOps": int8_costs.RoundedVariantOps}

    def quantize(folder: str, last: int) -> tuple[Integers | None, dict[str, int]]:
        calls = dict.fromkeys(real, 0)
        monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / folder))

        def counted(name: str, *arguments: object) -> object:
            calls[name] += 1
            if calls["per_channel"] > last:
                raise KeyboardInterrupt
            return real[name](*arguments)

        monkeypatch.setattr(int8_products, "per_channel", functools.partial(counted, "per_channel"))
        monkeypatch.setattr(int8_costs, "RoundedVariantOps", functools.partial(counted, "RoundedVariantOps"))
        try:
            return quantized(calibration_of(checkpoint, loaded, tokens, **ASKED)), calls
        except KeyboardInterrupt:
            return None, calls

    assert quantize("interrupted", 3)[0] is None
    resumed, calls = quantize("interrupted", 99)
    assert calls == {"per_channel": len(layers) - 3, "RoundedVariantOps": 0}
    whole = quantize("whole", 99)[0]
    assert resumed is not None
    assert whole is not None
    for name, codes in whole.codes.items():  # sums may differ in their last bits, a few codes with them; without GPTQ a fifth
        apart = np.abs(resumed.codes[name].dequantize() - codes.dequantize())
        assert np.mean(apart > codes.scales.min() / 2) < 0.1


@pytest.fixture(scope="module")
def products(small: tuple[Recipe, Checkpoint, Integers]) -> IntegerProducts:
    """Measured once, made in as many ways as are wanted."""
    loaded, checkpoint, _ = small
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    return IntegerProducts(calibration_of(checkpoint, loaded, tokens, **ASKED))


KINDS = {"tensor": "MatMulIntegerToFloat", "token": "MatMulIntegerToFloat", "block": "MatMulNBits", "none": "MatMul"}


@SATURATES
@pytest.mark.parametrize("way", WAYS)
def test_the_graph_computes_what_was_meant(
    small: tuple[Recipe, Checkpoint, Integers], products: IntegerProducts, way: str, tmp_path: Path
) -> None:
    loaded, checkpoint, _ = small
    made = products.made([way] * len(products.sites))
    write(loaded, checkpoint, made, tmp_path)
    graph = onnx.load(tmp_path / "onnx/model.onnx")
    onnx.checker.check_model(graph)
    layers = {node.op_type for node in graph.graph.node if node.name.startswith("encoder.")}
    assert layers == {KINDS[parsed(way)[0]]}
    encoder = TextEncoder(checkpoint.directory, 128)
    batch = encoder.batch(encoder.encode(TEXTS))

    def replace(name: str, weight: torch.Tensor, hessian: Hessian | None) -> torch.Tensor:
        if name not in made.codes:
            return weight
        beside = torch.from_numpy(made.tensors.get(f"{name}.beside", np.empty((len(weight), 0), np.float32)))
        apart = made.inputs[name].activation.apart if name in made.inputs else ()
        return joined(made.codes[name], beside, apart)

    ops = RoundedOps(checkpoint.read, [batch], made.inputs, {}, replace)
    expected = outputs(ops, bert, bert.Config.read(checkpoint.config), "mean", ("dense",))["sentence_embedding"][0].numpy()
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        session = ort.InferenceSession(str(tmp_path / "onnx/model.onnx"), options, providers=["CPUExecutionProvider"])
        given = {value.name: getattr(batch, value.name) for value in session.get_inputs()}
        (found,) = session.run(["sentence_embedding"], given)
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
        runtime = open_runtime(folder, listed(loaded), "cpu")
        encoder = TextEncoder(checkpoint.directory, 128)
        texts = [*encoder.encode(TEXTS), Encoded([101], [0], False)]
        whole = runtime.run(encoder.batch(texts), ("sentence_embedding",))["sentence_embedding"]
        assert np.isfinite(whole).all()
        for row, text in enumerate(texts):
            alone = runtime.run(encoder.batch([text]), ("sentence_embedding",))["sentence_embedding"][0]
            assert np.abs(alone - whole[row]).max() < 1e-5


def test_products_that_could_overflow_are_made_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not overflows(cpuinfo)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert overflows(cpuinfo)
    for flags, expected in (("avx2 fma", True), ("avx2 avx512_vnni", False), ("avx2 avx_vnni", False)):
        cpuinfo.write_text(f"flags : fpu {flags}\n", encoding="utf-8")
        assert overflows(cpuinfo) == expected


@SATURATES
def test_weights_for_a_cpu_whose_pairs_overflow_give_the_same_vectors(
    small: tuple[Recipe, Checkpoint, Integers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, checkpoint, made = small
    name = "encoder.layer.0.output.dense"
    weights = made.codes[name].codes.astype(np.int64).T - ZERO
    inputs = np.random.default_rng(0).integers(0, 256, (64, len(weights)))
    products = inputs[:, :, None] * weights
    pairs = products[:, ::2] + products[:, 1::2]
    assert (np.abs(pairs) > np.iinfo(np.int16).max).any(), "AVX2 without VNNI adds two products in 16 bits"
    write(loaded, checkpoint, made, tmp_path)
    encoder = TextEncoder(checkpoint.directory, 128)
    batch, found = encoder.batch(encoder.encode(TEXTS)), []
    for value in (False, True):
        monkeypatch.setattr("shim.runtimes.onnx.overflows", lambda value=value: value)
        runtime = open_runtime(tmp_path, listed(loaded), "cpu")
        found.append(runtime.run(batch, ("sentence_embedding",))["sentence_embedding"])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
