"""The Qwen3 definition against transformers as the cards use it, and against mlx-lm's; and checkpoints that contradict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import made, standin, standin_recipe
from safetensors.torch import load_file, save_file
from support import upstream
from transformers import AutoModel

from converter import pipeline
from converter.source.open import open_source
from shim import Model, load
from shim.errors import NotFiniteError, SourceError, UsageError
from shim.runtimes import PRESENT
from shim.runtimes.mlx import open_runtime
from shim.runtimes.mlx_ops import MlxOps
from shim.text import TextEncoder, Tokens

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев  ", "天气很好", "x y " * 300]
EMBEDDING, RERANKER = "qwen3-embedding-0.6b", "qwen3-reranker-0.6b"
TASK = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 2e-4), ("onnx", 16, 5e-2), ("mlx", 16, 5e-2)])
def test_scores_are_those_of_the_card(target: str, bits: int, tolerance: float) -> None:
    """The card's softmax over the logits of "no" and "yes", each pair alone; the empty and the long document included."""
    model = load(made(RERANKER, target, bits)[0])
    documents = ["The ferry leaves at seven.", "", "Паром отходит в семь.", "соль " * 400]
    for instruction in (None, "Find the timetable"):
        ranked = model.rerank("When does the ferry leave?", documents, instruction=instruction)
        expected = upstream.yes_no(standin(RERANKER), instruction or TASK, "When does the ferry leave?", documents)
        found = {item.index: item for item in ranked}
        assert [item.logit for item in ranked] == sorted((item.logit for item in ranked), reverse=True)
        for index, (probability, logit) in enumerate(expected):
            assert abs(found[index].logit - logit) < tolerance
            assert abs(found[index].score - probability) < tolerance
        assert np.ptp([logit for _, logit in expected]) > 0.1
    assert [item.index for item in model.rerank("ferry", documents, top_n=2)] == [
        item.index for item in model.rerank("ferry", documents)
    ][:2]


def test_hidden_states_are_those_of_mlx_lm() -> None:
    """mlx-lm loads the artifact, and gives the same: the packed weights through both."""
    from mlx_lm import load as load_mlx_lm

    path, manifest = made(EMBEDDING, "mlx", 8)
    encoder = load(path).encoder
    runtime = open_runtime(path, manifest, "cpu", kernels="quantized")
    theirs, _ = load_mlx_lm(str(path))
    for text in TEXTS[:4]:
        tokens = encoder.batch(encoder.encode([text]))
        ours = runtime.run(tokens, ("token_embeddings",))["token_embeddings"]
        hidden = np.array(theirs.model(runtime.mx.array(tokens.input_ids)).astype(runtime.mx.float32))
        assert np.abs(ours - hidden).max() < 0.02 * np.abs(hidden).max()


def test_the_score_is_that_of_mlx_lm() -> None:
    from mlx_lm import load as load_mlx_lm

    path, manifest = made(RERANKER, "mlx", 8)
    encoder = load(path).encoder
    theirs, _ = load_mlx_lm(str(path))
    no, yes = (encoder.tokenizer.token_to_id(word) for word in ("no", "yes"))
    ours = {item.index: item.logit for item in load(path).rerank("ferry", ["the ferry", "a soup"])}
    for index, item in enumerate(encoder.pairs("ferry", ["the ferry", "a soup"], manifest.model.prompts)):
        runtime = open_runtime(path, manifest, "cpu")
        logits = theirs(runtime.mx.array([item.ids])).astype(runtime.mx.float32)[0, -1]
        assert abs(float(logits[yes] - logits[no]) - ours[index]) < 0.05  # mlx-lm's head is 8-bit, ours exact


@pytest.mark.parametrize(("target", "bits"), [("onnx", 32), ("onnx", 16), ("mlx", 8)])
def test_padding_on_either_side_gives_what_single_texts_give(target: str, bits: int) -> None:
    model = load(made(EMBEDDING, target, bits)[0])
    tokens = model.encoder.batch(model.encoder.encode(TEXTS))
    rows = [row[mask == 1] for row, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)]
    left = Tokens(*(np.zeros_like(tokens.input_ids) for _ in range(3)))
    for number, row in enumerate(rows):
        left.input_ids[number, -len(row) :] = row
        left.attention_mask[number, -len(row) :] = 1
    name = "sentence_embedding"
    single = [model.runtime.run(model.encoder.batch([item]), (name,))[name][0] for item in model.encoder.encode(TEXTS)]
    for batch in (tokens, left):
        assert np.abs(model.runtime.run(batch, (name,))[name] - single).max() < (5e-3 if bits == 16 else 1e-5)


def test_the_rerankers_graph_holds_two_rows_of_the_head() -> None:
    path, _ = made(RERANKER, "onnx", 32)
    graph = onnx.load(path / "onnx/model.onnx").graph
    width = json.loads((path / "config.json").read_text())["hidden_size"]
    shapes = {value.name: tuple(value.dims) for value in graph.initializer}
    assert shapes["score.weight"] == (width, 2)
    assert [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] > 3000] == ["model.embed_tokens.weight"]
    assert {value.name for value in graph.output} == {"score", "logits", PRESENT}


