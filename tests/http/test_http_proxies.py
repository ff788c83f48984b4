"""What proxies in front say, as each kind of worker hears it over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from certificates import Authority
from http2_wire import DATA, HEADERS, Peer, SocketWire
from http2_wire import get as get2
from serving import Response
from waiting import PATIENCE, until
from websocket_client import open_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import json

def application(environ, start_response):
    if environ["PATH_INFO"] == "/fixed":
        environ["REMOTE_ADDR"] = "192.0.2.77"  # as Werkzeug's ProxyFix does
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]
"""
ASGI_APP = """
import json

async def application(scope, receive, send):
    names = ("scheme", "client", "server", "root_path", "path")
    told = {name: scope[name] for name in names} | {"host": dict(scope["headers"]).get(b"host", b"").decode()}
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(told)})
        await send({"type": "websocket.close"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 9, 198, 51, 100, 7]) + b"\x12\x67\x01\xbb"
KINDS = [("--worker-class", "sync"), ("--worker-class", "threaded", "--threads", "2"), ("--worker-class", "async")]


@pytest.fixture(params=KINDS, ids=["sync", "threaded", "async"])
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


def serve(arbiter: Arbiter, *arguments: str) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve(*arguments, workers=1)


def everything(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def get(fields: str = "", path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: inner\r\nConnection: close\r\n{fields}\r\n".encode()


def ask(server: Server, raw: bytes) -> Response:
    address = server.address
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        client.sendall(raw)
        return Response(everything(client))


def environ(server: Server, raw: bytes) -> dict[str, str]:
    response = ask(server, raw)
    assert response.status == 200, response.body
    found: dict[str, str] = json.loads(response.body)
    return found


@pytest.mark.parametrize("parser", ["httptools", "h11"])
def test_a_proxy_on_this_machine_is_believed_client_and_scheme(arbiter: Arbiter, kind: tuple[str, ...], parser: str) -> None:
    server = serve(arbiter, *kind, "--http", parser, "--access-logfile", "access.log", "--access-logformat", "%(h)s %(U)s")

    found = environ(
        server, get("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n")
    )
    assert (found["REMOTE_ADDR"], found["REMOTE_PORT"], found["wsgi.url_scheme"]) == ("192.0.2.1", "0", "https")
    assert (found["HTTP_HOST"], found["HTTPS"]) == ("inner", "on")
    found = environ(server, get('Forwarded: for="[2001:db8::7]:4711";proto=https\r\n'))
    assert (found["REMOTE_ADDR"], found["REMOTE_PORT"], found["wsgi.url_scheme"]) == ("2001:db8::7", "4711", "https")
    found = environ(server, get())
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert environ(server, get("SCRIPT_NAME: /shop\r\n", "/shop/a"))["PATH_INFO"] == "/a"
    assert ask(server, get("X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n")).status == 400
    assert ask(server, get("Forwarded: for\r\n")).status == 400
    environ(server, get(path="/fixed"))
    names = ["192.0.2.1 /", "2001:db8::7 /", "127.0.0.1 /", "127.0.0.1 /shop/a", "192.0.2.77 /fixed"]
    log = server.folder / "access.log"
    # A client has its response before the line is written, and another thread may be quicker with the next: in any order.
    until(lambda: sorted(log.read_text().splitlines()) == sorted(names), lambda: f"{names} in {log.read_text()}")


def test_nobody_else_is_believed(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, *kind, "--forwarded-allow-ips", "10.0.0.0/8", "--header-map", "refuse")

    found = environ(server, get("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nForwarded: for\r\n"))
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert ask(server, get("SCRIPT_NAME: /shop\r\n")).status == 400


def test_host_port_and_prefix_are_believed_where_that_is_wanted_and_the_client_is_left_where_not(
    arbiter: Arbiter, kind: tuple[str, ...]
) -> None:
    server = serve(arbiter, *kind, "--forwarded-facts", "host,port,prefix")

    fields = (
        "X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /shop\r\nX-Forwarded-For: 192.0.2.1\r\n"
    )
    found = environ(server, get(fields, "/shop/a"))
    assert (found["HTTP_HOST"], found["SERVER_PORT"], found["SCRIPT_NAME"], found["PATH_INFO"]) == (
        "shop.example",
        "443",
        "/shop",
        "/a",
    )
    assert found["REMOTE_ADDR"] == "127.0.0.1"


def test_whoever_connects_to_a_unix_socket_is_believed(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    arbiter.write("live.py", APP)
    server = arbiter.serve(*kind, "--forwarded-allow-ips", "192.0.2.1", bind="unix:sock", workers=1)

    assert environ(server, get("X-Forwarded-For: 192.0.2.9\r\n"))["REMOTE_ADDR"] == "192.0.2.9"
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(str(server.folder / "named"))  # its address is a path then
        client.settimeout(PATIENCE)
        client.connect(server.address)
        client.sendall(get("X-Forwarded-For: 192.0.2.9\r\n"))
        assert b'"REMOTE_ADDR": "192.0.2.9"' in everything(client)
    (server.folder / "named").unlink()


def test_the_proxy_protocol_says_who_the_client_is(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    """Both versions, byte by byte too; and what the client itself says is believed no more than the client is."""
    server = serve(arbiter, *kind, "--proxy-protocol", "auto")

    for header in (b"PROXY TCP4 192.0.2.9 198.51.100.7 4711 443\r\n", V2):
        found = environ(server, header + get("X-Forwarded-For: 6.6.6.6\r\n"))
        assert (found["REMOTE_ADDR"], found["REMOTE_PORT"]) == ("192.0.2.9", "4711")
        assert (found["PROXY_PROTOCOL"], found["PROXY_ADDR"], found["PROXY_PORT"]) == ("TCP4", "198.51.100.7", "443")
    assert environ(server, b"PROXY UNKNOWN\r\n" + get())["REMOTE_ADDR"] == "127.0.0.1"
    with socket.create_connection(server.tcp, timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = V2 + get()
        for at in range(len(raw)):
            client.sendall(raw[at : at + 1])
        assert Response(everything(client)).status == 200
    for raw in (get(), b"PROXY TCP4 x\r\n" + get(), V2.replace(b"\x21\x11", b"\x21\x12") + get()):
        assert ask(server, raw).status == 400


def test_a_proxy_header_of_anybody_else_is_no_request(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, *kind, "--proxy-protocol", "v2", "--proxy-allow-from", "10.0.0.1")

    assert environ(server, get())["REMOTE_ADDR"] == "127.0.0.1"
    assert ask(server, V2 + get()).status == 400


def test_the_proxy_protocol_comes_before_tls(arbiter: Arbiter, kind: tuple[str, ...]) -> None:
    authority = Authority(arbiter.folder)
    certificate, key = authority.issue("server", "a.example")
    server = serve(arbiter, *kind, "--proxy-protocol", "v2", "--certfile", str(certificate), "--keyfile", str(key))

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.client().wrap_bio(incoming, outgoing, server_hostname="a.example")
    with socket.create_connection(server.tcp, timeout=PATIENCE) as client:
        before = V2  # which goes out in one packet with the ClientHello
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(before + outgoing.read())
                before = b""
                incoming.write(client.recv(65536))
        tls.write(get())
        client.sendall(outgoing.read())
        data = b""
        while True:
            try:
                if not (piece := tls.read(65536)):
                    break
                data += piece
            except ssl.SSLWantReadError:
                incoming.write(client.recv(65536))
        found = json.loads(Response(data).body)
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("192.0.2.9", "https")


def test_a_scope_tells_the_same_over_http1_http2_and_websockets(arbiter: Arbiter) -> None:
    """Two requests of one HTTP/2 connection have two clients; a PROXY header may come before HTTP/2 as well."""
    arbiter.write("live.py", ASGI_APP)
    facts = ("--forwarded-facts", "for,proto,host,port,prefix")
    server = arbiter.serve("-k", "async", *facts, "--queue-timeout", "60", workers=1)
    fields = {
        "x-forwarded-for": "6.6.6.6, 192.0.2.1",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "shop.example",
        "x-forwarded-port": "443",
        "x-forwarded-prefix": "/shop",
    }
    told = {
        "scheme": "https",
        "client": ["192.0.2.1", 0],
        "server": ["127.0.0.1", 443],
        "root_path": "/shop",
        "path": "/shop/a",
        "host": "shop.example",
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]

    assert json.loads(ask(server, get("".join(f"{line}\r\n" for line in lines), "/a")).body) == told
    with open_websocket(server, "/a", *lines) as client:
        assert json.loads(client.read_frame()[1]) == {**told, "scheme": "wss"}
    with open_websocket(server, "/a", "Forwarded: for") as client:
        assert client.head.startswith(b"HTTP/1.1 400 ")
    with http2(server) as peer:
        assert scope(peer, 1, fields) == told
        assert scope(peer, 3, {"x-forwarded-for": "192.0.2.3"})["client"] == ["192.0.2.3", 0]
        assert scope(peer, 5, {})["client"][0] == "127.0.0.1"
        peer.ask(7, [*get2("/a"), ("forwarded", "for")])
        peer.until(lambda f: f.kind == HEADERS and f.stream == 7, "a refusal")
        assert dict(peer.fields[7][0])[":status"] == "400"
        peer.ask(9, [*get2("/a"), ("x-request-start", "t=1700000000")])
        peer.until(lambda f: f.kind == HEADERS and f.stream == 9, "a refusal")
        assert dict(peer.fields[9][0])["retry-after"] == "60"
        assert peer.is_alive()

    server = arbiter.serve("-k", "async", "--proxy-protocol", "v2", workers=1)
    assert json.loads(ask(server, V2 + get()).body)["client"] == ["192.0.2.9", 4711]
    with http2(server, V2) as peer:
        assert scope(peer, 1, {"x-forwarded-for": "6.6.6.6"})["client"] == ["192.0.2.9", 4711]


def test_the_same_is_told_of_http2_in_a_threaded_worker(arbiter: Arbiter) -> None:
    server = serve(arbiter, *KINDS[1], "--proxy-protocol", "v2", "--forwarded-allow-ips", "192.0.2.9")
    with http2(server, V2) as peer:
        found = scope(peer, 1, {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"})
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"], found["HTTPS"]) == ("192.0.2.1", "https", "on")
    assert (found["PROXY_PROTOCOL"], found["PROXY_ADDR"]) == ("TCP4", "198.51.100.7")


@contextlib.contextmanager
def http2(server: Server, before: bytes = b"") -> Iterator[Peer]:
    with socket.create_connection(server.tcp, timeout=PATIENCE) as client:
        client.sendall(before)
        yield Peer(SocketWire(client))


def scope(peer: Peer, stream: int, fields: dict[str, str]) -> dict[str, Any]:
    peer.ask(stream, [*get2("/a"), *fields.items()])
    found: dict[str, Any] = json.loads(peer.until(lambda f: f.kind == DATA and f.stream == stream, "the scope").payload)
    return found
