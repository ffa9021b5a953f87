"""What a client sends over a connection of its own, too much and too little: to a running server."""

import json
import socket
from collections.abc import Callable

import httpx
import pytest
from support.connections import BODY, JSON, answered, connect, connected, ended, head, length, resident
from support.servers import Server

CHUNKED = head("/embed", "Transfer-Encoding: chunked") + b"1\r\n{\r\n"
ENDLESS = {
    "one header": (head()[:-2] + b"X-A: ", b"a" * 50_000, 431),
    "headers": (head()[:-2], b"a:\r\n" * 10_000, 431),
    "a URL": (b"GET /", b"a" * 50_000, 414),
    "empty lines": (b"", b"\r\n" * 20_000, 431),
    "one trailer": (CHUNKED + b"0\r\na: ", b"a" * 50_000, 431),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n" * 10_000, 431),
    "a chunk's extension": (CHUNKED + b"1;a=", b"a" * 50_000, 431),
}


@pytest.mark.parametrize("cause", ENDLESS)
def test_what_has_no_end_is_refused_while_memory_stays(start: Callable[..., Server], cause: str) -> None:
    server = start("--api-key", "sesame")
    before = resident(server)
    first, more, status = ENDLESS[cause]
    with connect(server) as connection:
        connection.sendall(first)
        try:
            for _ in range(2500):
                connection.sendall(more)
        except ConnectionError:
            pass
        else:
            pytest.fail("over 100 MB were taken")
    assert resident(server) - before < 5e6
    with connect(server) as connection:  # the answer is there for a client that reads
        connection.sendall(first + more * 2)
        found, body = answered(connection)
        assert found == status
        assert "65536 bytes" in body.decode() or "100 headers" in body.decode()
        assert ended(connection)


def test_a_head_within_the_limits_is_served(start: Callable[..., Server]) -> None:
    server = start()
    with connect(server) as connection:
        for lines in ([f"X-{number}: a" for number in range(97)], ["X-A: " + "a" * 65_000]):
            connection.sendall(head("/v1/embeddings", length(BODY), *lines) + BODY)
            assert answered(connection)[0] == 200


def test_requests_ahead_of_their_answers_are_few(start: Callable[..., Server]) -> None:
    server = start()
    one = head(method="GET", path="/health/live")
    with connect(server) as connection:
        connection.sendall(one * 12)
        found = b""
        while found.count(b"HTTP/1.1 200") < 12:
            found += connection.recv(1 << 16)
    before = resident(server)
    with connected(server, 50) as connections:
        for connection in connections:
            connection.sendall(one * 3000)
        for connection in connections:
            assert ended(connection)
        assert resident(server) - before < 30e6


def test_a_length_with_thousands_of_zeros_is_a_length(start: Callable[..., Server]) -> None:
    with connect(start()) as connection:
        connection.sendall(head("/v1/embeddings", f"Content-Length: {'0' * 5000}{len(BODY)}") + BODY)
        assert answered(connection)[0] == 200


@pytest.mark.parametrize("close", [(), ("Connection: close",)])
def test_a_body_over_the_limit_is_sent_whole_and_its_answer_read(start: Callable[..., Server], close: tuple[str, ...]) -> None:
    with connect(start("--api-key", "sesame")) as connection:
        for key, status in ((("Authorization: Bearer sesame",), 413), ((), 401)):
            body = b" " * 20_000_000
            with connect_again(connection) as own:
                own.sendall(head("/v1/embeddings", length(body), *close, *key) + body)
                assert answered(own)[0] == status


def connect_again(connection: socket.socket) -> socket.socket:
    return socket.create_connection(connection.getpeername(), timeout=30)


def test_a_client_that_closes_its_side_gets_its_answer(start: Callable[..., Server]) -> None:
    server = start("--batch-tokens", 8)
    server.fault.write_text("slow 1.5")
    with connect(server) as connection:
        connection.sendall(head("/v1/embeddings", length(BODY)) + BODY)
        connection.shutdown(socket.SHUT_WR)
        assert answered(connection)[0] == 200
        assert ended(connection)


def test_head_is_get_without_its_body(start: Callable[..., Server]) -> None:
    server = start()
    for path in ("/health", "/v1/models", "/metrics"):
        found = httpx.head(server.url + path)
        assert (found.status_code, found.content) == (200, b"")
    assert int(httpx.head(f"{server.url}/health").headers["content-length"]) == len(httpx.get(f"{server.url}/health").content)
    assert httpx.head(f"{server.url}/embed").status_code == 405


def test_a_slash_at_the_end_is_passed_over(start: Callable[..., Server]) -> None:
    server = start("--api-key", "sesame")
    key = {"authorization": "Bearer sesame"}
    assert httpx.post(f"{server.url}/v1/embeddings/", content=BODY, headers=JSON).status_code == 401
    assert httpx.post(f"{server.url}/v1/embeddings/", content=BODY, headers=JSON | key).status_code == 200
    assert httpx.get(f"{server.url}/health/").status_code == 200
    assert httpx.post(f"{server.url}/admin/reload/", json={"model": "tiny"}).status_code == 401


def test_only_the_names_given_are_answered(start: Callable[..., Server]) -> None:
    server = start("--allowed-host", "a.example", "--allowed-host", "[::1]")
    for host, status in (("a.example", 200), ("A.EXAMPLE:80", 200), ("[::1]:8080", 200), ("b.example", 400), ("", 400)):
        found = httpx.get(f"{server.url}/v1/models", headers={"host": host})
        assert found.status_code == status, host
        assert httpx.get(f"{server.url}/health", headers={"host": host}).status_code == 200, "its prober knows an address only"
    assert (
        httpx.get(f"{server.url}/v1/models", headers={"host": "b.example"}).json()["error"]["type"] == "invalid_request_error"
    )


def test_a_body_in_crumbs_is_refused_and_one_in_small_chunks_is_not(start: Callable[..., Server]) -> None:
    server = start()
    texts = json.dumps({"model": "tiny", "input": ["a " * 100_000]}).encode()
    for size, status in ((1, 400), (8, 200)):
        chunks = b"".join(
            b"%x\r\n%s\r\n" % (len(part), part) for part in (texts[i : i + size] for i in range(0, len(texts), size))
        )
        with connect(server) as connection:
            connection.sendall(head("/v1/embeddings", "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n")
            assert answered(connection)[0] == status
