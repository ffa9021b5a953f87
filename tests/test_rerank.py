"""Cross-encoders against transformers: bge-reranker-v2-m3's, and BERT's with its segment ids."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import made, standin
from support import upstream
from support.checkpoints import bert_config, bert_weights, write_bert, write_recipe

from converter import pipeline, recipe
from shim import load
from shim.errors import UsageError

RERANKER = "bge-reranker-v2-m3"
QUERY = "When does the ferry leave?"
DOCUMENTS = ["The ferry leaves at seven.", "", "Паром отходит в семь.  ", "汤太咸了。", "salt " * 300]


@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 2e-4), ("onnx", 16, 2e-2), ("mlx", 16, 2e-2)])
def test_scores_are_those_of_transformers(target: str, bits: int, tolerance: float) -> None:
    model = load(made(RERANKER, target, bits)[0])
    ranked = model.rerank(QUERY, DOCUMENTS)
    expected = upstream.logits(standin(RERANKER), QUERY, DOCUMENTS)
    assert sorted(item.index for item in ranked) == list(range(len(DOCUMENTS)))
    for item in ranked:
        assert abs(item.logit - expected[item.index]) < tolerance
        assert item.score == pytest.approx(1 / (1 + np.exp(-item.logit)))
    assert [item.logit for item in ranked] == sorted((item.logit for item in ranked), reverse=True)
    assert np.ptp(expected) > 0.5, "documents all alike: this would prove nothing"


def test_a_batch_gives_what_single_documents_give() -> None:
    model = load(made(RERANKER, "onnx", 32)[0])
    together = {item.index: item.logit for item in model.rerank(QUERY, DOCUMENTS)}
    for index, document in enumerate(DOCUMENTS):
        assert abs(model.rerank(QUERY, [document])[0].logit - together[index]) < 1e-4


def test_query_and_document_are_not_the_same_the_other_way_round() -> None:
    model = load(made(RERANKER, "onnx", 32)[0])
    assert abs(model.rerank(QUERY, ["salt"])[0].logit - model.rerank("salt", [QUERY])[0].logit) > 1e-3


def test_a_long_document_is_cut_and_so_is_a_long_query() -> None:
    model = load(made(RERANKER, "onnx", 32)[0])
    limit = model.max_tokens
    item = model.rerank("salt", ["salt " * (limit + 100)])[0]
    assert (item.tokens, item.truncated) == (limit, True)
    assert not model.rerank("salt", ["salt"])[0].truncated
    item = model.rerank("salt " * limit, ["salt"])[0]
    assert (item.tokens, item.truncated) == (limit, True)


@pytest.mark.parametrize(
    ("query", "documents", "settings", "message"),
    [
        ("", ["a"], {}, "query is an empty string"),
        (3, ["a"], {}, "query is int"),
        ("q\ud800", ["a"], {}, "query has a lone surrogate"),
        ("q", [], {}, "documents is an empty list"),
        ("q", "a", {}, "documents must be a list"),
        ("q", ["a", None], {}, "document 1 is NoneType"),
        ("q", ["a"], {"top_n": 0}, "top_n must be a whole number over 0"),
        ("q", ["a"], {"instruction": "find"}, "takes no instruction"),
    ],
)
def test_what_cannot_be_meant(query: object, documents: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(made(RERANKER, "onnx", 32)[0]).rerank(query, documents, **settings)  # type: ignore[arg-type]


def test_one_task_is_not_the_other() -> None:
    with pytest.raises(UsageError, match="is a reranker and cannot embed"):
        load(made(RERANKER, "onnx", 32)[0]).embed(["a"])
    with pytest.raises(UsageError, match="embeds texts and cannot rerank"):
        load(made("user-bge-m3", "onnx", 32)[0]).rerank("a", ["b"])


@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 1e-4), ("mlx", 16, 2e-2)])
def test_a_bert_cross_encoder_sees_the_segments(tmp_path: Path, target: str, bits: int, tolerance: float) -> None:
    config = bert_config(architectures=["BertForSequenceClassification"], num_labels=1, id2label={"0": "LABEL_0"})
    rng = np.random.default_rng(3)
    weights = {f"bert.{name}": value for name, value in bert_weights(config).items()}
    weights["bert.embeddings.token_type_embeddings.weight"] *= 10
    weights |= {"classifier.weight": rng.standard_normal((1, 64), np.float32) / 4, "classifier.bias": np.zeros(1, np.float32)}
    directory = write_bert(tmp_path / "checkpoint", config, weights)
    (directory / "modules.json").unlink()  # an embedding model's
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 128}))
    path = write_recipe(tmp_path / "tiny.toml", pooling="mean")
    path.write_text(path.read_text().replace('"embed"', '"rerank"').replace('"dense"', '"score"'))
    request = pipeline.Request(recipe.load(str(path)), target, bits, str(directory), tmp_path / "out")
    made_path, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.verdict == "pass"
    expected = upstream.logits(directory, QUERY, DOCUMENTS[:4])
    found = {item.index: item.logit for item in load(made_path).rerank(QUERY, DOCUMENTS[:4])}
    assert np.abs(np.array([found[index] for index in range(4)]) - expected).max() < tolerance
    assert json.loads((made_path / "artifact.json").read_text())["task"] == "rerank"
