"""Clients that would hold a worker up, all at once, over real sockets: nobody else waits, and nothing is left of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import statistics
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest
from limits import limited
from serving import Response
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
def application(environ, start_response):
    body = b"x" * 12_000_000 if environ["PATH_INFO"] == "/large" else environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
ASGI_APP = """
async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b""})
"""
COUNTING_APP = """
from itertools import count
served = count()
def application(environ, start_response):
    body = b"%d" % next(served)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
LARGE = GET.replace(b"/", b"/large", 1)
UNFINISHED = {
    "nothing": b"",
    "half a line": b"GET / HT",
    "half a head": GET[:-2],
    "half a body": POST + b"Content-Length: 10\r\n\r\nabc",
    "a body that was announced": POST + b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n",
    "half a chunk": CHUNKED + b"5;a=b\r\nabc",
    "half a trailer": CHUNKED + b"0\r\nX: ",
    "a kept connection": GET,
    "many requests, and a half": GET * 20 + GET[:10],
}
ENDLESS = {
    "request line": (b"GET /", b"a" * 65536, 414),
    "field": (b"GET / HTTP/1.1\r\nX: ", b"a" * 65536, 431),
    "fields": (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 10_000, 431),
    "empty lines": (b"", b"\r\n" * 30_000, 400),
    "chunk size": (CHUNKED, b"0" * 65536, 400),
    "chunk extension": (CHUNKED + b"1;", b"a" * 65536, 400),
    "chunk extensions": (CHUNKED, b"1;aaaaaaaaaaaaaaaa\r\nx\r\n" * 2000, 400),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 10_000, 431),
}
FLOOD = 12_000_000
"""Bytes of something endless: many times what any limit allows, and sent before a worker has done with lingering."""
ROOM = 10_000_000
"""Bytes by which a worker may have grown after all floods: less than one of them."""


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(server: Server, data: bytes = b"", receive_buffer: int = 0) -> socket.socket:
    client = socket.socket()
    client.settimeout(20)
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(server.tcp)
    with contextlib.suppress(OSError):  # refused and closed in the middle of it
        client.sendall(data)
    return client


def is_served(server: Server) -> bool:
    with connect(server, GET) as client:
        return Response(client.recv(65536)).status == 200


def seconds_used(pid: int) -> float:
    """CPU time of a process."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_two_threads_serve_beside_thousands_of_clients_who_say_nothing_or_half(arbiter: Arbiter, descriptors: None) -> None:
    """1. 2,700 clients in the midst of something, and three who do not read. 2. Others ask. 3. The 2,703 leave.

    Result: others are served at once, by two threads, which have no work with those who wait; and nothing is left.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve(
        "-k", "threaded", "--threads", "2", "--worker-connections", "4000", "--keep-alive", "60", "--head-timeout", "60",
        "--response-buffer", "16MiB", workers=1,
    )  # fmt: skip
    (worker,) = server.workers()
    before = descriptors_of(worker.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            for data in UNFINISHED.values():
                stack.enter_context(connect(server, data))
        for _ in range(3):
            stack.enter_context(connect(server, LARGE, receive_buffer=4096))
        until(lambda: descriptors_of(worker.pid) >= before + 2703, "all of them to be accepted")
        assert is_served(server)
        used, began = seconds_used(worker.pid), time.monotonic()
        time.sleep(1)  # nothing is to happen
        share = (seconds_used(worker.pid) - used) / (time.monotonic() - began)

        assert share < 0.3  # a thread that spins has all of it
        assert all(is_served(server) for _ in range(20))
        assert len(os.listdir(f"/proc/{worker.pid}/task")) == 3
    until(lambda: descriptors_of(worker.pid) == before, "its descriptors to be what they were")
    assert [one.pid for one in server.workers()] == [worker.pid]


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_clients_that_reset_in_the_midst_of_anything_leave_nothing_behind(arbiter: Arbiter, kind: str) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", kind, *(("--threads", "2") if kind == "threaded" else ()), workers=1)
    (worker,) = server.workers()
    before, log = descriptors_of(worker.pid), server.log()
    for data in [*UNFINISHED.values(), LARGE]:
        for linger in (struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)):
            for _ in range(10):
                with connect(server, data) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    assert is_served(server)
    until(lambda: descriptors_of(worker.pid) == before, "its descriptors to be what they were")
    assert [one.pid for one in server.workers()] == [worker.pid]
    assert server.log() == log


