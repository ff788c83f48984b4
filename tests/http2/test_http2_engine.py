"""The engine talks with h2, the library that everybody knows, as its client: content, windows, turns, trailers, drain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hpack import Decoder as Reference
from hpack import Encoder, HPACKError
from http2_wire import EngineWire, Peer, echo, frame, get, word
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.workers.protocols.http2 import Connection
from arbiter.workers.protocols.http2_fields import (
    MalformedError,
    encode_fields,
    encode_informational,
    encode_response,
    read_request,
)
from arbiter.workers.protocols.http2_hpack import CompressionError, Decoder, OversizedError
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import CHUNKED, Refusal, check_fields

if TYPE_CHECKING:
    from arbiter.workers.protocols.http2_stream import Stream

HEAD = [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/p?q=1")]
POST = [(":method", "POST"), *HEAD[1:]]


class Pair:
    """h2 as the client, and the engine."""

    def __init__(self, limits: Limits | None = None, **more: Any) -> None:
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.client.initiate_connection()
        self.engine = Connection(limits or Limits(), **more)
        self.streams: dict[int, Stream] = {}
        self.events: list[Any] = []
        self.run()

    def run(self, room: int = 1 << 30) -> list[Stream]:
        """Carry bytes both ways until nobody has anything to say."""
        news: list[Stream] = []
        while True:
            up = self.client.data_to_send()
            if up:
                for stream in self.engine.receive(up):
                    self.streams[stream.id] = stream
                    news.append(stream)
            down = self.engine.take(room)
            if down:
                self.events += self.client.receive_data(down)
            if not up and not down:
                return news

    def of(self, kind: type[Any], stream: int | None = None) -> list[Any]:
        return [e for e in self.events if type(e) is kind and (stream is None or e.stream_id == stream)]

    def ask(self, stream: int = 1, head: list[tuple[str, str]] = HEAD, *, end: bool = True) -> Stream:
        self.client.send_headers(stream, head, end_stream=end)
        self.run()
        return self.streams[stream]

    def answer(self, stream: Stream, body: bytes, *, end: bool = True) -> None:
        head = encode_response(stream.request, 200, check_fields([("x-a", "b")]), known=len(body) if end else -1)
        self.engine.send_head(stream, head.data, end=False)
        self.engine.send_data(stream, body, end=end)

    def body(self, stream: int) -> bytes:
        return b"".join(e.data for e in self.of(DataReceived, stream))


def test_request_is_what_http1_would_have_made_of_it() -> None:
    pair = Pair()
    stream = pair.ask(1, [*HEAD, ("cookie", "a=1"), ("x-b", "c"), ("cookie", "d=2"), ("te", "trailers")])
    request = stream.request

    assert (request.method, request.target, request.path, request.query) == (b"GET", b"/p?q=1", b"/p", b"q=1")
    assert request.version == "HTTP/2"
    assert request.fields == [(b"host", b"a.example"), (b"cookie", b"a=1; d=2"), (b"x-b", b"c"), (b"te", b"trailers")]
    assert request.length == 0


def test_response_is_understood_by_h2() -> None:
    pair = Pair()
    pair.answer(pair.ask(), b"hello")
    pair.engine.release(pair.streams[1])
    pair.run()
    head = dict(pair.of(ResponseReceived)[0].headers)

    assert head[":status"] == "200"
    assert head["x-a"] == "b"
    assert head["content-length"] == "5"
    assert head["server"] == "arbiter"
    assert head["date"].endswith("GMT")
    assert pair.body(1) == b"hello"
    assert pair.of(StreamEnded, 1)
    assert not pair.engine.streams


def test_content_is_given_room_only_as_it_is_read() -> None:
    """Uploads are bounded by the windows.

    1. The client sends until its windows are used up, and the application reads nothing.
    2. The application reads. Result: room comes back, for the stream and the connection, and the whole arrives.
    """
    pair = Pair()
    stream = pair.ask(1, POST, end=False)
    whole = bytes(range(256)) * 4096  # 1 MiB
    at = 0
    taken: list[bytes] = []
    while at < len(whole):
        window = min(pair.client.local_flow_control_window(1), 16384, len(whole) - at)
        if not window:
            assert stream.held + stream.owed == 65_535
            while piece := pair.engine.next_body(stream, 10_000):
                taken.append(piece)
            assert piece is None
            pair.run()
            continue
        pair.client.send_data(1, whole[at : at + window], end_stream=at + window == len(whole))
        at += window
        pair.run()
    while piece := pair.engine.next_body(stream):
        taken.append(piece)

    assert piece == b""
    assert b"".join(taken) == whole
    assert pair.engine.body_ended(stream)


def test_streams_take_turns() -> None:
    """A stream with much to send does not keep another one waiting: within some frames both are served."""
    pair = Pair()
    pair.client.increment_flow_control_window(1 << 24)
    for stream in [pair.ask(n) for n in (1, 3, 5)]:
        pair.answer(stream, b"x" * (60_000 if stream.id < 5 else 100))
    order = []
    while data := pair.engine.take(1):
        order += [e.stream_id for e in pair.client.receive_data(data) if isinstance(e, DataReceived)]

    assert order[:3] == [1, 3, 5]
    assert sorted(order) == [1, 1, 1, 1, 3, 3, 3, 3, 5]


def test_content_beyond_the_window_waits_for_it() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.answer(stream, b"x" * 100_000)
    pair.run()

    assert len(pair.body(1)) == 65_535
    assert stream.queued == 100_000 - 65_535
    assert pair.engine.stalled == [stream]
    pair.client.increment_flow_control_window(50_000)
    pair.client.increment_flow_control_window(50_000, 1)
    pair.run()
    assert pair.body(1) == b"x" * 100_000
    assert pair.engine.relieved[-1] is stream
    assert not pair.engine.is_stalled


def test_trailers_pass_both_ways() -> None:
    pair = Pair()
    stream = pair.ask(1, POST, end=False)
    pair.client.send_data(1, b"body")
    pair.client.send_headers(1, [("x-sum", "42")], end_stream=True)
    pair.run()

    assert pair.engine.next_body(stream) == b"body"
    assert pair.engine.next_body(stream) == b""
    assert stream.trailers == [(b"x-sum", b"42")]
    pair.answer(stream, b"answer", end=False)
    pair.engine.send_trailers(stream, encode_fields([(b"X-Sum", b"43")]))
    pair.run()
    assert pair.body(1) == b"answer"
    assert pair.of(TrailersReceived, 1)[0].headers == [("x-sum", "43")]
    assert pair.of(StreamEnded, 1)


def test_interim_responses_come_before_the_final_one() -> None:
    pair = Pair()
    stream = pair.ask(1, [*POST, ("expect", "100-continue"), ("content-length", "4")], end=False)

    assert stream.request.expects_continue
    pair.engine.send_head(stream, encode_informational(100), end=False)
    pair.engine.send_head(stream, encode_informational(103, check_fields([("Link", "</a.css>; rel=preload")])), end=False)
    pair.run()
    assert [dict(e.headers)[":status"] for e in pair.of(InformationalResponseReceived)] == ["100", "103"]


def test_expectation_without_length_is_one_too() -> None:
    assert Pair().ask(1, [*POST, ("expect", "100-continue")], end=False).request.expects_continue


def test_head_above_a_frame_is_continued() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.engine.send_head(
        stream, encode_fields([(b":status", b"200"), *[(b"x-%d" % n, b"v" * 1000) for n in range(50)]]), end=True
    )
    pair.run()

    assert len(pair.of(ResponseReceived)[0].headers) == 51


def test_reset_by_the_client_is_told_and_throws_the_rest_away() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.answer(stream, b"x" * 200_000)
    pair.run()
    pair.client.reset_stream(1, 8)

    assert pair.run() == [stream]
    assert stream.reset == 8
    assert not stream.queued
    pair.engine.send_data(stream, b"more")
    assert pair.engine.take(1 << 20) == b""
    pair.engine.release(stream)
    assert not pair.engine.streams


def test_owner_that_leaves_early_cuts_the_response() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.answer(stream, b"half", end=False)
    pair.engine.release(stream)
    pair.run()

    assert pair.of(StreamReset, 1)[0].error_code == 2


def test_upload_that_nobody_wants_is_stopped_after_the_response() -> None:
    """RFC 9113 section 8.1: RST_STREAM with NO_ERROR, after the whole response; what is on its way is ignored."""
    pair = Pair()
    stream = pair.ask(1, POST, end=False)
    pair.answer(stream, b"no, thanks")
    pair.engine.release(stream)
    pair.client.send_data(1, b"x" * 1000)
    pair.run()

    assert pair.body(1) == b"no, thanks"
    assert [e.error_code for e in pair.of(StreamReset, 1)] == [0]
    assert pair.engine.fault is None
    assert not pair.engine.streams


@pytest.mark.parametrize(
    ("head", "limits", "status"),
    [
        ([*HEAD[:3], (":path", "/" + "a" * 5000)], Limits(), 414),
        ([*HEAD, ("x-a", "b" * 9000)], Limits(), 431),
        ([*HEAD, *[("x-a", "b")] * 101], Limits(), 431),
        ([*HEAD, *[(f"x-{n}", "b" * 8000) for n in range(9)]], Limits(), 431),
        ([*POST, ("content-length", "11")], Limits(body=10), 413),
        ([*HEAD, ("expect", "a miracle")], Limits(), 417),
        ([(":method", "CONNECT"), (":authority", "a.example:443")], Limits(), 501),
        ([*HEAD[:3], (":path", "http://b.example/")], Limits(), 400),
        ([*HEAD[:3], (":path", "*")], Limits(), 400),
        ([HEAD[0], HEAD[1], HEAD[3], ("host", "a/b")], Limits(), 400),
        ([HEAD[0], HEAD[1], HEAD[3]], Limits(), 400),
        ([(":method", "get"), *HEAD[1:]], Limits(), 400),
    ],
)
def test_refusals_are_answered_on_their_stream(head: list[tuple[str, str]], limits: Limits, status: int) -> None:
    p = Peer(EngineWire(Connection(limits)))
    p.ask(1, head)

    assert p.response(1)[0] == status
    p.ask(3)
    assert p.response(3)[0] == 200


def test_body_above_its_limit_is_refused_when_it_is_read() -> None:
    p = Peer(EngineWire(Connection(Limits(body=10))))
    p.send(p.headers(1, get(method="POST"), end=False), frame(0, 0, 1, b"x" * 11))

    assert p.response(1)[0] == 413


def test_drain_takes_what_was_on_its_way_and_finishes_what_is_open() -> None:
    """GOAWAY in two steps.

    1. A request runs; drain. Result: GOAWAY that names no last stream.
    2. Before that reaches the client it asks again. Result: taken.
    3. The PING is answered. Result: GOAWAY with the last stream; what the client asks then is left unanswered.
    4. Both are answered. Result: drained.
    """
    p = Peer(EngineWire(app=lambda _connection, _stream: None))
    wire = p.wire
    assert isinstance(wire, EngineWire)
    engine = wire.engine
    p.ask(1)
    engine.drain()
    p.ask(3)
    first = p.until(lambda f: f.kind == 7, "GOAWAY")
    assert first.payload == word(2**31 - 1) + word(0)
    ping = p.until(lambda f: f.kind == 6, "PING")
    p.send(frame(6, 1, 0, ping.payload))
    assert p.until(lambda f: f.kind == 7, "GOAWAY").payload == word(3) + word(0)
    p.ask(5)
    assert sorted(engine.streams) == [1, 3]
    assert not engine.is_over
    for stream in tuple(engine.streams.values()):
        echo(engine, stream)
    assert p.response(1)[0] == p.response(3)[0] == 200
    assert engine.is_over


def test_drain_asked_twice_does_not_wait_for_the_client() -> None:
    p = Peer(EngineWire())
    wire = p.wire
    assert isinstance(wire, EngineWire)
    wire.engine.drain()
    wire.engine.drain()
    p.until(lambda f: f.kind == 7 and f.payload == word(0) + word(0), "the last GOAWAY")
    p.expect_close()


def test_upgrade_begins_with_the_request_as_stream_1() -> None:
    request = read_request(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"a")], Limits(), ended=True
    )
    client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    engine = Connection(Limits())
    stream = engine.upgrade(request, client.initiate_upgrade_connection() or b"")
    assert stream is not None
    client.receive_data(engine.take(1 << 20))
    engine.receive(client.data_to_send())
    echo(engine, stream)
    events = client.receive_data(engine.take(1 << 20))

    assert [e.data for e in events if isinstance(e, DataReceived)] == [b"hello, world\n"]
    assert not engine.streams
    assert engine.fault is None


@pytest.mark.parametrize("value", [b"AA", b"!", b"AAAAAAAA====", b"AAIAAAAC"])
def test_upgrade_with_other_settings_is_left_to_http1(value: bytes) -> None:
    request = read_request(
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"a")], Limits(), ended=True
    )

    assert Connection(Limits()).upgrade(request, value) is None


def test_extended_connect_is_let_in_where_it_was_offered() -> None:
    head = [(":method", "CONNECT"), (":protocol", "websocket"), *HEAD[1:]]
    pair = Pair(websocket=True)

    assert pair.client.remote_settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
    request = pair.ask(1, head, end=False).request
    assert (request.method, request.upgrade, request.path, request.length) == (b"CONNECT", b"websocket", b"/p", CHUNKED)


def test_requests_that_are_the_same_are_read_once_and_others_anew() -> None:
    """A block that changes no table is known again; after one that does, it may mean something else."""
    pair = Pair()
    paths = ["/a", "/a", "/a", "/b", "/a", "/a"]
    got = [pair.ask(1 + 2 * i, [*HEAD[:3], (":path", path)]).request.path for i, path in enumerate(paths)]

    assert got == [path.encode() for path in paths]


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_answers_do_not_depend_on_how_the_bytes_are_cut(cut: int) -> None:
    class Cutting(EngineWire):
        def send(self, data: bytes) -> None:
            for at in range(0, len(data), cut):
                super().send(data[at : at + cut])

    p = Peer(Cutting())
    p.ask(1, get(method="POST"), end=False)
    p.send(frame(0, 0, 1, b"abc" * 1000), frame(0, 1, 1, b"def"))

    assert p.response(1) == (200, b"abc" * 1000 + b"def")


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":path", b"cookie", b"x-a", b"accept", b"user-agent", b"content-type"]) | st.binary(max_size=20),
        st.sampled_from([b"", b"/", b"gzip, deflate"]) | st.binary(max_size=200),
    ),
    max_size=12,
)


@given(st.lists(st.tuples(FIELDS, st.booleans(), st.none() | st.integers(0, 4096)), max_size=6))
def test_decoder_agrees_with_hpack(sections: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]) -> None:
    encoder, reference, ours = Encoder(), Reference(1 << 30), Decoder(1 << 30)
    for fields, huffman, size in sections:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)

        assert ours.decode(block) == reference.decode(block, raw=True) == fields


@settings(max_examples=500)
@given(st.lists(st.binary(max_size=40), max_size=4))
def test_decoder_takes_and_refuses_any_bytes_as_hpack_does(blocks: list[bytes]) -> None:
    reference, ours = Reference(4096), Decoder(4096)
    for block in blocks:
        try:
            expected: list[tuple[bytes, bytes]] | None = [(bytes(n), bytes(v)) for n, v in reference.decode(block, raw=True)]
        except HPACKError:
            expected = None
        try:
            found: list[tuple[bytes, bytes]] | None = ours.decode(block)
        except (CompressionError, OversizedError):
            found = None
        if found is None and expected is not None:
            assert sum(0x20 <= octet < 0x40 for octet in block[:12]) > 2  # more updates of the table's size than have a meaning
        else:
            assert found == expected
        if found is None:
            return


SECTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [b":method", b":path", b":scheme", b":authority", b"host", b"te", b"X", b"x", b"cookie", b"content-length"]
        ),
        st.sampled_from([b"GET", b"/", b"http", b"a", b"trailers", b"1", b"", b" x", b"*"]) | st.binary(max_size=4),
    ),
    max_size=8,
)


@given(SECTIONS, st.booleans())
def test_any_section_is_a_request_or_a_fault(section: list[tuple[bytes, bytes]], ended: bool) -> None:
    try:
        request = read_request(section, Limits(), ended=ended)
    except (MalformedError, Refusal):
        pass
    else:
        assert request.fields[0][0] == b"host"
        assert all(name == name.lower() and b"\n" not in value + name for name, value in request.fields)


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_leave_the_engine_whole(pieces: list[bytes]) -> None:
    """Whatever comes, no exception: an answer, or GOAWAY."""
    wire = EngineWire()
    p = Peer(wire)
    for piece in pieces:
        wire.send(piece)
        wire.engine.take(1 << 20)
    del p


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.sampled_from([0, 1, 4, 5, 8, 13, 32, 37]), st.integers(0, 6), st.binary(max_size=12)),
        max_size=30,
    )
)
def test_any_frames_leave_the_engine_whole(frames: list[tuple[int, int, int, bytes]]) -> None:
    wire = EngineWire()
    p = Peer(wire)
    p.ask(1, get(method="POST"), end=False)
    for kind, flags, stream, payload in frames:
        wire.send(frame(kind, flags, stream, payload))
    wire.engine.take(1 << 20)
    engine = wire.engine

    assert engine._open == sum(stream.counted for stream in engine.streams.values())
    assert all(stream.queued == sum(map(len, stream.queue)) for stream in engine.streams.values())
    assert all(stream.held == sum(map(len, stream.pieces)) for stream in engine.streams.values())


def test_informational_answers_stay_out_after_a_reset() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.client.reset_stream(1)
    pair.run()
    pair.engine.send_head(stream, encode_informational(103), end=False)

    assert pair.engine.take(100) == b""
    assert not pair.of(ConnectionTerminated)
