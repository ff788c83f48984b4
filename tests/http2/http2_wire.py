"""A client of HTTP/2 that says anything: raw frames out, frames in. Over a socket, or straight into the engine."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hpack import Decoder, Encoder

from arbiter.workers.protocols.http2 import Connection
from arbiter.workers.protocols.http2_fields import encode_refusal, encode_response
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import Refusal, check_fields

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from arbiter.workers.protocols.http2_stream import Stream

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 1, 1, 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 5, 6, 7, 8, 9
ENHANCE_YOUR_CALM = 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2C = {
    PREFACE: 505,
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n": 200,
}
"""What makes HTTP/2 of a connection without TLS, and the status that it gets where it must not."""
PATIENCE = 20.0

Pairs = list[tuple[str, str]]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[-4:] if self.kind == RST_STREAM else self.payload[4:8], "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def word(number: int) -> bytes:
    return struct.pack(">I", number)


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def get(path: str = "/", *more: tuple[str, str], method: str = "GET") -> Pairs:
    return [(":method", method), (":scheme", "http"), (":path", path), (":authority", "localhost"), *more]


class Wire(Protocol):
    """Where a peer's bytes go, and come from."""

    def send(self, data: bytes) -> None: ...
    def receive(self, seconds: float) -> bytes | None:
        """Some bytes; ``b""``: closed; None: nothing for so long."""


class SocketWire:
    def __init__(self, client: socket.socket) -> None:
        self.client = client

    def send(self, data: bytes) -> None:
        self.client.settimeout(PATIENCE)
        try:
            self.client.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what was said before is read all the same

    def receive(self, seconds: float) -> bytes | None:
        self.client.settimeout(max(seconds, 0.001))
        try:
            return self.client.recv(65536)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return b""


def echo(connection: Connection, stream: Stream) -> None:
    """The smallest application: when the request is whole, 13 bytes, or what was sent."""
    if stream.reset is not None:
        connection.release(stream)
        return
    stream.owner = stream.owner or []
    try:
        while piece := connection.next_body(stream):
            stream.owner.append(piece)
    except Refusal as refusal:
        block, body = encode_refusal(refusal)
        connection.send_head(stream, block, end=False)
        connection.send_data(stream, body, end=True)
        connection.release(stream)
        return
    if connection.body_ended(stream):
        body = b"".join(stream.owner) or b"hello, world\n"
        head = encode_response(stream.request, 200, check_fields([("content-type", "text/plain")]), known=len(body))
        bare = stream.request.method == b"HEAD"
        connection.send_head(stream, head.data, end=bare)
        if not bare:
            connection.send_data(stream, body, end=True)
        connection.release(stream)


class EngineWire:
    """The engine itself, with an application of a few lines."""

    def __init__(self, engine: Connection | None = None, app: Callable[[Connection, Stream], None] = echo) -> None:
        self.engine = engine or Connection(Limits())
        self.app = app
        self._closed = False

    def send(self, data: bytes) -> None:
        if not self.engine.closed:
            for stream in self.engine.receive(data):
                self.app(self.engine, stream)

    def receive(self, seconds: float) -> bytes | None:  # noqa: ARG002  it never has to wait
        return self.engine.take(1 << 20) or (b"" if self.engine.is_over else None)


