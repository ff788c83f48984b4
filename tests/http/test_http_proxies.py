"""What proxies in front say, as both kinds of worker hear it over real sockets."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from certificates import Authority
from serving import Response
from waiting import PATIENCE

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import json

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]
"""
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 9, 198, 51, 100, 7]) + b"\x12\x67\x01\xbb"
KINDS = [("--worker-class", "sync"), ("--worker-class", "threaded", "--threads", "2")]


@pytest.fixture(params=KINDS, ids=["sync", "threaded"])
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
    server = serve(arbiter, *kind, "--http", parser)

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
