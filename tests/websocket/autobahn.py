"""The cases of the Autobahn test suite, by its numbers: what a client sends to an echo server, and what must come back.

The cases were written anew from their published descriptions, for a protocol without a socket; each stands under its number, so
that one can be held against the other. Autobahn's own files run on a server, in `test_websocket_served.py`. Sections 1 to 7 are
here (framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing), and 10; 9 (limits, performance), 12 and 13
(compression) are made of generated messages, in `test_websocket_autobahn.py`.

Where Autobahn accepts a laxer behaviour as NON-STRICT (3.2 and the like: the echo before a failure may be lost; 6.4: a
failure that is late), only its OK is accepted here.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from wire import BINARY, CONTINUATION, PING, PONG, TEXT, close, frame


class Case(NamedTuple):
    """One case."""

    number: str
    chunks: list[bytes]
    """What is sent, in these pieces."""
    replies: list[tuple[int, bytes]]
    """Opcode and payload of each frame (of a message: wholly, in one frame) that must come back, before the close."""
    closes: frozenset[int]
    """Codes one of which the server closes with; 1005: a close frame without code."""
    early: bool = False
    """The server must have closed before the last chunk is sent: Autobahn's fail-fast."""


CLEAN = frozenset({1000})
WRONG = frozenset({1002})
INVALID = frozenset({1007})
GREETING = b"Hello, world!"
bye = close(1000)


