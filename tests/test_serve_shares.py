"""What one client sends costs the others little: each cause against a live server, from an address of its own."""

import asyncio
import dataclasses
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import made
from support.servers import Server

import shim
from shim import contents
from shim.serve.clients import client_of
from shim.serve.faults import Kind, Refusal
from shim.serve.metrics import Metrics
from shim.serve.models import Models
from shim.serve.pace import Pace
from shim.serve.served_model import ServedModel
from shim.serve.settings import Settings
from shim.serve.turns import CLIENTS, Shares, Turns

HOSTILE = "127.0.0.2"
WORD = ("abcdefghij" * 10)[:99] + " "


def ask(server: Server, body: object, path: str = "/v1/embeddings", source: str = HOSTILE) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=120) as client:
        return client.post(server.url + path, content=content, headers={"content-type": "application/json"})


def embed(server: Server, texts: object, **more: Any) -> httpx.Response:
    return ask(server, {"model": "tiny", "input": texts} | more)


def process(server: Server, figure: str) -> float:
    page = httpx.get(f"{server.url}/metrics").text
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith(f"process_{figure} "))


def resident(server: Server) -> float:
    return process(server, "resident_memory_bytes")


def test_a_long_text_costs_what_counts_of_it(start: Callable[..., Server]) -> None:
    server = start()
    server.embed("warm")
    before, spent = resident(server), process(server, "cpu_seconds_total")
    for text in (WORD * 19_900, "! " * 990_000, "word\n" * 300_000):
        answer = embed(server, [text])
        assert answer.json()["data"][0]["truncated"] is True
    assert process(server, "cpu_seconds_total") - spent < 3, "whole, they take some 10 s"
    assert resident(server) - before < 60_000_000
    answer = embed(server, ["!" * 1_900_000])
    assert answer.status_code == 422
    assert "over 65536 characters without a place where they can be cut" in answer.json()["error"]["message"]


def test_one_clients_many_texts_are_one_turn_of_two(start: Callable[..., Server]) -> None:
    server = start("--batch-tokens", 128)
    server.fault.write_text("slow 0.2")
    with ThreadPoolExecutor(13) as pool:
        hostile = [pool.submit(embed, server, ["many words are in this text"] * 100) for _ in range(12)]
        server.until(lambda: server.figure("queue_requests") == 12)
        for _ in range(2):
            server.fault.write_text("hold")
            polite = pool.submit(server.embed, "short")
            server.until(lambda: server.figure("queue_requests") == 13)
            before = len(server.batches())
            server.fault.write_text("slow 0.5")
            assert polite.result().status_code == 200
            assert len(server.batches()) - before <= 3
        server.fault.unlink()
        assert {request.result().status_code for request in hostile} == {200}


def test_a_client_that_fills_its_share_does_not_fill_that_of_others(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 4)
    server.fault.write_text("hold")
    with ThreadPoolExecutor(20) as pool:
        hostile = [pool.submit(embed, server, f"text {number}") for number in range(16)]
        server.until(lambda: server.figure("queue_requests") == 4)
        polite = [pool.submit(server.embed, f"text {number}") for number in range(4)]
        server.until(lambda: server.figure("queue_requests") == 8)
        server.fault.unlink()
        assert [request.result().status_code for request in polite] == [200] * 4
        assert sorted(request.result().status_code for request in hostile)[-12:] == [429] * 12


def test_a_large_body_that_there_is_no_room_for_is_refused_before_it_comes(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 4)
    server.fault.write_text("hold")
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1990000\r\n\r\n"
    port = int(server.url.rsplit(":", 1)[1])
    with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", port), 20, (HOSTILE, 0)) as connection:
        first = pool.submit(embed, server, "many words are in this text " * 2500)  # three of four
        server.until(lambda: server.figure("queue_requests") == 1)
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 429 ")
        server.fault.unlink()
        assert first.result().status_code == 200


def test_a_batch_is_short_while_two_share_a_model_whose_pace_nobody_knows_yet() -> None:
    pace = Pace()
    pace.asked("one")
    assert pace.budget(4096) == 4096
    pace.asked("another")
    assert pace.budget(4096) == 64


