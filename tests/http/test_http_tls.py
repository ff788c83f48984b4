"""HTTPS of each kind of worker, as real servers and over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import ssl
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from certificates import Authority
from procfs import pids
from serving import Response
from waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import hashlib, json, os

BLOCK = bytes(range(256)) * 4096  # 1 MiB

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/environ":
        body = [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]
    elif path == "/digest":
        body = [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]
    elif path == "/large":
        body = [BLOCK * 4]
    elif path == "/stream":
        body = (BLOCK for _ in range(4))
    elif path == "/file":
        body = environ["wsgi.file_wrapper"](open("large.bin", "rb"))
    else:
        body = [str(os.getpid()).encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body
"""
SMALL_APP = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]
"""
"""Imports nothing: Python itself may lie where only root can read."""
GET = b"GET %b HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
LARGE = bytes(range(256)) * 16384
KINDS = {
    "sync": ("--worker-class", "sync"),
    "threaded": ("--worker-class", "threaded", "--threads", "2"),
    "async": ("--worker-class", "async"),
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return KINDS[request.param]


def serve(arbiter: Arbiter, authority: Authority, *arguments: str | Path, workers: int = 1) -> Server:
    certificate, key = authority.issue("server", "a.example")
    arbiter.write("live.py", APP)
    (arbiter.folder / "large.bin").write_bytes(LARGE)
    return arbiter.serve("--certfile", certificate, "--keyfile", key, *arguments, workers=workers)


@contextlib.contextmanager
def connected(server: Server, context: ssl.SSLContext, name: str = "a.example") -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(server.tcp, timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as client,
    ):
        yield client


def everything(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def ask(server: Server, context: ssl.SSLContext, path: bytes = b"/", name: str = "a.example") -> Response:
    with connected(server, context, name) as client:
        client.sendall(GET % path)
        return Response(everything(client))


def serial(server: Server, context: ssl.SSLContext, name: str = "a.example") -> str:
    with connected(server, context, name) as client:
        told = client.getpeercert()
        assert told
        return str(told["serialNumber"])


def environ(server: Server, context: ssl.SSLContext) -> dict[str, str]:
    import json

    found: dict[str, str] = json.loads(ask(server, context, b"/environ").body)
    return found


@pytest.mark.parametrize("tls13", [True, False], ids=["1.3", "1.2"])
def test_every_shape_of_body_passes_whole_both_ways(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...], tls13: bool
) -> None:
    server = serve(arbiter, authority, *kind)
    context = authority.client(tls13=tls13)
    body = os.urandom(300_000)

    for path in (b"/large", b"/stream", b"/file"):
        assert hashlib.sha256(ask(server, context, path).body).digest() == hashlib.sha256(LARGE).digest()
    with connected(server, context) as client:
        client.sendall(
            b"POST /digest HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + body
        )
        answer = Response(everything(client))
    assert answer.body.decode() == hashlib.sha256(body).hexdigest()
    with connected(server, context) as client:  # bytes that come one to a record
        for at in range(len(GET % b"/")):
            client.sendall((GET % b"/")[at : at + 1])
        assert Response(everything(client)).status == 200


def test_the_environ_tells_of_the_connection(arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]) -> None:
    found = environ(serve(arbiter, authority, *kind), authority.client())

    assert (found["wsgi.url_scheme"], found["HTTPS"], found["SSL_PROTOCOL"]) == ("https", "on", "TLSv1.3")
    assert found["SSL_CIPHER"].startswith("TLS_")
    assert not [name for name in found if name.startswith("SSL_CLIENT")]


def test_client_certificates_are_asked_for_checked_and_told(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]
) -> None:
    server = serve(arbiter, authority, *kind, "--ca-certs", authority.file, "--cert-reqs", "optional")
    own = authority.issue("alice", "alice.example")
    stranger = Authority(arbiter.folder / "elsewhere")

    found = environ(server, authority.client(*own))
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert found["SSL_CLIENT_S_DN"].startswith("CN=alice.example,OU=")
    assert ssl.PEM_cert_to_DER_cert(found["SSL_CLIENT_CERT"]) == ssl.PEM_cert_to_DER_cert(
        own[0].read_text().partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
    )
    assert environ(server, authority.client())["SSL_CLIENT_VERIFY"] == "NONE"
    with pytest.raises(OSError, match=r"alert|reset|EOF"):
        ask(server, authority.client(*stranger.issue("mallory", "alice.example")))


def test_who_shows_no_certificate_is_refused_where_one_is_required(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]
) -> None:
    server = serve(arbiter, authority, *kind, "--ca-certs", authority.file, "--cert-reqs", "2")

    with pytest.raises(OSError, match=r"alert|reset|EOF"):
        ask(server, authority.client())
    assert ask(server, authority.client(*authority.issue("alice", "alice.example"))).status == 200


def test_each_name_gets_its_certificate_and_any_other_the_first(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]
) -> None:
    shop, blog = authority.issue("shop", "shop.example"), authority.issue("blog", "*.blog.example")
    names = (f"shop.example={shop[0]}:{shop[1]}", f"*.blog.example={blog[0]}:{blog[1]}")
    server = serve(arbiter, authority, *kind, "--sni-cert", names[0], "--sni-cert", names[1])
    context = authority.client()

    for name in ("a.example", "shop.example", "SHOP.example", "my.blog.example"):
        assert ask(server, context, name=name).status == 200
    for name in ("other.example", "a.my.blog.example"):
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            ask(server, context, name=name)


def test_new_files_are_used_without_a_reload_and_broken_ones_are_not(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]
) -> None:
    """1. The certificate is renewed. 2. Its key is replaced by another's. 3. Both are good again.

    Result: new connections get what is new and good, by the same worker; the log says once what is wrong.
    """
    server = serve(arbiter, authority, *kind)
    context, before = authority.client(), pids(server.workers())
    first = serial(server, context)

    authority.issue("server", "a.example")
    until(lambda: serial(server, context) != first, "the new certificate")
    second = serial(server, context)
    authority.write("server.key", authority.issue("other", "a.example")[1].read_bytes())
    until(lambda: serial(server, context) and server.count("TLS files have changed, and can't be used"), "a complaint")
    assert {serial(server, context) for _ in range(10)} == {second}
    assert "server.key: it is not the key of the certificate in" in server.log()
    authority.issue("server", "a.example")
    until(lambda: serial(server, context) != second, "the third certificate")

    assert server.count("can't be used") == 1
    assert pids(server.workers()) == before


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may read, as pytest's are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_key_that_only_root_may_read_serves_nobody_and_is_renewed_by_successors(
    arbiter: Arbiter, authority: Authority, public: Path, kind: tuple[str, ...]
) -> None:
    """1. Workers are nobody, the key is root's. 2. It is renewed. Result: HTTPS works, and a new worker brings the new key."""
    (public / "live.py").write_text(SMALL_APP)
    server = serve(arbiter, authority, *kind, "--user", "nobody", "--chdir", public)
    assert server.folder.stat().st_mode & 0o77 == 0
    context, before = authority.client(), pids(server.workers())
    first = serial(server, context)
    assert 0 not in {os.stat(f"/proc/{pid}").st_uid for pid in before}

    authority.issue("server", "a.example")
    until(lambda: serial(server, context) != first, "a worker with the new key")

    assert not {*before} & {*pids(server.wait_workers(1))}
    assert ask(server, context).status == 200


