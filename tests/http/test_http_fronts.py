"""Load that is shed, limits of clients, the uwsgi protocol, and the forms of sockets: each kind of worker, real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import time
from typing import TYPE_CHECKING

import pytest
from serving import Response
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import json, os, time

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/held":
        open("held", "x").close()
        while not os.path.exists("release"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "application/json")])
    told = {key: value for key, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**told, "body": body.decode("latin-1")}).encode()]
"""
GET = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n"
KINDS = [
    ("--worker-class", "sync"),
    ("--worker-class", "threaded", "--threads", "1"),
    ("--worker-class", "async", "--io-threads", "0"),
]


@pytest.fixture(params=KINDS, ids=["sync", "threaded", "async"])
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


def serve(arbiter: Arbiter, *arguments: str, bind: str = "127.0.0.1:0") -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve(*arguments, bind=bind, workers=1)


def everything(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


@contextlib.contextmanager
def connected(server: Server, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(server.tcp, timeout=PATIENCE) as client:
        client.sendall(data)
        yield client


def ask(server: Server, data: bytes) -> Response:
    with connected(server, data) as client:
        return Response(everything(client))


def test_a_request_that_has_waited_too_long_is_shed_before_the_application_runs(
    arbiter: Arbiter, kind: tuple[str, ...]
) -> None:
    """1. The worker is busy. 2. A request waits longer than it may; another has just come when the worker is free again.

    Result: the first is told to come back, the second is served, and so are those that have waited for their own client's
    request: one that came with it, and one that came later.
    """
    server = serve(arbiter, *kind, "--queue-timeout", "0.5", "--forwarded-allow-ips", "127.0.0.1")
    kept = GET.replace(b"close", b"keep-alive")
    with connected(server, kept % (b"/held", b"") + kept % (b"/with", b"")) as held:
        until((server.folder / "held").exists, "a busy worker")
        held.sendall(GET % (b"/after", b""))
        with connected(server, GET % (b"/", b"")) as late:
            time.sleep(1)  # not for luck: it is what the test is about
            server.release()
            assert everything(held).count(b"HTTP/1.1 200") == (1 if "sync" in kind else 3)
            shed = Response(everything(late))
    assert (shed.status, shed[b"retry-after"]) == (503, b"1")
    assert ask(server, GET % (b"/", b"")).status == 200
    for field, status in (
        (b"X-Request-Start: t=%.3f\r\n" % (time.time() - 60), 503),
        (b"X-Queue-Start: t=%.3f\r\n" % time.time(), 200),
    ):
        assert ask(server, GET % (b"/", field)).status == status


def test_the_access_log_tells_how_long_a_request_has_waited(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    unix = f"{arbiter.folder}/web.sock"
    log = ("--access-logfile", "access.log", "--access-logformat", "%(U)s %(queue)s %({arbiter.queue_us}e)s %(id)s")
    server = serve(arbiter, *kind, *log, "--bind", f"unix:{unix}", "--forwarded-allow-ips", "127.0.0.1")
    kept = GET.replace(b"close", b"keep-alive")
    with connected(server, kept % (b"/held", b"") + GET % (b"/with", b"")) as held:
        until((server.folder / "held").exists, "a busy worker")
        with connected(server, GET % (b"/late", b"")) as late:
            time.sleep(1)  # not for luck: it is what the test is about
            server.release()
            everything(held)
            assert b'"arbiter.request_id": "' in everything(late)  # the application is told too
    ask(server, GET % (b"/proxied", b"X-Request-Start: t=%.3f\r\n" % (time.time() - 60)))
    ask(server, GET % (b"/proxied", b"X-Request-Start: t=%.3f\r\n" % (time.time() + 60)))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix)
        client.sendall(GET % (b"/unix", b""))
        everything(client)

    path = server.folder / "access.log"
    until(lambda: path.exists() and "/unix" in path.read_text(), "the last line")
    lines = [line.split() for line in path.read_text().splitlines()]
    assert all(shown == told for _, shown, told, _ in lines)
    wait = {f"{name}{number}": shown for number, (name, shown, *_) in enumerate(lines) if name == "/proxied"}
    wait |= {name: shown for name, shown, *_ in lines if name != "/proxied"}
    past, future = (int(shown) for name, shown in wait.items() if name.startswith("/proxied"))
    assert (past >= 60_000_000, 0 <= future < 60_000_000, wait["/unix"]) == (True, True, "-")
    assert 900_000 <= int(wait["/late"]) < 60_000_000
    assert int(wait["/held"]) < 60_000_000
    assert "sync" in kind or int(wait["/with"]) < int(wait["/late"])  # it has waited for /held in vain, and that is its own


@pytest.mark.parametrize("kind", KINDS[1:], ids=["threaded", "async"])
def test_one_address_has_no_more_connections_than_it_may(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, *kind, "--limit-connections-per-address", "3")
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connected(server, GET.replace(b"close", b"keep-alive") % (b"/", b""))) for _ in range(3)]
        for client in kept:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert ask(server, GET % (b"/", b"")).status == 503
        kept[0].close()
        until(lambda: ask(server, GET % (b"/", b"")).status == 200, "room for another")


