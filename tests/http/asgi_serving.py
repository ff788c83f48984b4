"""An ASGI application under a real async worker: what the tests of tests/http share.

The application does what the path says; what it saw goes to ``seen.log`` in the server's folder, one JSON line for each event.
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

from serving import Response
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PARSERS = ("httptools", "h11")
LOOPS = ("uvloop", "asyncio")


def get(path: str, *fields: str) -> bytes:
    """A request that keeps its connection."""
    lines = "".join(f"{field}\r\n" for field in fields)
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()


def serve(arbiter: Arbiter, app: str, *arguments: str, workers: int = 1) -> Server:
    """A server of this source with async workers."""
    arbiter.write("live.py", app)
    return arbiter.serve("-k", "async", *arguments, workers=workers)


@contextlib.contextmanager
def connected(server: Server, data: bytes = b"", timeout: float = 20.0) -> Iterator[Client]:
    """A client that has sent this."""
    with socket.create_connection(server.tcp, timeout=timeout) as sock:
        sock.sendall(data)
        yield Client(sock)


class Client:
    """One end of a connection, which reads responses by their framing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def until(self, mark: bytes) -> bytes:
        """What comes up to and with the mark."""
        while mark not in self.data:
            piece = self.sock.recv(65536)
            assert piece, f"the connection ended before {mark!r}: {self.data!r}"
            self.data += piece
        at = self.data.index(mark) + len(mark)
        taken, self.data = self.data[:at], self.data[at:]
        return taken

    def take(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.data) < size:
            piece = self.sock.recv(65536)
            assert piece, f"the connection ended {size - len(self.data)} bytes too early"
            self.data += piece
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    def response(self, *, bodiless: bool = False) -> Response:
        """The next response, whole: its length must be told by a Content-Length or by chunks."""
        head = self.until(b"\r\n\r\n")
        response = Response(head)
        if bodiless or response.status in (204, 304):
            return response
        if response[b"transfer-encoding"] == b"chunked":
            body = b""
            while True:
                line = self.until(b"\r\n")
                size = int(line, 16)
                body += line
                if not size:
                    break
                body += self.take(size + 2)
            while not body.endswith(b"\r\n\r\n"):
                body += self.until(b"\r\n")
            return Response(head + body)
        length = response[b"content-length"]
        assert length is not None, f"neither a length nor chunks: {head!r}"
        return Response(head + self.take(int(length)))

    def ask(self, data: bytes, *, bodiless: bool = False) -> Response:
        """The response to this."""
        self.send(data)
        return self.response(bodiless=bodiless)

    def rest(self) -> bytes:
        """All that still comes until the connection ends, however that is."""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.sock.recv(65536):
                self.data += piece
        return self.data


def ask(server: Server, data: bytes = GET) -> Response:
    """The response to a request on a connection of its own."""
    with connected(server, data) as client:
        return client.response()


def events(server: Server) -> list[dict[str, Any]]:
    """What the application has noted so far."""
    path = server.folder / "seen.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_event(server: Server, **wanted: Any) -> dict[str, Any]:
    """The first event that has these values, once it is there."""

    def found() -> list[dict[str, Any]]:
        return [event for event in events(server) if wanted.items() <= event.items()]

    return until(found, lambda: f"an event with {wanted}; there are {events(server)}")[0]
