"""Who may ask, how much, and what a request that cannot be meant gets: a running server with keys and small limits."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from shim.text import TextEncoder

KEY = {"authorization": "Bearer sesame"}
JSON = KEY | {"content-type": "application/json"}


@dataclass(frozen=True)
class Route:
    """What all dialects have in common is asked of each route here: a new dialect adds a row for each of its own."""

    body: Callable[[Any], dict[str, Any]]  # around its texts
    message: Callable[[Any], str]  # of an error
    computes: bool = True  # whether the small BERT can answer it, which has no sparse head and is no reranker


def openai_message(answer: Any) -> str:
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    return answer["error"]["message"]


def tei_message(answer: Any) -> str:
    assert answer.keys() == {"error", "error_type"}
    return answer["error"]


def rerank_message(answer: Any) -> str:
    assert answer.keys() == {"message", "error", "error_type"}
    return answer["message"]


def bare_message(answer: Any) -> str:
    assert answer.keys() in ({"error"}, {"message"})
    return next(iter(answer.values()))


ROUTES = {
    "/v1/embeddings": Route(lambda texts: {"input": texts}, openai_message),
    "/embeddings": Route(lambda texts: {"input": texts}, openai_message),
    "/score": Route(lambda texts: {"text_1": "a", "text_2": texts}, openai_message),
    "/v1/score": Route(lambda texts: {"text_1": texts, "text_2": texts}, openai_message),
    "/v2/embed": Route(lambda texts: {"texts": texts}, bare_message),
    "/api/embed": Route(lambda texts: {"input": texts}, bare_message),
    "/api/embeddings": Route(lambda texts: {"prompt": texts[0] if texts == ["a"] else texts}, bare_message, computes=False),
    "/": Route(lambda texts: {"inputs": texts}, tei_message),
    "/predict": Route(lambda texts: {"inputs": texts}, tei_message, computes=False),
    "/decode": Route(lambda texts: {"ids": texts}, tei_message, computes=False),
    "/embed": Route(lambda texts: {"inputs": texts}, tei_message),
    "/embed_all": Route(lambda texts: {"inputs": texts}, tei_message),
    "/embed_sparse": Route(lambda texts: {"inputs": texts}, tei_message, computes=False),
    "/similarity": Route(lambda texts: {"inputs": {"source_sentence": "a", "sentences": texts}}, tei_message),
    "/tokenize": Route(lambda texts: {"inputs": texts}, tei_message),
    "/rerank": Route(lambda texts: {"query": "q", "documents": texts}, rerank_message, computes=False),
    "/v1/rerank": Route(lambda texts: {"query": "q", "texts": texts}, rerank_message, computes=False),
    "/v2/rerank": Route(lambda texts: {"query": "q", "documents": texts}, rerank_message, computes=False),
}


@pytest.fixture(scope="module")
def address(serve: Callable[..., str], tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("first-key\nsesame\n")
    limits = ("--api-key-file", keys, "--max-body", 5000, "--max-inputs", 8, "--cors-origin", "https://a.example")
    return serve(tiny_artifact, *limits)


@pytest.fixture(scope="module")
def routes(address: str) -> dict[str, dict[str, Any]]:
    return httpx.get(f"{address}/openapi.json").json()["paths"]


def test_every_route_but_health_and_docs_wants_the_key(address: str, routes: dict[str, dict[str, Any]]) -> None:
    free = {"/health", "/health/live", "/health/ready", "/ping", "/metrics"}
    for path, methods in routes.items():
        for method in methods:
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "sesame"},
                {"authorization": "Basic sesame"},
            ):
                answer = httpx.request(method, address + path, headers=headers)
                page = (method, path) == ("get", "/")
                assert answer.status_code == (200 if path in free or page else 403 if path == "/admin/reload" else 401), path
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
    assert len(routes) == 28
    assert ROUTES.keys() == {path for path, methods in routes.items() if "post" in methods} - {"/admin/reload"}
    assert httpx.get(f"{address}/docs").status_code == 200
    for key in ("first-key", "sesame"):
        assert httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert httpx.get(f"{address}/v1/models", headers={"authorization": b"Bearer \xff\xfe"}).status_code == 401


def test_a_wrong_key_is_found_before_the_body_is_read(address: str) -> None:
    assert httpx.post(f"{address}/embed", content=b"x" * 100_000).status_code == 401


@pytest.mark.parametrize("path", ROUTES)
def test_a_body_over_the_limit_is_413(address: str, path: str) -> None:
    body = json.dumps({"model": "tiny"} | ROUTES[path].body(["a" * 6000])).encode()
    for content in (body, iter([body[:3000], body[3000:]])):  # announced, and in chunks without a length
        answer = httpx.post(address + path, content=content, headers=JSON)
        assert answer.status_code == 413
        assert "5000 bytes (--max-body)" in ROUTES[path].message(answer.json())


@pytest.mark.parametrize("path", ROUTES)
def test_too_many_texts_are_422(address: str, path: str) -> None:
    answer = httpx.post(address + path, json={"model": "tiny"} | ROUTES[path].body(["a"] * 9), headers=KEY)
    computes = ROUTES[path].computes  # what the model cannot do is seen first
    assert answer.status_code == (422 if computes else 400)
    assert not computes or "at most 8 (--max-inputs)" in ROUTES[path].message(answer.json())


@pytest.mark.parametrize("path", ROUTES)
def test_two_texts_are_answered(address: str, path: str) -> None:
    answer = httpx.post(address + path, json={"model": "tiny"} | ROUTES[path].body(["a", "b"]), headers=KEY)
    assert answer.status_code == (200 if ROUTES[path].computes else 400)


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_of_no_name_is_404(address: str, path: str) -> None:
    answer = httpx.post(address + path, json={"model": "gpt"} | ROUTES[path].body(["a"]), headers=KEY)
    assert answer.status_code == 404
    assert "'gpt' is not served here" in ROUTES[path].message(answer.json())


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "value", ["", [], [""], None, 3, {"a": 1}, [None], [[]], [[1, 2]], [1], [True], "\ud800", ["a", "\ud800"]]
)
def test_what_is_no_text_is_400_everywhere(address: str, path: str, value: object) -> None:
    if path == "/decode" and value in ([[1, 2]], [1]):
        return  # these it is for
    content = json.dumps({"model": "tiny"} | ROUTES[path].body(value))
    answer = httpx.post(address + path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert ROUTES[path].message(answer.json())


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"a"', b'{"query": "\xff"}', b"[" * 4000, b'{"documents": 1e999}']
)
def test_bytes_that_are_no_request_are_400_everywhere(address: str, path: str, content: bytes) -> None:
    answer = httpx.post(address + path, content=content, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert ROUTES[path].message(answer.json())


def test_truncation_is_said_or_refused(address: str) -> None:
    long = "word " * 200
    body = {"model": "tiny", "input": ["a", long]}
    answer = httpx.post(f"{address}/v1/embeddings", json=body, headers=KEY)
    assert [item["truncated"] for item in answer.json()["data"]] == [False, True]
    answer = httpx.post(f"{address}/v1/embeddings", json=body | {"truncate": False}, headers=KEY)
    assert answer.status_code == 422
    assert "text 1 has more than the 128 tokens" in answer.json()["error"]["message"]
    answer = httpx.post(f"{address}/embed", json={"inputs": ["a", long, long]}, headers=KEY)
    assert answer.headers["x-truncated"] == "1,2"
    assert httpx.post(f"{address}/embed", json={"inputs": long, "truncate": False}, headers=KEY).status_code == 422
    left, right = (
        httpx.post(f"{address}/embed", json={"inputs": long + "end", "truncation_direction": side}, headers=KEY).json()
        for side in ("Left", "Right")
    )
    assert left != right


def test_a_long_list_of_what_is_no_text_is_told_of_its_first(
    address: str, tiny_artifact: Path, serve: Callable[..., str]
) -> None:
    roomy = serve(tiny_artifact)
    for path, name in (("/rerank", "documents"), ("/rerank", "texts"), ("/v1/embeddings", "heads")):
        body = {"model": "tiny", "query": "q", "input": "a", name: [1] * 300_000}
        answer = httpx.post(roomy + path, json=body, timeout=60)
        assert answer.status_code == 400
        assert f"{name}.0" in answer.text, "and of no other"
        assert len(answer.content) < 500


def test_tokenize_shows_no_more_than_can_be_written_at_once(tiny_artifact: Path, serve: Callable[..., str]) -> None:
    address = serve(tiny_artifact)
    answer = httpx.post(f"{address}/tokenize", json={"inputs": ["a " * 100_000] * 2})
    assert answer.status_code == 422
    assert "over 262144 characters" in answer.json()["error"]
    assert len(httpx.post(f"{address}/tokenize", json={"inputs": "a " * 100_000}, timeout=60).json()[0]) == 100_002


def test_cors_is_for_the_origins_named(address: str) -> None:
    for origin, wanted in (("https://a.example", "https://a.example"), ("https://b.example", None)):
        headers = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        answer = httpx.options(f"{address}/embed", headers=headers)
        assert answer.headers.get("access-control-allow-origin") == wanted


def test_a_model_for_another_task_or_none_of_it(address: str) -> None:
    body = {"query": "q", "documents": ["a"]}
    assert httpx.post(f"{address}/v1/rerank", json=body | {"model": "tiny"}, headers=KEY).status_code == 400
    assert httpx.post(f"{address}/v1/rerank", json=body, headers=KEY).status_code == 404


def test_the_log_is_json_without_texts_and_keys(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "shim", "serve", str(tiny_artifact), "--port", "0", "--api-key", "sesame"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    first = server.stderr.readline()
    found = re.search(r'running on (http://[^\s"]+)', first)
    assert found
    httpx.post(f"{found[1]}/v1/embeddings?q=secret", json={"model": "tiny", "input": "secret"}, headers=KEY)
    httpx.post(f"{found[1]}/v1/embeddings", json={"model": "secret", "input": ["secret", 3]}, headers=KEY)
    httpx.get(f"{found[1]}/secret", headers=KEY)
    httpx.get(f"{found[1]}/v1/models/secret", headers={"authorization": "Bearer secret"})
    server.terminate()
    lines = [json.loads(line) for line in [first, *server.stderr.read().splitlines()]]
    assert server.wait(20) == 0
    assert "secret" not in json.dumps(lines)
    assert "sesame" not in json.dumps(lines)
    requests = [line for line in lines if line["message"] == "request"]
    assert [line["status"] for line in requests] == [200, 404, 404, 401]
    assert requests[0]["tokens"] == len(TextEncoder(tiny_artifact, 128).encode(["secret"])[0].ids)
    assert requests[0].keys() >= {"time", "level", "route", "seconds", "model", "texts", "truncated"}


def test_on_a_terminal_it_says_what_is_served_where_with_which_key_and_what_to_try(tiny_artifact: Path) -> None:
    ours, its = pty.openpty()
    key = "sesame-and-more"
    command = [sys.executable, "-m", "shim", "serve", str(tiny_artifact), "--port", "0", "--api-key", key]
    server = subprocess.Popen(command, stderr=its, stdout=subprocess.DEVNULL)
    with open(ours, encoding="utf-8") as terminal:
        served, where, trial = (terminal.readline().rstrip() for _ in range(3))
        assert re.fullmatch(r"Serving  tiny-onnx-32bit \(pass, worst cosine [01]\.\d{5}\)", served)
        found = re.fullmatch(r"at       (http://127.0.0.1:\d+), which is a page to try them; with the key sesa…", where)
        assert found
        assert "sealport" in httpx.get(found[1]).text
        given = os.environ | {"SEALPORT_API_KEY": key}
        done = subprocess.run(["bash", "-c", trial.removeprefix("Try ")], capture_output=True, text=True, env=given, timeout=60)
        assert len(json.loads(done.stdout)["data"][0]["embedding"]) == 64
        lines = [terminal.readline().rstrip() for _ in range(2)]
        server.terminate()
        assert re.fullmatch(r"\d\d:\d\d:\d\d request route=/ status=200 seconds=\S+", lines[0])
        assert re.fullmatch(r"\d\d:\d\d:\d\d request route=/v1/embeddings status=200 .*texts=1 .*", lines[1])
        assert key not in "".join([served, where, trial, *lines])
        assert server.wait(20) == 0
    os.close(its)
