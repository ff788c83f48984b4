"""What every kind of worker does for every interface over every transport: an application twice, and its client once.

The application does what the path says, as WSGI and as ASGI; what it saw that no response shows is a line of ``seen.log``. A
behaviour is a function of a `Site`, which says where the server is and what it is; it must hold whatever that is, but for what
a kind of worker is known not to have (`Site.keeps`, `Site.threads`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asgi_serving import Client
from serving import Response
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clients import Address
    from harness import Server

BIG: Final = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(100_000))
"""3.2 MB, of which no part is like another."""
SLACK: Final = 20.0
"""Seconds within which something happens that takes milliseconds on an idle machine."""

WAITS: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

COMMON: Final = """
import asyncio, hashlib, json, os, sys, time

BIG = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(100_000))
if not os.path.exists("big.bin"):
    with open(f"big.{os.getpid()}", "wb") as file:
        file.write(BIG)
    os.rename(f"big.{os.getpid()}", "big.bin")

def note(**what):
    with open("seen.log", "a") as log:
        log.write(json.dumps(what) + "\\n")

def is_open(gate):
    return os.path.exists(gate)

def arrived(barrier, mine):
    open(f"{barrier}-{mine}", "w").close()
    return lambda: sum(name.startswith(barrier + "-") for name in os.listdir(".")) >= 3
"""

WSGI: Final = (
    COMMON
    + """
def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)

class Body:
    def __init__(self, name, pieces):
        self.name, self.pieces = name, pieces
    def __iter__(self):
        return iter(self.pieces)
    def close(self):
        note(closed=self.name)

def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    plain = [("Content-Type", "text/plain")]
    def gate():
        yield b"first "
        wait(lambda: is_open(query))
        yield b"last"
    def echo():
        while piece := environ["wsgi.input"].read1(65536) if hasattr(environ["wsgi.input"], "read1") else environ["wsgi.input"].read(65536):
            yield piece
    def boom_late():
        yield b"part"
        raise RuntimeError("secret of the middle")
    def endless():
        try:
            while True:
                yield b"x" * 10_000
        except BaseException as error:
            note(ended=type(error).__name__)
            raise
    if path == "/boom":
        raise RuntimeError("secret of the start")
    if path == "/exit":
        sys.exit(3)
    if path == "/facts":
        facts = {
            "method": environ["REQUEST_METHOD"], "path": path, "query": query, "scheme": environ["wsgi.url_scheme"],
            "host": environ["HTTP_HOST"], "version": environ["SERVER_PROTOCOL"].partition("/")[2],
            "two": environ.get("HTTP_X_TWO"), "deadline": callable(environ.get("arbiter.extend_deadline")),
            "peer": environ["REMOTE_ADDR"],
        }
        start_response("200 OK", plain)
        return [json.dumps(facts).encode()]
    if path == "/keys":
        start_response("200 OK", plain)
        return [json.dumps([key for key in environ if not key.startswith("HTTP_")]).encode()]
    if path == "/hints":
        environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    if path == "/barrier":
        wait(arrived("barrier" + query.partition("/")[0], query.partition("/")[2]))
    if path == "/none":
        start_response("204 No Content", [])
        return []
    if path == "/teapot":
        start_response("418 Short and stout", [*plain, ("Content-Length", "5")])
        return iter([b"short", b" and"]) if query else [b"tea", b"!!"]
    if path == "/phrase":
        environ["app.word"] = "changed by the application"
        start_response("299 All Very Well", plain)
        return [b"hello"]
    if path == "/file":
        start_response("200 OK", plain)
        return environ["wsgi.file_wrapper"](open("big.bin", "rb"))
    start_response("200 OK", plain)
    bodies = {"/gate": gate, "/echo": echo, "/boom-late": boom_late, "/endless": endless}
    if path in bodies:
        return Body(path, bodies[path]())
    if path == "/big":
        return [BIG]
    if path == "/big-pieces":
        return Body(path, (BIG[at : at + 5000] for at in range(0, len(BIG), 5000)))
    return [b"hello"]
