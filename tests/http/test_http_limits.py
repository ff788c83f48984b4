"""What one client may make the server hold: each limit, at its edge, on both parsers, however the bytes are cut."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from feeding import FEEDINGS, LIMITS, PARSERS, feed, in_pieces, whole

from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = b"Host: a\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
LINE = len(b"GET / HTTP/1.1")


def get(target: bytes = b"/", *fields: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target, HOST, b"".join(field + b"\r\n" for field in fields))


@pytest.mark.parametrize("cut", FEEDINGS)
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (get(b"/" + b"a" * (4094 - LINE)), None),
        (get(b"/" + b"a" * (4095 - LINE)), 414),
        (b"GET /" + b"a" * 4090, 414),
        (b"A" * 4095, 414),
        (get(b"/", b"X: " + b"b" * (8190 - 3)), None),
        (get(b"/", b"X: " + b"b" * (8191 - 3)), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"b" * 8188, 431),
        (get(b"/", *[b"X: y"] * 99), None),
        (get(b"/", *[b"X: y"] * 100), 431),
        (get(b"/", *[b"X: " + b"y" * 8000] * 8), None),
        (get(b"/", *[b"X: " + b"y" * 8000] * 9), 431),
        (CHUNKED + b"3;" + b"e" * 1022 + b"\r\nabc\r\n0\r\n\r\n", None),
        (CHUNKED + b"3;" + b"e" * 1023 + b"\r\nabc\r\n0\r\n\r\n", 400),
        (CHUNKED + b"3;" + b"e" * 1030, 400),
        (CHUNKED + (b"1;" + b"e" * 1022 + b"\r\na\r\n") * 16 + b"0\r\n\r\n", None),
        (CHUNKED + (b"1;" + b"e" * 1022 + b"\r\na\r\n") * 16 + b"0;" + b"e" * 16 + b"\r\n\r\n", 400),
        (CHUNKED + b"0\r\n" + b"A: " + b"b" * (8190 - 5) + b"\r\n\r\n", None),
        (CHUNKED + b"0\r\n" + b"A: " + b"b" * (8190 - 2) + b"\r\n\r\n", 431),
        (CHUNKED + b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n", None),
        (CHUNKED + b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (CHUNKED + b"f4240\r\n", None),
        (CHUNKED + b"f4241\r\n", 413),
        (CHUNKED + b"1\r\na\r\nf4240\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000001\r\n\r\n", 413),
    ],
    ids=range(25),
)
def test_each_limit_lets_pass_what_reaches_it_and_refuses_what_exceeds_it(
    raw: bytes, status: int | None, parser: str, cut: Callable[[bytes], Iterator[bytes]]
) -> None:
    refusal = feed(parser, cut(raw)).refusal

    assert (refusal[0] if refusal else None) == status


def test_zero_takes_a_limit_away_and_the_whole_head_stays_bounded() -> None:
    limits = Limits.of(request_line=0, fields=0, field_size=0, body=0)

    assert feed("h11", whole(get(b"/" + b"a" * 20_000, b"X: " + b"y" * 20_000, *[b"a:"] * 2000)), limits).refusal is None
    for raw in (
        b"GET /" + b"a" * 200_000,
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 60_000,
        b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000,
    ):
        refusal = feed("httptools", in_pieces(raw), limits).refusal
        assert refusal is not None
        assert refusal[0] in (414, 431)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * 3_000_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500_000,
        CHUNKED + b"1;" + b"e" * 3_000_000,
        CHUNKED + b"0\r\n" + b"X: y\r\n" * 500_000,
        get() * 60_000,
    ],
    ids=["line", "fields", "extension", "trailers", "pipeline"],
)
def test_a_flood_is_held_in_no_more_memory_than_the_limits_say(raw: bytes) -> None:
    """By itself llhttp would keep all of it: the bytes of heads and trailers that never end, and of requests nobody asked for."""
    connection = Connection(head_parser("httptools"), LIMITS)
    tracemalloc.start()
    try:
        for at in range(0, len(raw), 65536):
            connection.feed(raw[at : at + 65536])
            while connection.next_request() is not None:
                while connection.next_body():
                    pass
    except Refusal:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert peak < 1_000_000


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nX: " + b"y" * 8000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"Xxxxxxxxxxxxxxxxxxxxxxx: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 98,
        CHUNKED + b"0\r\n" + b"X: " + b"y" * 8000,
        CHUNKED + b"1;" + b"e" * 1000,
    ],
    ids=["field", "fields", "trailer", "extension"],
)
def test_a_trickle_costs_a_constant_for_each_byte(raw: bytes) -> None:
    """Byte by byte, the work must grow with the bytes, not with their square: a second for each would be the sign."""
    connection = Connection(head_parser("httptools"), LIMITS)
    before = time.process_time()
    request = None
    for at in range(len(raw)):
        connection.feed(raw[at : at + 1])
        if request is None:
            request = connection.next_request()
        elif not connection.body_ended:
            connection.next_body()

    assert (time.process_time() - before) / len(raw) < 0.0005


@pytest.mark.parametrize("cut", FEEDINGS)
def test_a_head_may_have_exactly_as_many_bytes_as_its_total(cut: Callable[[bytes], Iterator[bytes]]) -> None:
    raw = get(b"/", b"A: b", b"C: d")

    assert feed("h11", cut(raw), Limits(head=len(raw))).refusal is None
    assert feed("h11", cut(raw), Limits(head=len(raw) - 1)).refusal == (431, "The head is too large.")
