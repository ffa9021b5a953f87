"""bge-m3's three heads against the published formulas, computed here by hand, and the embedding API around them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made, standin, standin_recipe
from transformers import AutoModel, PreTrainedTokenizerFast

from converter.source.open import open_source
from shim import load
from shim.errors import SourceError, UsageError

TEXTS = ["one river, two rivers, one river", "двенадцать месяцев  ", "天气很好", "☃ snow </s>"]
CASES = [("onnx", 32, 2e-5), ("onnx", 16, 5e-3), ("mlx", 16, 5e-3)]


def by_hand(text: str) -> tuple[np.ndarray, dict[int, float], np.ndarray]:
    """dense = L2(CLS); sparse = relu(linear(h)), greatest per token id, special ids dropped; colbert = L2(linear(h[1:]))."""
    directory = standin("bge-m3")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    sparse, colbert = (torch.load(directory / f"{name}_linear.pt", weights_only=True) for name in ("sparse", "colbert"))
    batch = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state[0]
        weights = torch.relu(hidden @ sparse["weight"].float().T + sparse["bias"].float())[:, 0]
        vectors = hidden[1:] @ colbert["weight"].float().T + colbert["bias"].float()
    lexical: dict[int, float] = {}
    for token, weight in zip(batch["input_ids"][0].tolist(), weights.tolist(), strict=True):
        if token not in (0, 1, 2, 3) and weight > 0:
            lexical[token] = max(weight, lexical.get(token, 0))
    return (hidden[0] / hidden[0].norm()).numpy(), lexical, (vectors / vectors.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize(("target", "bits", "tolerance"), CASES)
def test_the_heads_are_those_of_the_formulas(target: str, bits: int, tolerance: float) -> None:
    out = load(made("bge-m3", target, bits)[0]).embed(TEXTS, heads=("dense", "sparse", "colbert"))
    assert out.sparse is not None
    assert out.colbert is not None
    for row, text in enumerate(TEXTS):
        dense, sparse, colbert = by_hand(text)
        assert np.abs(out.dense[row] - dense).max() < tolerance
        assert out.sparse[row].keys() == sparse.keys()
        assert max(abs(out.sparse[row][token] - weight) for token, weight in sparse.items()) < tolerance * 10
        assert out.colbert[row].shape == colbert.shape == (out.tokens[row] - 1, dense.size)
        assert np.abs(out.colbert[row] - colbert).max() < tolerance * 2
    repeated = by_hand(TEXTS[0])[1]
    assert len(repeated) < out.tokens[0] - 2, "a repeated token counts once"


def test_only_the_heads_asked_for_are_given() -> None:
    model = load(made("bge-m3", "onnx", 32)[0])
    plain = model.embed(TEXTS)
    assert (plain.sparse, plain.colbert) == (None, None)
    assert np.array_equal(model.embed(TEXTS, heads=("sparse",)).dense, plain.dense)
    assert model.embed(TEXTS, heads=["colbert", "dense"]).sparse is None
    for heads in ((), "dense", ("dense", "score"), ("sparze",)):
        with pytest.raises(UsageError, match="heads .* has dense, sparse, colbert"):
            model.embed(TEXTS, heads=heads)
    with pytest.raises(UsageError, match="has dense"):
        load(made("user-bge-m3", "onnx", 32)[0]).embed(TEXTS, heads=("sparse",))


def test_a_batch_gives_what_single_texts_give() -> None:
    model = load(made("bge-m3", "onnx", 32)[0])
    heads = ("dense", "sparse", "colbert")
    together = model.embed([*TEXTS, "long " * 200], heads=heads)
    assert together.sparse is not None
    assert together.colbert is not None
    for row, text in enumerate(TEXTS):
        alone = model.embed([text], heads=heads)
        assert alone.sparse is not None
        assert alone.colbert is not None
        assert np.abs(alone.dense[0] - together.dense[row]).max() < 1e-5
        assert np.abs(alone.colbert[0] - together.colbert[row]).max() < 1e-5
        assert alone.sparse[0].keys() == together.sparse[row].keys()


@pytest.mark.parametrize("dimensions", [128, 64])
def test_fewer_dimensions_are_cut_then_normalised(dimensions: int) -> None:
    model = load(made("qwen3-embedding-0.6b", "onnx", 32)[0])
    whole, part = model.embed(TEXTS).dense, model.embed(TEXTS, dimensions=dimensions).dense
    assert part.shape == (len(TEXTS), dimensions)
    assert np.allclose(part, whole[:, :dimensions] / np.linalg.norm(whole[:, :dimensions], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_missing_head_file_is_an_error(tmp_path: Path, name: str) -> None:
    directory = shutil.copytree(standin("bge-m3"), tmp_path / "checkpoint")
    (directory / name).unlink()
    with pytest.raises(SourceError, match=f"{name} is missing"):
        open_source(standin_recipe("bge-m3"), str(directory))


def test_a_head_of_another_width_is_an_error(tmp_path: Path) -> None:
    directory = shutil.copytree(standin("bge-m3"), tmp_path / "checkpoint")
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, directory / "sparse_linear.pt")
    with pytest.raises(SourceError, match=r"sparse_linear.weight has shape \[1, 32\]"):
        open_source(standin_recipe("bge-m3"), str(directory))


def test_a_head_that_needs_to_run_code_is_refused(tmp_path: Path) -> None:
    directory = shutil.copytree(standin("bge-m3"), tmp_path / "checkpoint")
    torch.save({"weight": shutil.rmtree}, directory / "sparse_linear.pt")
    with pytest.raises(SourceError, match="refused"):
        open_source(standin_recipe("bge-m3"), str(directory))


def test_a_reranker_given_to_an_embed_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="config.json says that the task is rerank, and the recipe's task is embed"):
        open_source(standin_recipe("bge-m3"), str(standin("bge-reranker-v2-m3")))
    with pytest.raises(UsageError, match="modules.json says that the task is embed, and the recipe's task is rerank"):
        open_source(standin_recipe("bge-reranker-v2-m3"), str(standin("user-bge-m3")))


def test_late_chunking_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="bge-m3-onnx-32bit does no late chunking: .* collapse"):
        load(made("bge-m3", "onnx", 32)[0]).check_embed(late_chunking=True)
