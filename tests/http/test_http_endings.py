"""How connections end that carry one response: whatever their clients send, and however they go, they have it whole."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from serving import Response

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import os, time

class Lingering:
    def __init__(self, name):
        self.name = name

    def __iter__(self):
        yield b"0123456789"

    def close(self):
        until = time.monotonic() + 30
        while not os.path.exists(self.name) and time.monotonic() < until:
            time.sleep(0.01)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    environ["wsgi.input"].read()
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    fields = [("Content-Type", "text/plain")]
    if path == "/stream":
        start_response("200 OK", fields)
        return iter([b"01234", b"56789"])
    start_response("200 OK", [*fields, ("Content-Length", "10")])
    if path == "/lingering":
        return Lingering(environ["QUERY_STRING"])
    return [b"0123456789"] if path == "/list" else iter([b"01234", b"56789"])
"""
CLOSE = b"Connection: close\r\n"
BODIES = {b"/list": b"0123456789", b"/pieces": b"0123456789", b"/stream": b"0123456789", b"/empty": b""}


def serve(arbiter: Arbiter, kind: str) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve("-k", kind, workers=1)


def ask(server: Server, *segments: bytes, half_close: bool = False) -> bytes:
    """All that comes back; a reset after it is no loss of it."""
    data = b""
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            with contextlib.suppress(ConnectionError):  # it has been answered and closed before
                client.sendall(segment)
        if half_close:
            with contextlib.suppress(OSError):  # as above
                client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                data += piece
    return data


def reset(server: Server, request: bytes) -> None:
    """Send a request, and go away so that the answer finds nobody."""
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(request)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("kind", "fields"), [("sync", CLOSE), ("sync", b""), ("threaded", CLOSE), ("async", CLOSE)])
def test_a_client_has_its_whole_response_whatever_it_sends_besides(arbiter: Arbiter, kind: str, fields: bytes) -> None:
    """Nothing that comes behind a request, with it or a moment later, makes the kernel destroy the response."""
    server = serve(arbiter, kind)
    for path, body in BODIES.items():
        get = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, fields)
        post = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n%b\r\n" % (path, fields)
        for segments in (
            (get,),
            (get[:20], get[20:]),
            (get[:-1], get[-1:]),
            (post + b"hello",),
            (post, b"hello"),
            (post, b"hel", b"lo\r\n"),
            (get + get,),
            (get, get),
            (get + b"\0garbage",),
            (get, b"\0garbage"),
        ):
            for half_close in (False, True):
                response = Response(ask(server, *segments, half_close=half_close))

                assert (response.body, response[b"connection"]) == (body, b"close"), segments
        reset(server, get)
        reset(server, post)


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_a_short_response_and_the_connections_end_come_in_one_packet(arbiter: Arbiter, kind: str) -> None:
    """Result: the client that is woken for the response sees the end at the same time."""
    server = serve(arbiter, kind)
    for path in (b"/list", b"/empty"):
        with socket.create_connection(server.tcp, timeout=20) as client:
            waiting = select.poll()
            waiting.register(client, select.POLLIN | select.POLLRDHUP)
            client.sendall(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, CLOSE))
            ((_, events),) = waiting.poll(20_000)

            assert events & select.POLLRDHUP
            assert Response(client.recv(65536)).body == BODIES[path]


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_an_application_that_goes_on_after_its_response_keeps_nobody_waiting_for_it(arbiter: Arbiter, kind: str) -> None:
    """Result: the client has response and end while ``close()`` of the application still runs."""
    server = serve(arbiter, kind)
    go = arbiter.folder / "go"

    response = Response(ask(server, b"GET /lingering?%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (str(go).encode(), CLOSE)))

    assert response.body == b"0123456789"
    assert not go.exists()
    go.touch()
    assert Response(ask(server, b"GET /list HTTP/1.1\r\nHost: a\r\n%b\r\n" % CLOSE)).status == 200
