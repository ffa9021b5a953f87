"""Each dialect's answers from a running server, against the library's own outputs."""

import base64
import re
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import made

import shim

TEXTS = ["one river, two rivers", "天气很好", "двенадцать месяцев"]
QUERY, DOCUMENTS = "When does the ferry leave?", ["Soup.", "The ferry leaves at seven.", "Паром отходит в семь."]


@pytest.fixture(scope="module")
def address(serve: Callable[..., str]) -> str:
    return serve(*(made(name, "onnx", 32)[0] for name in ("bge-m3", "bge-reranker-v2-m3", "qwen3-embedding-0.6b")))


@pytest.fixture(scope="module")
def m3() -> shim.Model:
    return shim.load(made("bge-m3", "onnx", 32)[0])


@pytest.fixture(scope="module")
def ranked() -> list[shim.Ranked]:
    return shim.load(made("bge-reranker-v2-m3", "onnx", 32)[0]).rerank(QUERY, DOCUMENTS)


@pytest.fixture(scope="module")
def post(address: str) -> Callable[..., Any]:
    def ask(path: str, body: dict[str, Any], status: int = 200) -> Any:
        answer = httpx.post(address + path, json=body, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    return ask


def near(found: Any, wanted: Any, tolerance: float = 1e-5) -> bool:
    return bool(np.abs(np.asarray(found) - np.asarray(wanted)).max() < tolerance)


def test_all_heads_in_one_call(post: Callable[..., Any], m3: shim.Model) -> None:
    body = {"model": "bge-m3", "input": TEXTS, "heads": ["dense", "sparse", "colbert"], "unknown": 1}
    data = post("/v1/embeddings", body)["data"]
    wanted = m3.embed(TEXTS, heads=("sparse", "colbert"))
    assert wanted.sparse is not None
    assert wanted.colbert is not None
    for row, item in enumerate(data):
        assert near(item["embedding"], wanted.dense[row])
        assert item["sparse"]["indices"] == list(wanted.sparse[row])
        assert near(item["sparse"]["values"], list(wanted.sparse[row].values()))
        assert near(item["multivector"], wanted.colbert[row])
    assert "sparse" not in post("/v1/embeddings", {"model": "bge-m3", "input": "a", "return_multivector": True})["data"][0]


def test_embedding_types(post: Callable[..., Any], m3: shim.Model) -> None:
    vector = m3.embed(TEXTS[:1]).dense[0]

    def ask(kind: str) -> Any:
        return post("/v1/embeddings", {"model": "bge-m3", "input": TEXTS[0], "embedding_type": kind})["data"][0]["embedding"]

    assert near(ask("float"), vector)
    assert near(np.frombuffer(base64.b64decode(ask("base64")), "<f4"), vector)
    for kind, low, offset in (("int8", -127, 0), ("uint8", 0, 128)):
        small = np.array(ask(kind))
        assert small.dtype.kind == "i"
        assert low <= small.min() < small.max() <= 255 - (128 - offset)
        back = (small - offset).astype(float)
        assert back @ vector / np.linalg.norm(back) > 0.9999
    bits = np.unpackbits(np.array(ask("ubinary"), np.uint8))
    assert np.array_equal(bits, vector > 0)
    assert np.array_equal(np.array(ask("binary")) + 128, ask("ubinary"))


def test_instructions_tasks_and_lengths(post: Callable[..., Any]) -> None:
    model = shim.load(made("qwen3-embedding-0.6b", "onnx", 32)[0])

    def ask(**fields: Any) -> Any:
        return post("/v1/embeddings", {"model": "qwen3-embedding-0.6b", "input": "a river"} | fields)["data"][0]["embedding"]

    custom = model.embed(["a river"], instruction="Find boats").dense[0]
    assert near(ask(instruction="Find boats"), custom)
    assert near(ask(prompt_name="Find boats"), custom)
    assert near(ask(task="retrieval.query"), model.embed(["a river"], task="retrieval.query").dense[0])
    assert not near(ask(), custom, 1e-3)
    raw = np.array(ask(normalized=False))
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    assert near(raw / np.linalg.norm(raw), ask())
    assert near(post("/embed", {"inputs": "a river", "normalize": False, "model": "qwen3-embedding-0.6b"})[0], raw, 1e-4)
    many = {"model": "qwen3-embedding-0.6b", "input": ["word " * 400] * 500, "normalized": False, "dimensions": 2}
    assert len(post("/v1/embeddings", many)["data"]) == 500, "the states of all tokens would be too much, the vectors are not"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"late_chunking": True}, "does no late chunking: its vector is that of the first token"),
        ({"instruction": "x"}, "takes no instruction"),
        ({"instruction": "x", "prompt_name": "y"}, "give one"),
        ({"prompt_name": "qurey"}, "prompt_name 'qurey' unknown (query, document, passage"),
        ({"task": "nothing"}, "task 'nothing' unknown"),
        ({"embedding_type": "hex"}, "embedding_type"),
        ({"heads": ["score"]}, "heads"),
        ({"truncate": "no"}, "truncate"),
        ({"dimensions": 129}, "from 1 to 128"),
    ],
)
def test_fields_that_cannot_be_meant(post: Callable[..., Any], fields: dict[str, Any], message: str) -> None:
    assert message in post("/v1/embeddings", {"model": "bge-m3", "input": "a"} | fields, 400)["error"]["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank(post: Callable[..., Any], ranked: list[shim.Ranked], path: str) -> None:
    body = {"model": "bge-reranker-v2-m3", "query": QUERY, "documents": [DOCUMENTS[0], *({"text": d} for d in DOCUMENTS[1:])]}
    answer = post(path, body)
    assert answer.keys() == {"id", "model", "results", "usage", "meta"}
    assert [item["index"] for item in answer["results"]] == [item.index for item in ranked]
    assert near([item["relevance_score"] for item in answer["results"]], [item.score for item in ranked])
    assert answer["usage"]["total_tokens"] == sum(item.tokens for item in ranked)
    assert "document" not in answer["results"][0]
    answer = post(path, body | {"top_n": 1, "return_documents": True, "raw_scores": True})
    assert len(answer["results"]) == 1
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[ranked[0].index]}
    assert near(answer["results"][0]["relevance_score"], ranked[0].logit, 1e-4)
    assert post(path, body | {"documents": []}, 400)["message"]
    assert "takes no instruction" in post(path, body | {"instruction": "x"}, 400)["message"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("field", ["documents", "texts"])
def test_a_reranker_has_no_prompt_names(post: Callable[..., Any], path: str, field: str) -> None:
    body = {"query": QUERY, field: DOCUMENTS}
    assert "leave prompt_name out" in post(path, body | {"prompt_name": "query"}, 400)["message"]
    post(path, body | {"prompt_name": None})


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_teis_rerank(post: Callable[..., Any], ranked: list[shim.Ranked], path: str) -> None:
    answer = post(path, {"query": QUERY, "texts": DOCUMENTS})
    assert [item["index"] for item in answer] == [item.index for item in ranked]
    assert answer[0].keys() == {"index", "score"}
    answer = post(path, {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True})
    assert near([item["score"] for item in answer], [item.logit for item in ranked], 1e-4)
    assert answer[0]["text"] == DOCUMENTS[ranked[0].index]
    assert post(path, {"query": QUERY, "texts": []}, 400)["error_type"] == "Empty"


def test_teis_embeddings(post: Callable[..., Any], m3: shim.Model) -> None:
    wanted = m3.embed(TEXTS, heads=("sparse",))
    assert wanted.sparse is not None
    assert near(post("/embed", {"inputs": TEXTS}), wanted.dense)
    assert near(post("/embed", {"inputs": TEXTS[0], "dimensions": 32}), m3.embed(TEXTS[:1], dimensions=32).dense)
    sparse = post("/embed_sparse", {"inputs": TEXTS})
    assert [{item["index"] for item in row} for row in sparse] == [set(row) for row in wanted.sparse]
    states = post("/embed_all", {"inputs": TEXTS})
    assert [len(row) for row in states] == wanted.tokens
    for row, found in enumerate(states):  # bge-m3 takes the first token's state
        assert near(np.array(found[0]) / np.linalg.norm(found[0]), wanted.dense[row])
    similar = post("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}})
    assert near(similar, wanted.dense[1:] @ wanted.dense[0])
    other = {"source_sentence": TEXTS[0], "sentences": [*TEXTS[1:], TEXTS[0]]}
    named = post("/similarity", {"inputs": other, "model": "qwen3-embedding-0.6b"})
    assert not near(named[:-1], similar, 1e-3)
    assert named == post("/similarity", {"inputs": other, "parameters": {"model": "qwen3-embedding-0.6b"}})
    assert 0.99999 < named[-1] <= 1
    post("/similarity", {"inputs": other, "model": "bge-reranker-v2-m3"}, 400)
    assert post("/embed", {"inputs": "a", "prompt_name": "x"}, 400)["error_type"] == "Validation"
    assert post("/embed", {"inputs": []}, 400)["error_type"] == "Empty"
    named = {"inputs": "a", "prompt_name": "is an empty list"}
    assert post("/embed", named, 400)["error_type"] == "Validation", "what a client quotes is no reason"


def test_teis_tokenize_and_info(post: Callable[..., Any], address: str, m3: shim.Model) -> None:
    found = post("/tokenize", {"inputs": TEXTS})
    assert [len(row) for row in found] == m3.embed(TEXTS).tokens
    for text, row in zip(TEXTS, found, strict=True):
        assert [token["special"] for token in row] == [True, *[False] * (len(row) - 2), True]
        assert all(token["text"] == text[token["start"] : token["stop"]] for token in row[1:-1])
    assert len(post("/tokenize", {"inputs": TEXTS[0], "add_special_tokens": False})[0]) == len(found[0]) - 2
    info = httpx.get(f"{address}/info").json()
    assert (info["model_id"], info["max_input_length"]) == ("bge-m3-onnx-32bit", m3.max_tokens)
    assert info["model_type"] == {"embedding": {"pooling": "cls"}}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v1/embeddings", '{"model": "bge-m3", "input": ["a", {"text": "б"}], "heads": ["sparse"], "dimensions": 64}'),
        ("/v1/embeddings", '{"model": "none", "model": "bge-m3", "input": "the last of a name counts"}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": "a", "dimensions": 64.0}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": "a", "dimensions": 36893488147419103232}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": [NaN, 1e400]}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": "\\ud800"}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": ' + "[" * 500 + "]" * 500 + "}"),
        ("/v1/embeddings", '{"model": "bge-m3", "input": "a", "truncate": "yes"}'),
        ("/v1/embeddings", '{"model": "bge-m3", "input": "a"'),
        ("/v1/embeddings", '["a"]'),
        ("/rerank", '{"query": "a", "documents": ["b", {"text": "c"}]}'),
        ("/rerank", '{"query": "a", "texts": ["b", "c"], "raw_scores": true}'),
        ("/rerank", '{"query": 1, "texts": ["b", "c"]}'),
        ("/rerank", "{}"),
        ("/embed", '{"inputs": ["a", "b"], "truncate": null}'),
        ("/similarity", '{"inputs": {"source_sentence": "a", "sentences": ["b"]}}'),
    ],
)
def test_the_short_cut_answers_as_the_framework_does(address: str, path: str, content: str) -> None:
    kinds = ("application/json", "application/json; charset=utf-8", "application/vnd.api+json")  # the last has no short cut
    found = [httpx.post(address + path, content=content, headers={"content-type": kind}, timeout=60) for kind in kinds]
    assert found[0].status_code < 500
    assert len({(answer.status_code, answer.headers["content-type"]) for answer in found}) == 1
    first, *others = (re.sub(r'"id":"[^"]*"', "", answer.text) for answer in found)
    assert others == [first, first]


def test_models_say_what_they_are(address: str) -> None:
    models = {model["id"]: model for model in httpx.get(f"{address}/v1/models").json()["data"]}
    assert models["bge-m3-onnx-32bit"]["heads"] == ["dense", "sparse", "colbert"]
    assert models["bge-m3-onnx-32bit"]["parity"]["dense"] > 0.999
    assert (models["bge-reranker-v2-m3-onnx-32bit"]["task"], models["bge-reranker-v2-m3-onnx-32bit"]["bits"]) == ("rerank", 32)


def test_metrics_count_what_was_asked(post: Callable[..., Any], address: str) -> None:
    post("/embed", {"inputs": TEXTS})
    page = httpx.get(f"{address}/metrics").text
    sums = [f"{name}_sum" for name in ("queue_seconds", "batch_texts", "batch_tokens", "tokenize_seconds", "inference_seconds")]
    for name in (*sums, "queue_texts", "truncated_texts_total", "not_finite_total", "model_load_seconds", "model_ready"):
        assert f"\nsealport_{name}" in page
    assert 'sealport_requests_total{route="/embed",status="200"}' in page
