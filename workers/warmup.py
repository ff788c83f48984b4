"""Requests that a worker makes of its own application before it is ready: caches filled, connections opened, faults found.

They take the same way as a client's, from bytes to bytes, without a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.interfaces.wsgi import Exchange
from arbiter.workers.protocols.http1 import Connection

if TYPE_CHECKING:
    from arbiter.workers.contract import Log
    from arbiter.workers.protocols.http1 import HeadParser
    from arbiter.workers.protocols.limits import Limits


class _Nowhere:
    """A `Transport` to nobody."""

    def receive(self) -> bytes:
        raise Disconnected("a warm-up request has no body")

    def send(self, *parts: bytes) -> None:
        pass

    send_soon = send_last = send

    def settle(self) -> None:
        pass

    def send_file(self, fd: int, offset: int, count: int) -> int:  # noqa: ARG002 - as `Transport` has it
        return count


def warm_up(app: Any, path: str, environ: dict[str, Any], parse: HeadParser, limits: Limits, log: Log) -> int:
    """The status with which a WSGI application answers ``GET path``; a failure is in the log already.

    Raises:
        Refusal: `path` is not a request's target.
    """
    connection = Connection(parse, limits)
    connection.feed(request_of(path))
    request = connection.next_request()
    if request is None:
        raise AssertionError("a whole head is a request or a refusal")
    exchange = Exchange(request, connection, _Nowhere(), log, persistent=False)
    exchange.run(app, {**environ, "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "0"})
    return exchange.status


def request_of(path: str) -> bytes:
    """The request, as a client would send it."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: arbiter-warmup\r\n\r\n".encode("ascii")
