"""`encode` and `similarity` of a model against those of sentence-transformers over the same checkpoint."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import made
from sentence_transformers import SentenceTransformer

import shim
from shim.errors import UsageError

TEXTS = ["The ferry leaves at nine.", "река", "", "word " * 200, "a"]
PROMPTS = {"query": "query: ", "passage": "passage: ", "document": "text: "}


@pytest.fixture(scope="module")
def model(tiny_artifact: Path) -> shim.Model:
    return shim.load(tiny_artifact)


@pytest.fixture(scope="module")
def theirs(tiny: Path) -> SentenceTransformer:
    return SentenceTransformer(str(tiny / "checkpoint"), device="cpu", prompts=PROMPTS)


@pytest.fixture(scope="module")
def ours(model: shim.Model) -> shim.Model:
    """The same model, with prompts that the checkpoint names."""
    spec = dataclasses.replace(model.manifest.model, prompt_names=PROMPTS)
    return shim.Model(dataclasses.replace(model.manifest, model=spec), model.encoder, model.runtime)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 2, "show_progress_bar": False},
        {"truncate_dim": 16},
        {"truncate_dim": 16, "normalize_embeddings": True},
        {"prompt_name": "query"},
        {"prompt": "anything: "},
        {"prompt_name": "query", "prompt": "this one: "},
    ],
    ids=str,
)
def test_encode_gives_what_sentence_transformers_gives(
    ours: shim.Model, theirs: SentenceTransformer, options: dict[str, Any]
) -> None:
    for given in (TEXTS, "one string", np.array(["a", "b"])):
        expected = theirs.encode(given, **options)
        found = ours.encode(given, **options)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.abs(found - expected).max() < 1e-5


def test_a_default_prompt_stands_in_for_neither_query_nor_document(model: shim.Model, tiny: Path) -> None:
    prompts = {"poem": "a poem: "}
    theirs = SentenceTransformer(str(tiny / "checkpoint"), device="cpu", prompts=prompts, default_prompt_name="poem")
    spec = dataclasses.replace(model.manifest.model, prompt_names=prompts, default_prompt="poem")
    ours = shim.Model(dataclasses.replace(model.manifest, model=spec), model.encoder, model.runtime)
    for method in ("encode", "encode_query", "encode_document"):
        assert np.abs(getattr(ours, method)(TEXTS) - getattr(theirs, method)(TEXTS)).max() < 1e-5
    assert np.abs(ours.encode(TEXTS) - ours.encode_query(TEXTS)).max() > 1e-3


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_queries_and_documents_go_behind_the_checkpoints_own_prompts(
    ours: shim.Model, theirs: SentenceTransformer, method: str
) -> None:
    for options in ({}, {"prompt": "mine: "}, {"prompt_name": "passage", "normalize_embeddings": True, "truncate_dim": 8}):
        expected = getattr(theirs, method)(TEXTS, **options)
        assert np.abs(getattr(ours, method)(TEXTS, **options) - expected).max() < 1e-5
    assert np.abs(getattr(ours, method)(TEXTS) - ours.encode(TEXTS)).max() > 1e-3, "the prompt changes the vectors"


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity_is_theirs(
    ours: shim.Model, theirs: SentenceTransformer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theirs, "similarity_fn_name", name)
    spec = dataclasses.replace(ours.manifest.model, similarity=name)
    like = shim.Model(dataclasses.replace(ours.manifest, model=spec), ours.encoder, ours.runtime)
    first, second = 3 * ours.encode(TEXTS), ours.encode(["other", "ones", "река"])
    assert np.abs(like.similarity(first, second) - theirs.similarity(first, second).numpy()).max() < 1e-5
    assert np.abs(like.similarity(first[0], second) - theirs.similarity(first[0], second).numpy()).max() < 1e-5
    assert (
        np.abs(like.similarity_pairwise(first[:3], second) - theirs.similarity_pairwise(first[:3], second).numpy()).max() < 1e-5
    )


def test_the_names_and_defaults_are_theirs(ours: shim.Model, theirs: SentenceTransformer) -> None:
    for method in ("encode", "encode_query", "encode_document", "similarity", "similarity_pairwise"):
        wanted, found = (inspect.signature(getattr(one, method)).parameters for one in (theirs, ours))
        for name, parameter in found.items():
            assert name in wanted
            assert name == "batch_size" or parameter.default == wanted[name].default
    assert ours.get_sentence_embedding_dimension() == theirs.get_embedding_dimension() == ours.get_embedding_dimension()
    assert (ours.max_seq_length, ours.similarity_fn_name) == (theirs.max_seq_length, theirs.similarity_fn_name)
    assert theirs.prompts == ours.prompts
    assert ours.encode([]).shape == (0, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convert_to_tensor": True}, "torch.from_numpy"),
        ({"convert_to_numpy": False}, "torch.from_numpy"),
        ({"precision": "int8"}, "precision 'int8': encode gives float32 only"),
        ({"output_value": "token_embeddings"}, "encode gives sentence_embedding only"),
        ({"device": "cuda:1"}, "is on cpu; say device 'cuda:1' to shim.load"),
        ({"prompt_name": "poem"}, r"prompt_name 'poem' unknown \(query, document, passage\)"),
        ({"truncate_dim": 65}, "from 1 to 64"),
    ],
)
def test_what_encode_cannot_give_is_refused_in_words(ours: shim.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):  # as theirs raises
        ours.encode(["a"], **options)


def test_a_reranker_does_not_encode() -> None:
    with pytest.raises(UsageError, match="is a reranker and cannot embed"):
        shim.load(made("bge-reranker-v2-m3", "onnx", 32)[0]).encode("a")
