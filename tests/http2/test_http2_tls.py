"""TLS in an async worker: ALPN chooses HTTP/2 or HTTP/1.1, content passes both ways, and nobody waits for a slow handshake."""

from __future__ import annotations

import hashlib
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from certificates import Authority
from http2_serving import APP
from http2_wire import DATA, END_STREAM, GOAWAY, H2C, Peer, SocketWire, frame, get, setting, word

if TYPE_CHECKING:
    import ssl

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

EXTRA = """
http_application = application

async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": scope["scheme"] + " " + scope["http_version"]})
    elif scope["path"] == "/tls":
        tls = scope["extensions"]["tls"]
        await answer(send, json.dumps([scope["scheme"], scope["http_version"], tls["tls_version"], tls["cipher_suite"]]).encode())
    else:
        await http_application(scope, receive, send)
"""


class Site:
    def __init__(self, arbiter: Arbiter, *arguments: str) -> None:
        self.authority = Authority(arbiter.folder / "tls")
        certificate, key = self.authority.issue("site", "localhost")
        arbiter.write("live.py", APP + EXTRA)
        words = ("-k", "async", "--lifespan", "off", "--certfile", str(certificate), "--keyfile", str(key), *arguments)
        self.server: Server = arbiter.serve(*words, workers=1)

    def connect(self, *protocols: str, tls13: bool = True) -> ssl.SSLSocket:
        context = self.authority.client(tls13=tls13)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        raw = socket.create_connection(self.server.tcp, timeout=20)
        return context.wrap_socket(raw, server_hostname="localhost")


def http1(client: ssl.SSLSocket, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of a response with a length."""
    client.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        assert piece
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += client.recv(65536)
    return head, body


@pytest.mark.parametrize("tls13", [True, False])
def test_client_gets_the_protocol_that_it_wants(arbiter: Arbiter, tls13: bool) -> None:
    """ALPN.

    1. A client without ALPN, and one that wants HTTP/1.1, get HTTP/1.1, twice on a connection.
    2. Nothing that it sends makes HTTP/2 of that: not the preface, and not Upgrade.
    3. One that knows both gets HTTP/2, and a WebSocket in it.
    4. 3 MB up and 3 MB down, over both.
    5. TERM: HTTP/2 connections are told, the exit status is 0.
    """
    site = Site(arbiter)
    version = 0x0304 if tls13 else 0x0303
    for protocols in ((), ("http/1.1",)):
        with site.connect(*protocols, tls13=tls13) as client:
            for _ in range(2):
                head, body = http1(client, b"GET /tls HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert body.startswith(b'["https", "1.1", %d, ' % version)
            data = bytes(range(256)) * 12_000
            request = b"POST /digest HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
            assert http1(client, request + data)[1] == hashlib.sha256(data).hexdigest().encode()
        for words, status in H2C.items():
            with site.connect(*protocols, tls13=tls13) as client:
                assert http1(client, words)[0].startswith(b"HTTP/1.1 %d " % status)

    with site.connect("h2", "http/1.1", tls13=tls13) as client:
        assert client.selected_alpn_protocol() == "h2"
        p = Peer(SocketWire(client), settings=setting(4, 2**31 - 1))
        p.send(frame(8, 0, 0, word(2**30)))
        p.ask(1, get("/tls"))
        status, body = p.response(1)
        assert status == 200
        assert body.startswith(b'["https", "2", %d, ' % version)
        p.ask(3, get("/large?3000000"))
        assert p.response(3) == (200, b"x" * 3_000_000)
        p.ask(
            5, [(":method", "CONNECT"), (":protocol", "websocket"), *get("/")[1:], ("sec-websocket-version", "13")], end=False
        )
        found = p.until(lambda f: f.kind == DATA and f.stream == 5, "the message")
        assert found.payload.startswith(b"\x81\x05wss 2")
        p.send(frame(DATA, END_STREAM, 5))

        site.server.send(signal.SIGTERM)
        p.until(lambda f: f.kind == GOAWAY, "GOAWAY")
        p.expect_close()
    assert site.server.ended() == 0


def test_client_that_does_not_read_is_waited_for_and_gets_all(arbiter: Arbiter) -> None:
    """Back-pressure under TLS: what was encrypted and not taken by the kernel is sent when the client reads."""
    site = Site(arbiter)
    with site.connect() as client:
        client.sendall(b"GET /large?20000000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)  # the server fills what there is; a shorter time tests less, and never fails
        log = site.server.folder / "seen.log"
        assert sum(int(line.split('"sent": ')[1].rstrip("}")) for line in log.read_text().splitlines()) < 20_000_000
        got = 0
        while piece := client.recv(65536):
            got += len(piece)
        assert got > 20_000_000


def test_slow_and_wrong_handshakes_hold_nobody(arbiter: Arbiter) -> None:
    """What is no handshake.

    1. A client that says nothing is gone after handshake_timeout.
    2. Plain HTTP is answered 400, in the clear.
    3. Meanwhile others are served.
    """
    site = Site(arbiter, "--handshake-timeout", "1s")
    with socket.create_connection(site.server.tcp, timeout=20) as silent:
        with socket.create_connection(site.server.tcp, timeout=20) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer: Any = b""
            while piece := plain.recv(65536):
                answer += piece
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"https" in answer
        with site.connect("h2") as client:
            p = Peer(SocketWire(client))
            p.ask(1)
            assert p.response(1)[0] == 200
        assert silent.recv(1) == b""


def test_without_http2_no_client_is_offered_it(arbiter: Arbiter) -> None:
    site = Site(arbiter, "--http2", "off")
    with site.connect("h2", "http/1.1") as client:
        assert client.selected_alpn_protocol() == "http/1.1"
        assert http1(client, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")[1] == b"hello, world\n"
