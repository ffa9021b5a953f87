"""All BGE-M3, E5, Qwen3 and Nomic families from small trained checkpoints in the real layout, to every target."""

import json
from collections.abc import Callable

import numpy as np
import openai
import pytest
from conftest import SIBLINGS, made, standin, standin_recipe
from sentence_transformers import SentenceTransformer

from shim import load
from shim.pooling import HEADS

MODELS = (
    "bge-m3",
    "user-bge-m3",
    "bge-reranker-v2-m3",
    "multilingual-e5-large",
    "multilingual-e5-large-instruct",
    "qwen3-embedding-0.6b",
    "qwen3-embedding-4b",
    "qwen3-embedding-8b",
    "qwen3-reranker-0.6b",
    "qwen3-reranker-4b",
    "qwen3-reranker-8b",
    "nomic-embed-text-v1.5",
)
EVERY = (("mlx", 8), ("onnx", 8), ("onnx", 16), ("onnx", 32))
CASES = [(name, *case) for name in MODELS for case in ((SIBLINGS[name],) if name in SIBLINGS else EVERY)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "bits"), CASES)
def test_every_head_of_every_artifact_passes_on_the_worst_text(name: str, target: str, bits: int) -> None:
    path, manifest = made(name, target, bits)
    heads = manifest.parity.heads
    assert manifest.verdict == "pass", {head: figures.worst for head, figures in heads.items()}
    assert list(heads) == standin_recipe(name).model.heads
    assert set(heads) <= set(HEADS[manifest.task])
    assert min(figures.worst for figures in heads.values()) >= 0.999
    assert bits > 16 or max(figures.worst for figures in heads.values()) < 1 - 1e-9, "suspiciously exact"
    assert manifest.parity.notes == [], "the reference tells texts apart"
    cosines = json.loads((path / "cosines.json").read_text())
    assert list(cosines) == list(heads)
    for head, figures in heads.items():
        mean = np.mean([cosine for each in cosines[head].values() for cosine in each])
        assert ({language: min(each) for language, each in cosines[head].items()}, mean) == (
            pytest.approx(figures.by_language, abs=1e-7),
            pytest.approx(figures.mean, abs=1e-7),
        )
    if "dense" in heads:
        assert heads["dense"].reference_pairwise < 0.5
        assert min(heads["dense"].by_dimensions.values(), default=1) >= 0.99
    assert load(path).name == f"{name}-{target}-{bits}bit"


# The prompts of the model cards, written out: a wrong one in a recipe must show.
CARDS = {
    "bge-m3": {},
    "user-bge-m3": {},
    "multilingual-e5-large": {"retrieval.query": "query: ", "retrieval.passage": "passage: "},
    "multilingual-e5-large-instruct": {
        "retrieval.query": "Instruct: Given a search query, retrieve relevant documents or passages that directly answer or "
        "address the query\nQuery: "
    },
    "qwen3-embedding-0.6b": {
        "retrieval.query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    },
}


@pytest.mark.slow
def test_over_http_vectors_are_those_of_sentence_transformers(serve: Callable[..., str]) -> None:
    cases = [(name, *case) for name in CARDS for case in ((SIBLINGS[name],) if name in SIBLINGS else EVERY[:2])]
    client = openai.OpenAI(base_url=f"{serve(*(made(*case)[0] for case in cases))}/v1", api_key="none")
    texts = [
        "Which ferry goes to the island in winter?",
        "Зимой паром ходит дважды в день.",
        "冬天渡轮每天两班。",
        "timetable " * 600,
    ]
    for name, prompts in CARDS.items():
        theirs = SentenceTransformer(str(standin(name)), device="cpu", model_kwargs={"dtype": "float32"})
        for task in (None, "retrieval.query", "retrieval.passage"):
            wanted = theirs.encode(texts, prompt=prompts.get(task or "", ""), normalize_embeddings=True)
            for target, bits in (case[1:] for case in cases if case[0] == name):
                extra = {"task": task} if task else {}
                answer = client.embeddings.create(model=f"{name}-{target}-{bits}bit", input=texts, extra_body=extra)
                vectors = np.array([item.embedding for item in answer.data])
                assert (vectors * wanted).sum(axis=1).min() >= 0.999, (name, task, target)
