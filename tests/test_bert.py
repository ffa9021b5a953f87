"""The BERT definition, through both runtimes, against transformers' own."""

from pathlib import Path

import numpy as np
import pytest
from support import upstream
from support.checkpoints import bert_config, write_bert, write_recipe

from converter import pipeline, recipe
from shim import load
from shim.errors import SourceError
from shim.pooling import POOLINGS

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев", "x " * 300]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 2e-6), ("onnx", 16, 2e-3), ("mlx", 16, 2e-3)])
def test_every_pooling_is_that_of_transformers(
    tmp_path: Path, corpus_file: Path, pooling: str, target: str, bits: int, tolerance: float
) -> None:
    directory = write_bert(tmp_path / "checkpoint", pooling=pooling)
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", pooling=pooling)))
    request = pipeline.Request(tiny, target, bits, str(directory), tmp_path / "out", corpus=corpus_file, verified=False)
    path, _ = pipeline.convert(request, lambda *_: None)
    vectors = load(path, allow_unverified=True).embed(TEXTS).dense
    expected = upstream.vectors(directory, TEXTS, pooling)
    assert np.abs(vectors - expected).max() < tolerance
    assert (expected @ expected.T - np.eye(4)).max() < 0.98, "texts all alike: this would prove nothing"


def test_a_broken_definition_fails_verification(tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof must be able to fail: with another activation, it does."""
    from converter.targets.onnx.ops import OnnxOps

    directory = write_bert(tmp_path / "checkpoint")
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml")))
    monkeypatch.setattr(OnnxOps, "gelu", lambda ops, x: ops.node("Relu", x))
    request = pipeline.Request(tiny, "onnx", 32, str(directory), tmp_path / "out", corpus=corpus_file)
    _, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.verdict == "fail"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 5}, "not a multiple"),
    ],
)
def test_a_variant_that_is_not_computed_is_refused(changes: dict[str, object], message: str) -> None:
    from shim.architectures.bert import Config

    with pytest.raises(SourceError, match=message):
        Config.read(bert_config(**changes))
