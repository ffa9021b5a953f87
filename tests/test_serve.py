"""A running `shim serve`, spoken to by the official client and by hand."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

import shim

TEXTS = ["The ferry leaves at nine.", "Паром отходит в девять.", "x"]


@pytest.fixture(scope="module")
def address(serve: Callable[..., str], minilm_artifacts: Mapping[str, Path], tiny_artifact: Path) -> str:
    return serve(minilm_artifacts["onnx-32"], minilm_artifacts["mlx-8"], tiny_artifact)


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("kind", ["onnx-32", "mlx-8"])
@pytest.mark.parametrize("encoding_format", ["float", "base64", None])
def test_the_openai_client_gets_the_librarys_vectors(
    client: openai.OpenAI, minilm_artifacts: Mapping[str, Path], kind: str, encoding_format: str | None
) -> None:
    path = minilm_artifacts[kind]
    options: dict[str, Any] = {"encoding_format": encoding_format} if encoding_format else {}
    answer = client.embeddings.create(model=path.name, input=TEXTS, **options)
    expected = shim.load(path).embed(TEXTS)
    vectors = [item.embedding for item in answer.data]
    if encoding_format == "base64":
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    assert np.abs(np.array(vectors) - expected.dense).max() < 1e-5
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.model == path.name
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(expected.tokens)


def test_a_single_string_and_fewer_dimensions(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=TEXTS[0], dimensions=64)
    assert answer.model == "all-minilm-l6-v2-onnx-32bit"
    assert np.array(answer.data[0].embedding).shape == (64,)
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_models_and_health(client: openai.OpenAI, address: str) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"all-minilm-l6-v2-onnx-32bit", "all-minilm-l6-v2-mlx-8bit", "tiny-onnx-32bit"}
    assert models["tiny-onnx-32bit"].model_dump()["dimensions"] == 64
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "all-minilm-l6-v2", "input": []}, 400, "empty list"),
        ({"model": "all-minilm-l6-v2", "input": ""}, 400, "text 0 is an empty string"),
        ({"model": "all-minilm-l6-v2", "input": ["a", ""]}, 400, "text 1 is an empty string"),
        ({"model": "all-minilm-l6-v2", "input": [1, 2, 3]}, 400, "token ids"),
        ({"model": "all-minilm-l6-v2", "input": [[1, 2], [3]]}, 400, "token ids"),
        ({"model": "all-minilm-l6-v2", "input": ["a", None]}, 400, "text 1 is NoneType"),
        ({"model": "all-minilm-l6-v2", "input": {"text": "a"}}, 400, "list of strings"),
        ({"model": "all-minilm-l6-v2", "input": None}, 400, "list of strings"),
        ({"model": "all-minilm-l6-v2", "input": ["\ud800"]}, 400, "lone surrogate"),
        ({"model": "all-minilm-l6-v2"}, 400, "input: Field required"),
        ({"model": "\ud800", "input": "a"}, 404, "not served here"),
        ({"model": "gpt-4", "input": "a"}, 404, "'gpt-4' is not served here"),
        ({"model": "all-minilm-l6-v2", "input": "a", "dimensions": 0}, 400, "dimensions"),
        ({"model": "all-minilm-l6-v2", "input": "a", "dimensions": 385}, 400, "from 1 to 384"),
        ({"model": "all-minilm-l6-v2", "input": "a", "dimensions": "8.5"}, 400, "dimensions"),
        ({"model": "all-minilm-l6-v2", "input": "a", "input_type": "image"}, 400, "input_type 'image' unknown"),
        ({"input": "a", "input_type": "query", "task": "classification"}, 400, "differ; give one"),
        ({"model": "all-minilm-l6-v2", "input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"model": "all-minilm-l6-v2", "input": "a", "task": "quiz"}, 400, "task 'quiz' unknown"),
        (["not", "an", "object"], 400, "must be a JSON object"),
    ],
)
def test_bad_requests_are_told_why_in_openais_shape(address: str, body: object, status: int, message: str) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/embeddings", content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"model": "\xff"}', b"\x00" * 100])
def test_bytes_that_are_no_json(address: str, content: bytes) -> None:
    answer = httpx.post(f"{address}/v1/embeddings", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_unknown_routes_and_methods(address: str) -> None:
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{address}/v1/embeddings").status_code == 405


def test_a_long_text_is_cut_and_said_to_be(address: str) -> None:
    body = {"model": "tiny", "input": ["word " * 200_000, "word"]}
    answer = httpx.post(f"{address}/v1/embeddings", json=body, timeout=60)
    assert [item["truncated"] for item in answer.json()["data"]] == [True, False]
    assert answer.json()["usage"]["total_tokens"] == 131


def test_requests_from_many_threads_get_their_own_vectors(client: openai.OpenAI, minilm_artifacts: Mapping[str, Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = [f"text number {number} of the crowd" for number in range(48)]
    expected = shim.load(minilm_artifacts["onnx-32"]).embed(texts).dense

    def ask(text: str) -> list[float]:
        return client.embeddings.create(model="all-minilm-l6-v2", input=text).data[0].embedding

    with ThreadPoolExecutor(16) as pool:
        vectors = np.array(list(pool.map(ask, texts)))
    assert np.abs(vectors - expected).max() < 1e-5


def test_the_openapi_page_is_there(address: str) -> None:
    assert "/v1/embeddings" in httpx.get(f"{address}/openapi.json").json()["paths"]


def test_an_artifact_that_is_not_sealed_is_not_served(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "shim", "serve", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "has no artifact.json" in done.stderr


def test_a_port_in_use_is_one_line(address: str, tiny_artifact: Path) -> None:
    port = address.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "shim", "serve", str(tiny_artifact), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr
