"""Who makes the engine work for nothing is told to calm down, and gone; who works hard is not."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from http2_floods import FLOODS
from http2_wire import DATA, END_STREAM, RST_STREAM, WINDOW_UPDATE, EngineWire, Peer, frame, get, word

from arbiter.workers.protocols.http2 import Connection
from arbiter.workers.protocols.limits import Limits

if TYPE_CHECKING:
    from arbiter.workers.protocols.http2_stream import Stream


@pytest.mark.parametrize("name", FLOODS)
def test_flood_ends_the_connection(name: str) -> None:
    FLOODS[name](Peer(EngineWire()))


def test_many_requests_are_no_flood() -> None:
    p = Peer(EngineWire())
    for n in range(1, 4_001, 2):
        p.ask(n)
        if n % 100 == 1:
            p.send(frame(WINDOW_UPDATE, 0, 0, word(1300)))
            p.response(n)

    p.expect_alive()


def test_large_upload_and_download_with_many_window_updates_are_no_flood() -> None:
    p = Peer(EngineWire())
    p.ask(1, get(method="POST"), end=False)
    for _ in range(200):
        p.send(frame(DATA, 0, 1, b"x" * 16384))
        p.is_alive()
    p.send(frame(DATA, END_STREAM, 1))
    got = 0
    while got < 200 * 16384:
        found = p.until(lambda f: f.kind == DATA, "DATA")
        got += len(found.payload)
        for _ in range(4):
            p.send(frame(WINDOW_UPDATE, 0, 0, word(max(1, len(found.payload) // 4))))
            p.send(frame(WINDOW_UPDATE, 0, 1, word(max(1, len(found.payload) // 4))))
    p.expect_alive()


def test_ten_pings_a_second_are_no_flood() -> None:
    wire = EngineWire()
    p = Peer(wire)
    for _ in range(1000):
        for _ in range(10):
            assert p.is_alive()
        wire.engine.tick()


def test_resets_make_no_more_work_than_there_may_be_streams() -> None:
    """A stream that was reset counts until its application has ended.

    1. Applications never end, and the client cancels each request at once.
    2. Result: after as many as there may be streams, the next are refused, though none is open on the wire.
    """
    running: list[Stream] = []

    def never(_: Connection, stream: Stream) -> None:
        if stream not in running:
            running.append(stream)

    p = Peer(EngineWire(Connection(Limits(), streams=20), never))
    for n in range(1, 2 * 40, 2):
        p.send(p.headers(n, get()), frame(RST_STREAM, 0, n, word(8)))
    p.is_alive()

    assert len(running) == 20
    assert len([f for f in p.seen if f.kind == RST_STREAM and f.code == 7]) == 20


def test_slow_reading_application_bounds_what_a_client_can_make_us_hold() -> None:
    """Frames are joined.

    1. Uploads of single bytes in their own frames, and nobody reads.
    2. Result: no more than the windows is taken, and little more memory than that.
    """
    p = Peer(EngineWire(app=lambda _connection, _stream: None))
    tracemalloc.start()
    for n in range(1, 40, 2):
        p.ask(n, get(method="POST"), end=False)
        p.send(frame(DATA, 0, n, b"x") * 500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert p.is_alive()
    assert peak < 500_000
