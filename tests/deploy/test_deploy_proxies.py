"""The sites for nginx and HAProxy in deploy/, before real servers: what the application sees, and that a reload costs nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
from typing import TYPE_CHECKING

import httpx
import pytest
from certificates import Authority
from fronts import CLIENT, HOST, Front, Keeping, connect, free_port, haproxy, nginx
from waiting import PATIENCE, until
from websocket_client import RawWebSocket, handshake
from wire import TEXT, close, frame

from arbiter import templates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Arbiter, Server

pytestmark = [pytest.mark.process, pytest.mark.slow]

APP = """
import hashlib, json, os

def application(environ, start_response):
    path = environ["PATH_INFO"]
    digest = hashlib.sha256()
    while data := environ["wsgi.input"].read(65536):
        digest.update(data)
    fields = [("Content-Type", "text/plain")]
    if path == "/accel":
        fields.append(("X-Accel-Redirect", "/static/file.txt"))
    if path == "/told":
        body = json.dumps({key: value for key, value in environ.items() if isinstance(value, str)})
    else:
        body = f"{os.getpid()} {digest.hexdigest()}"
    start_response("200 OK", fields + [("Content-Length", str(len(body)))])
    return [body.encode()]

async def socket(scope, receive, send):
    if scope["type"] != "websocket":
        raise NotImplementedError
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{message['text']} {scope['client'][0]} {scope['scheme']}"})
"""
SYNC = ("--worker-class", "sync")
THREADED = ("--worker-class", "threaded", "--threads", "4")
ASYNC = ("--worker-class", "async", "--websocket-app", "live:socket")
# nginx's own limit of requests on a client's connection, 1000, is reached on a slow machine, and would look like a lost one.
WRAPPED = """
user root; daemon off; pid nginx.pid; error_log nginx.err notice; worker_processes 1;
events {{ worker_connections 256; }}
http {{
access_log off;
keepalive_requests 1000000;
client_body_temp_path body; proxy_temp_path proxy; uwsgi_temp_path uwsgi; fastcgi_temp_path fastcgi; scgi_temp_path scgi;
include site.conf;
}}
"""


def replaced(text: str, *lines: tuple[str, str]) -> str:
    """The text with these lines replaced: what listens on port 80 must listen elsewhere in a test."""
    for before, after in lines:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def with_tls(text: str, *lines: str) -> str:
    """The text with the lines that are for TLS taken in; each is known by its beginning."""
    for line in lines:
        text, count = re.subn(rf"^(\s*)# ({re.escape(line)})", r"\1\2", text, flags=re.MULTILINE)
        assert count == 1, line
    return text


@contextlib.contextmanager
def site_of_nginx(folder: Path, upstream: str, *, tls: bool = False) -> Iterator[Front]:
    """Nginx with the site of deploy/."""
    plain, secure = free_port(), free_port()
    (folder / "static").mkdir()
    (folder / "static/file.txt").write_text("a file")
    text = templates.nginx("my-shop", upstream=upstream, static=f"{folder}/static", server_name="_")
    text = replaced(text, (" listen 80;", f" listen 127.0.0.1:{plain};"), (" listen [::]:80;", ""))
    front = Front(plain)
    if tls:
        authority = Authority(folder)
        certificate, key = authority.issue("shop", HOST)
        front = Front(secure, authority, plain)
        text = with_tls(text, "listen 443", "ssl_certificate ", "ssl_certificate_key", "ssl_protocols", "if ($scheme = http)")
        text = replaced(
            text,
            ("listen 443", f"listen 127.0.0.1:{secure}"),
            ("/etc/ssl/my-shop/fullchain.pem", str(certificate)),
            ("/etc/ssl/my-shop/privkey.pem", str(key)),
        )
    (folder / "site.conf").write_text(text)
    with nginx(folder, WRAPPED.format(), front.port):
        yield front


@contextlib.contextmanager
def site_of_haproxy(folder: Path, servers: list[Server], *changes: tuple[str, str], tls: bool = False) -> Iterator[Front]:
    """HAProxy with the site of deploy/, before these servers."""
    plain, secure = free_port(), free_port()
    text = templates.haproxy("my-shop", upstreams=[f"127.0.0.1:{server.tcp[1]}" for server in servers])
    text = replaced(text, ("bind :::80 v4v6", f"bind 127.0.0.1:{plain}"), *changes)
    front = Front(plain)
    if tls:
        authority = Authority(folder)
        certificate, key = authority.issue("shop", HOST)
        authority.write("whole.pem", certificate.read_bytes() + key.read_bytes())
        front = Front(secure, authority, plain)
        text = with_tls(text, "bind :::443", "http-request redirect")
        text = replaced(
            text, ("bind :::443 v4v6", f"bind 127.0.0.1:{secure}"), ("/etc/haproxy/my-shop.pem", str(folder / "whole.pem"))
        )
    with haproxy(folder, text, front.port):
        yield front


def ask(front: Front, path: str, body: bytes | None = None, fields: dict[str, str] | None = None) -> tuple[int, bytes, str]:
    """Status, body and type of the response to one request of a client."""
    with contextlib.closing(connect(front)) as connection:
        connection.request("POST" if body else "GET", path, body, {"Host": HOST, **(fields or {})})
        response = connection.getresponse()
        return response.status, response.read(), response.headers["Content-Type"]


LIES = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Ssl": "on",
    "X-Forwarded-Protocol": "ssl",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=6.6.6.6;proto=gopher;host=evil.example",
    "X-Request-ID": "mine",
}
"""What a client may say of itself, and must not be believed nor refused for."""


def look_at_facts(front: Front) -> None:
    """What the application is told of a client does not depend on what that says of itself."""
    for lies in ({}, LIES):
        status, text, _ = ask(front, "/told?a=%20b", fields=lies)
        assert status == 200, text
        is_told(json.loads(text), front)


def is_told(told: dict[str, str], front: Front) -> None:
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"], told["HTTP_HOST"]) == (CLIENT, front.scheme, HOST)
    assert told.get("HTTPS", "off") == ("on" if front.authority else "off")
    assert (told["HTTP_X_FORWARDED_HOST"], told["QUERY_STRING"]) == (HOST, "a=%20b")
    assert re.fullmatch(r"[\da-f]{32}|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}", told["HTTP_X_REQUEST_ID"])


def look_at_tls(front: Front) -> None:
    """Who comes without TLS is sent to it; who can, speaks HTTP/2 to the proxy; the application is told the same."""
    with contextlib.closing(connect(Front(front.plain))) as connection:
        connection.request("GET", "/told?a=%20b", headers={"Host": HOST})
        response = connection.getresponse()
        assert (response.status, response.headers["Location"]) == (301, f"https://{HOST}/told?a=%20b")
    assert front.authority is not None
    transport = httpx.HTTPTransport(verify=front.authority.client(), http2=True, local_address=CLIENT)
    with httpx.Client(transport=transport, timeout=PATIENCE) as client:
        for lies in ({}, LIES):
            reply = client.get(
                f"https://127.0.0.1:{front.port}/told?a=%20b",
                headers={"Host": HOST, **lies},
                extensions={"sni_hostname": HOST},
            )
            assert (reply.status_code, reply.http_version) == (200, "HTTP/2"), reply.text
            is_told(reply.json(), front)


def look_at_upload(front: Front) -> None:
    """5 MB arrive as they are."""
    body = os.urandom(5_000_000)
    status, text, _ = ask(front, "/digest", body)
    assert (status, text.split()[-1].decode()) == (200, hashlib.sha256(body).hexdigest())


def look_at_websocket(front: Front) -> None:
    """A WebSocket is one from end to end."""
    with contextlib.closing(connect(front)) as connection:
        connection.connect()
        client = RawWebSocket(connection.sock)
        client.send(handshake("/socket"))
        assert b" 101 " in client.read_head().partition(b"\r\n")[0]
        for word in (b"one", b"two"):
            client.send(frame(TEXT, word))
            assert client.read_frame()[1] == word + f" {CLIENT} {'wss' if front.authority else 'ws'}".encode()
        client.send(close(1000))


def look_at_reloads(server: Server, front: Front) -> None:
    """Requests over connections that are kept, one after the other, while Arbiter is reloaded again and again."""
    with Keeping(front) as client:
        for generation in (2, 3, 4):
            client.more(50)
            server.send(signal.SIGHUP)
            server.wait_workers(2, generation)  # the old ones are gone then
        client.more(100)
    assert client.failures == []
    assert client.connections == 3, "the proxy has closed connections of clients"


@pytest.mark.parametrize(
    ("bind", "kind", "tls"),
    [
        pytest.param("tcp", THREADED, False, id="tcp-threaded"),
        pytest.param("unix", SYNC, False, id="unix-sync"),
        pytest.param("unix", THREADED, True, id="unix-threaded-tls"),
        pytest.param("unix", ASYNC, True, id="unix-async-tls"),
    ],
)
def test_nginx_with_the_site_of_deploy_tells_the_truth_and_loses_nothing_over_reloads(
    arbiter: Arbiter, bind: str, kind: tuple[str, ...], tls: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("nginx")
    arbiter.write("live.py", APP)
    server = arbiter.serve(*kind, bind="127.0.0.1:0" if bind == "tcp" else f"unix:{folder}/http.sock")
    upstream = f"127.0.0.1:{server.tcp[1]}" if bind == "tcp" else f"unix:{folder}/http.sock"
    with site_of_nginx(folder, upstream, tls=tls) as front:
        look_at_facts(front)
        if tls:
            look_at_tls(front)
        look_at_upload(front)
        assert ask(front, "/static/file.txt") == (200, b"a file", "text/plain")
        assert ask(front, "/accel")[:2] == (200, b"a file")
        if kind == ASYNC:
            look_at_websocket(front)
        look_at_reloads(server, front)
    assert "[error]" not in (folder / "nginx.err").read_text()


@pytest.mark.parametrize(
    ("kind", "tls"), [(SYNC, False), (THREADED, True), (ASYNC, True)], ids=["sync", "threaded-tls", "async-tls"]
)
def test_haproxy_with_the_site_of_deploy_tells_the_truth_and_loses_nothing_over_reloads(
    arbiter: Arbiter, kind: tuple[str, ...], tls: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("haproxy")
    arbiter.write("live.py", APP)
    server = arbiter.serve(*kind, "--health-path", "/healthz")
    with site_of_haproxy(folder, [server], tls=tls) as front:
        look_at_facts(front)
        if tls:
            look_at_tls(front)
        look_at_upload(front)
        if kind == ASYNC:
            look_at_websocket(front)
        look_at_reloads(server, front)
    assert "DOWN" not in (folder / "haproxy.out").read_text()


def test_haproxy_leaves_a_server_out_that_drains_before_it_is_gone(
    arbiter: Arbiter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """1. Two servers behind HAProxy, under load. 2. One is stopped, with a drain_delay. Result: the other serves; no failure."""
    folder = tmp_path_factory.mktemp("haproxy")
    arbiter.write("live.py", APP)
    words = (*THREADED, "--health-path", "/healthz", "--drain-delay", "30")
    leaves, stays = arbiter.serve(*words, workers=1), arbiter.serve(*words, workers=1)
    with site_of_haproxy(folder, [leaves, stays]) as front, Keeping(front) as client:
        client.more(20)
        leaves.send(signal.SIGTERM)
        until(lambda: "my-shop/my-shop1 is DOWN" in (folder / "haproxy.out").read_text(), "HAProxy's leaving it out")
        client.more(20)
        began = len(client.replies)
        client.more(20)
        own = str(stays.workers()[0].pid)
        assert {text.split()[0] for _, text in client.replies[began:]} == {own}
        leaves.send(signal.SIGTERM)  # asked again, it ends its delay
        assert leaves.ended() == 0
        client.more(20)
        stays.send(signal.SIGHUP)  # and the only one that is left may be reloaded
        stays.wait_workers(1, 2)
        client.more(20)
    assert client.failures == []
    stays.send(signal.SIGTERM)
    stays.wait_log("draining: health checks say no")
    stays.send(signal.SIGTERM)
    assert stays.ended() == 0


def test_haproxy_tells_the_client_by_the_proxy_protocol_as_its_file_says(
    arbiter: Arbiter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("haproxy")
    arbiter.write("live.py", APP)
    server = arbiter.serve(*THREADED, "--health-path", "/healthz", "--proxy-protocol", "v2")
    line = f"127.0.0.1:{server.tcp[1]}\n"
    with site_of_haproxy(folder, [server], (line, line.replace("\n", " send-proxy-v2\n"))) as front:
        told = json.loads(ask(front, "/told")[1])
        assert (told["REMOTE_ADDR"], told["PROXY_PROTOCOL"], told["PROXY_PORT"]) == (CLIENT, "TCP4", str(front.port))
        look_at_reloads(server, front)
    assert "DOWN" not in (folder / "haproxy.out").read_text(), "its health checks are not understood"
