"""HTTP/2 in a threaded worker: streams run in its threads, as many at a time as there are; in a sync worker it is refused."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from certificates import Authority
from http2_serving import peer
from http2_wire import (
    DATA,
    END_STREAM,
    GOAWAY,
    H2C,
    PREFACE,
    RST_STREAM,
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
    from harness import Arbiter

pytestmark = pytest.mark.process

APP = """
import hashlib, os, threading, time

at_once, most, lock = 0, 0, threading.Lock()

def application(environ, start_response):
    global at_once, most
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    with lock:
        at_once += 1
        most = max(most, at_once)
    try:
        if path == "/sleep":
            end = time.monotonic() + float(query)
            while time.monotonic() < end:
                time.sleep(0.01)
            body = [str(most).encode()]
        elif path == "/digest":
            digest = hashlib.sha256()
            while data := environ["wsgi.input"].read(65536):
                digest.update(data)
            body = [digest.hexdigest().encode()]
        elif path == "/large":
            def pieces():
                for _ in range(int(query)):
                    open("sent", "a").write("x")
                    yield b"x" * 100_000
            start_response("200 OK", [])
            return pieces()
        elif path == "/fail":
            raise ValueError("before")
        elif path == "/held":
            open(f"held-{os.getpid()}", "x").close()
            while not os.path.exists("release"):
                time.sleep(0.01)
            body = [b"held"]
        else:
            body = [" ".join((environ["SERVER_PROTOCOL"], environ["wsgi.url_scheme"], environ["REMOTE_ADDR"])).encode()]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body
    finally:
        with lock:
            at_once -= 1
"""
HOOK = """
def post_request(worker, req, environ, resp):
    with open("hooks", "a") as file:
        file.write(f"{environ['SERVER_PROTOCOL']} {req.uri} {resp.status}\\n")
"""


def test_streams_run_in_the_threads(arbiter: Arbiter) -> None:
    """A life.

    1. A request over HTTP/1, and one over HTTP/2.
    2. Twelve that sleep: as many at a time as there are threads, no more.
    3. Content both ways through the windows; a failure; a request that takes too long.
    4. A client that gives no window holds its own request only.
    5. TERM while one is in the application: GOAWAY, the answer, status 0.
    """
    arbiter.write("live.py", APP)
    arbiter.write("gunicorn.conf.py", HOOK)
    server = arbiter.serve(
        "-k", "threaded", "--threads", "4", "--access-logfile", "access.log", "--request-timeout", "5s", workers=1
    )
    server.expect("ValueError: before", "OverrunError")
    assert "HTTP/1.1 http 127.0.0.1" in str(server.get("/"))
    with peer(server) as p:
        p.ask(1)
        assert p.response(1) == (200, b"HTTP/2 http 127.0.0.1")
        for stream in range(3, 27, 2):
            p.ask(stream, get("/sleep?0.3"))
        assert max(int(p.response(stream)[1]) for stream in range(3, 27, 2)) == 4

        data = bytes(range(256)) * 200
        p.ask(31, get("/digest", method="POST"), end=False)
        p.send(*[frame(DATA, 0, 31, data[at : at + 10_000]) for at in range(0, len(data), 10_000)], frame(DATA, END_STREAM, 31))
        assert p.response(31) == (200, hashlib.sha256(data).hexdigest().encode())
        p.ask(33, get("/fail"))
        assert p.response(33)[0] == 500
        p.ask(35, get("/sleep?60"))
        assert p.response(35)[0] == 504

        p.send(frame(WINDOW_UPDATE, 0, 0, word(2**30)))
        p.ask(37, get("/large?100"))
        until((server.folder / "sent").exists, "the first piece")
        p.ask(39)
        assert p.response(39)[0] == 200
        time.sleep(0.3)  # the application would send on; a shorter time tests less, and never fails
        assert len((server.folder / "sent").read_text()) < 10
        p.send(frame(WINDOW_UPDATE, 0, 37, word(2**30)))
        assert p.response(37) == (200, b"x" * 10_000_000)

        p.ask(41, get("/held"))
        server.wait_held()
        server.send(signal.SIGTERM)
        p.until(lambda f: f.kind == GOAWAY, "GOAWAY")
        server.release()
        assert p.response(41) == (200, b"held")
        p.expect_close()
        assert not [f for f in p.seen if f.kind == RST_STREAM]
    assert server.ended() == 0
    assert '"GET /sleep?0.3 HTTP/2" 200' in (server.folder / "access.log").read_text()
    hooks = (server.folder / "hooks").read_text()
    assert hooks.count("HTTP/2 /sleep?0.3 200 OK") == 12
    assert "HTTP/2 /fail 500 Internal Server Error" in hooks
    assert "HTTP/2 /sleep?60 504 Gateway Timeout" in hooks


def test_alpn_chooses_it_in_a_threaded_worker_too(arbiter: Arbiter) -> None:
    authority = Authority(arbiter.folder / "tls")
    certificate, key = authority.issue("site", "localhost")
    arbiter.write("live.py", APP)
    server = arbiter.serve("-k", "threaded", "--threads", "2", "--certfile", certificate, "--keyfile", key, workers=1)
    context = authority.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(server.tcp, timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as client,
    ):
        assert client.selected_alpn_protocol() == "h2"
        p = Peer(SocketWire(client), settings=setting(4, 2**31 - 1))
        p.ask(1)
        assert p.response(1) == (200, b"HTTP/2 https 127.0.0.1")
        p.send(frame(WINDOW_UPDATE, 0, 0, word(2**30)))
        p.ask(3, get("/large?30"))
        assert p.response(3) == (200, b"x" * 3_000_000)
    context.set_alpn_protocols(["http/1.1"])
    for words, status in H2C.items():
        with (
            socket.create_connection(server.tcp, timeout=20) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            client.sendall(words)
            assert client.recv(12) == b"HTTP/1.1 %d" % status


@pytest.mark.parametrize("words", [("-k", "sync"), ("-k", "threaded", "--threads", "2", "--http2", "off")])
def test_where_it_is_not_offered_the_preface_is_refused(arbiter: Arbiter, words: tuple[str, ...]) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve(*words, workers=1)
    with socket.create_connection(server.tcp, timeout=20) as client:
        client.sendall(PREFACE)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 505 ")
