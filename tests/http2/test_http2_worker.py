"""HTTP/2 under a real async worker: streams at once, windows, trailers, deadlines, errors, drain, and how it is offered."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from http2_serving import APP, peer, serve
from http2_wire import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    SocketWire,
    frame,
    get,
    setting,
    word,
)
from waiting import until

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

POST = get(method="POST")


def post(path: str, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return get(path, *more, method="POST")


def events(server: Server) -> list[dict[str, Any]]:
    path = server.folder / "seen.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_event(server: Server, **wanted: Any) -> None:
    until(lambda: [e for e in events(server) if wanted.items() <= e.items()], lambda: f"{wanted} in {events(server)}")


def upload(p: Peer, stream: int, data: bytes) -> None:
    """Send content as the windows let us."""
    windows = {0: 65_535, stream: 65_535}
    for f in p.seen:
        if f.kind == WINDOW_UPDATE and f.stream == 0:
            windows[0] += int.from_bytes(f.payload, "big")
    at = 0
    while at < len(data):
        size = min(16_384, len(data) - at, *windows.values())
        if size:
            p.send(frame(DATA, 0, stream, data[at : at + size]))
            at += size
            windows = {key: value - size for key, value in windows.items()}
        else:
            f = p.until(lambda f: f.kind == WINDOW_UPDATE, "WINDOW_UPDATE")
            if f.stream in windows:
                windows[f.stream] += int.from_bytes(f.payload, "big")
    p.send(frame(DATA, END_STREAM, stream))


def test_requests_of_a_connection_run_at_once_and_their_bodies_pass_both_ways(arbiter: Arbiter) -> None:
    """What HTTP/2 is for.

    1. The scope is that of an HTTP/2 request, each with fields of its own.
    2. Sixty requests that sleep take little longer than one.
    3. An upload of 2 MB is received whole through windows of 64 KiB, a download of 2 MB likewise.
    4. Interim response, trailers, HEAD.
    5. An upload that nobody reads does not stand in the way of the next.
    """
    server = serve(arbiter, "--access-logfile", "access.log")
    with peer(server) as p:
        for stream in (1, 3):
            p.ask(stream, get("/scope?a=b", ("cookie", "a=1"), ("cookie", "b=2")))
            scope = json.loads(p.response(stream)[1])
            assert scope["http_version"] == "2"
            assert scope["headers"] == "[(b'host', b'localhost'), (b'cookie', b'a=1; b=2')]"
            assert scope["scheme"] == "http"

        began = time.monotonic()
        for stream in range(5, 125, 2):
            p.ask(stream, get("/sleep?1"))
        for stream in range(5, 125, 2):
            assert p.response(stream) == (200, b"slept")
        assert time.monotonic() - began < 20, "sixty seconds of sleep, one after the other"

    with peer(server) as p:
        data = bytes(range(256)) * 8000
        p.ask(1, post("/digest"), end=False)
        upload(p, 1, data)
        assert p.response(1) == (200, hashlib.sha256(data).hexdigest().encode())

        p.ask(3, get("/large?2000000"))
        got = 0
        while got < 2_000_000:
            f = p.until(lambda f: f.kind == DATA and f.stream == 3, "DATA")
            got += len(f.payload)
            if f.payload:
                p.send(frame(WINDOW_UPDATE, 0, 0, word(len(f.payload))), frame(WINDOW_UPDATE, 0, 3, word(len(f.payload))))
        assert got == 2_000_000

        p.ask(5, get("/early"))
        assert p.response(5) == (200, b"late")
        assert dict(p.fields[5][0]) == {":status": "103", "link": "</a.css>; rel=preload"}
        p.ask(7, get("/trailers"))
        assert p.response(7) == (200, b"body")
        assert p.fields[7][-1] == [("x-sum", "42")]
        p.ask(9, get("/", method="HEAD"))
        assert p.response(9) == (200, b"")

        p.ask(11, post("/unread"), end=False)
        assert p.response(11) == (200, b"no, thanks")
        assert p.reset_of(11) == NO_ERROR
        p.send(frame(DATA, 0, 11, b"x" * 16_384) * 3)
        p.ask(13)
        assert p.response(13)[0] == 200
    server.stop()
    lines = (server.folder / "access.log").read_text()
    assert '"POST /digest HTTP/2" 200' in lines
    assert '"GET /scope?a=b HTTP/2" 200' in lines


def test_client_is_told_to_go_on_when_the_application_reads(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        p.ask(1, post("/digest", ("expect", "100-continue"), ("content-length", "4")), end=False)
        p.until(lambda f: f.kind == HEADERS and f.stream == 1, "100")
        assert dict(p.fields[1][0])[":status"] == "100"
        p.send(frame(DATA, END_STREAM, 1, b"test"))
        assert p.response(1) == (200, hashlib.sha256(b"test").hexdigest().encode())

        p.ask(3, post("/unread", ("expect", "100-continue"), ("content-length", "4")), end=False)
        p.response(3)
        assert [dict(fields)[":status"] for fields in p.fields[3]] == ["200"]


def test_window_that_stays_closed_holds_the_application_and_nobody_else(arbiter: Arbiter) -> None:
    """Back-pressure, and its deadline.

    1. A client asks for 10 MB and gives no window beyond the first 64 KiB.
    2. Result: the application is held after some 64 KiB more; another stream is answered.
    3. write_timeout passes. Result: the stream is reset, the application gets an OSError, the connection lives.
    """
    server = serve(arbiter, "--write-timeout", "1s")
    with peer(server) as p:
        p.ask(1, get("/large?10000000"))
        p.send(frame(WINDOW_UPDATE, 0, 0, word(1_000_000)))
        p.ask(3)
        assert p.response(3)[0] == 200
        assert p.reset_of(1) == CANCEL
        wait_event(server, large="Disconnected")
        assert sum(e.get("sent", 0) for e in events(server)) <= 200_000
        p.ask(5)
        assert p.response(5)[0] == 200


def test_transport_that_takes_nothing_is_reset(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--write-timeout", "1s")
    with socket.create_connection(server.tcp) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        p = Peer(SocketWire(client), settings=setting(4, 2**31 - 1))
        p.send(frame(WINDOW_UPDATE, 0, 0, word(2**30)))
        p.ask(1, get("/large?100000000"))
        server.wait_log("too slow to read its responses")
        wait_event(server, large="Disconnected")


def test_slow_upload_is_answered_408_and_the_connection_lives(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--write-timeout", "1s")
    with peer(server) as p:
        p.ask(1, post("/digest"), end=False)
        p.send(frame(DATA, 0, 1, b"x"))
        assert p.response(1)[0] == 408
        p.ask(3)
        assert p.response(3)[0] == 200
        p.ask(5, post("/digest"), end=False)
        for _ in range(200):  # a byte now and then gives no more time than none
            p.send(frame(DATA, 0, 5, b"x"))
            time.sleep(0.05)
            if server.count("too slow to send its body") == 2:
                break
        assert p.response(5)[0] == 408


def test_idle_connection_is_ended_with_goaway(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--keep-alive", "1s")
    with peer(server) as p:
        p.ask(1, get("/sleep?1.5"))
        assert p.response(1)[0] == 200
        assert p.until(lambda f: f.kind == GOAWAY, "GOAWAY").payload == word(1) + word(NO_ERROR)
        p.expect_close()


def test_reset_stream_is_a_disconnect_of_its_application_alone(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        p.ask(1, get("/wait"))
        p.ask(3, post("/digest"), end=False)
        p.until(lambda f: f.kind == DATA and f.stream == 1, "DATA")
        p.send(frame(RST_STREAM, 0, 1, word(CANCEL)), frame(RST_STREAM, 0, 3, word(CANCEL)))
        wait_event(server, wait="disconnect")
        wait_event(server, digest="disconnect")
        p.ask(5)
        assert p.response(5)[0] == 200
    with peer(server) as p:
        p.ask(1, get("/wait"))
        p.until(lambda f: f.kind == DATA, "DATA")
    until(lambda: sum(e.get("wait") == "disconnect" for e in events(server)) == 2, "the connection's end is a disconnect too")


def test_failures_of_applications_end_their_streams_only(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--request-timeout", "1s")
    server.expect("ValueError: before", "ValueError: in the middle", "CancelledError")
    with peer(server) as p:
        p.ask(1, get("/fail"))
        p.ask(3, get("/cut"))
        p.ask(5, get("/sleep?30"))
        assert p.response(1)[0] == 500
        assert p.reset_of(3) == INTERNAL_ERROR
        assert p.response(5)[0] == 504
        p.ask(7)
        assert p.response(7)[0] == 200
    assert server.count("ValueError: before") == 1
    assert server.count("ValueError: in the middle") == 1


def test_worker_that_retires_says_goaway_and_finishes_what_is_open(arbiter: Arbiter) -> None:
    """TERM.

    1. One request is in the application, one connection is idle.
    2. TERM. Result: GOAWAY on both; the idle one is closed, the request is answered, the exit status is 0.
    """
    server = serve(arbiter)
    with peer(server) as idle, peer(server) as p:
        idle.ask(1)
        assert idle.response(1)[0] == 200
        p.ask(1, get("/held"))
        server.wait_held()
        server.send(signal.SIGTERM)
        assert p.until(lambda f: f.kind == GOAWAY, "GOAWAY").payload == word(2**31 - 1) + word(NO_ERROR)
        assert idle.until(lambda f: f.kind == GOAWAY, "GOAWAY").payload == word(2**31 - 1) + word(NO_ERROR)
        assert idle.until(lambda f: f.kind == GOAWAY, "the last GOAWAY").payload == word(1) + word(NO_ERROR)
        idle.expect_close()
        server.release()
        assert p.response(1) == (200, b"held")
        p.expect_close()
    assert server.ended() == 0


def test_stream_that_never_ends_does_not_hold_a_worker_that_retires(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--graceful-timeout", "2s")
    with peer(server) as p:
        p.ask(1, get("/wait"))
        p.until(lambda f: f.kind == DATA, "DATA")
        began = time.monotonic()

        assert server.stop() == 0
        assert time.monotonic() - began < 2 + 10
        wait_event(server, wait="disconnect")


def serves_only(server: Server, generation: int) -> bool:
    """Whether all workers are of this generation."""
    return {worker.generation for worker in server.workers()} == {generation}


def test_reloads_and_recycling_fail_no_request(arbiter: Arbiter) -> None:
    """Clients that go on asking on a new connection after GOAWAY, as RFC 9113 section 6.8 says, meet no failure.

    A stream above the last one that GOAWAY names was not processed, and is asked again; everything else must be answered.
    """
    server = serve(arbiter, "--max-requests", "40", workers=2)
    failures: list[str] = []
    done = threading.Event()
    answered: set[bytes] = set()

    def client() -> None:
        while not done.is_set():
            try:
                with peer(server) as p:
                    stream = 1
                    while not done.is_set() and not any(f.kind == GOAWAY for f in p.seen):
                        p.ask(stream, get("/pid"))
                        try:
                            answered.add(p.response(stream)[1])
                        except AssertionError:
                            last = [int.from_bytes(f.payload[:4], "big") for f in p.seen if f.kind == GOAWAY]
                            if not last or last[-1] >= stream:
                                raise
                            break
                        stream += 2
            except (AssertionError, OSError) as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for generation in (2, 3):
            server.send(signal.SIGHUP)
            # How many there are changes with every 40 requests: there is a successor beside the two most of the time.
            until(partial(serves_only, server, generation), f"workers of generation {generation}, and of no other")
        until(lambda: len(answered) >= 8, lambda: f"eight workers; there were {answered}")
    finally:
        done.set()  # else a failure would leave them asking for ever
        for thread in threads:
            thread.join()

    assert failures == []


def upgrade(server: Server, *, body: bytes = b"") -> bytes:
    """What is answered to a request that asks for h2c."""
    settings = base64.urlsafe_b64encode(setting(3, 100)).rstrip(b"=")
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(
            b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: %b\r\nContent-Length: %d\r\n\r\n%b" % (settings, len(body), body)
        )
        data = client.recv(65536)
        if not data.startswith(b"HTTP/1.1 101"):
            while piece := client.recv(65536):
                data += piece
            return data
        head, _, rest = data.partition(b"\r\n\r\n")
        wire = SocketWire(client)
        p = Peer(wire, greet=False)
        p._rest = rest
        p.send(PREFACE, frame(SETTINGS, 0, 0))
        assert p.response(1) == (200, b"hello, world\n")
        p.ask(3)
        assert p.response(3)[0] == 200
        return head


def test_upgrade_is_taken_where_it_can_be(arbiter: Arbiter) -> None:
    server = serve(arbiter)

    assert upgrade(server).startswith(b"HTTP/1.1 101 ")
    assert upgrade(server, body=b"content").startswith(b"HTTP/1.1 200 "), "a request with content is not upgraded"
    for offers in (b"h2c", b"websocket2, h2c"):
        with socket.create_connection(server.tcp, timeout=20) as client:
            head = b"GET /x HTTP/1.1\r\nHost: a\r\n"
            client.sendall(b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n%bConnection: close\r\n\r\n" % (head, offers, head))
            answer = b""
            while piece := client.recv(65536):
                answer += piece
        assert answer.count(b"HTTP/1.1 200 ") == 2, "what is not switched is served, and what came behind it too"


def test_off_means_off(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--http2", "off")

    assert upgrade(server).startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(PREFACE)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 505 ")


def test_without_the_library_auto_serves_http1_and_on_says_what_to_install(arbiter: Arbiter) -> None:
    arbiter.write("live.py", APP)
    arbiter.write("without.py", 'import sys\nsys.modules["h2"] = None\nworker_class = "async"\nasgi_lifespan = "off"\n')
    server = arbiter.serve("-c", "without.py", workers=1)
    assert upgrade(server).startswith(b"HTTP/1.1 200 ")
    server.stop()

    status, words = arbiter.fail("-c", "without.py", "--http2", "on", "-w", "1", "live")

    assert status == 3
    assert "pip install 'arbiter-server[http2]'" in words
