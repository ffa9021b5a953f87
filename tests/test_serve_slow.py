"""Clients that keep a running server waiting, and one that is to end meanwhile."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from support.connections import BODY, JSON, answered, connect, connected, head, length
from support.servers import Server, Started


def test_silent_connections_make_room(start: Callable[..., Server]) -> None:
    server = start("--max-connections", 24)
    with httpx.Client() as polite, connected(server, 200) as silent:
        for connection in silent[::3]:
            connection.sendall(head("/v1/embeddings", "Content-Length: 100"))
        for _ in range(20):
            answer = polite.post(f"{server.url}/v1/embeddings", content=BODY, headers=JSON)
            assert answer.status_code == 200
        assert server.figure("connections ") <= 24 + 16
        assert server.ready() == 200
    server.until(lambda: any("--max-connections" in line for line in server.lines))


def test_where_all_places_are_at_work_there_is_one_for_health(start: Callable[..., Server]) -> None:
    server = start("--max-connections", 4, "--max-queue", 8)
    server.fault.write_text("hold")
    with connected(server, 4) as working:
        for connection in working:
            connection.sendall(head("/v1/embeddings", length(BODY)) + BODY)
        server.until(lambda: server.figure("queue_requests") == 4)
        assert server.ready() == 200
        answer = server.embed("text")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "too many connections (--max-connections)"
        server.fault.unlink()
        assert [answered(connection)[0] for connection in working] == [200] * 4
    assert server.embed("text").status_code == 200


def test_files_are_few_and_connections_fewer(tiny_artifact: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))

    server = Started([sys.executable, "-m", "shim", "serve", str(tiny_artifact)], preexec_fn=few)
    try:
        with connected(server, 350):
            assert httpx.post(f"{server.url}/v1/embeddings", content=BODY, headers=JSON).status_code == 200
        assert any("limit of open files" in line for line in server.lines)
    finally:
        server.end()
        server.ended()


def at_best(seconds: Callable[[], float], limit: float) -> float:
    """The least of up to three times, of which the first under the limit will do: what holds up a single one is the machine."""
    took = seconds()
    return took if took < limit else min(took, seconds(), seconds())


def drip(connection: socket.socket) -> None:
    """Lines of a head, for at least four seconds."""
    for _ in range(40):
        connection.sendall(b"a:b\r\n")
        time.sleep(0.1)


def test_a_slow_client_has_an_end(start: Callable[..., Server]) -> None:
    server = start("--request-timeout", 1)
    with connected(server, 4) as (silent, heading, sending, dripping):
        heading.sendall(head()[:-2])
        sending.sendall(head("/embed", "Content-Length: 100") + b"{")
        dripping.sendall(b"GET /health HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            drip(dripping)
        assert silent.recv(1) == b""
        assert answered(heading)[0] == 408
        status, body = answered(sending)
        assert (status, json.loads(body)["error_type"]) == (408, "Validation")
    server.until(lambda: any('"route": "/embed", "status": 408' in line for line in server.lines))


def test_an_answer_that_is_not_read_is_given_up(start: Callable[..., Server]) -> None:
    server = start("--request-timeout", 1, "--max-body", 4_000_000)
    body = json.dumps({"inputs": ["many words " * 60] * 300}).encode()
    with connect(server) as connection:
        connection.sendall(head("/embed_all", length(body)) + body)
        server.until(lambda: server.figure("held_bytes") > 5e6)
        server.until(lambda: server.figure("held_bytes") == 0, 6)
        assert server.embed("text").status_code == 200
    with httpx.Client() as reader:  # slowly, but read
        assert len(reader.post(f"{server.url}/embed_all", content=body, headers=JSON, timeout=60).json()) == 300


def test_bytes_are_held_within_a_limit_and_small_requests_beside_them(start: Callable[..., Server]) -> None:
    server = start("--max-held", 4_000_000)
    body = b" " * 1_900_000
    with connected(server, 12) as connections:
        for connection in connections:
            connection.sendall(head("/v1/embeddings", length(body)) + body[:-10])
        server.until(lambda: server.figure('requests_total{route="/v1/embeddings",status="429"}') == 11)
        assert server.figure("held_bytes") < 2_000_000, "a client may hold half"
        assert server.embed("text").status_code == 200
    server.until(lambda: server.figure("held_bytes") == 0)
    large = {"model": "tiny", "input": ["a " * 100_000]}
    assert httpx.post(f"{server.url}/v1/embeddings", json=large, timeout=60).status_code == 200


def test_sigterm_ends_what_is_half_sent_at_once(start: Callable[..., Server]) -> None:
    server = start("--drain-timeout", 300)
    with connected(server, 3) as (silent, heading, sending):
        heading.sendall(head()[:-2])
        sending.sendall(head("/embed", "Content-Length: 100") + b"{")
        server.until(lambda: server.figure("connections ") == 4)
        server.end()
        status, body = answered(sending)
        assert (status, json.loads(body)) == (503, {"error": "the server is stopping", "error_type": "Unhealthy"})
        assert answered(heading)[0] == 503
        assert silent.recv(1) == b""
        assert server.process.wait(90) == 0


def test_the_end_comes_within_the_drains_time(start: Callable[..., Server]) -> None:
    def seconds() -> float:
        server = start("--drain-timeout", 3)
        server.fault.write_text("hold")
        with connect(server) as connection:
            connection.sendall(head("/v1/embeddings", length(BODY)) + BODY)
            server.until(lambda: server.figure("queue_requests") == 1)
            started = time.monotonic()
            server.end()
            server.code = 1
            assert answered(connection)[0] == 503
            assert server.process.wait(60) == 1
            server.fault.unlink()
            return time.monotonic() - started

    assert at_best(seconds, 3.2) < 3.2


def test_a_log_that_nobody_reads_stops_neither_requests_nor_the_end(tiny_artifact: Path, tmp_path: Path) -> None:
    def seconds() -> float:
        read, write = os.pipe()
        command = [sys.executable, "-m", "shim", "serve", str(tiny_artifact), "--port", "0", "--drain-timeout", "1"]
        with subprocess.Popen(command, stderr=write) as process:
            os.close(write)
            url = json.loads(os.read(read, 4096).split(b"\n")[0])["address"]
            with httpx.Client(timeout=60) as client:
                for _ in range(1000):  # some 200 KB of lines, of which a pipe takes 64
                    assert client.get(f"{url}/none").status_code == 404
            started = time.monotonic()
            process.terminate()
            assert process.wait(60) == 0
            ended = time.monotonic()
        os.close(read)
        return ended - started

    assert at_best(seconds, 1.15) < 1.15, "and holds up no end"


def test_sigterm_answers_what_is_whole_before_what_is_half_sent(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("slow 0.7")
    with connect(server) as connection:
        connection.sendall(head("/v1/embeddings", length(BODY)) + BODY + head()[:-2])
        server.until(lambda: server.figure("queue_requests") == 1)
        server.end()
        assert answered(connection)[0] == 200


def test_signals_that_go_on_change_no_exit_code(start: Callable[..., Server]) -> None:
    server = start()
    while server.process.poll() is None:
        server.end()
        time.sleep(0.0005)
    assert server.process.returncode == 0
