"""Every known way to make a server of HTTP/2 work for nothing, in raw frames: each must end the connection, soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http2_wire import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    frame,
    get,
    setting,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FLOODS: dict[str, Callable[[Peer], None]] = {}

POST = get(method="POST")
MANY = 3000
"""Frames: three times what the allowance lets pass, in case time has filled it up again."""


def flood(function: Callable[[Peer], None]) -> Callable[[Peer], None]:
    FLOODS[function.__name__] = function
    return function


def is_ended(p: Peer) -> None:
    p.expect_goaway(ENHANCE_YOUR_CALM)


@flood
def rapid_reset(p: Peer) -> None:
    """CVE-2023-44487: requests that are cancelled at once."""
    p.send(*[p.headers(n, get()) + frame(RST_STREAM, 0, n, word(CANCEL)) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def made_you_reset_by_window(p: Peer) -> None:
    """CVE-2025-8671: the server is made to reset, by a WINDOW_UPDATE of nothing."""
    p.send(*[p.headers(n, POST, end=False) + frame(WINDOW_UPDATE, 0, n, word(0)) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def made_you_reset_by_overflow(p: Peer) -> None:
    p.send(*[p.headers(n, POST, end=False) + frame(WINDOW_UPDATE, 0, n, word(2**31 - 1)) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def made_you_reset_by_priority(p: Peer) -> None:
    p.send(*[p.headers(n, POST, end=False) + frame(PRIORITY, 0, n, word(n) + b"\x00") for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def made_you_reset_by_second_headers(p: Peer) -> None:
    p.send(*[p.headers(n, POST, end=False) + p.headers(n, [("x-a", "b")], end=False) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def refused_streams(p: Peer) -> None:
    """More streams than there may be, again and again."""
    p.send(*[p.headers(n, POST, end=False) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def malformed_requests(p: Peer) -> None:
    p.send(*[p.headers(n, [*get(), ("", "x")]) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def ping(p: Peer) -> None:
    """CVE-2019-9512."""
    p.send(frame(PING, 0, 0, bytes(8)) * MANY)
    is_ended(p)


@flood
def settings(p: Peer) -> None:
    """CVE-2019-9515."""
    p.send(frame(SETTINGS, 0, 0) * MANY)
    is_ended(p)


@flood
def settings_of_many_windows(p: Peer) -> None:
    """Each change of the initial window touches each stream."""
    p.send(*[p.headers(n, POST, end=False) for n in range(1, 200, 2)])
    p.send(frame(SETTINGS, 0, 0, b"".join(setting(4, 65535 - i % 2) for i in range(2000))) * 2)
    is_ended(p)


@flood
def settings_acks(p: Peer) -> None:
    p.send(frame(SETTINGS, 1, 0) * MANY)
    is_ended(p)


@flood
def priority(p: Peer) -> None:
    """CVE-2019-9513."""
    p.send(frame(PRIORITY, 0, 1, word(0) + b"\x00") * MANY)
    is_ended(p)


@flood
def empty_data(p: Peer) -> None:
    """CVE-2019-9518: DATA without content and without an end."""
    p.ask(1, POST, end=False)
    p.send(frame(DATA, 0, 1) * MANY)
    is_ended(p)


@flood
def padding_only(p: Peer) -> None:
    p.ask(1, POST, end=False)
    p.send(frame(DATA, 8, 1, b"\x05" + bytes(5)) * MANY)
    is_ended(p)


@flood
def continuations(p: Peer) -> None:
    """CVE-2024-27983 and others: a head without end."""
    p.send(frame(HEADERS, END_STREAM, 1, p.block(get())))
    p.send(frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 2000) * 100)
    is_ended(p)


@flood
def empty_continuations(p: Peer) -> None:
    p.send(frame(HEADERS, END_STREAM, 1, p.block(get())), frame(CONTINUATION, 0, 1) * MANY)
    is_ended(p)


@flood
def empty_headers(p: Peer) -> None:
    p.send(*[frame(HEADERS, END_HEADERS | END_STREAM, n) for n in range(1, MANY, 2)])
    is_ended(p)


@flood
def header_bomb(p: Peer) -> None:
    """CVE-2016-6581: one long field in the table, named by a byte for each copy."""
    p.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, p.block(get()) + b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000))
    p.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, p.block(get()) + b"\xbe" * 16000))
    is_ended(p)


@flood
def window_updates(p: Peer) -> None:
    p.ask(1, POST, end=False)
    p.send(frame(WINDOW_UPDATE, 0, 1, word(1)) * MANY)
    is_ended(p)


@flood
def byte_by_byte(p: Peer) -> None:
    """CVE-2019-9511: a response taken one byte at a time."""
    p.send(frame(SETTINGS, 0, 0, setting(4, 0)))
    for n in range(1, MANY, 2):
        p.send(p.headers(n, get()), frame(WINDOW_UPDATE, 0, n, word(1)) * 12)
        if n % 100 == 1 and not p.is_alive():
            break

    assert [f.code for f in p.seen if f.kind == GOAWAY] == [ENHANCE_YOUR_CALM]


@flood
def late_data(p: Peer) -> None:
    """DATA on a stream that the server has reset."""
    p.send(p.headers(1, POST, end=False), frame(WINDOW_UPDATE, 0, 1, word(0)), frame(DATA, 0, 1, b"x") * MANY)
    is_ended(p)


@flood
def late_trailers(p: Peer) -> None:
    p.send(p.headers(1, POST, end=False), frame(WINDOW_UPDATE, 0, 1, word(0)), p.headers(1, [("x-a", "b")]) * MANY)
    is_ended(p)


@flood
def unknown_frames(p: Peer) -> None:
    p.send(frame(0xEE, 0, 0) * MANY)
    is_ended(p)


@flood
def resets_of_what_is_over(p: Peer) -> None:
    p.ask(1)
    p.response(1)
    p.send(frame(RST_STREAM, 0, 1, word(CANCEL)) * MANY)
    is_ended(p)


@flood
def refused_heads(p: Peer) -> None:
    """Requests that are answered with 400, each with a response."""
    p.send(*[p.headers(n, get("relative")) for n in range(1, MANY, 2)])
    is_ended(p)
