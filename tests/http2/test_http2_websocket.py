"""WebSocket over HTTP/2 (RFC 8441) under a real async worker, beside requests of the same connection."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from http2_serving import peer
from http2_wire import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    WINDOW_UPDATE,
    Peer,
    frame,
    get,
    word,
)
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Arbiter, Server

pytestmark = pytest.mark.process

APP = """
import asyncio, json

async def application(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"http"})
        return
    path = scope["path"]
    assert (await receive())["type"] == "websocket.connect"
    if path == "/refuse":
        await send({"type": "websocket.close"})
        return
    if path == "/deny":
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"key")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-mine", b"1")]})
    if path == "/scope":
        shown = {key: scope[key] for key in ("type", "http_version", "scheme", "path", "subprotocols")}
        await send({"type": "websocket.send", "text": json.dumps(shown)})
    if path == "/close":
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        return
    if path == "/slow":
        await asyncio.sleep(1)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            with open("seen.log", "a") as file:
                file.write(f"{message['code']}\\n")
            return
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
"""


class Socket:
    """A WebSocket on a stream of a peer's."""

    def __init__(self, p: Peer, stream: int, path: str, *more: tuple[str, str]) -> None:
        self.p, self.stream = p, stream
        head = [(":method", "CONNECT"), (":protocol", "websocket"), *get(path)[1:], ("sec-websocket-version", "13"), *more]
        p.ask(stream, head, end=False)
        p.until(lambda f: f.kind == HEADERS and f.stream == stream, "the answer")
        self.fields = dict(p.fields[stream][0])
        self.frames = Connection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.ended = False
        self.window = 65_535

    def send(self, event: Event) -> None:
        data = self.frames.send(event)
        while data:
            size = min(16_384, len(data), self.window)
            if size:
                self.p.send(frame(DATA, 0, self.stream, data[:size]))
                data = data[size:]
                self.window -= size
            else:
                self.step()

    def step(self) -> None:
        """Take the next frame."""
        f = self.p.until(lambda f: f.stream == self.stream, "a frame of the WebSocket's")
        if f.kind == WINDOW_UPDATE:
            self.window += int.from_bytes(f.payload, "big")
        elif f.kind == DATA:
            if f.payload:
                self.p.send(
                    frame(WINDOW_UPDATE, 0, 0, word(len(f.payload))), frame(WINDOW_UPDATE, 0, self.stream, word(len(f.payload)))
                )
                self.frames.receive_data(f.payload)
                self.events += self.frames.events()
            self.ended = self.ended or bool(f.flags & END_STREAM)

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        while True:
            for at, event in enumerate(self.events):
                if wanted(event):
                    del self.events[: at + 1]
                    return event
            self.step()

    def message(self) -> str | bytes:
        """The next message, whole."""
        texts: list[str] = []
        pieces: list[bytes] = []
        while True:
            event = self.until(lambda e: isinstance(e, (TextMessage, BytesMessage)))
            assert isinstance(event, (TextMessage, BytesMessage))
            if isinstance(event, TextMessage):
                texts.append(event.data)
            else:
                pieces.append(bytes(event.data))
            if event.message_finished:
                return "".join(texts) if isinstance(event, TextMessage) else b"".join(pieces)

    def closed(self) -> tuple[int, str]:
        event = self.until(lambda e: isinstance(e, CloseConnection))
        assert isinstance(event, CloseConnection)
        return event.code, event.reason or ""

    def wait_end(self) -> None:
        while not self.ended:
            self.step()


def serve(arbiter: Arbiter, *arguments: str) -> Server:
    arbiter.write("live.py", APP)
    return arbiter.serve("-k", "async", "--lifespan", "off", *arguments, workers=1)


