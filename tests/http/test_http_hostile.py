"""The whole corpus over real sockets: all workers, both parsers, and an application that remembers who was let through."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import TYPE_CHECKING

import pytest
from feeding import PARSERS, REQUESTS, feed, load, whole
from serving import Response

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
calls = []

def application(environ, start_response):
    if environ["PATH_INFO"] == "/calls":
        body = "\\n".join(calls).encode()
        calls.clear()
    else:
        calls.append(environ["REQUEST_METHOD"] + " " + environ["REQUEST_URI"])
        body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""
ASGI_APP = """
calls = []

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("none")
    if scope["path"] == "/calls":
        body = "\\n".join(calls).encode()
        calls.clear()
    else:
        calls.append(scope["method"] + " " + scope["raw_path"].decode())
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
"""
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
"""What follows what is refused: it must not be answered, whoever sent it."""
KINDS = ("sync", "threaded", "async")


def cases(kind: str) -> list[tuple[Path, bytes, object]]:
    return [(path, *load(path)) for path in sorted((REQUESTS / kind).glob("*.http"))]


def serve(arbiter: Arbiter, kind: str, parser: str) -> Server:
    arbiter.write("live.py", ASGI_APP if kind == "async" else APP)
    limit = ("--limit-request-body", "1000000")  # as the corpus has it
    threads = ("--threads", "2") if kind == "threaded" else ()
    return arbiter.serve("-k", kind, *threads, "--http", parser, "--http2", "off", *limit, workers=1)


def talk(server: Server, raw: bytes) -> bytes:
    """All that comes back, until the server closes."""
    data = b""
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(raw)
        with contextlib.suppress(OSError):  # a sync worker may have closed already
            client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65536):
            data += piece
    return data


STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) ")
"""Of a final response. The application gives bodies back that look like requests, and never like responses."""


def statuses(raw: bytes) -> list[int]:
    return [int(status) for status in STATUS_LINE.findall(raw)]


def calls(server: Server) -> list[str]:
    """Who has been let through since this was asked last."""
    return Response(talk(server, b"GET /calls HTTP/1.0\r\n\r\n")).body.decode().split("\n")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_refused_reaches_the_application(arbiter: Arbiter, kind: str, parser: str) -> None:
    """For each byte string of the corpus that is no request, with a good request behind it on the same connection.

    Result: the right status, in a response that says that the connection ends; it ends; the application has seen nothing
    of it, and nothing of what follows.
    """
    server = serve(arbiter, kind, parser)
    for path, raw, status in cases("invalid"):
        answer = talk(server, raw + SMUGGLED)
        *before, last = statuses(answer)
        seen = [call for call in calls(server) if call]

        if kind == "sync" and before == [] and last == 200:  # the first of two was good, and was the last
            assert "body" in feed(parser, whole(raw)).requests[0], path
        else:
            assert (path.name, last, set(before) - {200}) == (path.name, status, set())
            *_, refused = STATUS_LINE.finditer(answer)
            assert Response(answer[refused.start() :])[b"connection"] == b"close"
        if kind == "async":  # it is called before the body is whole, and sees that the client has gone
            assert len(seen) <= len(feed(parser, whole(raw)).requests), path
        else:
            assert (path.name, len(seen)) == (path.name, statuses(answer).count(200))
        assert not [call for call in seen if "smuggled" in call], path


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_valid_request_is_answered_and_what_follows_it_is_not_mistaken(arbiter: Arbiter, kind: str, parser: str) -> None:
    server = serve(arbiter, kind, parser)
    for path, raw, _ in cases("valid"):
        if kind == "async" and b"websocket" in raw.lower():
            continue  # it has a say about its own handshakes there: tests/websocket
        requests = feed(parser, whole(raw)).requests
        last = next((number for number, request in enumerate(requests, 1) if not request["persistent"]), len(requests))
        target = "path" if kind == "async" else "target"  # ASGI's raw_path is without the query
        wanted = [f"{r['method'].decode()} {r[target].decode()}" for r in requests[: 1 if kind == "sync" else last]]

        answer = talk(server, raw)

        assert (path.name, statuses(answer)) == (path.name, [200] * len(wanted))
        assert (path.name, calls(server)) == (path.name, wanted)
