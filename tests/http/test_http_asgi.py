"""ASGI 3 over HTTP/1.1, as an application under a real async worker sees it, and as its clients do.

One server for each pair of parser and loop serves all probes of this file; what needs settings of its own stands in
test_http_asgi_limits.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from asgi_serving import GET, Client, ask, connected, events, get, wait_event
from harness import Arbiter
from serving import Response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Server

pytestmark = pytest.mark.process

APP = """
import asyncio, contextvars, json, os, sys

seen = contextvars.ContextVar("seen", default="nothing")
PLAIN = [(b"content-type", b"text/plain")]


def note(**event):
    with open("seen.log", "a") as file:
        file.write(json.dumps(event) + "\\n")


async def start(send, status=200, headers=PLAIN, **more):
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})


async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def reply(send, data, status=200, headers=PLAIN):
    await start(send, status, headers)
    await body(send, data)


async def whole(receive):
    data, messages = b"", 0
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        messages += 1
        data += message["body"]
        if not message["more_body"]:
            return data, messages


def plain(value):
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__name__


class Views:
    async def hello(self, scope, receive, send):
        await reply(send, b"hello")

    async def scope(self, scope, receive, send):
        scope["state"]["left"] = scope["asgi"]["left"] = "here"
        scope["headers"].append((b"left", b"here"))
        await reply(send, json.dumps(plain(scope)).encode())

    async def echo(self, scope, receive, send):
        data, messages = await whole(receive)
        await reply(send, data)

    async def late(self, scope, receive, send):
        await asyncio.sleep(0.1)
        data, messages = await whole(receive)
        await reply(send, b"%d bytes" % len(data))

    async def unread(self, scope, receive, send):
        await reply(send, b"not read")

    async def chunks(self, scope, receive, send):
        await start(send)
        for piece in (b"one ", b"", b"two ", b"three"):
            await body(send, piece, more=True)
            await asyncio.sleep(0.01)
        await body(send)

    async def sized(self, scope, receive, send):
        await start(send, headers=[(b"content-length", b"10")])
        await body(send, b"01234", more=True)
        await body(send, b"56789")

    async def short(self, scope, receive, send):
        await start(send, headers=[(b"content-length", b"10")])
        await body(send, b"01234", more=True)
        await body(send, b"5")

    async def long(self, scope, receive, send):
        await start(send, headers=[(b"content-length", b"10")])
        await body(send, b"01234", more=True)
        await body(send, b"56789 and more")

    async def wrong(self, scope, receive, send):
        await reply(send, b"123", headers=[(b"content-length", b"10")])

    async def empty(self, scope, receive, send):
        await start(send, int(scope["query_string"] or b"204"))
        await body(send, b"never sent")

    async def memory(self, scope, receive, send):
        await start(send)
        await body(send, memoryview(b"from a view"))

    async def lists(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": iter([[b"X-Case", b"Kept"], [b"set-cookie", b"a"], [b"set-cookie", b"b"]])})
        await send({"type": "http.response.body"})

    async def raises(self, scope, receive, send):
        raise RuntimeError("secret detail")

    async def exits(self, scope, receive, send):
        sys.exit(3)

    async def halfway(self, scope, receive, send):
        await start(send)
        await body(send, b"half", more=True)
        raise RuntimeError("secret in the middle")

    async def held(self, scope, receive, send):
        await start(send)
        raise RuntimeError("secret behind a head")

    async def after(self, scope, receive, send):
        await reply(send, b"whole")
        raise RuntimeError("secret afterwards")

    async def returns(self, scope, receive, send):
        pass

    async def background(self, scope, receive, send):
        await reply(send, b"answered")
        note(event="next", message=(await receive())["type"])
        await asyncio.sleep(0.3)
        note(event="background")

    async def early(self, scope, receive, send):
        await start(send)
        await asyncio.sleep(1.0)
        await body(send, b"late")

    async def twice(self, scope, receive, send):
        await start(send)
        try:
            await start(send)
        except RuntimeError as error:
            await body(send, str(error).encode())

    async def nostart(self, scope, receive, send):
        await body(send, b"x")

    async def done(self, scope, receive, send):
        await reply(send, b"x")
        try:
            await body(send, b"y")
        except RuntimeError as error:
            note(event="done", error=str(error))

    async def splitting(self, scope, receive, send):
        await reply(send, b"", headers=[(b"x-bad", b"a\\r\\nSet-Cookie: b=c")])

    async def hops(self, scope, receive, send):
        await reply(send, b"x", headers=[(b"connection", b"keep-alive"), (b"keep-alive", b"timeout=1"), (b"upgrade", b"x"), (b"te", b"x")])

    async def parting(self, scope, receive, send):
        await reply(send, b"x", headers=[(b"connection", b"close")])

    async def waits(self, scope, receive, send):
        await whole(receive)
        first = asyncio.ensure_future(receive())
        second = asyncio.ensure_future(receive())
        cancelled = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        cancelled.cancel()
        note(event="waiting", id=scope["query_string"].decode())
        messages = [(await first)["type"], (await second)["type"], (await receive())["type"]]
        try:
            await reply(send, b"to nobody")
        except OSError as error:
            messages.append(type(error).__name__)
        note(event="left", id=scope["query_string"].decode(), messages=messages)

    async def streams(self, scope, receive, send):
        await start(send)
        sent = 0
        note(event="streaming", id=scope["query_string"].decode())
        try:
            while True:
                await body(send, b"x" * 1000, more=True)
                sent += 1
                await asyncio.sleep(0.02)
        except OSError as error:
            note(event="stopped", id=scope["query_string"].decode(), error=type(error).__name__)
            raise

    async def floods(self, scope, receive, send):
        await start(send)
        for number in range(200):
            await body(send, b"x" * 65536, more=True)
            if number % 20 == 0:
                note(event="flood", number=number)
        await body(send)
        note(event="flooded")

    async def slowreader(self, scope, receive, send):
        message = await receive()
        size = len(message["body"])
        note(event="first", size=size)
        while not os.path.exists("go"):
            await asyncio.sleep(0.05)
        while message["more_body"]:
            message = await receive()
            size += len(message["body"])
        await reply(send, b"%d" % size)

    async def trailers(self, scope, receive, send):
        await start(send, headers=[(b"trailer", b"x-sum")], trailers=True)
        await body(send, b"data")
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"4")]})

    async def badtrailers(self, scope, receive, send):
        await start(send, trailers=True)
        await body(send, b"data")
        await send({"type": "http.response.trailers", "headers": [(b"content-length", b"4")]})

    async def hints(self, scope, receive, send):
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await reply(send, b"hinted")

    async def path(self, scope, receive, send):
        await start(send)
        await send({"type": "http.response.pathsend", "path": os.path.abspath("big.bin")})

    async def zerocopy(self, scope, receive, send):
        with open("big.bin", "rb") as file:
            await start(send)
            await body(send, b"before", more=True)
            await send({"type": "http.response.zerocopysend", "file": file, "offset": 10, "count": 100000, "more_body": True})
            await send({"type": "http.response.zerocopysend", "file": file, "count": 5, "more_body": True})
            await send({"type": "http.response.zerocopysend", "file": file.fileno(), "count": 5, "more_body": True})
            await body(send, b"after")

    async def debug(self, scope, receive, send):
        await send({"type": "http.response.debug", "info": {"a": 1}})
        await reply(send, b"debugged")

    async def unknown(self, scope, receive, send):
        await send({"type": "http.response.nonsense"})

    async def context(self, scope, receive, send):
        before = seen.get()
        seen.set("leaked")
        await asyncio.sleep(0)
        task = asyncio.current_task()
        async with asyncio.timeout(5):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
        await reply(send, f"{before} {isinstance(task, asyncio.Task)} {scope['state']['shared']}".encode())

    async def order(self, scope, receive, send):
        seconds = float(scope["query_string"])
        await asyncio.sleep(seconds)
        await reply(send, b"after %s" % scope["query_string"])

    async def pid(self, scope, receive, send):
        await reply(send, str(os.getpid()).encode())


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        message = await receive()
        assert message == {"type": "lifespan.startup"}
        seen.set("of the lifespan")
        scope["state"]["shared"] = "shared"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    name = scope["path"].strip("/").partition("/")[0] or "hello"
    await getattr(Views, name)(None, scope, receive, send)
