"""The Autobahn suite's cases, by number, on an echo without a socket; `test_websocket_served.py` runs them on a server."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import pytest
from autobahn import CASES, Case, bye, chop, fragments
from wire import BINARY, CLOSE, TEXT, frame, frames_of_server

from arbiter.workers.protocols.websocket import Closed, Pong, WebSocket
from arbiter.workers.protocols.websocket_deflate import Agreement, agree

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMIT = 1 << 24


class Echo:
    """An echo server without a socket."""

    def __init__(self, agreement: Agreement | None = None, least: int = 1) -> None:
        self.socket = WebSocket(LIMIT, agreement, least)
        self.sent = b""
        self.closed = False

    def feed(self, data: bytes) -> None:
        self.socket.feed(data)
        while (event := self.socket.next_event()) is not None:
            self.sent += self.socket.take_replies()
            if isinstance(event, Closed):
                self.sent += event.reply
                self.closed = True
            elif not isinstance(event, Pong):
                self.sent += self.socket.message(event)
        self.sent += self.socket.take_replies()


class Inflated:
    """Opcode and payload of the frames that a server sends, inflated where they are compressed."""

    def __init__(self, agreement: Agreement | None) -> None:
        self.agreement = agreement
        self.inflater = zlib.decompressobj(-(agreement.server_bits if agreement else 15))
        self.compressed = 0

    def of(self, data: bytes) -> list[tuple[int, bytes]]:
        frames = []
        for first, payload in frames_of_server(data):
            plain = payload
            if first & 0x40:
                assert self.agreement
                self.compressed += 1
                if self.agreement.server_resets:
                    self.inflater = zlib.decompressobj(-self.agreement.server_bits)
                plain = self.inflater.decompress(payload + b"\x00\x00\xff\xff")
            frames.append((first & 0x0F, plain))
        return frames


def run(case: Case, chunks: Iterable[bytes], agreement: Agreement | None) -> None:
    echo = Echo(agreement)
    for chunk in chunks:
        echo.feed(chunk)
    *replies, (opcode, payload) = Inflated(agreement).of(echo.sent)

    assert case.replies == replies
    assert opcode == CLOSE
    assert (int.from_bytes(payload[:2]) if payload else 1005) in case.closes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
def test_case(case: Case) -> None:
    """Without compression and with it, in the case's own pieces, as a whole, and byte by byte."""
    data = b"".join(case.chunks)
    for agreement in (None, Agreement()):
        if agreement and case.number == "3.4":
            case = case._replace(closes=frozenset({1007}))  # RSV1 has a meaning then, and the payload is no deflate stream
        run(case, case.chunks, agreement)
        run(case, [data], agreement)
        if len(data) < 4000:
            run(case, chop(data, 1), agreement)


@pytest.mark.parametrize("case", [case for case in CASES if case.early], ids=lambda case: case.number)
def test_case_fails_before_the_message_is_whole(case: Case) -> None:
    echo = Echo()
    for chunk in case.chunks[:-1]:
        echo.feed(chunk)

    assert echo.closed


def test_no_case_is_missing() -> None:
    """What Autobahn's report counts, by section; with the 54 of section 9 the 301 that it runs without compression."""
    counted: dict[str, int] = {}
    for case in CASES:
        section = case.number.partition(".")[0]
        counted[section] = counted.get(section, 0) + 1

    assert counted == {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "10": 1}
    assert len(CASES) == len({case.number for case in CASES})


# 9: limits ------------------------------------------------------------------------------------------------------------

SIZES_9 = [1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 23, 1 << 24]


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["9.1", "9.2"])
@pytest.mark.parametrize("size", SIZES_9[:-1], ids=[str(index) for index in range(1, 6)])
def test_case_9_one_frame(opcode: int, size: int) -> None:
    """9.1.1 to 9.2.5; the sixth, 16 MiB, is the default of ws_max_size, and belongs to the test on a server."""
    _echoes(opcode, b"*" * size, chop(frame(opcode, b"*" * size, key=bytes(4)), 1 << 16))


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["9.3", "9.4"])
@pytest.mark.parametrize("size", [64, 256, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22])
def test_case_9_fragments(opcode: int, size: int) -> None:
    """9.3.1 to 9.4.9; of 4 MiB only where fragments are long: the short ones' cost is proportional to their number."""
    total = 1 << 22 if size >= 1 << 16 else 1 << 18 if size >= 1 << 12 else 1 << 16
    parts = b"".join(
        frame(opcode if at == 0 else 0, b"*" * min(size, total - at), fin=at + size >= total, key=bytes(4))
        for at in range(0, total, size)
    )
    _echoes(opcode, b"*" * total, chop(parts, 1 << 16))


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["9.5", "9.6"])
@pytest.mark.parametrize("size", [64, 128, 256, 512, 1024, 2048])
def test_case_9_chopped(opcode: int, size: int) -> None:
    _echoes(opcode, b"*" * (1 << 18), chop(frame(opcode, b"*" * (1 << 18), key=bytes(4)), size))


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["9.7", "9.8"])
@pytest.mark.parametrize("size", [0, 16, 64, 256, 1024, 4096])
def test_case_9_roundtrips(opcode: int, size: int) -> None:
    echo = Echo()
    data = frame(opcode, b"*" * size)
    for _ in range(1000):
        echo.sent = b""
        echo.feed(data)

        assert [(opcode | 0x80, b"*" * size)] == frames_of_server(echo.sent)


