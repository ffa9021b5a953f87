"""The encoders and decoders of tests/support/saved_*.py with fewer bits, as rerankers, and in graphs for GPUs."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from support import saved_decoders, saved_encoders, upstream
from support.cuda_kernels import without
from support.jobs import calibration_of
from support.seeded import LIMIT
from test_integers import SATURATES
from test_saved import PAIRS, TEXTS

from converter import corpus, pipeline
from converter.candidate import Candidate, HeldCodes
from converter.corpus.calibration import prepare
from converter.int8.products import IntegerProducts
from converter.quantize.torch_ops import TorchOps
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.source.draft import draft
from converter.source.open import find, open_source
from converter.targets import onnx as onnx_target
from shim import load
from shim.architectures import architecture
from shim.runtimes.mlx_ops import MlxOps
from shim.text import TextEncoder, Tokens

# Worst cosine that rounding to nearest leaves of weights that are drawn, which take it worse than trained ones.
NEAR = {("onnx", 8): 0.998, ("onnx", 4): 0.8, ("mlx", 8): 0.998, ("mlx", 4): 0.8}
LESS = {("gemma3_text", 4): 0.75, ("gemma3_text", 8): 0.997}  # four norms a layer take it worse
KINDS = ("roberta", "distilbert", "mpnet", "modernbert", "gte", "gemma3_text", "qwen2", "olmo3")
MAKERS = saved_encoders.ENCODERS | saved_decoders.DECODERS
CLASSIFIERS = saved_encoders.CLASSIFIERS | saved_decoders.CLASSIFIERS
BIASES = {"norm_bias": True, "attention_bias": True, "mlp_bias": True}  # of ModernBERT


def opened(source: Path) -> tuple[Recipe, Checkpoint]:
    loaded = draft(find(str(source)), pooling="mean", normalize=True, license="mit")
    checkpoint = open_source(loaded, str(source))
    return loaded, checkpoint.without(architecture(loaded.architecture).OPTIONAL)


@pytest.mark.parametrize(("target", "bits"), NEAR)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_few_bits_give_nearly_the_same(kind: str, target: str, bits: int, tmp_path: Path, corpus_file: Path) -> None:
    source = MAKERS[kind](tmp_path / "source")
    drafted = draft(find(str(source)), pooling="mean", normalize=True, license="mit")
    given = {"corpus": corpus_file, "effort": "fast", "strict_bits": True, "verified": False}
    path, manifest = pipeline.convert(pipeline.Request(drafted, target, bits, str(source), tmp_path, **given), lambda *_: None)
    stored = manifest.quantization["tensors"]
    assert {entry["bits"] for name, entry in stored.items() if "position" not in name} == {bits}
    found = load(path, allow_unverified=True).embed(TEXTS).dense
    cosines = (found * upstream.vectors(source, TEXTS, "mean", LIMIT)).sum(axis=1)
    assert LESS.get((kind, bits), NEAR[target, bits]) < cosines.min() < 1 - 1e-7


@SATURATES
@pytest.mark.parametrize("way", ["token", "tensor"])
@pytest.mark.parametrize(
    ("kind", "more"), [("mpnet", {}), ("modernbert", {}), ("modernbert", BIASES), ("gemma3_text", {}), ("qwen2", {})]
)
def test_products_in_integers_give_nearly_the_same(kind: str, more: dict[str, bool], way: str, tmp_path: Path) -> None:
    """Norms take the smoothing that is before a layer: with a bias its shift, too, and without one none."""
    source = MAKERS[kind](tmp_path / "source", **more)
    loaded, checkpoint = opened(source)
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:60])
    products = IntegerProducts(calibration_of(checkpoint, loaded, tokens, target="onnx", cosine=0.99, bits=8))
    made = products.made([way] * len(products.sites))
    assert any(name.endswith(".norm.weight") for name in made.tensors)
    assert any(name.endswith(".norm.bias") for name in made.tensors) == (kind == "mpnet" or bool(more))
    onnx_target.write(loaded, checkpoint, Candidate(HeldCodes(made.codes), {}, made), 8, tmp_path, lambda: None)
    session = ort.InferenceSession(str(tmp_path / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    encoder = TextEncoder(source, LIMIT)
    batch = vars(encoder.batch(encoder.encode(TEXTS)))
    (found,) = session.run(["sentence_embedding"], {value.name: batch[value.name] for value in session.get_inputs()})
    assert (found * upstream.vectors(source, TEXTS, "mean", LIMIT)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(("target", "bits"), [("onnx", 8), ("onnx", 16), ("mlx", 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reranker_scores_nearly_the_same(kind: str, target: str, bits: int, tmp_path: Path, corpus_file: Path) -> None:
    source = MAKERS[kind](tmp_path / "source", CLASSIFIERS[kind], num_labels=1)
    drafted = draft(find(str(source)), license="mit")
    given = {"corpus": corpus_file, "effort": "fast", "verified": False}
    path, _ = pipeline.convert(pipeline.Request(drafted, target, bits, str(source), tmp_path, **given), lambda *_: None)
    query, documents = PAIRS[0][0], ["Yes.", "Что нового?", "a longer text about ferries and storms"]
    ranked = sorted(load(path, allow_unverified=True).rerank(query, documents), key=lambda item: item.index)
    expected = upstream.logits(source, query, documents)
    assert np.abs(np.array([item.logit for item in ranked]) - expected).max() < 0.2 * np.ptp(expected)


@pytest.mark.parametrize("kind", ["mpnet", "modernbert", "gemma3_text", "olmo3"])
def test_cuda_has_a_kernel_for_windows_and_biases(kind: str, tmp_path: Path) -> None:
    loaded, checkpoint = opened(MAKERS[kind](tmp_path / "source", limit=2048))
    onnx_target.write(loaded, checkpoint, Candidate(HeldCodes({})), 16, tmp_path, lambda: None)
    assert without(onnx.load(tmp_path / "onnx/model.onnx")) == set()


@pytest.mark.parametrize("settings", [{"window": 2}, {"window": 2, "causal": True}, {"window": None}, {"bias": True}])
def test_padding_changes_nothing_and_stays_finite(settings: dict[str, int | None]) -> None:
    """A window around padding may hold no token at all."""
    rng, mask = np.random.default_rng(0), np.ones((2, 20), np.int64)
    mask[1, 3:] = 0
    tokens = Tokens(mask, mask, mask)
    parts = rng.standard_normal((3, 2, 4, 20, 8), np.float32)
    bias = rng.standard_normal((20, 20, 4), np.float32)
    found = []
    for ops, array in ((TorchOps({}, tokens), torch.from_numpy), (MlxOps(mx, {}, None, None, tokens), mx.array)):  # type: ignore[arg-type]
        given = {"bias": array(bias)} if "bias" in settings else settings
        found.append(np.array(ops.attention(*map(array, parts), **given)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0][mask == 1], found[1][mask == 1], atol=1e-5)
    alone = TorchOps({}, Tokens(*[mask[1:, :3]] * 3))
    given = {"bias": torch.from_numpy(bias[:3, :3])} if "bias" in settings else settings
    short = alone.attention(*(torch.from_numpy(part[1:, :, :3]) for part in parts), **given)
    np.testing.assert_allclose(found[1][1, :3], short[0].numpy(), atol=1e-5)
