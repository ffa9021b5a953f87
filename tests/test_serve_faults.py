"""What a running server does when something goes wrong, each brought about: faulty_server.py breaks batches on demand."""

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.servers import Server


@pytest.mark.parametrize("kind", ["raise", "oom"])
def test_a_batch_that_fails_fails_alone(start: Callable[..., Server], kind: str) -> None:
    server = start()
    server.fault.write_text(kind)
    assert server.embed("honest").status_code == 200
    for failures in (1, 2, 3):
        answer = server.embed("poison")
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "server_error"
        assert server.ready() == (503 if failures == 3 else 200)
    assert server.embed("honest").status_code == 200
    assert server.ready() == 200
    assert "secret" not in "".join(server.lines)
    assert "poison" not in "".join(server.lines)
    assert server.figure("failed_batches_total") == 3


def test_a_model_that_failed_is_ready_again_without_a_client(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("raise")
    for _ in range(3):
        server.embed("poison")
    assert server.ready() == 503
    server.until(lambda: server.ready() == 200)


def test_nan_is_an_error_of_its_text_and_the_model_stays_ready(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("nan")
    for _ in range(5):
        answer = server.embed(["honest", "poison"])
        assert answer.status_code == 500
        assert "NaN" in answer.json()["error"]["message"]
        assert "null" not in answer.json()["error"]["message"]
        assert server.ready() == 200
    assert server.embed("honest").status_code == 200
    assert server.figure("not_finite_total") == 5


def test_a_model_that_gives_nan_for_a_sound_text_too_is_unready_until_it_does_not(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("rot")
    assert server.embed("honest").status_code == 500
    assert server.ready() == 503
    assert httpx.get(f"{server.url}/health").json()["error_type"] == "Unhealthy"
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    server.fault.unlink()
    assert server.embed("honest").status_code == 200, "finite outputs are given at once"
    server.until(lambda: server.ready() == 200)


def test_what_nobody_foresaw_is_500_in_the_figures_and_the_log_too(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("bug")
    answer = server.embed("text")
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "internal error (ZeroDivisionError)"
    assert server.figure('requests_total{route="/v1/embeddings",status="500"}') == 1
    assert server.figure('errors_total{kind="internal"}') == 1
    server.until(lambda: any('"status": 500' in line for line in server.lines))
    server.fault.unlink()
    assert server.embed("text").status_code == 200


def test_a_text_that_breaks_its_batch_does_not_break_those_of_others(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("hold")
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(server.embed, "one")
        server.until(lambda: server.figure("queue_requests") == 1)
        honest = [pool.submit(server.embed, f"text {number}") for number in range(7)]
        poison = pool.submit(server.embed, "poison")
        server.until(lambda: server.figure("queue_requests") == 9)
        server.fault.write_text("raise")
        assert [answer.result().status_code for answer in (first, *honest)] == [200] * 8
        assert poison.result().status_code == 500
    assert server.ready() == 200


@pytest.mark.parametrize("kind", ["hang", "exit"])
def test_a_model_that_hangs_or_whose_thread_ends_is_started_anew(start: Callable[..., Server], kind: str) -> None:
    server = start("--batch-timeout", 1)
    before = server.embed("text").json()
    server.fault.write_text(kind)
    answer = server.embed("poison")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["message"] == "the model is started anew"
    server.until(lambda: server.ready() == 200)
    assert server.embed("text").json() == before
    assert any("started anew" in line for line in server.lines)
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    server.fault.unlink()


def test_a_full_queue_is_429_and_says_when_to_come_back(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 4)
    server.fault.write_text("slow 0.3")
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(server.embed, (f"text {number}" for number in range(24))))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert sum(answer.status_code == 200 for answer in answers) >= 4
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["type"] == "rate_limit_error"
    assert server.figure("queue_requests") == 0


def test_what_a_full_queue_refuses_takes_no_memory(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 2)
    server.fault.write_text("hold")

    def resident() -> float:
        page = httpx.get(f"{server.url}/metrics").text
        return next(float(line.split()[1]) for line in page.splitlines() if line.startswith("process_resident_memory_bytes "))

    large = {"model": "tiny", "input": ["word " * 300_000]}
    with ThreadPoolExecutor(2) as pool, httpx.Client(timeout=60) as client:
        waiting = [pool.submit(server.embed, f"text {number}") for number in range(2)]
        server.until(lambda: server.figure("queue_requests") == 2)
        client.post(f"{server.url}/v1/embeddings", json=large)
        before = resident()
        statuses = [client.post(f"{server.url}/v1/embeddings", json=large).status_code for _ in range(100)]
        assert set(statuses) == {429}
        assert resident() - before < 10_000_000, "150 MB of bodies were refused"
        # Neither waits for room in the queue.
        assert client.post(f"{server.url}/tokenize", json={"inputs": "Hello"}).status_code == 200
        assert client.get(f"{server.url}/v1/models").status_code == 200
        server.fault.unlink()
        assert [request.result().status_code for request in waiting] == [200, 200]


def test_a_client_that_leaves_frees_its_place_before_compute(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 2, "--batch-tokens", 16)
    server.fault.write_text("slow 0.5")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.embed, "stays")
        server.until(lambda: server.figure("queue_requests") == 1)
        before = len(server.batches())
        body = json.dumps({"model": "tiny", "input": [f"long text number {n}" for n in range(100)]}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            head = ["POST /v1/embeddings HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}"]
            leaving.sendall("\r\n".join([*head, "", ""]).encode() + body)
            server.until(lambda: server.figure("queue_requests") == 2)
        server.until(lambda: server.figure("queue_texts") == 0)
        assert first.result().status_code == 200
    assert len(server.batches()) - before <= 3, "texts of a client that had left were computed"
    assert server.embed("next").status_code == 200


def test_a_long_request_does_not_starve_a_short_one(start: Callable[..., Server]) -> None:
    server = start("--batch-tokens", 128)
    server.fault.write_text("slow 0.2")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.embed, ["many words are in this text"] * 400)
        server.until(lambda: server.figure("queue_texts") > 100)
        before = len(server.batches())
        assert server.embed("short").status_code == 200
        assert len(server.batches()) - before <= 5
        assert not long.done()
        assert len(long.result().json()["data"]) == 400
