"""The two servers' connections: the hub's, and its storage's, which knows no tokens."""

import contextlib
import hashlib
import io
import re
import socket
import socketserver
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from support.hub.answers import Account, Answer, Call, Refusal, as_json, find
from support.hub.faults import Cut, Request

if TYPE_CHECKING:
    from support.hub import Hub

PIECE = 1 << 16  # bytes that are read or written at once


class Listener(ThreadingHTTPServer):
    """One of the two servers, on a free port."""

    request_queue_size = 64
    server_bind = socketserver.TCPServer.server_bind  # the other one asks for this machine's name, which may take seconds

    def __init__(self, hub: "Hub", name: str):
        super().__init__(("127.0.0.1", 0), Connection)
        self.hub, self.name = hub, name
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections: set[socket.socket] = set()

    def process_request(self, request: socket.socket, address: object) -> None:  # type: ignore[override]
        """A client came."""
        self.connections.add(request)
        super().process_request(request, address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """A client went."""
        self.connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        """No connection stays: a client in this process would go on with it when another server has the port."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # it went by itself
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """A mistake in the hub itself is told at its end; a client may go away when it likes."""
        if not isinstance(error := sys.exception(), ConnectionError):
            self.hub.errors.append(error)


class Connection(BaseHTTPRequestHandler):
    """Requests one after the other: each is read whole, answered, and spoiled by the first fault that it matches."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = PIECE
    server: Listener

    def respond(self) -> None:
        """One request."""
        hub, parts = self.server.hub, urlsplit(self.path)
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        self.entry = Request(self.server.name, self.command, unquote(parts.path), unquote(parts.query), asked)
        self.fault = hub.fault(self.entry)
        hub.log.append(self.entry)
        call = Call(hub, parts.path, parse_qs(parts.query), self.headers)
        if self.command == "PUT":
            call.upload = hub.store.scratch()
        try:
            self.receive(call)
            answer = self.answer(call)
            if self.fault and self.fault.lose_answer:
                self.fault.cut()
            self.send(answer)
        except Cut:
            self.close_connection = True
            self.wfile.flush()
        finally:
            if call.upload:
                call.upload.unlink(missing_ok=True)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = respond

    def receive(self, call: Call) -> None:
        """The request's body."""
        left, digest = int(self.headers.get("Content-Length", 0)), hashlib.sha256()
        with call.upload.open("wb") if call.upload else io.BytesIO() as file:
            while size := self.allowed(min(left, PIECE), self.entry.received, "PUT", "POST"):
                piece = self.rfile.read(size)
                if not piece:
                    raise Cut  # the client went away
                self.entry.received += len(piece)
                left -= len(piece)
                digest.update(piece)
                file.write(piece)
            if isinstance(file, io.BytesIO):
                call.body = file.getvalue()
        call.sha256 = digest.hexdigest()

    def allowed(self, size: int, done: int, *methods: str) -> int:
        """How many of the next `size` bytes of a body may pass, where `done` have; 0 at its end. A cut happens here."""
        if not self.fault or self.fault.cut_after is None or self.command not in methods:
            return size
        if not size or done >= self.fault.cut_after:
            self.wfile.flush()
            self.fault.cut()
        return min(size, self.fault.cut_after - done)

    def answer(self, call: Call) -> Answer:
        """The fault's answer, or what the routes answer."""
        try:
            if self.fault and self.fault.status:
                self.fault.happen()
                raise Refusal(self.fault.status, "This is a fault that a test asked for.", headers=self.fault.headers)
            call.account = self.account()
            self.entry.user = call.account.name if call.account else ""
            handler, found = find(self.command, call.path)
            with self.server.hub.store.lock:
                return handler(call, **found)
        except Refusal as refusal:
            answer = as_json({"error": refusal.message, **refusal.more}, refusal.status)
            message = refusal.message.encode("ascii", "replace").decode()
            answer.headers |= {"X-Error-Message": message, "X-Error-Code": refusal.code, **refusal.headers}
            return answer

    def account(self) -> Account | None:
        """Whose token came along."""
        sent = self.headers.get("Authorization")
        if sent is None:
            return None
        if self.server.name == "storage":  # as S3 says
            raise Refusal(400, "Only one auth mechanism allowed: an address that is signed takes no token")
        account = self.server.hub.tokens.get(sent.removeprefix("Bearer "))
        if not account:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return account

    def send(self, answer: Answer) -> None:
        """The answer; of a file, the range that was asked for."""
        status, size = answer.status, len(answer.body) if isinstance(answer.body, bytes) else answer.body.stat().st_size
        start, end = 0, size
        if not isinstance(answer.body, bytes):
            answer.headers["Accept-Ranges"] = "bytes"
            if match := re.fullmatch(r"(\d+)-(\d*)", self.entry.range):
                start, end = int(match[1]), min(int(match[2] or size) + 1, size)
                status = 206 if start < end else 416
                answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}" if start < end else f"bytes */{size}"
                start = min(start, end)
        self.entry.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(end - start), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        with io.BytesIO(answer.body) if isinstance(answer.body, bytes) else answer.body.open("rb") as file:
            file.seek(start)
            while size := self.allowed(min(end - start, PIECE), self.entry.sent, "GET"):
                piece = file.read(size)
                self.entry.sent += len(piece)
                start += len(piece)
                self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        """The log is the hub's own."""