class Peer:
    """A client, after its preface unless told otherwise."""

    def __init__(self, wire: Wire, *, greet: bool = True, settings: bytes = b"") -> None:
        self.wire = wire
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.seen: list[Frame] = []
        self.closed = False
        self._rest = b""
        if greet:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))
            self.until(lambda f: f.kind == SETTINGS and f.flags & ACK, "the ACK of our SETTINGS")
            self.send(frame(SETTINGS, ACK, 0))

    def send(self, *data: bytes) -> None:
        self.wire.send(b"".join(data))

    def block(self, pairs: Iterable[tuple[str, str]]) -> bytes:
        return bytes(self.encoder.encode(list(pairs)))

    def headers(self, stream: int, pairs: Iterable[tuple[str, str]], *, end: bool = True, flags: int = 0) -> bytes:
        block = self.block(pairs)
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)] or [b""]
        first = frame(HEADERS, (END_HEADERS if len(pieces) == 1 else 0) | (END_STREAM if end else 0) | flags, stream, pieces[0])
        rest = [frame(CONTINUATION, END_HEADERS if n == len(pieces) else 0, stream, p) for n, p in enumerate(pieces[1:], 2)]
        return b"".join([first, *rest])

    def ask(self, stream: int, pairs: Pairs | None = None, *, end: bool = True) -> None:
        self.send(self.headers(stream, get() if pairs is None else pairs, end=end))

    # What comes back

    def next(self, deadline: float) -> Frame | None:
        """The next frame; None: the connection is closed, or nothing comes."""
        while len(self._rest) < 9 or len(self._rest) < 9 + (int.from_bytes(self._rest[:3], "big")):
            data = self.wire.receive(deadline - time.monotonic())
            if data is None:
                return None
            if not data:
                self.closed = True
                return None
            self._rest += data
        size, flags, stream = struct.unpack_from(">IBI", self._rest)
        end = 9 + (size >> 8)
        found = Frame(size & 0xFF, flags, stream & 0x7FFFFFFF, self._rest[9:end])
        self._rest = self._rest[end:]
        self.seen.append(found)
        if found.kind in (HEADERS, CONTINUATION):
            self._decode(found)
        return found

    _block = b""
    fields: dict[int, list[Pairs]]

    def _decode(self, found: Frame) -> None:
        self._block += found.payload
        if found.flags & END_HEADERS:
            pairs = [(str(name), str(value)) for name, value in self.decoder.decode(self._block)]
            self._block = b""
            if not hasattr(self, "fields"):
                self.fields = {}
            self.fields.setdefault(found.stream, []).append(pairs)

    def until(self, wanted: Callable[[Frame], object], what: str) -> Frame:
        deadline = time.monotonic() + PATIENCE
        while (found := self.next(deadline)) is not None:
            if wanted(found):
                return found
        raise AssertionError(f"{what} did not come{' (closed)' if self.closed else ''}; came: {self.seen}")

    def is_alive(self) -> bool:
        """Whether a PING is answered."""
        self.send(frame(PING, 0, 0, b"areyouok"))
        deadline = time.monotonic() + PATIENCE
        while (found := self.next(deadline)) is not None:
            if found.kind == PING and found.payload == b"areyouok":
                return True
        return False

    def response(self, stream: int) -> tuple[int, bytes]:
        """Status and content, when END_STREAM has come."""

        def is_end(f: Frame) -> bool:
            return f.stream == stream and f.kind in (DATA, HEADERS) and bool(f.flags & END_STREAM)

        if not any(map(is_end, self.seen)):
            self.until(is_end, f"response {stream}")
        body = b"".join(f.payload for f in self.seen if f.kind == DATA and f.stream == stream)
        return int(dict(self.fields[stream][-1 if ":status" in dict(self.fields[stream][-1]) else 0])[":status"]), body

    def reset_of(self, stream: int) -> int:
        """The code of the stream's RST_STREAM, which may have come already."""

        def is_it(f: Frame) -> bool:
            return f.kind == RST_STREAM and f.stream == stream

        return (next(filter(is_it, self.seen), None) or self.until(is_it, f"RST_STREAM on {stream}")).code

    def expect_reset(self, stream: int, *codes: int) -> None:
        """A stream error, and nothing but the stream is hurt."""
        assert self.reset_of(stream) in codes
        assert self.is_alive()

    def expect_goaway(self, *codes: int) -> None:
        """A connection error: GOAWAY, then the end."""
        found = self.until(lambda f: f.kind == GOAWAY, "GOAWAY")

        assert found.code in codes
        self.expect_close()

    def expect_close(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.next(deadline) is not None:
            pass

        assert self.closed

    def expect_alive(self) -> None:
        """Nothing was wrong: no stream was reset."""
        assert self.is_alive()
        assert not [f for f in self.seen if f.kind in (RST_STREAM, GOAWAY)]