"""
BIG = bytes(range(256)) * 2000
EXPECTED = ("secret", "BadResponseError", "SystemExit", "RuntimeError", "http.disconnect")


@pytest.fixture(scope="module", params=[("httptools", "uvloop"), ("h11", "asyncio")], ids="-".join)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    parser, loop = request.param
    folder = tmp_path_factory.mktemp("asgi")
    launcher = Arbiter(folder)
    launcher.write("live.py", APP)
    (folder / "big.bin").write_bytes(BIG)
    try:
        server = launcher.serve("-k", "async", "--http", parser, "--loop", loop, workers=1)
        server.expect(*EXPECTED)
        yield server
    finally:
        launcher.finish()


def scope_of(server: Server, data: bytes) -> dict[str, Any]:
    scope: dict[str, Any] = json.loads(ask(server, data).body)
    return scope


# The scope -------------------------------------------------------------------------------------------------------------


def test_the_scope_says_what_was_asked_and_is_nobody_elses(server: Server) -> None:
    host, port = server.tcp
    with connected(server) as client:
        asked = b"GET /scope/caf%C3%A9/%2F?q=%20x HTTP/1.1\r\nHost: a\r\nX-Two: 1\r\nX-Two: 2\r\nX-Caf\xe9: no\r\n\r\n".replace(
            b"X-Caf\xe9: no\r\n", b""
        )
        first, second = (json.loads(client.ask(asked).body) for _ in range(2))
        peer = client.sock.getsockname()

    assert first == second
    assert first == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4", "left": "here"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope/café//",
        "raw_path": "/scope/caf%C3%A9/%2F",
        "query_string": "q=%20x",
        "root_path": "",
        "headers": [["host", "a"], ["x-two", "1"], ["x-two", "2"], ["left", "here"]],
        "client": [peer[0], peer[1]],
        "server": [host, port],
        "state": {"shared": "shared", "left": "here"},
        "extensions": {
            "http.response.debug": {},
            "http.response.early_hint": {},
            "http.response.pathsend": {},
            "http.response.trailers": {},
            "http.response.zerocopysend": {},
            "arbiter.extend_deadline": "function",
        },
    }


def test_http_1_0_says_so_and_is_closed_unless_it_asks(server: Server) -> None:
    with connected(server, b"GET /scope HTTP/1.0\r\n\r\n") as client:
        response = client.response()
        assert json.loads(response.body)["http_version"] == "1.0"
        assert client.rest() == b""
    with connected(server) as client:
        for _ in range(2):
            response = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (response.body, response[b"connection"]) == (b"hello", b"keep-alive")


def test_each_request_has_a_task_and_a_clean_context(server: Server) -> None:
    with connected(server) as client:
        for _ in range(3):
            assert client.ask(get("/context")).body == b"of the lifespan True shared"


# Bodies of requests -----------------------------------------------------------------------------------------------------


def test_a_body_arrives_whole_however_it_is_sent(server: Server) -> None:
    data = BIG[:300_000]
    with connected(server) as client:
        assert client.ask(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(data) + data).body == data
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at in range(0, len(data), 70_000):
            piece = data[at : at + 70_000]
            client.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        client.send(b"0\r\nX-Trailer: ignored\r\n\r\n")
        assert client.response().body == data
        client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        for byte in b"abc":
            time.sleep(0.01)
            client.send(bytes([byte]))
        assert client.response().body == b"abc"
        assert client.ask(GET).body == b"hello"


def test_100_continue_comes_when_the_application_reads_and_only_then(server: Server) -> None:
    expecting = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    with connected(server, expecting % b"/late") as client:
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.ask(b"data").body == b"4 bytes"
        assert client.ask(GET).body == b"hello"
    with connected(server, expecting % b"/unread") as client:
        assert client.response().body == b"not read"
        assert client.rest() == b""
    with connected(server, expecting % b"/echo" + b"data") as client:
        assert client.response().body == b"data"


def test_a_body_that_nobody_reads_does_not_become_the_next_request(server: Server) -> None:
    with connected(server, b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\n" + get("/raises")) as client:
        assert client.response().body == b"not read"
        assert client.ask(GET).body == b"hello"
    with connected(server, b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100) as client:
        assert client.response().body == b"not read"
        assert client.rest() == b""


def test_a_malformed_body_is_400_and_a_disconnect_to_the_application(server: Server) -> None:
    with connected(server, b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n") as client:
        response = Response(client.rest())

    assert (response.status, response[b"connection"]) == (400, b"close")


def test_a_reader_that_takes_its_time_holds_the_sender_back(server: Server) -> None:
    """More than the kernel's buffers and ours can hold is not taken while nobody reads."""
    size = 40_000_000
    with connected(server, b"POST /slowreader HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size) as client:
        client.sock.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < size:
                sent += client.sock.send(bytes(min(size - sent, 1_000_000)))
        assert sent < size, "it took everything although nobody read"
        client.sock.settimeout(30)
        (server.folder / "go").touch()
        client.send(bytes(size - sent))
        assert client.response().body == b"%d" % size


# Responses --------------------------------------------------------------------------------------------------------------


def test_head_and_small_body_arrive_in_one_piece_with_a_length(server: Server) -> None:
    with connected(server, GET) as client:
        data = client.sock.recv(65536)

    assert data.endswith(b"content-type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
    assert b"chunked" not in data


def test_a_body_in_pieces_is_chunked_or_of_its_length(server: Server) -> None:
    with connected(server) as client:
        response = client.ask(get("/chunks"))
        assert (response[b"transfer-encoding"], response.body) == (b"chunked", b"one two three")
        response = client.ask(get("/sized"))
        assert (response[b"transfer-encoding"], response.body) == (None, b"0123456789")
        assert client.ask(get("/memory")).body == b"from a view"
    with connected(server, b"GET /chunks HTTP/1.0\r\n\r\n") as client:
        assert client.rest().endswith(b"\r\n\r\none two three")


def test_head_204_and_304_have_no_body(server: Server) -> None:
    with connected(server) as client:
        response = client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", bodiless=True)
        assert (response.status, response[b"content-length"]) == (200, b"5")
        client.ask(b"HEAD /chunks HTTP/1.1\r\nHost: a\r\n\r\n", bodiless=True)
        assert client.ask(get("/empty?204")).status == 204
        assert client.ask(get("/empty?304")).status == 304
        assert client.ask(GET).body == b"hello"


def test_a_head_is_sent_when_the_application_suspends_before_its_body(server: Server) -> None:
    with connected(server, get("/early")) as client:
        began = time.monotonic()
        head = client.until(b"\r\n\r\n")
        assert time.monotonic() - began < 0.9, "it waited for the body"
        assert b"transfer-encoding: chunked" in head.lower()


def test_response_fields_keep_their_case_and_order_and_hop_by_hop_ones_never_leave(server: Server) -> None:
    with connected(server) as client:
        response = client.ask(get("/lists"))
        names = [name for name, _ in response.fields]
        assert [name for name in names if name not in (b"Date", b"Server", b"Content-Length")] == [
            b"X-Case",
            b"set-cookie",
            b"set-cookie",
        ]
        assert {b"Date", b"Server"} <= set(names)
        hops = client.ask(get("/hops"))
        assert not {b"keep-alive", b"upgrade", b"te"} & {name.lower() for name, _ in hops.fields}
        assert client.ask(get("/parting"))[b"connection"] == b"close"
        assert client.rest() == b""


@pytest.mark.parametrize("path", ["/raises", "/exits", "/returns", "/nostart", "/splitting", "/wrong", "/held", "/unknown"])
def test_a_failure_before_the_first_byte_is_a_500_without_details(server: Server, path: str) -> None:
    lines = server.count(f"GET {path}: the application ")
    with connected(server, get(path)) as client:
        response = Response(client.rest())

    assert response.status == 500
    assert b"secret" not in response.rest
    assert b"Set-Cookie" not in response.rest
    server.wait_log(f"GET {path}: the application ", lines + 1)
    assert server.count(f"GET {path}: the application ") == lines + 1


@pytest.mark.parametrize(("path", "mark"), [("/halfway", b"4\r\nhalf\r\n"), ("/short", b"01234"), ("/long", b"0123456789")])
def test_a_failure_in_the_middle_cuts_the_response_short(server: Server, path: str, mark: bytes) -> None:
    lines = server.count(f"GET {path}: the application failed in the middle")
    with connected(server, get(path)) as client:
        data = client.rest()

    assert data.partition(b"\r\n\r\n")[2] == mark
    server.wait_log(f"GET {path}: the application failed in the middle", lines + 1)


def test_a_failure_after_the_response_harms_nobody(server: Server) -> None:
    with connected(server) as client:
        assert client.ask(get("/after")).body == b"whole"
        assert client.ask(GET).body == b"hello"
    server.wait_log("GET /after: the application raised after its response was complete")


def test_messages_out_of_order_are_the_applications_to_handle(server: Server) -> None:
    assert b"'http.response.start' was sent where ASGI expects 'http.response.body'" in ask(server, get("/twice")).body
    ask(server, get("/done"))
    assert "after the response was complete" in wait_event(server, event="done")["error"]


def test_a_task_may_go_on_after_its_response_and_holds_no_connection(server: Server) -> None:
    with connected(server) as client:
        assert client.ask(get("/background")).body == b"answered"
        assert client.ask(GET).body == b"hello"
        assert not [event for event in events(server) if event["event"] == "background"]
        assert wait_event(server, event="next")["message"] == "http.disconnect"
        wait_event(server, event="background")


def test_a_client_that_does_not_read_holds_the_application_back(server: Server) -> None:
    with connected(server) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(get("/floods"))
        client.until(b"\r\n\r\n")
        time.sleep(0.5)
        assert not [event for event in events(server) if event["event"] == "flooded"]
        size = len(client.data)
        while not client.data.endswith(b"\r\n0\r\n\r\n"):
            piece = client.sock.recv(1 << 20)
            assert piece
            size += len(piece)
            client.data = client.data[-16:] + piece
        assert size > 200 * 65536


# Pipelining and leaving -------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with connected(server, get("/order?0.2") + get("/order?0.0") + get("/order?0.1") + GET * 50) as client:
        assert [client.response().body for _ in range(3)] == [b"after 0.2", b"after 0.0", b"after 0.1"]
        assert [client.response().body for _ in range(50)] == [b"hello"] * 50
        for piece in (b"GET /order?0.05 HT", b"TP/1.1\r\nHo", b"st: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"):
            client.send(piece)
            time.sleep(0.02)
        assert [client.response().body for _ in range(2)] == [b"after 0.05", b"hello"]


def test_a_flood_of_pipelined_requests_is_answered_and_not_hoarded(server: Server) -> None:
    with connected(server) as client:
        count = 5000
        client.sock.settimeout(0.2)
        data, sent, answers = GET * count, 0, 0
        while answers < count:
            with contextlib.suppress(TimeoutError):
                if sent < len(data):
                    sent += client.sock.send(data[sent : sent + 65536])
            with contextlib.suppress(TimeoutError):
                while piece := client.sock.recv(1 << 20):
                    answers += (client.data[-20:] + piece).count(b"hello") - client.data[-20:].count(b"hello")
                    client.data = piece


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_is_a_disconnect_to_all_who_wait_and_an_error_to_who_sends(server: Server, how: str) -> None:
    with connected(server, get(f"/waits?{how}")) as client:
        wait_event(server, event="waiting", id=how)
        time.sleep(0.15)
        leave(client, how)
        found = wait_event(server, event="left", id=how)

    assert found["messages"] == ["http.disconnect"] * 3 + ["Disconnected"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_stream_ends_when_its_client_has_left_without_a_word_in_the_log(server: Server, how: str) -> None:
    tracebacks = server.count("Traceback")
    with connected(server, get(f"/streams?{how}")) as client:
        client.until(b"xxx")
        leave(client, how)
        assert wait_event(server, event="stopped", id=how)["error"] == "Disconnected"
    assert ask(server).body == b"hello"
    assert server.count("Traceback") == tracebacks


def test_a_client_that_shuts_down_its_side_with_its_request_gets_its_answer(server: Server) -> None:
    with connected(server, get("/order?0.3")) as client:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.response().body == b"after 0.3"
        assert client.rest() == b""


def test_so_does_one_that_has_sent_a_body_or_several_requests(server: Server) -> None:
    with connected(
        server, b"POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwhole" + get("/order?0.1") + GET
    ) as client:
        client.sock.shutdown(socket.SHUT_WR)
        assert [client.response().body for _ in range(3)] == [b"5 bytes", b"after 0.1", b"hello"]
        assert client.rest() == b""


def leave(client: Client, how: str) -> None:
    if how == "half":
        client.sock.shutdown(socket.SHUT_WR)
        return
    if how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


# Extensions -------------------------------------------------------------------------------------------------------------


def test_trailers_follow_a_chunked_body(server: Server) -> None:
    with connected(server, get("/trailers")) as client:
        assert client.until(b"x-sum: 4\r\n\r\n").endswith(b"4\r\ndata\r\n0\r\nx-sum: 4\r\n\r\n")
        assert client.ask(GET).body == b"hello"
    with connected(server, b"GET /trailers HTTP/1.0\r\n\r\n") as client:
        assert client.rest().endswith(b"\r\n\r\ndata")
    with connected(server, get("/badtrailers")) as client:
        assert client.rest().endswith(b"4\r\ndata\r\n")


def test_early_hints_come_before_the_response(server: Server) -> None:
    with connected(server, get("/hints")) as client:
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        assert client.response().body == b"hinted"
    with connected(server, b"GET /hints HTTP/1.0\r\n\r\n") as client:
        assert client.rest().startswith(b"HTTP/1.1 200 ")


def test_files_are_sent_by_path_and_by_descriptor(server: Server) -> None:
    with connected(server) as client:
        response = client.ask(get("/path"))
        assert (response[b"content-length"], response.body) == (b"%d" % len(BIG), BIG)
        assert client.ask(b"HEAD /path HTTP/1.1\r\nHost: a\r\n\r\n", bodiless=True)[b"content-length"] == b"%d" % len(BIG)
        expected = b"before" + BIG[10:100010] + BIG[:10] + b"after"
        assert client.ask(get("/zerocopy")).body == expected
        assert client.ask(get("/debug")).body == b"debugged"
