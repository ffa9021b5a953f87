"""What clients send: names, prompts, token ids and sloppy values; and the routes of Cohere, vLLM and Ollama."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import made

import shim

QUERY, DOCUMENTS = "When does the ferry leave?", ["Soup.", "The ferry leaves at seven.", "Паром отходит в семь."]
WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
QWEN = "qwen3-embedding-0.6b"


@pytest.fixture(scope="module")
def address(serve: Callable[..., str], tiny_artifact: Path) -> str:
    artifacts = (*(made(name, "onnx", 32)[0] for name in ("bge-m3", "bge-reranker-v2-m3")), tiny_artifact)
    names = ("--alias", "text-embedding-3-small=bge-m3", "--alias", "search=mine", "--default-task", "search=retrieval.query")
    return serve(*artifacts, f"mine={made(QWEN, 'onnx', 32)[0]}", *names)


@pytest.fixture(scope="module")
def m3() -> shim.Model:
    return shim.load(made("bge-m3", "onnx", 32)[0])


@pytest.fixture(scope="module")
def qwen() -> shim.Model:
    return shim.load(made(QWEN, "onnx", 32)[0])


@pytest.fixture(scope="module")
def reranker() -> shim.Model:
    return shim.load(made("bge-reranker-v2-m3", "onnx", 32)[0])


@pytest.fixture(scope="module")
def ask(address: str) -> Callable[..., httpx.Response]:
    def post(path: str, status: int = 200, **body: Any) -> httpx.Response:
        answer = httpx.post(address + path, json=body, timeout=60)
        assert answer.status_code == status, answer.text
        return answer

    return post


def near(found: Any, wanted: Any) -> bool:
    return bool(np.abs(np.asarray(found) - np.asarray(wanted)).max() < 1e-5)


@pytest.mark.parametrize(
    ("model", "fields", "prompt"),
    [
        ("mine", {}, ""),
        ("mine", {"prompt_name": "query"}, WEB),
        ("mine", {"prompt_name": "document"}, ""),
        ("mine", {"prompt_name": "Find boats"}, "Instruct: Find boats\nQuery:"),
        ("mine", {"task": "retrieval.query"}, WEB),
        ("mine", {"input_type": "search_query"}, WEB),
        ("mine", {"input_type": "passage"}, ""),
        ("search", {}, WEB),
        ("search:latest", {}, WEB),
        ("search", {"input_type": "search_document"}, ""),
        ("search", {"prompt_name": "document"}, ""),
        ("search", {"instruction": "Find boats"}, "Instruct: Find boats\nQuery:"),
    ],
)
def test_the_prompt_is_what_was_asked_for_and_is_said(
    ask: Callable[..., httpx.Response], qwen: shim.Model, model: str, fields: dict[str, str], prompt: str
) -> None:
    answer = ask("/v1/embeddings", model=model, input=["a river"], **fields).json()
    assert (answer["prompt"], answer["model"]) == (prompt, "mine")
    assert near(answer["data"][0]["embedding"], qwen.embed([prompt + "a river"]).dense[0])
    if fields.keys() <= {"prompt_name"} and "boats" not in str(fields):
        for path in ("/", "/embed"):
            bare = ask(path, model=model, inputs="a river", **fields)
            assert near(bare.json()[0], answer["data"][0]["embedding"])
            assert json.loads(bare.headers.get("x-prompt", '""')) == prompt


def test_a_model_answers_to_its_names(ask: Callable[..., httpx.Response], address: str) -> None:
    for name in ("bge-m3", "bge-m3-onnx-32bit", "bge-m3:latest", "text-embedding-3-small"):
        assert ask("/v1/embeddings", model=name, input="a").json()["model"] == "bge-m3-onnx-32bit"
    assert ask("/v1/embeddings", input="a").json()["model"] == "bge-m3-onnx-32bit", "the first, where none is named"
    listed = {model["id"]: model for model in httpx.get(f"{address}/v1/models").json()["data"]}
    own = {"bge-m3-onnx-32bit", "bge-reranker-v2-m3-onnx-32bit", "tiny-onnx-32bit", "mine"}
    assert listed.keys() == own | {"text-embedding-3-small", "search"}
    assert (listed["search"]["root"], listed["mine"]["name"]) == ("mine", f"{QWEN}-onnx-32bit")
    assert ask("/v1/embeddings", model=listed["mine"]["name"], input="a").json()["model"] == "mine", "its artifact's name, too"
    assert httpx.get(f"{address}/v1/models/text-embedding-3-small").json() == listed["text-embedding-3-small"]
    assert httpx.get(f"{address}/v1/models/org/name").json()["error"]["code"] == "model_not_found"
    told = ask("/v1/embeddings", 404, model="bge-m3-onnx", input="a").json()["error"]["message"]
    assert "there is bge-m3-onnx-32bit (or bge-m3), bge-reranker-v2-m3-onnx-32bit (or bge-reranker-v2-m3), tiny-onnx" in told
    assert f"mine (or {QWEN}), text-embedding-3-small, search; did you mean bge-m3" in told


def test_token_ids_of_the_models_own_tokenizer(ask: Callable[..., httpx.Response], m3: shim.Model) -> None:
    texts = ["one river", "天气很好，我们去散步"]
    ids = [[token["id"] for token in row] for row in ask("/tokenize", inputs=texts).json()]
    wanted = m3.embed(texts)
    answer = ask("/v1/embeddings", model="bge-m3", input=ids).json()
    assert near([item["embedding"] for item in answer["data"]], wanted.dense)
    assert answer["usage"]["total_tokens"] == sum(wanted.tokens)
    assert near(ask("/embed", inputs=ids[0]).json(), wanted.dense[:1])
    assert ask("/decode", ids=ids).json() == [m3.encoder.tokenizer.decode(row) for row in ids]
    assert ask("/decode", ids=ids[0]).json() == texts[:1]
    assert ask("/decode", ids=ids[0], skip_special_tokens=False).json() == ["<s> one river</s>"]


@pytest.mark.parametrize("side", ["Left", "Right"])
def test_token_ids_are_cut_as_their_text_is(ask: Callable[..., httpx.Response], side: str) -> None:
    text = " ".join(f"word {number}" for number in range(100))
    (row,) = ask("/tokenize", inputs=text, model="tiny").json()
    sent = {"model": "tiny", "truncation_direction": side}
    whole, found = (ask("/embed", inputs=inputs, **sent) for inputs in (text, [token["id"] for token in row]))
    assert near(found.json(), whole.json())
    assert found.headers["x-truncated"] == "0"
    ask("/embed", 422, inputs=[token["id"] for token in row], truncate="false", **sent)


@pytest.mark.parametrize(
    "ids", [[11, 22], [0, 2], [0, 11, 10**7, 2], [0, -1, 2], [0, 11], [0, 2**40, 2], [0, True, 2], [0, 1.5, 2]]
)
def test_ids_of_another_tokenizer_are_refused(ask: Callable[..., httpx.Response], ids: list[Any]) -> None:
    ask("/v1/embeddings", 400, model="bge-m3", input=ids)
    ask("/embed", 400, inputs=[ids, ids])
    if len(ids) == 2:
        assert "some texts are token ids" in ask("/embed", 400, inputs=[ids, "a text"]).text
        assert "text 1 is a list of token ids, not a string" in ask("/embed", 400, inputs=["a text", ids]).text
        assert "text 0 is a list of token ids, not a string" in ask("/tokenize", 400, inputs=[ids]).text
        assert "heads sparse: tiny-onnx-32bit has dense" in ask("/embed_sparse", 400, model="tiny", inputs="a").text
    ask("/embed", 400, inputs=[ids, "a text"])


def test_ids_are_told_apart_from_tiktokens_and_take_no_prompt(ask: Callable[..., httpx.Response]) -> None:
    told = ask("/v1/embeddings", 400, model="bge-m3", input=[[9906, 1917]]).json()["error"]["message"]
    assert "not of this model's own tokenizer" in told
    assert "check_embedding_ctx_length=False" in told
    (row,) = ask("/tokenize", inputs="a river", model="mine").json()
    ids = [token["id"] for token in row]
    ask("/v1/embeddings", model="mine", input=ids)
    assert "cannot go before them" in ask("/v1/embeddings", 400, model="search", input=ids).json()["error"]["message"]


def test_sloppy_values_whose_meaning_is_clear(ask: Callable[..., httpx.Response], m3: shim.Model) -> None:
    found = ask("/v1/embeddings", model="bge-m3", input="a", dimensions="64", truncate="True", encoding_format=None).json()
    assert near(found["data"][0]["embedding"], m3.embed(["a"], dimensions=64).dense[0])
    ranked = ask("/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=0, return_documents="true", return_len="true").json()
    assert [item["document"]["text"] for item in ranked["results"]] == [DOCUMENTS[item["index"]] for item in ranked["results"]]
    assert len(ranked["results"]) == 3
    assert len(ask("/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n="2").json()["results"]) == 2
    for wrong in ({"top_n": -1}, {"top_n": "two"}, {"top_n": 1.5}, {"return_documents": "yes"}, {"return_documents": 1}):
        ask("/v1/rerank", 400, query=QUERY, documents=DOCUMENTS, **wrong)


def test_a_body_of_as_many_long_texts_as_there_may_be_is_read(address: str) -> None:
    content = json.dumps({"model": "gpt", "inputs": ["ж" * 500] * 2048})  # six bytes a character
    answer = httpx.post(f"{address}/embed", content=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status_code == 404, "not 413"


def test_the_servers_own_address_and_predict(ask: Callable[..., httpx.Response], m3: shim.Model, reranker: shim.Model) -> None:
    assert near(ask("/", inputs="a", parameters={"dimensions": 64}).json(), m3.embed(["a"], dimensions=64).dense)
    compared = {"source_sentence": DOCUMENTS[0], "sentences": DOCUMENTS[1:]}
    assert ask("/", inputs=compared).json() == ask("/similarity", inputs=compared).json()
    ranked = {item.index: item for item in reranker.rerank(QUERY, DOCUMENTS)}
    pairs = [[QUERY, document] for document in DOCUMENTS]
    found = ask("/predict", inputs=[*pairs, ["Soup?", "Soup."]], raw_scores=True).json()
    assert near([row[0]["score"] for row in found[:3]], [ranked[row].logit for row in range(3)])
    assert near(found[3][0]["score"], reranker.rerank("Soup?", ["Soup."])[0].logit)
    assert near(ask("/predict", inputs=pairs[1]).json()[0]["score"], ranked[1].score)
    for wrong in ("text", ["a"], [["a"]], [["a", "b", "c"]], [["a", 1]], ["a", "b", "c"], [["a", "b"], "c"], [], [[]]):
        assert "pair" in ask("/predict", 400, inputs=wrong).text or "string" in ask("/predict", 400, inputs=wrong).text


def test_cohere(ask: Callable[..., httpx.Response], m3: shim.Model, qwen: shim.Model) -> None:
    vectors = m3.embed(DOCUMENTS).dense
    kinds = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
    answer = ask("/v2/embed", model="bge-m3", texts=DOCUMENTS, embedding_types=kinds, input_type="search_document").json()
    assert answer.keys() == {"id", "embeddings", "response_type", "meta"}
    assert near(answer["embeddings"]["float"], vectors)
    assert near([np.frombuffer(base64.b64decode(row), "<f4") for row in answer["embeddings"]["base64"]], vectors)
    assert np.array_equal(np.unpackbits(np.array(answer["embeddings"]["ubinary"], np.uint8), axis=1), vectors > 0)
    small = np.array(answer["embeddings"]["int8"], float)
    assert (np.sum(small * vectors, axis=1) / np.linalg.norm(small, axis=1)).min() > 0.9999
    inputs = [{"content": [{"type": "text", "text": text}]} for text in DOCUMENTS]
    asked = ask("/v2/embed", model="mine", inputs=inputs, input_type="search_query", output_dimension=16)
    assert near(asked.json()["embeddings"]["float"], qwen.embed(DOCUMENTS, prompt_name="query", dimensions=16).dense)
    assert json.loads(asked.headers["x-prompt"]) == WEB
    picture = [{"content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    for wrong in ({}, {"images": ["x"]}, {"texts": ["a"], "inputs": inputs}, {"texts": ["a"], "input_type": "image"},
                  {"inputs": picture}, {"texts": ["a"], "max_tokens": 4}):  # fmt: skip
        assert ask("/v2/embed", 400, model="bge-m3", **wrong).json().keys() == {"message"}
    long = ["one " * 200 + "end"]
    left, right = (ask("/v2/embed", model="tiny", texts=long, truncate=side) for side in ("START", "END"))
    assert left.headers["x-truncated"] == right.headers["x-truncated"] == "0"
    assert left.json()["embeddings"] != right.json()["embeddings"]
    ask("/v2/embed", 422, model="tiny", texts=long, truncate="NONE")


def test_vllms_score(ask: Callable[..., httpx.Response], m3: shim.Model, reranker: shim.Model) -> None:
    scores = {item.index: item.score for item in reranker.rerank(QUERY, DOCUMENTS)}
    answer = ask("/score", text_1=QUERY, text_2=DOCUMENTS).json()
    assert near([item["score"] for item in answer["data"]], [scores[row] for row in range(3)])
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    vectors = m3.embed([QUERY, *DOCUMENTS]).dense
    found = ask("/v1/score", model="bge-m3", text_1=[QUERY] * 3, text_2=DOCUMENTS).json()["data"]
    assert near([item["score"] for item in found], vectors[1:] @ vectors[0])
    assert "give one, or as many" in ask("/score", 400, text_1=["a", "b"], text_2=["a"]).text


def test_ollama(ask: Callable[..., httpx.Response], address: str, m3: shim.Model) -> None:
    answer = ask("/api/embed", model="bge-m3:latest", input=DOCUMENTS, options={"num_ctx": 1}, keep_alive="5m").json()
    assert near(answer["embeddings"], m3.embed(DOCUMENTS).dense)
    assert answer["model"] == "bge-m3:latest"
    assert near(ask("/api/embeddings", model="bge-m3", prompt=QUERY).json()["embedding"], m3.embed([QUERY]).dense[0])
    assert "not served here" in ask("/api/embed", 404, model="llama3", input="a").json()["error"]
    tags = httpx.get(f"{address}/api/tags").json()["models"]
    assert [tag["name"] for tag in tags] == [
        "bge-m3-onnx-32bit:latest", "tiny-onnx-32bit:latest", "mine:latest", "text-embedding-3-small:latest", "search:latest"
    ]  # fmt: skip
    for tag in tags:
        ask("/api/embed", model=tag["model"], input="a")