def test_a_short_text_does_not_wait_for_anothers_long_one(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("hang")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(embed, server, "poison " * 200)
        server.until(lambda: (server.figure("queue_requests"), server.figure("queue_texts")) == (1, 0))
        assert [server.embed("honest").status_code for _ in range(3)] == [200] * 3
        assert not long.done()
        server.fault.unlink()
        assert long.result().status_code == 200


def test_a_giant_takes_the_place_of_many(start: Callable[..., Server]) -> None:
    server = start("--max-queue", 4)
    server.fault.write_text("hold")
    giant = ["many words are in this text " * 5] * 1000
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(embed, server, giant)
        server.until(lambda: server.figure("queue_requests") == 1)
        assert embed(server, giant).status_code == 429
        assert embed(server, "short").status_code == 429
        polite = pool.submit(server.embed, "short")
        server.until(lambda: server.figure("queue_requests") == 2)
        server.fault.unlink()
        assert (first.result().status_code, polite.result().status_code) == (200, 200)
    assert embed(server, giant).status_code == 200


def test_to_show_tokens_is_counted_and_bounded(start: Callable[..., Server]) -> None:
    server = start()
    server.embed("warm")
    before = resident(server)
    body = {"inputs": ["! " * 131_000]}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: ask(server, body, "/tokenize"), range(32)))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert resident(server) - before < 300_000_000
    assert ask(server, {"inputs": "Hello"}, "/tokenize").status_code == 200


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embed", "/similarity"])
def test_a_long_list_is_counted_first(start: Callable[..., Server], path: str) -> None:
    server = start()
    items = ",".join(['"a"'] * 480_000)
    inner = f'{{"source_sentence": "a", "sentences": [{items}]}}' if path == "/similarity" else f"[{items}]"
    name = "input" if path == "/v1/embeddings" else "inputs"
    spent = process(server, "cpu_seconds_total")
    answer = ask(server, f'{{"model": "tiny", "{name}": {inner}}}'.encode(), path)
    assert answer.status_code == 422
    assert process(server, "cpu_seconds_total") - spent < 1.5, "checked one by one, they take some 3 s"
    assert "at most 2048 (--max-inputs)" in answer.text
    names = ",".join(f'"{number}": 1' for number in range(120_000))
    answer = ask(server, f'{{"model": "tiny", {names}}}'.encode(), path)
    assert answer.status_code == 400
    assert "120001 names in the body" in answer.text
    quoted = embed(server, ['"name": 1, ' * 20_000])
    assert quoted.status_code == 200, "a text may hold as many as it likes"


def test_what_is_refused_is_not_said_back(start: Callable[..., Server]) -> None:
    server = start()
    for field in ("task", "prompt_name", "model"):
        answer = embed(server, "text", **{field: "x" * 900_000})
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 1500


@pytest.fixture(scope="module")
def reranker() -> Any:
    served = ServedModel(partial(shim.load, made("qwen3-reranker-0.6b", "onnx", 32)[0]), Settings(max_body=40_000), Metrics())
    yield served
    served.close()


def test_a_query_is_tokenized_once(reranker: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    honest = contents.Contents.of_short

    def counting(self: Any, texts: list[str]) -> Any:
        read.append(sum(map(len, texts)))
        return honest(self, texts)

    monkeypatch.setattr(contents.Contents, "of_short", counting)
    query = "the ferry " * 60
    ranked = asyncio.run(reranker.rerank(query, ["soup", "boat"] * 50, None, True))
    assert len(ranked) == 100
    assert sum(read) < 5000, "600 characters of query, 100 documents"


def test_a_query_for_many_documents_is_refused(reranker: ServedModel) -> None:
    with pytest.raises(Refusal, match="100 texts, each with 900 characters") as refused:
        asyncio.run(reranker.rerank("the ferry" * 100, ["soup"] * 100, None, True))
    assert refused.value.kind is Kind.LIMIT


def test_a_name_goes_before_another_ones_alias(tiny_artifact: Path) -> None:
    models = Models(Settings(), Metrics())
    models.add(partial(shim.load, tiny_artifact))
    try:
        (one,) = models.listed.values()
        other = models.listed["tiny"] = dataclasses.replace(one, name="tiny")
        assert models.names.find("tiny", "") == (other, None)
        del models.listed["tiny"]
        assert models.names.find("tiny", "") == (one, None)
    finally:
        models.close()


def test_shares() -> None:
    shares = Shares(4)
    for number in range(CLIENTS):
        assert not shares.full(f"client {number}", 100)
        shares.take(f"client {number}", 100)
        assert shares.full(f"client {number}")
    assert shares.full("one more")
    for number in range(CLIENTS):
        shares.give(f"client {number}", 100)
    assert (shares.total, shares.held) == (0, {})


def test_turns_go_round_the_clients_whoever_leaves() -> None:
    async def run() -> list[str]:
        turns, seen = Turns(), []

        async def work(client: str) -> None:
            await turns.take(client)
            seen.append(client)
            await asyncio.sleep(0)
            turns.give()

        await turns.take("a")
        tasks = [asyncio.create_task(work(client)) for client in "aaabbc"]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        tasks[2].cancel()
        turns.give()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.free
        return seen

    assert "".join(asyncio.run(run())) == "baca"


def test_who_is_a_client() -> None:
    def of(host: str, key: str = "", keyed: bool = False) -> str:
        return client_of({"client": (host, 1), "headers": [(b"authorization", f"Bearer {key}".encode())]}, keyed)

    assert of("192.0.2.1", "a") == of("192.0.2.1", "b") != of("192.0.2.2", "a")
    assert of("192.0.2.1", "a", True) == of("192.0.2.2", "a", True) != of("192.0.2.1", "b", True)
    assert of("2001:db8::1") == of("2001:db8::ffff:2") != of("2001:db8:0:1::1")
    assert of("::ffff:192.0.2.1") == of("192.0.2.1")