def _echoes(opcode: int, payload: bytes, chunks: Iterable[bytes]) -> None:
    echo = Echo()
    for chunk in chunks:
        echo.feed(chunk)

    assert [(opcode | 0x80, payload)] == frames_of_server(echo.sent)


# 12 and 13: compression -----------------------------------------------------------------------------------------------

# Autobahn's sizes, with the length of the frames that a message is cut into (0: one frame); its 1000 rounds are 20 here.
SIZES_12 = [
    *((1 << power, 0) for power in (4, 6, 8, 10, 12, 13, 14, 15, 16, 17)),
    *((1 << power, 256) for power in (13, 14, 15, 16, 17)),
    *((1 << 17, 1 << power) for power in (10, 12, 15)),
]
OFFERS_13 = [
    [""],
    ["server_no_context_takeover"],
    ["server_max_window_bits=9"],
    ["server_max_window_bits=15"],
    ["server_no_context_takeover; server_max_window_bits=9"],
    ["server_no_context_takeover; server_max_window_bits=15"],
    ["server_no_context_takeover; server_max_window_bits=9", "server_no_context_takeover", ""],
]
DATA_12 = {
    "12.1": (TEXT, b'{"AutobahnPython": [1, 2, 3], "message": "some JSON, again and again"} '),
    "12.2": (TEXT, "Wie kühl ist es, κόσμε, in der Tiefe? ".encode()),
    "12.3": (BINARY, bytes(range(256))),
    "12.4": (BINARY, zlib.compress(bytes(range(256)) * 9 + b"already compressed", 9)),
    "12.5": (TEXT, b"The quick brown fox jumps over the lazy dog. "),
}


def _compressed_rounds(agreement: Agreement, opcode: int, unit: bytes, size: int, cut: int, rounds: int) -> None:
    echo = Echo(agreement, least=1)
    inflated = Inflated(agreement)
    compressor = zlib.compressobj(wbits=-agreement.client_bits)
    payload = (unit * (size // len(unit) + 1))[:size] if opcode == BINARY else (unit * (size // len(unit) + 1))[: size // 4 * 4]
    if opcode == TEXT:
        payload = payload.decode(errors="ignore").encode()
    for _ in range(rounds):
        if agreement.client_resets:
            compressor = zlib.compressobj(wbits=-agreement.client_bits)
        deflated = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        data = fragments(deflated, cut, opcode) if cut else frame(opcode, deflated)
        echo.sent = b""
        echo.feed(bytes([data[0] | 0x40]) + data[1:])

        assert [(opcode, payload)] == inflated.of(echo.sent)
    assert inflated.compressed == rounds
    echo.sent = b""
    echo.feed(bye)

    assert inflated.of(echo.sent) == [(CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("data", DATA_12)
@pytest.mark.parametrize(("size", "cut"), SIZES_12, ids=[str(index) for index in range(1, 19)])
def test_case_12(data: str, size: int, cut: int) -> None:
    opcode, unit = DATA_12[data]
    _compressed_rounds(Agreement(), opcode, unit, size, cut, rounds=20 if size <= 1 << 13 else 3)


@pytest.mark.parametrize("offers", OFFERS_13, ids=[f"13.{index}" for index in range(1, 8)])
@pytest.mark.parametrize(("size", "cut"), SIZES_12[::3])
def test_case_13(offers: list[str], size: int, cut: int) -> None:
    agreement = agree(["permessage-deflate" + ("; " + offer if offer else "") for offer in offers])
    assert agreement
    first = offers[0]
    assert ("server_no_context_takeover" in first) == agreement.server_resets
    assert (9 if "bits=9" in first else 15) == agreement.server_bits
    _compressed_rounds(agreement, TEXT, DATA_12["12.1"][1], size, cut, rounds=20 if size <= 1 << 13 else 3)
