"""What the upstream libraries saved converts without a recipe, and gives what they give: vectors, lengths, prompts, scores."""

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FEW
from sentence_transformers import CrossEncoder, SentenceTransformer
from support import saved, saved_heads
from tokenizers.normalizers import Lowercase, Sequence
from transformers import PreTrainedTokenizerFast

import shim
from converter import pipeline
from converter.proof.loading import REBUILT
from converter.source.draft import draft
from converter.source.open import find
from shim.artifact import Manifest

TEXTS = [*FEW.splitlines(), "LE BILLET POUR L'ÎLE?", "  spaces  around  ", "a long text about ferries and storms " * 30]
PAIRS = [("Which ferry goes to the island?", text) for text in TEXTS]


@functools.cache
def checkpoint(kind: str, folder: Path) -> Path:
    kinds = saved.EMBEDDERS | saved.CROSS_ENCODERS | saved.ADAPTED | saved_heads.SPARSE | saved_heads.MULTI
    make = kinds[kind]
    name = kind.replace(" ", "-").replace(",", "").replace("'", "")
    return make(folder / f"{name}-base", folder / name)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


def converted(source: Path, target: str, bits: int, out: Path, corpus: Path, **more: Any) -> tuple[shim.Model, Manifest]:
    recipe = draft(find(str(source)), license="mit", **more)
    path, manifest = pipeline.convert(pipeline.Request(recipe, target, bits, str(source), out, corpus=corpus), lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return shim.load(path), manifest


def theirs(source: Path) -> SentenceTransformer:
    """The upstream library's model; of XLM-RoBERTa's tokenizers, as published, which transformers 5 rebuilds otherwise."""
    model = SentenceTransformer(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    published(model, source)
    return model


def published(model: Any, source: Path) -> None:
    inner = source / "0_Transformer" if (source / "0_Transformer").is_dir() else source
    if json.loads((inner / "tokenizer_config.json").read_text())["tokenizer_class"] in REBUILT:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(inner)
        tokenizer.model_max_length = min(model.max_seq_length, 64)
        if model[0].do_lower_case:
            own = tokenizer.backend_tokenizer.normalizer
            tokenizer.backend_tokenizer.normalizer = Sequence([Lowercase(), *([own] if own else [])])
        model[0].processor = tokenizer


def off(ours: np.ndarray, wanted: np.ndarray) -> float:
    return float((np.linalg.norm(ours - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).max())


@pytest.mark.parametrize("kind", saved.EMBEDDERS)
def test_an_embedder_gives_what_sentence_transformers_gives(kind: str, folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    source = checkpoint(kind, folder)
    model, manifest = converted(source, "onnx", 32, tmp_path, corpus_file)
    upstream = theirs(source)
    assert off(model.embed(TEXTS).dense, upstream.encode(TEXTS)) < 1e-4
    for name in upstream.prompts:
        wanted = upstream.encode(TEXTS, prompt_name=name)
        assert off(model.embed(TEXTS, prompt_name=name).dense, wanted) < 1e-4
    assert off(model.embed(TEXTS, task="retrieval.query").dense, upstream.encode_query(TEXTS)) < 1e-4
    assert off(model.embed(TEXTS, task="retrieval.passage").dense, upstream.encode_document(TEXTS)) < 1e-4
    assert model.info()["similarity"] == upstream.similarity_fn_name
    assert manifest.parity.witness.library == "sentence-transformers"
    assert manifest.parity.witness.texts > 5


# Decoders are held to transformers in MLX by tests/test_architectures.py.
@pytest.mark.parametrize("kind", [*(kind for kind in saved.EMBEDDERS if kind not in saved.DECODING), "gemma, two dense"])
def test_an_embedder_in_mlx_gives_it_too(kind: str, folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    source = checkpoint(kind, folder)
    model, manifest = converted(source, "mlx", 16, tmp_path, corpus_file)
    assert manifest.verdict == "pass"
    assert off(model.embed(TEXTS).dense, theirs(source).encode(TEXTS)) < 1e-2


@pytest.mark.parametrize("target", ["onnx", "mlx"])
@pytest.mark.parametrize("kind", saved.CROSS_ENCODERS)
def test_a_cross_encoder_scores_as_predict_does(
    kind: str, target: str, folder: Path, tmp_path: Path, corpus_file: Path
) -> None:
    source = checkpoint(kind, folder)
    model, manifest = converted(source, target, 32 if target == "onnx" else 16, tmp_path, corpus_file)
    upstream = CrossEncoder(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    published(upstream, source)
    wanted = upstream.predict(PAIRS)
    ranked = sorted(model.rerank(PAIRS[0][0], TEXTS), key=lambda item: item.index)
    scores = [item.logit if manifest.model.activation == "identity" else item.score for item in ranked]
    np.testing.assert_allclose(scores, wanted, atol=1e-4 if target == "onnx" else 2e-2)
    long = "which ferry " * 60
    both = upstream.predict([(long, text) for text in TEXTS], activation_fn=saved.IDENTITY)
    logits = [item.logit for item in sorted(model.rerank(long, TEXTS), key=lambda item: item.index)]
    np.testing.assert_allclose(logits, both, atol=1e-4 if target == "onnx" else 2e-2)