@pytest.mark.parametrize("kind", ["sync", "asgi in sync"])
def test_who_has_an_answer_and_goes_on_sending_holds_no_worker(arbiter: Arbiter, kind: str) -> None:
    """1. Clients send more than is taken, are refused, and neither stop nor close. 2. Somebody asks.

    Result: nobody has waited for them (2 s each); they get their answers all the same.
    """
    arbiter.write("live.py", APP if kind == "sync" else ASGI_APP)
    server = arbiter.serve("-k", "sync", "--limit-request-body", "1000", "--timeout", "100", workers=1)
    refused = POST + b"Content-Length: 9999999\r\n\r\n" + b"x" * 300_000
    unread = LARGE[:-2].replace(b"GET /large", b"POST /unread") + b"Content-Length: 900\r\n\r\n" + b"x" * 300_000
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(connect(server, data)) for _ in range(20) for data in (refused, unread)]
        assert all(is_served(server) for _ in range(5))
        took = time.monotonic() - began
        statuses = [client.recv(12) for client in flood]

    assert set(statuses) == {b"HTTP/1.1 413", b"HTTP/1.1 200"}
    assert took < 40  # of 80


@pytest.mark.parametrize("kind", ["sync", "threaded"])
def test_what_has_no_end_is_refused_and_not_kept(arbiter: Arbiter, kind: str) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", kind, *(("--threads", "2") if kind == "threaded" else ()), workers=1)
    (worker,) = server.workers()
    assert is_served(server)
    before = resident(worker.pid)
    for name, (first, unit, status) in ENDLESS.items():
        with connect(server, first) as client:
            with contextlib.suppress(OSError):
                for _ in range(FLOOD // len(unit)):
                    client.sendall(unit)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                answer = client.recv(65536)
            assert (name, answer[:12]) == (name, b"HTTP/1.1 %d" % status)
    assert is_served(server)
    grown = resident(worker.pid) - before
    assert grown < ROOM


@pytest.mark.parametrize("kind", ["threaded", "async"])
def test_who_is_slow_makes_room_when_all_places_are_taken(arbiter: Arbiter, kind: str) -> None:
    """1. All places have clients at a head; then at a body, with more who wait; then nobody has a descriptor left. 2. One asks.

    Result: it is served, long before the deadlines of those who hold the places.
    """
    arbiter.write("live.py", APP)
    server = arbiter.serve(
        "-k", kind, "--threads", "2", "--worker-connections", "20", "--keep-alive", "600", "--head-timeout", "600",
        "--write-timeout", "600", workers=1,
    )  # fmt: skip
    (worker,) = server.workers()
    for data in (b"", UNFINISHED["half a head"], UNFINISHED["half a chunk"]):
        with contextlib.ExitStack() as stack:
            for _ in range(22):
                stack.enter_context(connect(server, data))

            assert is_served(server), data
    until(lambda: is_served(server), "those to be gone")
    with limited(worker.pid, "nofile", descriptors_of(worker.pid) + 8), contextlib.ExitStack() as stack:
        for data in (b"", GET):
            for _ in range(10):
                stack.enter_context(connect(server, data))

            assert is_served(server), data
    assert [one.pid for one in server.workers()] == [worker.pid]


def test_who_pipelines_without_end_has_one_turn_while_others_wait(arbiter: Arbiter) -> None:
    """1. Eight clients send request upon request, and read. 2. Another asks again and again, and is told how many were served.

    Result: few of the others' requests come before each of its own, not all that lie here (1,500 of each).
    """
    arbiter.write("live.py", COUNTING_APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", workers=1)

    def send(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client.sendall(GET * 2000)

    def read(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(1 << 18):
                pass

    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connect(server))
            for does in (send, read):
                threading.Thread(target=does, args=(client,), daemon=True).start()
        counted = []
        with connect(server) as other:
            for _ in range(60):
                other.sendall(GET)
                counted.append(int(other.recv(65536).rpartition(b"\r\n")[2]))
    between = statistics.median(later - earlier for earlier, later in itertools.pairwise(counted[30:]))

    assert between < 300  # 9; 3,000 when who pipelines is served first


def test_who_does_not_read_or_stops_in_a_body_keeps_no_thread_that_others_need(arbiter: Arbiter) -> None:
    """1. Clients do not read 12 MB each, first with disk enough; others stop behind 64 KiB of a body. 2. Somebody asks.

    Result: it is served, long before any deadline.
    """
    arbiter.write("live.py", APP)
    for *spool, clients, data in (
        ("--response-spool", "1GiB", 20, LARGE),
        ("--response-spool", "8MiB", 12, LARGE),
        (20, POST + b"Content-Length: 9000000\r\n\r\n" + b"x" * 100_000),
    ):
        server = arbiter.serve(
            "-k", "threaded", "--threads", "2", "--io-threads", "2", "--write-timeout", "600", *spool, workers=1
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(connect(server, data, receive_buffer=4096))
            assert all(is_served(server) for _ in range(20))
        until(lambda: is_served(server), "those to be gone")  # noqa: B023 - called at once
        server.stop()
