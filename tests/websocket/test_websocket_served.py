"""WebSockets on a real async worker: conformance, the ASGI messages, back-pressure, keep-alive, and the worker's end."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import websockets
from autobahn import CASES, bye
from certificates import Authority
from test_websocket_autobahn import Inflated
from waiting import until
from websocket_client import RawWebSocket, handshake, open_websocket
from wire import BINARY, CLOSE, TEXT, close, frame

from arbiter.workers.protocols.websocket_deflate import Agreement

if TYPE_CHECKING:
    from harness import Arbiter, Server

pytestmark = pytest.mark.process

LOOPS = ("uvloop", "asyncio")

APP = """
import asyncio, json, os

def note(**event):
    with open("seen.log", "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **event}) + "\\n")

async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"plain"})
        return
    if scope["type"] != "websocket":
        raise RuntimeError(scope["type"])
    path = scope["path"]
    assert await receive() == {"type": "websocket.connect"}
    if path == "/reject":
        await send({"type": "websocket.close"})
        return
    if path == "/deny":
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"x-pot", b"tea")]})
        await send({"type": "websocket.http.response.body", "body": b"short", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b" and stout"})
        return
    if path == "/deny-half":
        await send({"type": "websocket.http.response.start", "status": 200, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"half", "more_body": True})
        raise ValueError("in the middle of a denial")
    if path == "/fail-early":
        raise ValueError("before it accepted")
    if path == "/silent":
        return
    if path == "/wrong-subprotocol":
        await send({"type": "websocket.accept", "subprotocol": "never offered"})
    if path == "/slow-accept":
        await asyncio.sleep(0.3)
        note(asked=(await asyncio.wait_for(receive(), 20))["type"])
        try:
            await send({"type": "websocket.accept"})
        except OSError as error:
            note(refused=type(error).__name__)
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else ""
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-accepted", b"yes")]})
    if path == "/scope":
        await send({"type": "websocket.send", "text": json.dumps({name: repr(value) for name, value in scope.items()})})
        return
    if path == "/fail":
        await receive()
        raise ValueError("in the middle")
    if path == "/pour":
        poured = 0
        try:
            while poured < 1 << 26:
                await send({"type": "websocket.send", "bytes": bytes(1 << 16)})
                poured += 1 << 16
                note(poured=poured)
        except OSError as error:
            note(ended=type(error).__name__)
        return
    if path == "/hold":  # receives nothing until it may
        while not os.path.exists("release"):
            await asyncio.sleep(0.02)
    if path == "/deaf":  # never receives
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            note(cancelled=path)
            raise
    count = 0
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            note(path=path, count=count, **{key: message[key] for key in ("code", "reason")})
            assert (await receive())["type"] == "websocket.disconnect"
            for late in ({"type": "websocket.send", "text": "late"}, {"type": "websocket.close"}):
                try:
                    await send(late)
                except OSError as error:
                    note(late=late["type"], raised=type(error).__name__)
            return
        count += 1
        if message.get("text") == "close, please":
            for wrong in ({"code": 1005}, {"code": "4000"}, {"code": 4000, "reason": b"as you wish"}):
                try:
                    await send({"type": "websocket.close", **wrong})
                except (TypeError, ValueError) as error:
                    note(wrong=str(error))
            await send({"type": "websocket.close", "code": 4000, "reason": "as you wish"})
            return
        if message.get("text") == "return, please":
            return
        if path != "/sink":
            await send({**message, "type": "websocket.send"})