def test_a_reload_with_a_broken_certificate_is_refused_with_its_name(arbiter: Arbiter, authority: Authority) -> None:
    certificate, key = authority.issue("server", "a.example")
    arbiter.write("arbiter.toml", f'certfile = "{certificate}"\nkeyfile = "{key}"\n')
    arbiter.write("live.py", APP)
    server = arbiter.serve("-c", "arbiter.toml")
    before = pids(server.workers())

    for broken, words in (
        ('certfile = "gone.pem"\n', "gone.pem: No such file or directory"),
        (
            f'certfile = "{certificate}"\nkeyfile = "{authority.issue("other", "b.example")[1]}"\n',
            "it is not the key of the certificate in",
        ),
        (f'certfile = "{authority.write("empty.pem", b"nothing")}"\n', "empty.pem: it does not hold a certificate and its key"),
    ):
        arbiter.write("arbiter.toml", broken)
        refused = server.count("reload refused")
        server.send(signal.SIGHUP)
        server.wait_log("reload refused", refused + 1)
        assert words in server.log()
    assert ask(server, authority.client()).status == 200
    assert pids(server.workers()) == before


def test_the_check_of_the_configuration_and_the_start_name_the_file_and_the_reason(
    arbiter: Arbiter, authority: Authority
) -> None:
    certificate, _ = authority.issue("server", "a.example")
    arbiter.write("live.py", APP)
    alien = authority.issue("other", "b.example")[1]

    for arguments in (("--check-config",), ()):
        status, words = arbiter.fail("--certfile", certificate, "--keyfile", alien, *arguments, "live")
        assert status == 1
        assert f"{alien}: it is not the key of the certificate in {certificate}" in words
    status, words = arbiter.fail("--keyfile", alien, "live")
    assert status == 2
    assert "there is no certfile, so TLS is off" in words


