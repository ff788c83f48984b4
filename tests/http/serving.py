"""One request through an application, over a real socket pair: the client's bytes in, the server's bytes and log out."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Self

from arbiter.workers.contract import Interrupted
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.interfaces.wsgi import Exchange
from arbiter.workers.interfaces.wsgi_environ import ErrorStream, add_peer, listener_environ, worker_environ
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.slack import Slack
from arbiter.workers.transport import SocketTransport

if TYPE_CHECKING:
    from arbiter.workers.contract import Doing

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
LIMITS = Limits.of(request_line=4094, fields=100, field_size=8190, body=1_000_000)
PATIENCE = 10.0
"""Seconds after which a test has failed that waits for something; nothing waits that long when all is well."""


class Journal:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, text: str) -> None:
        self.lines.append(f"debug: {text}")

    def info(self, text: str) -> None:
        self.lines.append(f"info: {text}")

    def warning(self, text: str) -> None:
        self.lines.append(f"warning: {text}")

    def error(self, text: str) -> None:
        self.lines.append(f"error: {text}")

    def exception(self, text: str) -> None:
        self.lines.append(f"error: {text}\n{traceback.format_exc()}")

    def bind(self, *, worker: int, generation: int) -> Self:  # noqa: ARG002  the protocol says so
        return self

    def reopen(self) -> None: ...

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Serving:
    """A client's end of a connection whose other end serves one request in a thread."""

    def __init__(
        self,
        app: Any,
        *,
        patience: float = PATIENCE,
        persistent: bool = False,
        script_name: str = "",
        parser: str = "httptools",
        send_buffer: int = 0,
    ) -> None:
        self.client, self._server = socket.socketpair()
        self.client.settimeout(PATIENCE)
        if send_buffer:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.log = Journal()
        self.phases: list[Doing] = []
        self.exchange: Exchange | None = None
        self.interrupted: Interrupted | None = None
        self.transport = SocketTransport(self._server, patience=patience, phase=self.phases.append, slack=Slack(0, 0))
        self._app = app
        self._persistent = persistent
        self._parser = parser
        worker = worker_environ(errors=ErrorStream(self.log), multithread=False, multiprocess=True, script_name=script_name)
        self._environ = listener_environ(worker, ("127.0.0.1", 8000))
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.join()

    def join(self) -> Exchange:
        """The exchange, once it is over."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.exchange is not None
        return self.exchange

    def _serve(self) -> None:
        connection = Connection(head_parser(self._parser), LIMITS)
        request = None
        while request is None:
            assert self.transport.has_more(time.monotonic() + PATIENCE)
            connection.feed(self.transport.receive_now() or b"")
            request = connection.next_request()
        environ = self._environ.copy()
        add_peer(environ, ("192.0.2.7", 4711))
        self.exchange = Exchange(request, connection, self.transport, self.log, persistent=self._persistent)
        try:
            self.exchange.run(self._app, environ)
        except Interrupted as error:
            self.interrupted = error
        try:
            while not (self.exchange.reset or self.transport.flush()):  # files are put aside, as in a worker
                select.select([], [self._server], [], PATIENCE)
        except Disconnected as broken:
            self.log.info(str(broken))
        if self.exchange.reset:
            self.transport.reset()
        self.transport.close()

    def send(self, data: bytes) -> None:
        self.client.sendall(data)

    def receive(self, until: bytes = b"") -> bytes:
        """What comes up to and with `until`; all that ever comes if that is empty."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while not (until and until in data) and (piece := self.client.recv(65536)):
                data += piece
        return data


class Response:
    """A response taken apart by the simplest reading of RFC 9112."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.rest = raw.partition(b"\r\n\r\n")
        self.line, *lines = head.split(b"\r\n")
        self.status = int(self.line.split()[1])
        self.fields = [tuple(line.split(b": ", 1)) for line in lines]

    def __getitem__(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.fields if key.lower() == name]
        assert len(values) < 2
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        """The body, its framing undone; AssertionError if that is not complete."""
        if self[b"transfer-encoding"] != b"chunked":
            length = self[b"content-length"]
            assert length is None or int(length) == len(self.rest)
            return self.rest
        body, rest = b"", self.rest
        while True:
            size, line_end, rest = rest.partition(b"\r\n")
            assert line_end, "cut short"
            count = int(size, 16)
            assert rest[count : count + 2] == b"\r\n", "cut short"
            body += rest[:count]
            rest = rest[count + 2 :]
            if not count:
                assert not rest
                return body


def ask(app: Any, raw: bytes = GET, **options: Any) -> tuple[Response, Serving]:
    """The response to a request that is sent whole, and what is known of its serving."""
    with Serving(app, **options) as serving:
        serving.send(raw)
        response = Response(serving.receive())
        serving.join()
    return response, serving