WAYS_OUT = {
    "nothing": b"",
    "half a head": b"GET / HT",
    "refused": b"GET / HTTP/1.1\r\n\r\n",
    "refused in its body": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "half a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1234",
    "answered": GET % (b"/", b""),
    "kept": GET.replace(b"close", b"keep-alive") % (b"/", b""),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    "a broken preface": b"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("kind", KINDS[1:], ids=["threaded", "async"])
def test_no_connection_is_counted_any_more_once_it_is_gone_however_it_went(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    """1. Each way out is taken, by an address of its own (a proxy says so). 2. Clients close, or reset, or wait for the end.

    Result: each address has room again, and for no more than it may have.
    """
    limits = ("--limit-connections-per-address", "3", "--head-timeout", "1", "--write-timeout", "1", "--keep-alive", "1")
    server = serve(arbiter, *kind, *limits, "--proxy-protocol", "v1", "--proxy-allow-from", "127.0.0.1")
    headers = {name: b"PROXY TCP4 192.0.2.%d 192.0.2.99 1 2\r\n" % number for number, name in enumerate(WAYS_OUT)}
    for end in ("close", "reset", "timeout"):
        with contextlib.ExitStack() as stack:
            clients = [
                (name, stack.enter_context(connected(server, headers[name] + data)))
                for name, data in WAYS_OUT.items()
                for _ in range(3)
            ]
            for name, client in clients:
                if end == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif end == "timeout":
                    assert (name, b" 503 " in everything(client)) == (name, False)
        for name, header in headers.items():
            until(lambda: ask(server, header + GET % (b"/", b"")).status == 200, f"room after {name}, {end}")  # noqa: B023
    for header in headers.values():
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(connected(server, header + WAYS_OUT["half a head"]))
            until(lambda: ask(server, header + GET % (b"/", b"")).status == 503, "no room for a fourth")  # noqa: B023


def packet(**variables: str) -> bytes:
    body = b""
    for pair in variables.items():
        for text in pair:
            body += struct.pack("<H", len(text)) + text.encode()
    return b"\0" + struct.pack("<H", len(body)) + b"\0" + body


def test_the_uwsgi_protocol_is_spoken_with_who_may_speak_it(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, *kind, "--protocol", "uwsgi")
    base = {"REQUEST_METHOD": "POST", "REQUEST_URI": "/a?b", "HTTP_HOST": "a.example", "CONTENT_LENGTH": "5"}

    response = ask(server, packet(**base, REMOTE_ADDR="192.0.2.1", HTTPS="on", HTTP_X_FORWARDED_FOR="6.6.6.6") + b"hello")
    assert response.status == 200
    assert b'"REMOTE_ADDR": "192.0.2.1"' in response.body
    assert b'"wsgi.url_scheme": "https"' in response.body
    assert b'"body": "hello"' in response.body
    assert ask(server, packet(**{**base, "HTTP_HOST": "a b"})).status == 400
    assert ask(server, GET % (b"/", b"")).status == 400

    other = serve(arbiter, *kind, "--protocol", "uwsgi", "--uwsgi-allow-from", "10.0.0.1")
    assert ask(other, packet(**{**base, "CONTENT_LENGTH": ""})).status == 403


def test_a_unix_sockets_file_has_the_mode_and_the_owner_that_are_wanted(arbiter: Arbiter) -> None:
    arbiter.write("live.py", APP)
    status, words = arbiter.fail("--unix-socket-owner", "nobody-of-this-name", "live", bind="unix:other")
    assert status == 1
    assert "there is no user or group 'nobody-of-this-name'" in words

    owner = ("--unix-socket-owner", "54321:54322") if os.geteuid() == 0 else ()
    serve(arbiter, "--unix-socket-mode", "0660", *owner, bind="unix:sock")
    found = (arbiter.folder / "sock").stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == ((54321, 54322) if owner else (os.geteuid(), os.getegid()))


def test_an_address_for_all_of_ipv6_takes_ipv4_too_unless_it_must_not(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, *kind, bind="[::]:0")
    port = int(server.wait_log(r"listening on http://\[::\]:(\d+)")[1])

    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), timeout=PATIENCE) as client:
            client.sendall(GET % (b"/", b""))
            assert f'"REMOTE_ADDR": "{host}"'.encode() in everything(client)
    only = serve(arbiter, "--ipv6-only", bind="[::]:0")
    port = int(only.wait_log(r"listening on http://\[::\]:(\d+)")[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    with socket.create_connection(("::1", port), timeout=PATIENCE):
        pass