def test_websockets_and_requests_share_a_connection(arbiter: Arbiter) -> None:
    """All of one life.

    1. SETTINGS offer extended CONNECT; two WebSockets are opened, one with a subprotocol, and a request is answered between.
    2. Text, a large binary message through 64 KiB windows both ways, ping.
    3. The client closes one: its close frame is answered, and the stream ended. The other one lives.
    4. The other stream is reset: the application is told 1006.
    """
    server = serve(arbiter)
    with peer(server) as p:
        assert b"\x00\x08\x00\x00\x00\x01" in p.seen[0].payload
        first = Socket(p, 1, "/scope", ("sec-websocket-protocol", "chat, other"))
        assert first.fields[":status"] == "200"
        assert first.fields["sec-websocket-protocol"] == "chat"
        assert first.fields["x-mine"] == "1"
        assert first.message() == (
            '{"type": "websocket", "http_version": "2", "scheme": "ws", "path": "/scope", "subprotocols": ["chat", "other"]}'
        )
        second = Socket(p, 3, "/echo")
        p.ask(5)
        assert p.response(5) == (200, b"http")

        first.send(TextMessage("grüße"))
        assert first.message() == "grüße"
        data = bytes(range(256)) * 1200
        second.send(BytesMessage(data))
        assert second.message() == data
        second.send(Ping(b"hm"))
        pong = second.until(lambda e: isinstance(e, Pong))
        assert isinstance(pong, Pong)
        assert bytes(pong.payload) == b"hm"

        first.send(CloseConnection(1000, "bye"))
        assert first.closed()[0] == 1000
        p.send(frame(DATA, END_STREAM, 1))
        first.wait_end()
        second.send(TextMessage("still"))
        assert second.message() == "still"
        p.send(frame(RST_STREAM, 0, 3, word(CANCEL)))
        p.ask(7)
        assert p.response(7) == (200, b"http")
        assert not [f for f in p.seen if f.kind in (RST_STREAM, GOAWAY)]
    server.stop()
    assert sorted((server.folder / "seen.log").read_text().split()) == ["1000", "1006"]


def test_handshakes_that_are_not_accepted_are_answered_on_their_streams(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        assert Socket(p, 1, "/refuse").fields[":status"] == "403"
        denied = Socket(p, 3, "/deny")
        assert denied.fields[":status"] == "401"
        assert denied.fields["x-why"] == "key"
        head = [(":method", "CONNECT"), (":protocol", "websocket"), *get("/")[1:]]
        p.ask(5, head, end=False)
        assert p.response(5)[0] == 426
        assert dict(p.fields[5][0])["sec-websocket-version"] == "13"
        p.ask(7, [(":method", "CONNECT"), (":protocol", "masque"), *get("/")[1:]], end=False)
        assert p.response(7)[0] == 501
        p.ask(9)
        assert p.response(9) == (200, b"http")


def test_close_of_the_applications_ends_the_stream(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        socket = Socket(p, 1, "/close")
        assert socket.closed() == (4001, "enough")
        socket.send(CloseConnection(4001))
        socket.wait_end()
        p.ask(3)
        assert p.response(3) == (200, b"http")


def test_client_that_does_not_end_its_stream_is_stopped(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        socket = Socket(p, 1, "/echo")
        socket.send(CloseConnection(1000))
        socket.wait_end()
        assert p.reset_of(1) == 0
        p.ask(3)
        assert p.response(3) == (200, b"http")


def test_application_that_does_not_receive_slows_its_client_down(arbiter: Arbiter) -> None:
    server = serve(arbiter)
    with peer(server) as p:
        socket = Socket(p, 1, "/slow")
        for n in range(400):
            socket.send(TextMessage(f"{n}" + "x" * 1000))  # 400 KiB, through a window of 64
        for n in range(400):
            assert socket.message() == f"{n}" + "x" * 1000


def test_worker_that_retires_closes_with_1012(arbiter: Arbiter) -> None:
    server = serve(arbiter, "--graceful-timeout", "10s")
    with peer(server) as p:
        socket = Socket(p, 1, "/echo")
        socket.send(TextMessage("here"))
        assert socket.message() == "here"
        server.send(signal.SIGTERM)
        assert socket.closed()[0] == 1012
        socket.send(CloseConnection(1012))
        p.send(frame(DATA, END_STREAM, 1))
        socket.wait_end()
    assert server.ended() == 0
