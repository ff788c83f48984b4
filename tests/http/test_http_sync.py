"""The sync worker as a real server, over real sockets."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
from serving import Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import os, sys, time

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/boom":
        raise RuntimeError("secret detail")
    if path == "/exit":
        sys.exit(3)
    if path == "/read":
        body = environ["wsgi.input"].read()
    elif path == "/large":
        body = b"x" * int(environ["QUERY_STRING"])
    elif path == "/pieces":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"x" * 300_000] * int(environ["QUERY_STRING"]))
    elif path == "/busy":
        open(f"held-{os.getpid()}", "w").close()
        time.sleep(1.5)
        body = b"busy"
    elif path == "/sleep":
        time.sleep(30)
    else:
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def serve(arbiter: Arbiter, *arguments: str, workers: int = 1) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve(*arguments, workers=workers)


@contextlib.contextmanager
def connected(server: Server, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(data)
        yield client


def everything(client: socket.socket) -> bytes:
    data = bytearray()
    while piece := client.recv(65536):
        data += piece
    return bytes(data)


def ask(server: Server, data: bytes = GET) -> Response:
    with connected(server, data) as client:
        return Response(everything(client))


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_one_request_is_served_and_the_connection_closed(arbiter: Arbiter, parser: str) -> None:
    server = serve(arbiter, "--http", parser)

    for _ in range(3):
        response = ask(server)
        assert (response.status, response[b"connection"]) == (200, b"close")
        assert int(response.body) == server.workers()[0].pid


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200, 431),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET /boom HTTP/1.1\r\nHost: a\r\n\r\n", 500),
        (b"GET /exit HTTP/1.1\r\nHost: a\r\n\r\n", 500),
    ],
)
def test_every_error_is_a_complete_response_and_the_worker_goes_on(arbiter: Arbiter, raw: bytes, status: int) -> None:
    server = serve(arbiter, "--limit-request-body", "1000")
    server.expect("secret detail", "SystemExit")
    (worker,) = server.workers()

    response = ask(server, raw)

    assert response.status == status
    assert response[b"content-type"] == b"text/plain; charset=utf-8"
    assert response[b"connection"] == b"close"
    assert response.body.startswith(b"%d " % status)
    assert b"secret" not in response.body
    assert ask(server).body == b"%d" % worker.pid
    assert server.count("Traceback") == (status == 500)


def test_a_client_that_says_nothing_and_leaves_is_not_worth_a_word(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    before = server.log()
    with connected(server):
        pass
    with connected(server, b"GET / HT"):
        pass
    with connected(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert ask(server).status == 200
    assert server.log() == before


def test_a_trickled_head_ends_at_its_deadline_and_is_told_so(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--head-timeout", "0.3")
    began = time.monotonic()
    with connected(server) as client:
        with contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
                client.send(bytes([byte]))
                client.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    data = client.recv(65536)
                    break
            else:
                pytest.fail("it was let trickle on")
        client.settimeout(20)
        data += everything(client)

    assert time.monotonic() - began < 5
    assert Response(data).status == 408


def test_a_silent_client_is_closed_at_the_deadline_without_a_word(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--head-timeout", "0.2")

    assert ask_raw(server, b"") == b""
    assert ask(server).status == 200


def ask_raw(server: Server, data: bytes) -> bytes:
    with connected(server, data) as client:
        return everything(client)


@pytest.mark.parametrize(("write_timeout", "size"), [("1", 5), pytest.param("20", 100_000, id="more than is waited for aside")])
def test_a_slow_body_costs_its_client_the_connection_and_not_the_worker(
    arbiter: Arbiter, write_timeout: str, size: int
) -> None:
    server = serve(arbiter, "--timeout", "1", "--write-timeout", write_timeout)
    (worker,) = server.workers()

    response = ask(server, b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (size - 1))

    assert response.status == 408
    assert ask(server).body == b"%d" % worker.pid


PARTS = [
    (b"", GET),
    (b"GET / HT", b"TP/1.1\r\nHost: a\r\n\r\n"),
    (b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo", b"dy"),
    (b"POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbo", b"dy\r\n0\r\n\r\n"),
]


def test_who_is_slow_keeps_nobody_waiting_and_is_served_in_the_end(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with contextlib.ExitStack() as stack:
        slow = [(stack.enter_context(connected(server, first)), rest) for first, rest in PARTS * 25]
        for _ in range(20):
            assert ask(server).status == 200
        for client, rest in slow:
            client.sendall(rest)
        for client, _ in slow:
            assert Response(everything(client)).status == 200


LARGE = 12_000_000
"""As in test_http_threaded: more than a kernel takes from a server at once."""


@pytest.mark.parametrize("path", [f"/large?{LARGE}", f"/pieces?{LARGE // 300_000}"])
def test_who_does_not_read_keeps_nobody_waiting_and_has_it_whole_in_the_end(arbiter: Arbiter, path: str) -> None:
    server = serve(arbiter, "--write-timeout", "600")
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(2):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            reader.settimeout(20)
            reader.connect(server.tcp)
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            readers.append(reader)
        for _ in range(10):
            assert ask(server).status == 200
        for reader in readers:
            assert Response(everything(reader)).body == b"x" * LARGE


def test_a_worker_that_retires_serves_who_has_begun_to_ask_and_leaves_who_is_silent(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with contextlib.ExitStack() as stack:
        slow = [(stack.enter_context(connected(server, first)), rest) for first, rest in PARTS]
        assert ask(server).status == 200  # those before it have been accepted
        server.send(signal.SIGTERM)
        server.wait_log("stopping:")
        (silent, _), *begun = slow
        assert everything(silent) == b""
        for client, rest in begun:
            client.sendall(rest)
            assert Response(everything(client)).status == 200


def test_what_comes_while_the_worker_serves_another_is_not_late(arbiter: Arbiter) -> None:
    """Two are waited for; a request takes longer than `head_timeout`, and the worker is to retire after it; both send meanwhile."""
    server = serve(arbiter, "--head-timeout", "1")
    busy = GET.replace(b"/", b"/busy", 1)
    with connected(server) as silent, connected(server, GET[:20]) as half, connected(server, busy) as other:
        server.wait_held()
        silent.sendall(GET)
        half.sendall(GET[20:])
        server.send(signal.SIGTERM)

        for client in (other, silent, half):
            assert Response(everything(client)).status == 200


def test_where_there_is_no_room_who_is_silent_for_longest_makes_it(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--worker-connections", "20")
    with contextlib.ExitStack() as stack:
        begun = [stack.enter_context(connected(server, b"GET / HT")) for _ in range(5)]
        silent = [stack.enter_context(connected(server)) for _ in range(30)]
        assert ask(server).status == 200
        assert everything(silent[0]) == b""
        for client in [*begun, silent[-1]]:
            client.sendall(GET if client is silent[-1] else b"TP/1.1\r\nHost: a\r\n\r\n")
            assert Response(everything(client)).status == 200


def test_an_address_has_no_more_connections_than_it_may(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--limit-connections-per-address", "3")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(server, b"GET / HT"))
        assert ask(server, b"GET / HT").status == 503
        assert ask(server).status == 200, "it is served at once: nobody waits for it"


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_refused_client_that_is_still_sending_gets_its_answer(arbiter: Arbiter, size: int) -> None:
    """Without lingering the kernel resets the connection, and the answer is lost."""
    server = serve(arbiter, "--limit-request-body", "10")
    with connected(server) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.sendall(b"x" * size)

        assert Response(everything(client)).status == 413


def test_a_pipelining_client_gets_the_first_answer_and_no_reset(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server, GET * 50) as client:
        response = Response(everything(client))

    assert (response.status, response[b"connection"]) == (200, b"close")
    assert len(response.body) < 10


def test_100_continue_comes_when_the_head_is_let_in(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with connected(server, b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n") as client:
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hi")
        assert Response(everything(client)).body == b"hi"


def test_the_access_log_has_a_line_for_each_request(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--access-logfile", "-", "--access-logformat", '%(h)s "%(r)s" %(s)s %(B)s')
    server.expect("secret detail")
    ask(server, b"GET /read?a=b HTTP/1.1\r\nHost: a\r\n\r\n")
    ask(server, b"GET /boom HTTP/1.1\r\nHost: a\r\n\r\n")
    server.stop()

    assert server.out().splitlines() == [
        '127.0.0.1 "GET /read?a=b HTTP/1.1" 200 0',
        '127.0.0.1 "GET /boom HTTP/1.1" 500 0',
    ]
