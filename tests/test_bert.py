"""The BERT definition: a broken one does not pass, and a variant that it does not compute is refused."""

from pathlib import Path

import pytest
from support.checkpoints import bert_config, write_bert, write_recipe

from converter import pipeline, recipe
from shim.errors import SourceError


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