def chop(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def fragments(payload: bytes, size: int, opcode: int = TEXT) -> bytes:
    """A message in frames of so many bytes."""
    parts = chop(payload, size) or [b""]
    return b"".join(
        frame(opcode if index == 0 else CONTINUATION, part, fin=index == len(parts) - 1) for index, part in enumerate(parts)
    )


def echoes(number: str, opcode: int, payload: bytes, chunks: list[bytes]) -> Case:
    return Case(number, [*chunks, bye], [(opcode, payload)], CLEAN)


def fails(
    number: str, chunks: list[bytes], closes: frozenset[int] = WRONG, replies: list[tuple[int, bytes]] | None = None
) -> Case:
    return Case(number, chunks, replies or [], closes)


def section_1() -> list[Case]:
    """Framing: lengths at which the frame's head changes its form."""
    cases = []
    for part, opcode, filler in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for index, size in enumerate((0, 125, 126, 127, 128, 65535, 65536, 65536), start=1):
            payload = filler * size
            data = frame(opcode, payload, key=bytes(4) if size > 1000 else b"\x37\xfa\x21\x3d")
            cases.append(echoes(f"1.{part}.{index}", opcode, payload, chop(data, 997) if index == 8 else [data]))
    return cases


def section_2() -> list[Case]:
    """Pings and pongs."""
    binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
    long = b"\xfe" * 125
    ten = [f"payload-{index}".encode() for index in range(10)]
    pings = b"".join(frame(PING, payload) for payload in ten)

    def answered(number: str, payload: bytes, chunks: list[bytes]) -> Case:
        return Case(number, [*chunks, bye], [(PONG, payload)], CLEAN)

    return [
        answered("2.1", b"", [frame(PING)]),
        answered("2.2", GREETING, [frame(PING, GREETING)]),
        answered("2.3", binary, [frame(PING, binary)]),
        answered("2.4", long, [frame(PING, long)]),
        fails("2.5", [frame(PING, b"\xfe" * 126)]),
        answered("2.6", long, chop(frame(PING, long), 1)),
        Case("2.7", [frame(PONG), bye], [], CLEAN),
        Case("2.8", [frame(PONG, b"unsolicited pong payload"), bye], [], CLEAN),
        answered("2.9", b"ping payload", [frame(PONG, b"unsolicited pong payload"), frame(PING, b"ping payload")]),
        Case("2.10", [pings, bye], [(PONG, payload) for payload in ten], CLEAN),
        Case("2.11", [*chop(pings, 1), bye], [(PONG, payload) for payload in ten], CLEAN),
    ]


def section_3() -> list[Case]:
    """Reserved bits, without an extension that gives them a meaning."""
    text = frame(TEXT, GREETING)
    echo = [(TEXT, GREETING)]
    return [
        fails("3.1", [frame(TEXT, GREETING, rsv=1)]),
        fails("3.2", [text + frame(TEXT, GREETING, rsv=2) + frame(PING)], replies=echo),
        fails("3.3", [text, frame(TEXT, GREETING, rsv=3), frame(PING)], replies=echo),
        fails("3.4", chop(text + frame(TEXT, GREETING, rsv=4) + frame(PING), 1), replies=echo),
        fails("3.5", [frame(BINARY, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", rsv=5)]),
        fails("3.6", [frame(PING, GREETING, rsv=6)]),
        fails("3.7", [frame(8, b"\x03\xe8", rsv=7)]),
    ]


def section_4() -> list[Case]:
    """Opcodes that are not defined."""
    text = frame(TEXT, GREETING)
    cases = []
    for part, first in ((1, 3), (2, 11)):
        echo = [(TEXT, GREETING)]
        wrong = [frame(opcode, b"" if opcode == first else GREETING) for opcode in range(first, first + 5)]
        cases += [
            fails(f"4.{part}.1", [wrong[0]]),
            fails(f"4.{part}.2", [wrong[1]]),
            fails(f"4.{part}.3", [text + wrong[2] + frame(PING)], replies=echo),
            fails(f"4.{part}.4", [text, wrong[3], frame(PING)], replies=echo),
            fails(f"4.{part}.5", chop(text + wrong[4] + frame(PING), 1), replies=echo),
        ]
    return cases


def section_5() -> list[Case]:
    """Fragmentation."""
    begun = frame(TEXT, b"fragment1", fin=False)
    ended = frame(CONTINUATION, b"fragment2")
    both = b"fragment1fragment2"
    ping = frame(PING, b"ping payload")
    pong = (PONG, b"ping payload")
    orphan = frame(CONTINUATION, b"non-continuation payload")
    open_orphan = frame(CONTINUATION, b"non-continuation payload", fin=False)
    hello = frame(TEXT, GREETING)
    mixed = [
        frame(TEXT, b"fragment1", fin=False) + frame(CONTINUATION, b"fragment2", fin=False) + frame(PING, b"pongme 1!"),
        frame(CONTINUATION, b"fragment3", fin=False) + frame(CONTINUATION, b"fragment4", fin=False) + frame(PING, b"pongme 2!"),
        frame(CONTINUATION, b"fragment5"),
    ]
    mixed_replies = [
        (PONG, b"pongme 1!"),
        (PONG, b"pongme 2!"),
        (TEXT, b"fragment1fragment2fragment3fragment4fragment5"),
    ]
    return [
        fails("5.1", [frame(PING, b"fragment1", fin=False) + ended]),
        fails("5.2", [frame(PONG, b"fragment1", fin=False) + ended]),
        echoes("5.3", TEXT, both, [begun + ended]),
        echoes("5.4", TEXT, both, [begun, ended]),
        echoes("5.5", TEXT, both, chop(begun + ended, 1)),
        Case("5.6", [begun + ping + ended, bye], [pong, (TEXT, both)], CLEAN),
        Case("5.7", [begun, ping, ended, bye], [pong, (TEXT, both)], CLEAN),
        Case("5.8", [*chop(begun + ping + ended, 1), bye], [pong, (TEXT, both)], CLEAN),
        fails("5.9", [orphan + hello]),
        fails("5.10", [orphan, hello]),
        fails("5.11", chop(orphan + hello, 1)),
        fails("5.12", [open_orphan + hello]),
        fails("5.13", [open_orphan, hello]),
        fails("5.14", chop(open_orphan + hello, 1)),
        fails("5.15", [begun + ended + frame(CONTINUATION, b"fragment3", fin=False) + hello], replies=[(TEXT, both)]),
        fails("5.16", [(frame(CONTINUATION, b"fragment1", fin=False) + begun + ended) * 2]),
        fails("5.17", [(frame(CONTINUATION, b"fragment1") + begun + ended) * 2]),
        fails("5.18", [begun + frame(TEXT, b"fragment2")]),
        Case("5.19", [*mixed, bye], mixed_replies, CLEAN),
        Case("5.20", [b"".join(mixed), bye], mixed_replies, CLEAN),
    ]


# Markus Kuhn's "UTF-8 decoder capability and stress test", which Autobahn's section 6 follows: hexadecimal, by number.
VALID_UTF8 = {
    "6.5.1": "cebae1bdb9cf83cebcceb5",
    "6.6.2": "ceba",
    "6.6.5": "cebae1bdb9",
    "6.6.7": "cebae1bdb9cf83",
    "6.6.9": "cebae1bdb9cf83cebc",
    "6.6.11": "cebae1bdb9cf83cebcceb5",
    "6.7.1": "00",
    "6.7.2": "c280",
    "6.7.3": "e0a080",
    "6.7.4": "f0908080",
    "6.9.1": "7f",
    "6.9.2": "dfbf",
    "6.9.3": "efbfbf",
    "6.9.4": "f48fbfbf",
    "6.11.1": "ed9fbf",
    "6.11.2": "ee8080",
    "6.11.3": "efbfbd",
    "6.11.4": "f48fbfbf",
    **{
        f"6.22.{index}": chr(plane << 16 | last).encode().hex()
        for index, (plane, last) in enumerate(((plane, last) for plane in range(17) for last in (0xFFFE, 0xFFFF)), start=1)
    },
    **{f"6.23.{index}": chr(code).encode().hex() for index, code in enumerate(range(0xFFF9, 0x10000), start=1)},
}
INVALID_UTF8 = {
    "6.3.1": "cebae1bdb9cf83cebcceb5eda080656469746564",
    "6.6.1": "ce",
    "6.6.3": "cebae1",
    "6.6.4": "cebae1bd",
    "6.6.6": "cebae1bdb9cf",
    "6.6.8": "cebae1bdb9cf83ce",
    "6.6.10": "cebae1bdb9cf83cebcce",
    "6.8.1": "f888808080",
    "6.8.2": "fc8480808080",
    "6.10.1": "f7bfbfbf",
    "6.10.2": "fbbfbfbfbf",
    "6.10.3": "fdbfbfbfbfbf",
    "6.11.5": "f4908080",
    "6.12.1": "80",
    "6.12.2": "bf",
    "6.12.3": "80bf",
    "6.12.4": "80bf80",
    "6.12.5": "80bf80bf",
    "6.12.6": "80bf80bf80",
    "6.12.7": "80bf80bf80bf",
    "6.12.8": bytes(range(0x80, 0xC0)).hex(),
    "6.13.1": b" ".join(bytes([first]) for first in range(0xC0, 0xE0)).hex() + "20",
    "6.13.2": b" ".join(bytes([first]) for first in range(0xE0, 0xF0)).hex() + "20",
    "6.13.3": b" ".join(bytes([first]) for first in range(0xF0, 0xF8)).hex() + "20",
    "6.13.4": b" ".join(bytes([first]) for first in range(0xF8, 0xFC)).hex() + "20",
    "6.13.5": b" ".join(bytes([first]) for first in range(0xFC, 0xFE)).hex() + "20",
    "6.14.1": "c0",
    "6.14.2": "e080",
    "6.14.3": "f08080",
    "6.14.4": "f8808080",
    "6.14.5": "fc80808080",
    "6.14.6": "df",
    "6.14.7": "efbf",
    "6.14.8": "f7bfbf",
    "6.14.9": "fbbfbfbf",
    "6.14.10": "fdbfbfbfbf",
    "6.15.1": "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf",
    "6.16.1": "fe",
    "6.16.2": "ff",
    "6.16.3": "fefeffff",
    "6.17.1": "c0af",
    "6.17.2": "e080af",
    "6.17.3": "f08080af",
    "6.17.4": "f8808080af",
    "6.17.5": "fc80808080af",
    "6.18.1": "c1bf",
    "6.18.2": "e09fbf",
    "6.18.3": "f08fbfbf",
    "6.18.4": "f887bfbfbf",
    "6.18.5": "fc83bfbfbfbf",
    "6.19.1": "c080",
    "6.19.2": "e08080",
    "6.19.3": "f0808080",
    "6.19.4": "f880808080",
    "6.19.5": "fc8080808080",
    "6.20.1": "eda080",
    "6.20.2": "edadbf",
    "6.20.3": "edae80",
    "6.20.4": "edafbf",
    "6.20.5": "edb080",
    "6.20.6": "edbe80",
    "6.20.7": "edbfbf",
    "6.21.1": "eda080edb080",
    "6.21.2": "eda080edbfbf",
    "6.21.3": "edadbfedb080",
    "6.21.4": "edadbfedbfbf",
    "6.21.5": "edae80edb080",
    "6.21.6": "edae80edbfbf",
    "6.21.7": "edafbfedb080",
    "6.21.8": "edafbfedbfbf",
}
PREFIXES_OF_KOSME = {f"6.5.{index}": "κόσμε"[:index].encode() for index in range(2, 6)}


def section_6() -> list[Case]:
    """UTF-8, in whole frames, in fragments, and before a frame or a message is whole."""
    text = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    kosme = "κόσμε".encode()
    broken = bytes.fromhex(INVALID_UTF8["6.3.1"])
    before, culprit, after = kosme, b"\xf4\x90\x80\x80", b"edited"
    in_three = [frame(TEXT, before, fin=False), frame(CONTINUATION, culprit, fin=False), frame(CONTINUATION, after)]
    one_too_far = [
        frame(TEXT, before + b"\xf4", fin=False),
        frame(CONTINUATION, b"\x90", fin=False),
        frame(CONTINUATION, b"\x80\x80edited"),
    ]
    one_frame = frame(TEXT, before + culprit + after)
    head = len(one_frame) - len(before + culprit + after)
    return [
        echoes("6.1.1", TEXT, b"", [frame(TEXT)]),
        echoes("6.1.2", TEXT, b"", [frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION)]),
        echoes(
            "6.1.3", TEXT, b"middle frame payload",
            [frame(TEXT, fin=False) + frame(CONTINUATION, b"middle frame payload", fin=False) + frame(CONTINUATION)],
        ),
        echoes("6.2.1", TEXT, text, [frame(TEXT, text)]),
        echoes("6.2.2", TEXT, text, [frame(TEXT, text[:12], fin=False) + frame(CONTINUATION, text[12:])]),
        echoes("6.2.3", TEXT, text, [fragments(text, 1)]),
        echoes("6.2.4", TEXT, kosme, [fragments(kosme, 1)]),
        fails("6.3.2", [fragments(broken, 1)], INVALID),
        Case("6.4.1", in_three, [], INVALID, early=True),
        Case("6.4.2", one_too_far, [], INVALID, early=True),
        Case("6.4.3", [one_frame[: head + len(before + culprit)], one_frame[head + len(before + culprit) :]], [], INVALID, early=True),
        Case("6.4.4", [one_frame[: head + len(before) + 2], one_frame[head + len(before) + 2 :]], [], INVALID, early=True),
        *(echoes(number, TEXT, payload, [frame(TEXT, payload)]) for number, payload in PREFIXES_OF_KOSME.items()),
        *(echoes(number, TEXT, bytes.fromhex(data), [frame(TEXT, bytes.fromhex(data))]) for number, data in VALID_UTF8.items()),
        *(fails(number, [frame(TEXT, bytes.fromhex(data))], INVALID) for number, data in INVALID_UTF8.items()),
    ]  # fmt: skip


def section_7() -> list[Case]:
    """Closing."""
    text = frame(TEXT, GREETING)
    echo = [(TEXT, GREETING)]
    large = b"BAsd7&jh23" * 26214
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    invalid = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
    return [
        Case("7.1.1", [text + bye], echo, CLEAN),
        Case("7.1.2", [bye + bye], [], CLEAN),
        Case("7.1.3", [bye + frame(PING)], [], CLEAN),
        Case("7.1.4", [bye + text], [], CLEAN),
        Case("7.1.5", [frame(TEXT, b"fragment1", fin=False) + bye + frame(CONTINUATION, b"fragment2")], [], CLEAN),
        Case("7.1.6", [frame(TEXT, large) + text + bye + frame(PING)], [(TEXT, large), *echo], CLEAN),
        Case("7.3.1", [close()], [], frozenset({1005, 1000})),
        fails("7.3.2", [frame(8, b"a")]),
        Case("7.3.3", [bye], [], CLEAN),
        Case("7.3.4", [close(1000, GREETING)], [], CLEAN),
        Case("7.3.5", [close(1000, b"*" * 123)], [], CLEAN),
        fails("7.3.6", [close(1000, b"*" * 124)]),
        fails("7.5.1", [close(1000, bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564"))], INVALID),
        *(Case(f"7.7.{index}", [close(code)], [], frozenset({code, 1000})) for index, code in enumerate(valid, start=1)),
        *(fails(f"7.9.{index}", [close(code)]) for index, code in enumerate(invalid, start=1)),
        fails("7.13.1", [close(5000)]),
        fails("7.13.2", [frame(8, struct.pack("!I", 65536))]),
    ]


def section_10() -> list[Case]:
    """A message in frames of 1300 bytes."""
    payload = b"*" * 65536
    return [echoes("10.1.1", TEXT, payload, [fragments(payload, 1300)])]


CASES = [*section_1(), *section_2(), *section_3(), *section_4(), *section_5(), *section_6(), *section_7(), *section_10()]