"""


def serve(arbiter: Arbiter, *arguments: str, workers: int = 1) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve("-k", "async", *arguments, workers=workers)


def events(server: Server) -> list[dict[str, Any]]:
    path = server.folder / "seen.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_event(server: Server, **wanted: Any) -> dict[str, Any]:
    """The first event that has these values, once it is there."""
    return until(
        lambda: [event for event in events(server) if wanted.items() <= event.items()],
        lambda: f"an event with {wanted}; there are {events(server)}",
    )[0]


# Autobahn -------------------------------------------------------------------------------------------------------------


def test_autobahns_own_cases_pass(arbiter: Arbiter) -> None:
    """Autobahn's own files, by a runner that is for Python 3 (kosoku): sections 1 to 7, 9.1, 9.2 and 10, compression offered.

    Result: OK for all, but for the few that are no judgement (7.1.6, 7.13); NON-STRICT is not enough.
    """
    server = serve(arbiter, "--ws-per-message-deflate", "--ws-per-message-deflate-threshold", "1")
    sections = [part for section in ("[1-7].*", "9.[12].*", "10.*") for part in ("--include", section)]
    report = server.folder / "autobahn"
    address = "{}:{}".format(*server.tcp)
    runner = Path(sys.executable).with_name("kosoku")
    subprocess.run([runner, *sections, "--parallelism", "8", "--outdir", report, address], check=True, timeout=120)
    (cases,) = json.loads((report / "index.json").read_text()).values()
    wrong = {
        number: case for number, case in cases.items() if {case["behavior"], case["behaviorClose"]} - {"OK", "INFORMATIONAL"}
    }

    assert wrong == {}
    assert len(cases) == 247 + 12
    assert sum(case["behavior"] == "OK" for case in cases.values()) >= 256


@pytest.mark.parametrize(("loop", "deflate"), [("uvloop", True), ("asyncio", False)], ids=["uvloop-deflate", "asyncio-plain"])
def test_the_cases_of_autobahn_pass_on_a_server(arbiter: Arbiter, loop: str, deflate: bool) -> None:
    """Sections 1 to 7 and 10 over real sockets, with what Autobahn calls OK (NON-STRICT is not enough).

    1. For each case a client shakes hands, sends, and reads until the server ends the connection.
    2. The cases that must fail before all is sent are not sent whole.
    3. A message of 16 MiB (9.1.6, 9.2.6), the largest that the default lets through.
    Result: each case's frames in their order, its close code, and the end of the connection.
    """
    server = serve(
        arbiter, "--loop", loop, *(["--ws-per-message-deflate", "--ws-per-message-deflate-threshold", "1"] * deflate)
    )
    offer = ["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=15"] if deflate else []
    agreement = Agreement() if deflate else None
    failed = {}
    for case in CASES:
        closes = frozenset({1007}) if deflate and case.number == "3.4" else case.closes  # RSV1 means something then
        with open_websocket(server, "/", *offer) as client:
            assert (b"permessage-deflate" in client.head) == deflate
            for chunk in case.chunks[:-1] if case.early else case.chunks:
                try:
                    client.send(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    break  # it has failed us already
            try:
                *replies, (opcode, payload) = Inflated(agreement).of(client.rest())
            except (AssertionError, ValueError, OSError) as error:
                failed[case.number] = repr(error)
                continue
        code = int.from_bytes(payload[:2]) if payload else 1005
        if (replies, opcode) != (case.replies, CLOSE) or code not in closes:
            failed[case.number] = f"{code} after {replies!r:.200}"

    assert not failed
    for opcode in (TEXT, BINARY):
        with open_websocket(server, "/", *offer, timeout=60) as client:
            client.send(frame(opcode, b"*" * (1 << 24), key=bytes(4)) + bye)
            expected = [(opcode, b"*" * (1 << 24)), (CLOSE, b"\x03\xe8")]

            assert Inflated(agreement).of(client.rest()) == expected


# The ASGI messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_an_application_is_told_what_asgi_says_and_obeyed(arbiter: Arbiter, loop: str) -> None:
    """One server, many short WebSockets; see the assertions."""
    server = serve(arbiter, "--loop", loop, "--access-logfile", "access.log")
    server.expect("ValueError", "BadResponseError")

    with open_websocket(server, "/scope?a=b%20c", "Sec-WebSocket-Protocol: chat, soap", "Origin: https://a.example") as client:
        lines = client.head.split(b"\r\n")
        assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
        assert {b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"Sec-WebSocket-Protocol: chat", b"x-accepted: yes"} <= {
            *lines
        }
        scope = json.loads(client.read_frame()[1])
        assert client.read_frame() == (0x88, b"\x03\xe8")  # it has returned without closing
        client.send(close(1000))
        assert client.rest() == b""
    assert re.fullmatch(r"\('127.0.0.1', \d+\)", scope.pop("client"))
    assert scope.pop("server") == f"('127.0.0.1', {server.tcp[1]})"
    assert "(b'origin', b'https://a.example')" in scope.pop("headers")
    assert scope == {
        "type": "'websocket'",
        "asgi": "{'version': '3.0', 'spec_version': '2.4'}",
        "http_version": "'1.1'",
        "scheme": "'ws'",
        "path": "'/scope'",
        "raw_path": "b'/scope'",
        "query_string": "b'a=b%20c'",
        "root_path": "''",
        "subprotocols": "['chat', 'soap']",
        "state": "{}",
        "extensions": "{'websocket.http.response': {}}",
    }

    for path, answer, body in [
        ("/reject", b"403 Forbidden", b"403 Forbidden\nThe application does not accept this WebSocket.\n"),
        ("/deny", b"418 ", b"5\r\nshort\r\na\r\n and stout\r\n0\r\n\r\n"),
        ("/deny-half", b"200 OK", b"4\r\nhalf\r\n"),
        ("/fail-early", b"500 ", None),
        ("/silent", b"500 ", None),
        ("/wrong-subprotocol", b"500 ", None),
    ]:
        with open_websocket(server, path) as client:
            assert client.head.startswith(b"HTTP/1.1 " + answer), path
            assert body in (client.rest(), None), path

    with open_websocket(server, "/fail") as client:
        client.send(frame(TEXT, b"now"))
        assert client.read_frame() == (0x88, b"\x03\xf3")
    with open_websocket(server) as client:
        client.send(frame(TEXT, b"close, please") + frame(TEXT, b"never read"))
        assert client.read_frame() == (0x88, b"\x0f\xa0as you wish")
        assert wait_event(server, wrong="the reason b'as you wish' for closing a WebSocket is no str")
        assert [event["wrong"].partition(":")[0] for event in events(server) if ":" in event.get("wrong", "")] == [
            "a WebSocket can't be closed with code 1005",
            "a WebSocket can't be closed with code '4000'",
        ]
        client.send(frame(TEXT, b"on its way") + close(4000))
        assert client.rest() == b""

    with open_websocket(server, "/goes", behind=frame(TEXT, b"with the handshake")) as client:
        assert client.read_frame() == (0x81, b"with the handshake")
        client.send(close(3001, b"see you"))
        assert client.rest() == b"\x88\x02\x0b\xb9"
    assert wait_event(server, path="/goes")["code"] == 3001
    assert wait_event(server, path="/goes")["reason"] == "see you"
    assert wait_event(server, late="websocket.send")["raised"] == "Disconnected"
    assert wait_event(server, late="websocket.close")["raised"] == "Disconnected"
    with open_websocket(server, "/vanishes"):
        pass
    assert wait_event(server, path="/vanishes")["code"] == 1006
    with socket.create_connection(server.tcp) as sock:
        sock.sendall(handshake("/slow-accept"))
    assert wait_event(server, asked="websocket.disconnect")
    assert wait_event(server, refused="Disconnected")

    for request, answer in [
        (handshake().replace(b"Version: 13", b"Version: 8"), b"HTTP/1.1 426 Upgrade Required\r\n"),
        (handshake("/reject").replace(b"Upgrade: ", b"Upgrade: h2c, "), b"HTTP/1.1 403 Forbidden\r\n"),
        (handshake().replace(b": websocket\r\n", b": websocket2\r\n"), b"HTTP/1.1 200 OK\r\n"),
        (handshake().replace(b"Connection: Upgrade", b"Connection: keep-alive"), b"HTTP/1.1 200 OK\r\n"),
        (handshake().replace(b"dGhl", b"####"), b"HTTP/1.1 400 Bad Request\r\n"),
        (handshake().replace(b"Upgrade: websocket\r\n", b""), b"HTTP/1.1 200 OK\r\n"),
        (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), b"HTTP/1.1 200 OK\r\n"),
        (handshake().replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"), b"HTTP/1.1 200 OK\r\n"),
    ]:
        with socket.create_connection(server.tcp, timeout=20) as sock:
            client = RawWebSocket(sock)
            client.send(request)
            assert client.read_head().startswith(answer)

    assert server.count(r"the application failed in the middle of its response, which is cut short") == 1
    assert server.count(r"WebSocket /silent: the application returned without accepting or closing") == 1
    assert server.count(r"ValueError: in the middle$") == 1
    until(lambda: len(access_log(server)) >= 13, lambda: f"{access_log(server)}")
    logged = access_log(server)
    assert {'"GET /scope?a=b%20c HTTP/1.1" 101', '"GET /reject HTTP/1.1" 403', '"GET /deny HTTP/1.1" 418'} <= {*logged}
    assert '"GET /fail HTTP/1.1" 101' in logged


def access_log(server: Server) -> list[str]:
    """Request line and status of each line."""
    path = server.folder / "access.log"
    return re.findall(r'"GET \S+ HTTP/1.1" \d+', path.read_text()) if path.exists() else []


@pytest.mark.parametrize("loop", LOOPS)
def test_a_library_talks_to_it_with_and_without_compression(arbiter: Arbiter, loop: str) -> None:
    """The client is the library websockets: text, binary, fragments, pings, large messages, ten at a time."""
    server = serve(arbiter, "--loop", loop, "--ws-per-message-deflate")
    host, port = server.tcp
    repetitive = "a message that repeats itself, " * 3000

    async def talk(compression: str | None) -> str:
        async with websockets.connect(f"ws://{host}:{port}/", compression=compression) as client:
            for message in ("é" * 300, b"\x00\xff" * 400, repetitive, b"", "", "x" * 70000):
                await client.send(message)
                assert await client.recv() == message
            await client.send(iter(["in ", "three ", "parts"]))
            assert await client.recv() == "in three parts"
            await asyncio.wait_for(await client.ping(), 20)
            extensions = client.protocol.extensions
            await client.send("close, please")
            with pytest.raises(websockets.ConnectionClosedError) as caught:
                await client.recv()
            assert caught.value.rcvd is not None
            assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "as you wish")
            return ", ".join(extension.name for extension in extensions)

    async def crowd() -> list[str]:
        return await asyncio.gather(*(talk("deflate" if index % 2 else None) for index in range(10)))

    assert sorted(asyncio.run(crowd())) == [""] * 5 + ["permessage-deflate"] * 5


@pytest.mark.parametrize("loop", LOOPS)
def test_it_is_the_same_over_tls(arbiter: Arbiter, loop: str, tmp_path: Path) -> None:
    """Small and large messages, the scheme, and a violation, whose close frame arrives before the end."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "a.example")
    server = serve(arbiter, "--loop", loop, "--certfile", str(certificate), "--keyfile", str(key))
    context = authority.client()
    host, port = server.tcp

    async def talk() -> None:
        url = f"wss://a.example:{port}"
        async with websockets.connect(f"{url}/scope", host=host, ssl=context) as client:
            assert json.loads(await client.recv())["scheme"] == "'wss'"
        async with websockets.connect(url, host=host, ssl=context, max_size=None) as client:
            for message in ("small", "x" * 70000, bytes(1 << 21)):
                await client.send(message)
                assert await client.recv() == message

    asyncio.run(talk())
    with (
        socket.create_connection(server.tcp, timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="a.example") as tls,
    ):
        raw = RawWebSocket(tls)
        raw.send(handshake())
        raw.read_head()
        raw.send(frame(TEXT, b"hello") + frame(3))
        assert raw.read_frame() == (0x81, b"hello")
        assert raw.read_frame()[1][:2] == b"\x03\xea"
        assert raw.rest() == b""