def test_who_speaks_the_wrong_protocol_is_told_so(arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]) -> None:
    secure = serve(arbiter, authority, *kind)
    plain = arbiter.serve(*kind, workers=1)

    with socket.create_connection(secure.tcp, timeout=PATIENCE) as client:
        client.sendall(GET % b"/")
        answer = Response(everything(client))
        assert answer.status == 400
        assert b"This port speaks HTTPS" in answer.body
    with socket.create_connection(plain.tcp, timeout=PATIENCE) as client:
        client.sendall(bytes.fromhex("160301020001"))  # the beginning of a ClientHello
        answer = Response(everything(client))
        assert answer.status == 400
        assert b"This port speaks plain HTTP" in answer.body
    for noise in (b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x03\x01", b"\x00" * 100):
        with socket.create_connection(secure.tcp, timeout=PATIENCE) as client:
            client.sendall(noise)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in everything(client)
    assert ask(secure, authority.client()).status == 200


def test_a_handshake_has_a_deadline(arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]) -> None:
    server = serve(arbiter, authority, *kind, "--handshake-timeout", "0.5")

    for beginning in (b"", b"\x16\x03\x01\x02\x00\x01"):
        with socket.create_connection(server.tcp, timeout=PATIENCE) as client:
            client.sendall(beginning)
            began = time.monotonic()
            assert everything(client) == b""
            assert time.monotonic() - began < 10
    assert ask(server, authority.client()).status == 200


def test_neither_a_handshake_nor_a_slow_reader_holds_a_thread(arbiter: Arbiter, authority: Authority) -> None:
    """1. As many clients as threads, and more, stop in the middle of a handshake, or read nothing of 4 MiB. 2. One asks.

    Result: it has its answer at once; and those who read at last get every byte.
    """
    server = serve(arbiter, authority, *KINDS["threaded"], "--response-buffer", "8M")
    context = authority.client()
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(server.tcp, timeout=PATIENCE))
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
        readers = [stack.enter_context(connected(server, context)) for _ in range(4)]
        for reader, path in zip(readers, (b"/large", b"/stream", b"/file", b"/large"), strict=True):
            reader.sendall(GET % path)
        for _ in range(5):
            assert ask(server, context).status == 200
        for reader in readers:
            assert hashlib.sha256(Response(everything(reader)).body).digest() == hashlib.sha256(LARGE).digest()


def test_a_kept_connection_carries_request_after_request(arbiter: Arbiter, authority: Authority) -> None:
    """One after another, pipelined in one record, and with a body as large as several records."""
    server = serve(arbiter, authority, *KINDS["threaded"])
    body = os.urandom(200_000)
    with connected(server, authority.client()) as client:
        connection = http.client.HTTPConnection("a.example")
        connection.sock = client
        for _ in range(3):
            connection.request("POST", "/digest", body)
            assert connection.getresponse().read().decode() == hashlib.sha256(body).hexdigest()
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n" * 3 + GET % b"/")
        assert everything(client).count(b"HTTP/1.1 200 OK") == 4


def test_the_end_of_a_response_is_announced_and_a_cut_is_not(
    arbiter: Arbiter, authority: Authority, kind: tuple[str, ...]
) -> None:
    """A client that insists on TLS's own end of the connection gets it."""
    server = serve(arbiter, authority, *kind)
    context = authority.client()

    with socket.create_connection(server.tcp, timeout=PATIENCE) as plain:
        client = context.wrap_socket(plain, server_hostname="a.example", suppress_ragged_eofs=False)
        client.sendall(b"GET /stream HTTP/1.0\r\n\r\n")
        assert Response(everything(client)).rest == LARGE  # else SSLEOFError
        client.close()


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["", "preload"])
def test_ssl_context_makes_the_context_of_the_default_one(arbiter: Arbiter, more: tuple[str, ...]) -> None:
    """As Gunicorn's hook; one that is of no use fails the boot, and says so."""
    authority = Authority(arbiter.folder)
    certificate, key = authority.issue("server", "a.example")
    arbiter.write("live.py", SMALL_APP)
    conf = """
import ssl

def ssl_context(config, default_ssl_context_factory):
    context = default_ssl_context_factory()
    assert config.certfile.endswith(".pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.sni_callback = lambda connection, name, context: open("names", "a").write(f"{name}\\n") and None
    return %s
"""
    arbiter.write("conf.py", conf % "context")
    files = ("--certfile", str(certificate), "--keyfile", str(key), "-c", "conf.py", *more)
    server = arbiter.serve(*files, workers=1)
    with (
        socket.create_connection(server.tcp, timeout=PATIENCE) as plain,
        authority.client().wrap_socket(plain, server_hostname="a.example") as client,
    ):
        assert client.version() == "TLSv1.2"
    assert (server.folder / "names").read_text() == "a.example\n"
    arbiter.write("conf.py", conf % "None")
    _, words = arbiter.fail(*files, "live")
    assert "ssl_context gave NoneType: expected an ssl.SSLContext" in words