"""
)

ASGI: Final = (
    COMMON
    + """
async def wait(condition):
    end = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0.01)

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            note(lifespan=message["type"])
            if message["type"] == "lifespan.startup":
                scope["state"]["greeting"] = "hello"
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path, query = scope["path"], scope["query_string"].decode()

    async def start(status=200, headers=(), **more):
        plain = [(b"content-type", b"text/plain")] if status != 204 else []
        await send({"type": "http.response.start", "status": status, "headers": [*plain, *headers], **more})

    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})

    if path == "/boom":
        raise RuntimeError("secret of the start")
    if path == "/exit":
        sys.exit(3)
    if path == "/facts":
        headers = dict(scope["headers"])
        two = [value.decode() for name, value in scope["headers"] if name.replace(b"_", b"-") == b"x-two"]
        facts = {
            "method": scope["method"], "path": path, "query": query, "scheme": scope["scheme"],
            "host": headers[b"host"].decode(), "version": scope["http_version"], "two": ",".join(two) or None,
            "deadline": callable(scope["extensions"].get("arbiter.extend_deadline")),
            "peer": scope["client"][0] if scope["client"] else "",
        }
        await start()
        await body(json.dumps(facts).encode())
        return
    if path == "/keys":
        await start()
        await body(json.dumps([*scope, *scope["extensions"]]).encode())
        return
    if path == "/hints":
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    if path == "/barrier":
        await wait(arrived("barrier" + query.partition("/")[0], query.partition("/")[2]))
    if path == "/none":
        await start(204)
        await body(b"")
    elif path == "/teapot":
        await start(418, [(b"content-length", b"5")])
        for piece in ([b"short", b" and"] if query else [b"tea", b"!!"]):
            await body(piece, True)
        await body(b"")
    elif path == "/trailers":
        await start(trailers=True)
        await body(b"hello")
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"x-last", b"1")]})
    elif path == "/file":
        await start()
        await send({"type": "http.response.pathsend", "path": os.path.abspath("big.bin")})
    elif path == "/gate":
        await start()
        await body(b"first ", True)
        await wait(lambda: is_open(query))
        await body(b"last")
        note(closed=path)
    elif path == "/echo":
        await start()
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            more = message["more_body"]
            await body(message["body"], more)
        note(closed=path)
    elif path == "/boom-late":
        await start()
        await body(b"part", True)
        note(closed=path)
        raise RuntimeError("secret of the middle")
    elif path == "/endless":
        await start()
        try:
            while True:
                await body(b"x" * 10_000, True)
        except BaseException as error:
            note(ended=type(error).__name__)
            raise
        finally:
            note(closed=path)
    elif path == "/big":
        await start()
        await body(BIG)
    elif path == "/big-pieces":
        await start()
        for at in range(0, len(BIG), 5000):
            await body(BIG[at : at + 5000], True)
        await body(b"")
        note(closed=path)
    else:
        await start()
        await body(scope["state"]["greeting"].encode())
