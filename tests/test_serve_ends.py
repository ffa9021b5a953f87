"""How a server and its connections end, and what clients do that is not quite HTTP/1.1."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest
from support.servers import FAULTY, Server

BODY = b'{"model": "tiny", "input": "Hello"}'


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(length: int, *more: str) -> bytes:
    lines = ["POST /v1/embeddings HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def refused(server: Server) -> bool:
    """Whether it takes no connections any more."""
    try:
        connect(server).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_answers_what_was_accepted(start: Callable[..., Server]) -> None:
    server = start("--batch-tokens", 8)
    server.fault.write_text("hold")
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(server.embed, f"text {number}") for number in range(12)]
        server.until(lambda: server.figure("queue_requests") == 12)
        server.fault.write_text("slow 0.7")
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: refused(server))
        with pytest.raises(httpx.ConnectError):
            server.embed("too late")
        server.fault.unlink()
        assert [answer.result().status_code for answer in answers] == [200] * 12
    assert server.process.wait(10) == 0


def test_the_drain_has_an_end(start: Callable[..., Server]) -> None:
    server = start("--drain-timeout", 1, "--batch-tokens", 8)
    server.fault.write_text("hold")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.embed, f"text {number}") for number in range(8)]
        server.until(lambda: server.figure("queue_requests") == 8)
        server.fault.write_text("slow 0.7")
        before = len(server.batches())
        server.process.send_signal(signal.SIGTERM)
        server.code = 1  # as not everything was answered
        assert server.process.wait(60) == server.code
        assert len(server.batches()) - before <= 4, "as many as are begun in the drain's second, whatever else the machine does"
        assert {answer.result().status_code for answer in answers} <= {200, 503}
        late = [answer.result() for answer in answers if answer.result().status_code == 503]
        assert late[0].json()["error"]["message"] == "the model is stopping"
    server.until(lambda: f'"unanswered": {len(late)}' in server.lines[-1])


def test_a_signal_while_a_model_is_loaded_ends_quietly(tiny_artifact: Path, tmp_path: Path) -> None:
    fault, begun = tmp_path / "fault", tmp_path / "fault.count"
    fault.write_text("hold")
    command = [sys.executable, str(FAULTY), "serve", str(tiny_artifact), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"FAULT": str(fault)}) as process:
        assert process.stderr is not None
        while not begun.exists():
            time.sleep(0.02)
        process.terminate()
        assert (process.stderr.read(), process.wait()) == ("", 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_first_moment_is_an_end_like_any_other(start: Callable[..., Server], number: int) -> None:
    server = start()
    server.process.send_signal(number)
    assert server.process.wait(30) == 0


def test_a_second_signal_changes_nothing(start: Callable[..., Server]) -> None:
    server = start()
    for _ in range(3):
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert server.process.wait(30) == 0


def test_ctrl_c_twice_ends_a_server_whose_batch_hangs(start: Callable[..., Server]) -> None:
    server = start()
    server.fault.write_text("hold")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.embed, "text")
        server.until(lambda: server.figure("queue_requests") == 1)
        for _ in range(2):
            server.process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        server.code = 1
        assert server.process.wait(20) == 1
        assert answer.exception() is not None or answer.result().status_code >= 500


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_offer_of_http_2_is_passed_over(start: Callable[..., Server], pieces: int) -> None:
    """What Java's client and `curl --http2` send with their first request."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    with connect(start()) as connection:
        for _ in range(2):  # the connection stays good
            connection.sendall(head(len(BODY), *offer) + (BODY if pieces == 1 else b""))
            if pieces == 2:
                time.sleep(0.1)
                connection.sendall(BODY)
            answer = HTTPResponse(connection)
            answer.begin()
            assert answer.status == 200
            assert b"embedding" in answer.read()  # whole, so that the next one begins with its own status


def test_a_client_that_leaves_while_sending_is_no_error_of_ours(start: Callable[..., Server]) -> None:
    server = start()
    with connect(server) as connection:
        connection.sendall(head(1000) + b'{"model": ')
        time.sleep(0.2)
    server.until(lambda: any('"status": 499' in line for line in server.lines))
    page = httpx.get(f"{server.url}/metrics").text
    assert 'status="500"' not in page
    assert 'kind="500"' not in page
