"""Quantized and original in step: a layer makes up for what went wrong before it, and for nothing else."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_layerwise import CONFIGS, POOLING, batch
from torch import Tensor

from converter.quantize.asymmetric import AsymmetricOps, streams
from converter.quantize.gptq import gptq
from converter.quantize.grid import Grid, Scheme
from converter.quantize.layerwise import Hessian, LayerwiseOps, Replace
from converter.quantize.losses import loss
from converter.quantize.torch_ops import TorchOps
from shim.architectures import architecture
from shim.pooling import head_tensors, outputs

ADDED = {  # what each architecture adds to its stream, read off its definition
    "bert": ("attention.output.dense", "output.dense"),
    "xlm_roberta": ("attention.output.dense", "output.dense"),
    "nomic_bert": ("attn.out_proj", "mlp.fc2"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "distilbert": ("attention.output.dense", "output.dense"),
    "mpnet": ("attention.output.dense", "output.dense"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "mistral": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma3_text": (),  # what is added comes from a norm
    "olmo3": (),
    "jina_embeddings_v3": ("self_attn.o_proj", "mlp.fc2"),
    "gte": ("self_attn.o_proj", "mlp.down_proj"),
}

LEARNED = [batch(seed, (9, 8, 7, 7, 5)) for seed in range(6)]


def model(name: str, heads: tuple[str, ...] = ("dense",)) -> SimpleNamespace:
    """A seeded model: its weights, and how it is run."""
    definition = architecture(name)
    config = definition.Config.read(CONFIGS[name])
    shapes = definition.parameters(config) | head_tensors(definition, config, heads)
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal(shape, np.float32) * np.float32(0.15) for key, shape in shapes.items()}
    weights = {key: value + (value.ndim == 1) * np.float32(not key.endswith("bias")) for key, value in weights.items()}
    pooling = POOLING.get(name, "mean")
    return SimpleNamespace(
        weights={key: torch.from_numpy(value) for key, value in weights.items()},
        run=lambda ops: outputs(ops, definition, config, pooling, heads),
    )


def read(given: SimpleNamespace):
    return lambda name: given.weights[name].numpy()


def run(given: SimpleNamespace, replace: Replace, asymmetric: bool = True) -> dict[str, list[Tensor]]:
    settings = (read(given), LEARNED, replace)
    with torch.inference_mode():
        return given.run(AsymmetricOps(*settings, given.run) if asymmetric else LayerwiseOps(*settings))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_layers_that_are_added_to_a_stream_are_found(name: str) -> None:
    found = streams(model(name).run)
    assert len(found) == 2 * len(ADDED[name])
    assert all(layer.endswith(ADDED[name]) for layer in found)
    assert len(set(found.values())) == len(found)  # each to another state of it


@pytest.mark.parametrize("name", CONFIGS)
def test_where_nothing_went_wrong_each_layer_should_be_what_it_is(name: str) -> None:
    given = model(name)

    def replace(layer: str, weight: Tensor, _: Hessian | None) -> Tensor:
        torch.testing.assert_close(weight, given.weights[f"{layer}.weight"])
        return weight.clone()

    found = run(given, replace)["sentence_embedding"]
    for tokens, got, other in zip(LEARNED, found, found[len(LEARNED) :], strict=False):
        expected = given.run(TorchOps(given.weights, tokens))["sentence_embedding"]
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(other, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_gptq_comes_nearer_to_the_original(name: str) -> None:
    """On the texts of the calibration: what the whole model gives, not one layer alone."""
    off = {}
    for asymmetric in (True, False):
        given, found = model(name), {}

        def replace(layer: str, weight: Tensor, square: Hessian | None, found: dict = found) -> Tensor:
            if square is None or weight.shape[1] % 32:
                return weight
            found[f"{layer}.weight"] = torch.from_numpy(gptq(weight, square(), Scheme(3, 32), Grid()).dequantize())
            return found[f"{layer}.weight"]

        run(given, replace, asymmetric)
        pairs = [[given.run(TorchOps({**given.weights, **part}, tokens)) for tokens in LEARNED] for part in ({}, found)]
        exact, quantized = ({"sentence_embedding": [each["sentence_embedding"] for each in side]} for side in pairs)
        off[asymmetric] = loss(exact, quantized, [TorchOps({}, tokens).mask for tokens in LEARNED]).sum()
    assert off[True] < off[False]


def test_a_layer_that_keeps_its_weight_keeps_its_own() -> None:
    given = model("bert")

    def replace(layer: str, weight: Tensor, square: Hessian | None) -> Tensor:
        return 0.9 * weight if layer == "encoder.layer.0.output.dense" else weight

    changed = {**given.weights}
    changed["encoder.layer.0.output.dense.weight"] = 0.9 * changed["encoder.layer.0.output.dense.weight"]
    found = run(given, replace)["sentence_embedding"][0]
    torch.testing.assert_close(found, given.run(TorchOps(changed, LEARNED[0]))["sentence_embedding"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_useless_inputs_ask_for_nothing(value: float) -> None:
    given, seen = model("bert"), {}
    ops = AsymmetricOps(read(given), LEARNED, lambda layer, weight, _: seen.setdefault(layer, weight), given.run)
    x = [torch.full((*tokens.input_ids.shape, 64), value) for tokens in LEARNED * 2]
    with torch.inference_mode():
        ops.linear("encoder.layer.0.attention.self.query", x)
    wanted = given.weights["encoder.layer.0.attention.self.query.weight"]
    torch.testing.assert_close(seen["encoder.layer.0.attention.self.query"], wanted)
