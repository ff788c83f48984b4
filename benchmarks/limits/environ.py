"""What WSGI adds to the bare loop: httptools, an environ, the application, a head. No server: environ.py PORT MODULE:ATTR.

It checks nothing and has no deadlines; a request has to arrive whole, as wrk sends it.
"""

from __future__ import annotations

import importlib
import io
import select
import socket
import sys
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

KNOWN = {b"Content-Type": "CONTENT_TYPE", b"Content-Length": "CONTENT_LENGTH"}


class Client:
    """A connection, and httptools' callbacks."""

    def __init__(self, sock: socket.socket, app: Callable[..., Any], base: dict[str, Any]) -> None:
        self.sock, self.app, self.base = sock, app, base
        self.parser = httptools.HttpRequestParser(self)
        self.head: list[str] = []

    def on_message_begin(self) -> None:
        self.environ = self.base.copy()
        self.closing = False

    def on_url(self, url: bytes) -> None:
        path, _, query = url.partition(b"?")
        self.environ["PATH_INFO"] = path.decode("latin-1")
        self.environ["QUERY_STRING"] = query.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        key = KNOWN.get(name)
        if key is None:
            key = KNOWN[name] = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        self.environ[key] = value.decode("latin-1")

    def start_response(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.head = [f"HTTP/1.1 {status}\r\n", *[f"{name}: {value}\r\n" for name, value in headers]]

    def on_message_complete(self) -> None:
        self.environ["REQUEST_METHOD"] = self.parser.get_method().decode()
        self.closing = not self.parser.should_keep_alive()
        body = b"".join(self.app(self.environ, self.start_response))
        self.head.append("Connection: close\r\n\r\n" if self.closing else "\r\n")
        self.sock.send("".join(self.head).encode("latin-1") + body)


def main(port: int, target: str) -> None:
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    base = {
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, Client] = {}
    while True:
        for descriptor, _ in epoll.poll():
            client = clients.get(descriptor)
            if client is None:
                sock, _ = listener.accept()
                sock.setblocking(False)
                clients[sock.fileno()] = Client(sock, app, base)
                epoll.register(sock, select.EPOLLIN)
                continue
            try:
                data = client.sock.recv(65536)
            except ConnectionError:
                data = b""
            if data:
                client.parser.feed_data(data)
            if not data or client.closing:
                del clients[descriptor]
                client.sock.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