"""
)


@dataclass
class Site:
    """A server, as far as behaviours want to know."""

    server: Server
    address: Address
    """A TCP address, or the path of a unix socket."""
    tls: ssl.SSLContext | None
    interface: str
    keeps: bool
    """It keeps connections for more requests."""
    threads: int
    """Requests at a time, up to three."""
    tag: str
    """In the names of files, so that the site is not taken for another of the same server."""

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """A new connection."""
        sock = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(SLACK)
        sock.connect(self.address)
        return self.tls.wrap_socket(sock, server_hostname="localhost") if self.tls else sock

    @contextlib.contextmanager
    def client(self, data: bytes = b"", *, receive_buffer: int = 0) -> Iterator[Client]:
        """A connection over which this has been sent."""
        with self.connect(receive_buffer=receive_buffer) as sock:
            sock.sendall(data)
            yield Client(sock)

    def ask(self, data: bytes) -> Response:
        """The response to a request that has a connection of its own."""
        with self.client(data) as client:
            return client.response(bodiless=data.startswith(b"HEAD"))

    def seen(self, **wanted: Any) -> int:
        """How often the application has noted this."""
        path = self.server.folder / "seen.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(json.loads(line) == wanted for line in lines)


def send_while_reading(client: Client, data: bytes) -> None:
    """Send all of it, and read meanwhile what comes: in one thread, as what reads and writes TLS is not for two."""
    left = memoryview(data)
    client.sock.setblocking(False)
    while left:
        ready = select.select([client.sock], [client.sock], [], SLACK)
        assert any(ready), "the server neither reads nor writes"
        with contextlib.suppress(*WAITS):
            left = left[client.sock.send(left[:65536]) :]
        with contextlib.suppress(*WAITS):
            while piece := client.sock.recv(65536):
                client.data += piece
    client.sock.settimeout(SLACK)


def request(target: str, *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b"") -> bytes:
    """A request, as bytes."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: shop.example", *fields, "", ""]).encode() + body