def test_a_stream_beyond_float16_survives_in_a_float16_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel of the residual stream over 65,504, as trained models have: kept in float32, or infinite."""
    directory = _copy(EMBEDDING, tmp_path / "checkpoint")
    weights = load_file(directory / "model.safetensors")
    weights["embed_tokens.weight"][:, 3] = 60_000
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    given = []
    model = AutoModel.from_pretrained(directory, dtype=torch.float32)
    model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0][0]))
    model(torch.tensor([load(made(EMBEDDING, "onnx", 32)[0]).encoder.encode([TEXTS[1]])[0].ids]))
    inner = given[0][given[0].norm(dim=1).argmax()].detach()
    # For that token the sum is 30,000: in the range of float16 itself, but not when it is added to 60,000.
    weights["layers.0.mlp.down_proj.weight"][3] = 30_000 * inner / inner.square().sum()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    request = pipeline.Request(standin_recipe(EMBEDDING), "mlx", 16, str(directory), tmp_path / "out")
    path, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.verdict == "pass", "on a CPU in float32, and a few texts in float16"
    assert manifest.parity.packed_kernels.kernels == "quantized"
    # onnxruntime's CPU kernels compute float16 graphs in float32; MLX's do not.
    model = Model(manifest, TextEncoder(path, 32768), open_runtime(path, manifest, "cpu", kernels="quantized"))
    assert (model.embed(TEXTS[:4]).dense * upstream.vectors(directory, TEXTS[:4], "last")).sum(axis=1).min() > 0.999
    monkeypatch.setattr(MlxOps, "full", lambda ops, x: x)
    with pytest.raises(NotFiniteError, match="NaN or infinity in the dense output"):
        model.embed(TEXTS[:4])


def _copy(name: str, directory: Path) -> Path:
    shutil.copytree(standin(name), directory)
    return directory


def _change(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the checkpoint anew, in one file."""
    weights: dict[str, Any] = {}
    for path in directory.glob("model*"):
        weights |= load_file(path) if path.suffix == ".safetensors" else {}
        path.unlink()
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("head", [None, "equal"])
def test_a_tied_head_is_the_word_table(tmp_path: Path, head: str | None) -> None:
    directory = _copy(RERANKER, tmp_path / "checkpoint")
    if head:
        _change(directory, lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"].clone()}))
    checkpoint = open_source(standin_recipe(RERANKER), str(directory))
    tokenizer = load(made(RERANKER, "onnx", 32)[0]).encoder.tokenizer
    table = load_file(directory / "model.safetensors")["model.embed_tokens.weight"].float().numpy()
    rows = [tokenizer.token_to_id("no"), tokenizer.token_to_id("yes")]
    assert np.array_equal(checkpoint.read("score.weight"), table[rows])


def test_a_tied_head_that_says_something_else_is_refused(tmp_path: Path) -> None:
    directory = _copy(RERANKER, tmp_path / "checkpoint")
    _change(
        directory, lambda weights: weights.update({"lm_head.weight": torch.zeros_like(weights["model.embed_tokens.weight"])})
    )
    with pytest.raises(SourceError, match="lm_head.weight is not the word table, although config.json ties them"):
        open_source(standin_recipe(RERANKER), str(directory))


def test_an_untied_head_must_be_there(tmp_path: Path) -> None:
    directory = _copy("qwen3-reranker-8b", tmp_path / "checkpoint")
    _change(directory, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(SourceError, match="lm_head.weight is missing"):
        open_source(standin_recipe("qwen3-reranker-8b"), str(directory))


def test_an_untied_head_is_the_one_that_scores(tmp_path: Path) -> None:
    directory = _copy("qwen3-reranker-8b", tmp_path / "checkpoint")
    _change(directory, lambda weights: weights["lm_head.weight"].mul_(2))
    one, other = (open_source(standin_recipe("qwen3-reranker-8b"), str(d)) for d in (directory, standin("qwen3-reranker-8b")))
    assert np.allclose(one.read("score.weight"), 2 * other.read("score.weight"))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    directory = _copy("qwen3-embedding-4b", tmp_path / "checkpoint")
    last = max(directory.glob("*.safetensors"))
    last.unlink()
    with pytest.raises(SourceError, match=f"{last.name} is missing"):
        open_source(standin_recipe("qwen3-embedding-4b"), str(directory))
    directory = _copy("qwen3-embedding-4b", tmp_path / "other")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if file != last.name}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="missing from"):
        open_source(standin_recipe("qwen3-embedding-4b"), str(directory))


def test_late_chunking_is_refused_with_the_reason() -> None:
    model = load(made(EMBEDDING, "onnx", 32)[0])
    with pytest.raises(UsageError, match="no late chunking: its vector is that of the last token"):
        model.check_embed(late_chunking=True)