# Limits, back-pressure, keep-alive ------------------------------------------------------------------------------------


def test_a_message_beyond_the_limit_closes_with_1009_even_if_it_is_small_while_compressed(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--ws-max-size", "64KiB", "--ws-per-message-deflate")
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    deflater = zlib.compressobj(wbits=-15)
    bomb = (deflater.compress(bytes(1 << 26)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    for sent in (frame(BINARY, bomb, rsv=4), frame(BINARY, b"", length=(1 << 16) + 1)):
        with open_websocket(server, "/", offer) as client:
            client.send(sent)
            first, payload = client.read_frame()

            assert (first, payload[:2]) == (0x88, b"\x03\xf1")
    with open_websocket(server, "/", offer) as client:
        client.send(frame(BINARY, bytes(1 << 16), key=bytes(4)))
        assert client.read_frame()[0] == 0xC2
    assert peak_memory(server) < 100e6  # the bomb has 64 MiB


def test_a_client_is_slowed_down_to_what_the_application_receives(arbiter: Arbiter) -> None:
    """The application receives nothing; the client sends 32 MiB.

    Result: the client is stopped by TCP long before, the worker holds a few messages only, answers others, and pings of its
    own do not end the connection; then everything arrives in order.
    """
    server = serve(arbiter, "--ws-ping-interval", "0.3", "--ws-ping-timeout", "0.3")
    before = peak_memory(server)
    message = frame(BINARY, bytes(1 << 16), key=bytes(4))
    with open_websocket(server, "/hold") as client:
        client.sock.settimeout(2.0)
        sent = 0
        try:
            while sent < 1 << 25:
                sent += client.sock.send(message[sent % len(message) :])
        except TimeoutError:
            pass
        assert sent < 1 << 25
        with open_websocket(server) as other:
            other.send(frame(TEXT, b"still there?"))
            assert other.read_frame() == (0x81, b"still there?")
        assert peak_memory(server) - before < 4e6
        client.sock.settimeout(30)
        (server.folder / "release").touch()
        client.send(message[sent % len(message) :] if sent % len(message) else b"")
        got = 0
        while got < -(-sent // len(message)):
            first, payload = client.read_frame()
            if first == 0x89:
                client.send(frame(10, payload))
            else:
                assert (first, len(payload)) == (0x82, 1 << 16)
                got += 1


def test_an_application_is_slowed_down_to_what_its_client_reads(arbiter: Arbiter) -> None:
    """The client reads nothing: the application's `send` waits, and is told when the client is given up (`write_timeout`)."""
    server = serve(arbiter, "--write-timeout", "1.5", "--ws-ping-interval", "0")
    with open_websocket(server, "/pour") as client:
        wait_event(server, ended="Disconnected")
        poured = max(event.get("poured", 0) for event in events(server))
        with pytest.raises(ConnectionResetError):
            client.rest()
    assert poured < 1 << 25  # what the kernel takes for both ends, and 64 KiB of ours
    server.wait_log("a client was too slow to read its WebSocket")


def test_a_client_that_does_not_answer_pings_is_closed_and_one_that_does_is_not(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.4")
    with open_websocket(server, "/lively") as lively, open_websocket(server, "/mute") as mute:
        assert mute.read_frame() == (0x89, b"")
        for _ in range(4):
            assert lively.read_frame() == (0x89, b"")
            lively.send(frame(10, b""))
        assert mute.rest() == b"\x88\x09\x03\xf3no pong"
        lively.send(frame(TEXT, b"hello"))
        while (received := lively.read_frame()) == (0x89, b""):
            lively.send(frame(10, b""))
        assert received == (0x81, b"hello")
    assert wait_event(server, path="/mute")["code"] == 1011


# The worker's end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reload_closes_websockets_with_1012_and_their_clients_come_back_to_the_new_code(arbiter: Arbiter, loop: str) -> None:
    """HUP with open WebSockets.

    1. One that is idle is closed at once, with 1012; its application sees the code.
    2. One whose application is busy is closed after it has answered, not before.
    3. Whoever connects anew is served.
    Result: nobody is reset, and the old worker is gone.
    """
    server = serve(arbiter, "--loop", loop)
    with open_websocket(server, "/idle") as idle, open_websocket(server, "/hold") as busy:
        busy.send(frame(TEXT, b"answer me"))
        idle.send(frame(TEXT, b"hello"))
        assert idle.read_frame() == (0x81, b"hello")
        server.process.send_signal(signal.SIGHUP)
        assert idle.read_frame() == (0x88, b"\x03\xf4")
        idle.send(close(1012))
        assert idle.rest() == b""
        assert wait_event(server, path="/idle")["code"] == 1012
        (server.folder / "release").touch()
        assert busy.read_frame() == (0x81, b"answer me")
        assert busy.read_frame() == (0x88, b"\x03\xf4")
        busy.send(close(1012))
        assert busy.rest() == b""
    server.wait_workers(1, generation=2)
    with open_websocket(server) as client:
        client.send(frame(TEXT, b"again"))
        assert client.read_frame() == (0x81, b"again")


def test_term_ends_in_time_whatever_websocket_clients_and_applications_do(arbiter: Arbiter) -> None:
    """TERM with clients that never answer, and an application that never receives.

    Result: each has been told 1012, the application's task is cancelled, and the server has gone within the grace.
    """
    server = serve(arbiter, "--graceful-timeout", "4")
    with open_websocket(server, "/idle") as idle, open_websocket(server, "/deaf") as deaf, open_websocket(server, "/pour"):
        begun = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert idle.read_frame() == (0x88, b"\x03\xf4")
        assert deaf.read_frame() == (0x88, b"\x03\xf4")
        assert server.wait_exit() == 0
        assert time.monotonic() - begun < 4 + 8  # slack for a loaded machine; it takes 3 s
    assert [event for event in events(server) if event.get("cancelled")] == [
        {"pid": events(server)[0]["pid"], "cancelled": "/deaf"}
    ]


def peak_memory(server: Server) -> float:
    """The largest amount of memory that any worker has had, in bytes."""
    peaks = []
    for worker in server.workers():
        status = Path(f"/proc/{worker.pid}/status").read_text()
        peaks.append(int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024)
    return max(peaks)
