"""End to end: original -> convert -> shim serve -> the official client, against vectors that sentence-transformers wrote."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import openai
import pytest
from support.checkpoints import GOLDEN_MODELS, golden_checkpoint

from converter import pipeline, recipe

GOLDEN = Path(__file__).parent / "golden"
LEAST = {("onnx", 32): 0.99999, ("onnx", 8): 0.999, ("mlx", 8): 0.999}
# bge's base and large are bge-small but for the width: one target each.
TARGETS = {name: tuple(LEAST) for name in GOLDEN_MODELS} | {
    "bge-base-en-v1.5": (("mlx", 8),),
    "bge-large-en-v1.5": (("onnx", 8),),
}


@pytest.fixture(scope="module")
def client(
    serve: Callable[..., str],
    minilm_artifacts: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> openai.OpenAI:
    """Every BERT recipe to its TARGETS behind one server; the goldens are the proof of those that are not verified."""
    out = tmp_path_factory.mktemp("golden")
    paths = [minilm_artifacts[kind] for kind in ("onnx-32", "onnx-8", "mlx-8")]
    for name in GOLDEN_MODELS:
        if name != "all-minilm-l6-v2":
            source = golden_checkpoint(name, tmp_path_factory.mktemp("checkpoint"))
            for target, bits in TARGETS[name]:
                settings = {"verified": False, "effort": "fast"}
                request = pipeline.Request(recipe.load(name), target, bits, str(source), out, **settings)
                paths.append(pipeline.convert(request, lambda *_: None)[0])
    return openai.OpenAI(base_url=f"{serve(*paths, '--allow-unverified')}/v1", api_key="none")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "bits"), [(name, *way) for name, ways in TARGETS.items() for way in ways])
def test_vectors_are_those_of_sentence_transformers(client: openai.OpenAI, name: str, target: str, bits: int) -> None:
    for item in json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")):
        model, extra = f"{name}-{target}-{bits}bit", {"task": item["task"]} if item["task"] else {}
        answer = client.embeddings.create(model=model, input=item["text"], extra_body=extra)
        vector, wanted = np.array(answer.data[0].embedding), np.array(item["vector"])
        cosine = vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted)
        assert cosine >= LEAST[target, bits], (item["task"], item["text"][:40])


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_the_goldens_themselves_can_tell_texts_and_prompts_apart(name: str) -> None:
    items = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    plain = np.array([item["vector"] for item in items if item["task"] is None])
    similar = plain @ plain.T
    assert similar[~np.eye(len(plain), dtype=bool)].max() < 0.99
    prompted = {item["task"]: item["vector"] for item in items if item["text"] == items[0]["text"]}
    changed = [task for task in ("retrieval.query", "retrieval.passage") if np.dot(prompted[task], prompted[None]) < 0.99]
    expected = {"all-minilm-l6-v2": [], "e5-base-v2": ["retrieval.query", "retrieval.passage"]}
    assert changed == expected.get(name, ["retrieval.query"])
