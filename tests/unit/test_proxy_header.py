"""The PROXY protocol's header, read without a socket; every byte string whole and byte by byte."""

from __future__ import annotations

import struct

import pytest

from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.proxy import SIGNATURE, Endpoint, Proxied, ProxyReader

V4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + struct.pack("!HH", 4711, 443)
V6 = bytes.fromhex("20010db8000000000000000000000001" * 2) + struct.pack("!HH", 1, 2)
TCP4 = Proxied("TCP4", Endpoint("192.0.2.1", 4711), Endpoint("198.51.100.7", 443))


def v2(command: int, family: int, body: bytes, size: int | None = None) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(body) if size is None else size) + body


def read(raw: bytes, version: str = "auto") -> tuple[Proxied | None, bytes]:
    """What comes of it whole, which must be what comes of it byte by byte."""
    whole = ProxyReader(version)
    found = whole.feed(raw)
    slow = ProxyReader(version)
    for at in range(len(raw)):
        if (other := slow.feed(raw[at : at + 1])) is not None:
            assert (other, raw[at + 1 :]) == (found, whole.rest)
            break
    else:
        assert found is None
    return found, whole.rest


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n", TCP4),
        (b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", Proxied("TCP6", Endpoint("2001:db8::1", 0), Endpoint("::1", 65535))),
        (b"PROXY UNKNOWN\r\n", Proxied("UNKNOWN")),
        (b"PROXY UNKNOWN whatever it says\r\n", Proxied("UNKNOWN")),
        (v2(1, 0x11, V4), TCP4),
        (v2(1, 0x11, V4 + b"\x04\x00\x03abc" + b"\x05\x00\x00"), TCP4),
        (v2(1, 0x21, V6), Proxied("TCP6", Endpoint("2001:db8::1", 1), Endpoint("2001:db8::1", 2))),
        (v2(1, 0x31, bytes(216)), Proxied("UNIX")),
        (v2(0, 0x11, V4), Proxied("LOCAL")),
        (v2(0, 0x00, b""), Proxied("LOCAL")),
        (v2(1, 0x00, b"anything"), Proxied("UNKNOWN")),
    ],
)
def test_a_sound_header_tells_both_ends_and_leaves_what_comes_after(raw: bytes, found: Proxied) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n"):
        assert read(raw + rest) == (found, rest)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n",
        b"\r\n\r\n\x00\r\nQUIX\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\rX\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.7 4711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 04711 443\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.7 1 443\r\n",
        b"PROXY TCP4 192.0.2.1 ::1 1 443\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.7 4711 443\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY UNKNOWN" + b"x" * 93 + b"\r\n",
        b"PROXY UNKNOWN " + b"x" * 200,
        v2(2, 0x11, V4),
        SIGNATURE + b"\x11\x11\x00\x0c" + V4,
        v2(1, 0x12, V4),
        v2(1, 0x41, V4),
        v2(1, 0x11, V4[:-1]),
        v2(1, 0x11, V4 + b"\x04\x00\x09abc"),
        v2(1, 0x11, V4 + b"\x04"),
        v2(1, 0x11, V4, size=0xFFFF),
    ],
)
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read(raw)
    assert refused.value.status == 400


def test_only_the_version_that_is_expected_is_read() -> None:
    for version, raw in (("v1", v2(1, 0x11, V4)), ("v2", b"PROXY UNKNOWN\r\n")):
        with pytest.raises(Refusal):
            read(raw, version)


@pytest.mark.parametrize("raw", [b"PROXY UNKNOWN\r\n", v2(1, 0x11, V4 + b"\x04\x00\x03abc")])
def test_a_header_that_is_not_whole_is_waited_for(raw: bytes) -> None:
    for end in range(len(raw)):
        assert read(raw[:end]) == (None, b"")
