"""A WebSocket client with a plain socket, for what a well-behaved library never does."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from wire import close, frame, frames_of_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def handshake(path: str = "/", *fields: str) -> bytes:
    """A sound request for a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: a.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
    ]
    return "".join(line + "\r\n" for line in lines).encode() + b"\r\n"


class RawWebSocket:
    """One end of a WebSocket, which reads frames one at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self._data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _more(self) -> bool:
        piece = self.sock.recv(1 << 18)
        self._data += piece
        return bool(piece)

    def read_head(self) -> bytes:
        """The head of the answer to the handshake."""
        while b"\r\n\r\n" not in self._data:
            assert self._more(), f"the connection ended in the head: {self._data!r}"
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.head = head
        return head

    def read_frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame."""
        while True:
            size = _size(self._data)
            if size and len(self._data) >= size:
                data, self._data = self._data[:size], self._data[size:]
                ((first, payload),) = frames_of_server(data)
                return first, payload
            assert self._more(), f"the connection ended in a frame: {self._data[:200]!r}"

    def rest(self) -> bytes:
        """What still comes until the server ends the connection."""
        while self._more():
            pass
        data, self._data = self._data, b""
        return data


def _size(data: bytes) -> int:
    """Bytes of the frame that the data begins with; 0: not known yet."""
    if len(data) < 2:
        return 0
    length = data[1] & 0x7F
    if length < 126:
        return 2 + length
    width = 2 if length == 126 else 8
    return 2 + width + int.from_bytes(data[2 : 2 + width]) if len(data) >= 2 + width else 0


@contextlib.contextmanager
def open_websocket(
    server: Server, path: str = "/", *fields: str, behind: bytes = b"", timeout: float = 30
) -> Iterator[RawWebSocket]:
    """A WebSocket whose handshake the server has answered; `behind` is sent with the handshake."""
    with socket.create_connection(server.tcp, timeout=timeout) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = RawWebSocket(sock)
        client.send(handshake(path, *fields) + behind)
        client.read_head()
        yield client


__all__ = ["RawWebSocket", "close", "frame", "handshake", "open_websocket"]
