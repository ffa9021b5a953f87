"""Connections of a test's own, to send what no client library would."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPResponse

import httpx

from .servers import Started

BODY = b'{"model": "tiny", "input": "Hello"}'
JSON = {"content-type": "application/json"}


def connect(server: Started) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


@contextmanager
def connected(server: Started, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server)) for _ in range(count)]


def head(path: str = "/v1/embeddings", *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines, "", ""]).encode()


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


def answered(connection: socket.socket) -> tuple[int, bytes]:
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def ended(connection: socket.socket) -> bool:
    """Whether the server closes within the socket's timeout."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return True


def resident(server: Started) -> float:
    page = httpx.get(f"{server.url}/metrics").text
    return next(float(line.split()[1]) for line in page.splitlines() if line.startswith("process_resident_memory_bytes "))