def chunked(target: str, *pieces: bytes, fields: tuple[str, ...] = ()) -> bytes:
    """A request with a body in chunks."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))
    return request(target, "Transfer-Encoding: chunked", *fields, method="POST", body=body)


# Behaviours -----------------------------------------------------------------------------------------------------------


def hello(site: Site) -> None:
    for line in ("/", "/?a=b"):
        response = site.ask(request(line))
        assert (response.status, response.body) == (200, b"hello")
        assert response[b"content-length"] == b"5"
        assert response[b"connection"] == (None if site.keeps else b"close")


def the_request_is_told_as_it_was(site: Site) -> None:
    facts = json.loads(site.ask(request("/facts?q=%20&r", "X-Two: 1", "x-two: 2", "X_Two: 3")).body)
    peer = "" if isinstance(site.address, str) else "127.0.0.1"
    scheme = "https" if site.tls else "http"
    assert facts == {
        "method": "GET", "path": "/facts", "query": "q=%20&r", "scheme": scheme, "host": "shop.example", "version": "1.1",
        "two": "1,2", "deadline": True, "peer": peer,
    }  # fmt: skip


def all_that_the_application_is_given_is_documented(site: Site) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/environ.md").read_text()
    wsgi, asgi = page.split("## WSGI environ")[1].split("## ASGI scope")
    documented = {
        key
        for line in (asgi if site.interface == "asgi" else wsgi).splitlines()
        if line.startswith("| `")
        for key in re.findall("`([^`]+)`", line.split(" | ")[0])
    }
    given = set(json.loads(site.ask(request("/keys", "Content-Type: text/plain", "Content-Length: 0", method="POST")).body))

    assert given - {"type"} <= documented
    assert ("SSL_CIPHER" in given or "tls" in given) == (site.tls is not None)


def a_reason_phrase_is_the_applications(site: Site) -> None:
    if site.interface == "wsgi":
        assert site.ask(request("/phrase")).line == b"HTTP/1.1 299 All Very Well"


def head_has_no_body(site: Site) -> None:
    with site.client(request("/", method="HEAD")) as client:
        response = client.response(bodiless=True)
        assert (response.status, response[b"content-length"]) == (200, b"5")
        if site.keeps:
            assert client.ask(request("/")).body == b"hello"
    with site.client(request("/gate?never", method="HEAD")) as client:  # as an application that streams may answer one
        response = client.response(bodiless=True)
        assert response.status == 200
    (site.server.folder / "never").touch()
    assert site.ask(request("/none")).rest == b""


def bodies_are_echoed(site: Site) -> None:
    sized = request("/echo", "Content-Length: 11", method="POST", body=b"hello world")
    assert site.ask(sized).body == b"hello world"
    assert site.ask(chunked("/echo", b"hello", b" ", b"world")).body == b"hello world"
    assert site.ask(request("/echo", "Content-Length: 0", method="POST")).body == b""
    assert site.ask(chunked("/echo")).body == b""


def a_large_body_is_echoed_while_it_is_sent(site: Site) -> None:
    for head in (request("/echo", f"Content-Length: {len(BIG)}", method="POST"), b""):
        data = head + BIG if head else chunked("/echo", *(BIG[at : at + 40_000] for at in range(0, len(BIG), 40_000)))
        with site.client() as client:
            send_while_reading(client, data)
            assert client.response().body == BIG


def a_body_that_nobody_reads_harms_nobody(site: Site) -> None:
    with site.client(request("/", "Content-Length: 200000", method="POST", body=b"x" * 200_000)) as client:
        assert client.response().body == b"hello"
    assert site.ask(request("/")).body == b"hello"


def pieces_are_sent_when_they_are_there(site: Site) -> None:
    gate = f"gate-{site.tag}"
    closed = site.seen(closed="/gate")
    with site.client(request(f"/gate?{gate}")) as client:
        client.until(b"first ")
        (site.server.folder / gate).touch()
        client.until(b"last")
    until(lambda: site.seen(closed="/gate") == closed + 1, "close()")


def http_1_0_is_told_the_end_by_the_end(site: Site) -> None:
    with site.client(request("/big-pieces", version="1.0")) as client:
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == BIG


def an_error_before_the_first_byte_is_a_500(site: Site) -> None:
    for path in ("/boom", "/exit"):
        response = site.ask(request(path))
        assert response.status == 500
        assert b"secret" not in response.rest
    assert site.ask(request("/")).body == b"hello"


def an_error_after_it_cuts_the_response_short(site: Site) -> None:
    closed = site.seen(closed="/boom-late")
    with site.client(request("/boom-late")) as client:
        data = client.rest()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"part" in data
    assert not data.endswith(b"0\r\n\r\n")
    until(lambda: site.seen(closed="/boom-late") == closed + 1, "close()")


def a_body_longer_than_its_length_is_cut_and_its_status_kept(site: Site) -> None:
    response = site.ask(request("/teapot"))
    assert (response.status, response.body) == (418, b"tea!!")
    assert response.line == b"HTTP/1.1 418 " + (b"Short and stout" if site.interface == "wsgi" else b"I'm a Teapot")
    with site.client(request("/teapot?more")) as client:
        data = client.rest() if not site.keeps else client.until(b"short")
    assert data.endswith(b"\r\n\r\nshort")


def a_client_that_leaves_ends_its_response(site: Site) -> None:
    closed = site.seen(closed="/endless")
    with site.client(request("/endless")) as client:
        client.until(b"x" * 100)
    until(lambda: site.seen(closed="/endless") == closed + 1, "close()")
    assert site.ask(request("/")).body == b"hello"


def a_slow_reader_gets_all_of_it_and_holds_nobody_who_has_threads(site: Site) -> None:
    for path in ("/big", "/big-pieces", "/file"):
        with site.client(request(path), receive_buffer=4096) as client:
            client.until(b"\r\n")
            if site.threads > 1:
                assert site.ask(request("/")).body == b"hello"
            client.data = b"HTTP/1.1 200 OK\r\n" + client.data
            assert client.response().body == BIG


def connections_are_kept(site: Site) -> None:
    with site.client() as client:
        client.send(request("/"))
        assert client.response().body == b"hello"
        if site.keeps:
            assert client.ask(request("/echo", "Content-Length: 2", method="POST", body=b"hi")).body == b"hi"
            assert client.ask(chunked("/echo", b"ho")).body == b"ho"
            assert client.ask(request("/big-pieces")).body == BIG
            assert client.ask(request("/", "Connection: close"))[b"connection"] == b"close"
        assert client.rest() == b""


def pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    one = request("/echo", "Content-Length: 3", method="POST", body=b"one")
    with site.client(one + request("/") + chunked("/echo", b"t", b"hree") + request("/", "Connection: close")) as client:
        assert client.response().body == b"one"
        if site.keeps:
            assert client.response().body == b"hello"
            assert client.response().body == b"three"
            assert client.response().body == b"hello"
        assert client.rest() == b""


def who_waits_for_a_100_gets_one(site: Site) -> None:
    with site.client(request("/echo", "Content-Length: 2", "Expect: 100-continue", method="POST")) as client:
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hi")
        assert client.response().body == b"hi"


def early_hints_come_early(site: Site) -> None:
    with site.client(request("/hints")) as client:
        head = client.until(b"\r\n\r\n").lower()
        assert head == b"http/1.1 103 early hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
        assert client.response().body == b"hello"
    with site.client(request("/hints", version="1.0")) as client:
        assert client.rest().startswith(b"HTTP/1.1 200 OK\r\n")


def trailers_come_after_the_body(site: Site) -> None:
    if site.interface != "asgi":
        return  # WSGI has none
    with site.client(request("/trailers", "TE: trailers")) as client:
        client.until(b"5\r\nhello\r\n0\r\n")
        assert client.until(b"\r\n\r\n") == b"x-sum: 42\r\nx-last: 1\r\n\r\n"
        if site.keeps:
            assert client.ask(request("/")).body == b"hello"


def malformed_requests_are_refused(site: Site) -> None:
    for raw, status in (
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (chunked("/echo", b"").replace(b"0\r\n\r\n", b"zz\r\n"), 400),
        (request("/", "X: " + "y" * 10_000), 431),
        (request("/", "Expect: magic"), 417),
        (request("/a", method="CONNECT"), 501),
    ):
        with site.client(raw) as client:
            response = Response(client.rest())
            assert (raw[:30], response.status) == (raw[:30], status)
            assert response[b"connection"] == b"close"
    assert site.ask(request("/")).body == b"hello"


def requests_run_side_by_side(site: Site) -> None:
    if site.threads < 3:
        return
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(site.client(request(f"/barrier?{site.tag}/{number}"))) for number in range(3)]
        assert [client.response().body for client in clients] == [b"hello"] * 3


BEHAVIOURS: Final[list[Callable[[Site], None]]] = [
    hello,
    the_request_is_told_as_it_was,
    all_that_the_application_is_given_is_documented,
    a_reason_phrase_is_the_applications,
    head_has_no_body,
    bodies_are_echoed,
    a_large_body_is_echoed_while_it_is_sent,
    a_body_that_nobody_reads_harms_nobody,
    pieces_are_sent_when_they_are_there,
    http_1_0_is_told_the_end_by_the_end,
    an_error_before_the_first_byte_is_a_500,
    an_error_after_it_cuts_the_response_short,
    a_body_longer_than_its_length_is_cut_and_its_status_kept,
    a_client_that_leaves_ends_its_response,
    a_slow_reader_gets_all_of_it_and_holds_nobody_who_has_threads,
    connections_are_kept,
    pipelined_requests_are_answered_in_their_order,
    who_waits_for_a_100_gets_one,
    early_hints_come_early,
    trailers_come_after_the_body,
    malformed_requests_are_refused,
    requests_run_side_by_side,
]


def try_all(site: Site) -> None:
    """All behaviours; those that do not hold are raised together, each under its name."""
    failures = []
    for behaviour in BEHAVIOURS:
        try:
            behaviour(site)
        except Exception as error:
            error.add_note(f"{behaviour.__name__} does not hold for {site.tag}")
            failures.append(error)
    if failures:
        raise ExceptionGroup(f"{len(failures)} of {len(BEHAVIOURS)} behaviours", failures)


def finish_what_was_begun(site: Site) -> None:
    """A server that is told to stop finishes a request that is under way, and nothing is lost of it."""
    gate = f"last-{site.tag}"
    with site.client(request(f"/gate?{gate}")) as client:
        client.until(b"first ")
        threading.Timer(0.3, (site.server.folder / gate).touch).start()
        began = time.monotonic()
        assert site.server.stop() == 0
        client.until(b"last")
        client.until(b"0\r\n\r\n")
        assert client.rest() == b""
    assert time.monotonic() - began < SLACK
