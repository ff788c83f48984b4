"""HTTP/2 frames: their words and their bytes (RFC 9113 sections 4 and 6), and the two kinds of error (section 5.4).

Only what a server sends is built here; `http2.Connection` reads what a client sends.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from h2.errors import ErrorCodes
from h2.settings import SettingCodes

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every client sends first (RFC 9113 section 3.4): no HTTP/1 request, and no server takes it for one."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20

# Members of an enumeration cost ten times a global where they are needed for each frame.
NO_ERROR: Final = int(ErrorCodes.NO_ERROR)
PROTOCOL_ERROR: Final = int(ErrorCodes.PROTOCOL_ERROR)
INTERNAL_ERROR: Final = int(ErrorCodes.INTERNAL_ERROR)
FLOW_CONTROL_ERROR: Final = int(ErrorCodes.FLOW_CONTROL_ERROR)
STREAM_CLOSED: Final = int(ErrorCodes.STREAM_CLOSED)
FRAME_SIZE_ERROR: Final = int(ErrorCodes.FRAME_SIZE_ERROR)
REFUSED_STREAM: Final = int(ErrorCodes.REFUSED_STREAM)
CANCEL: Final = int(ErrorCodes.CANCEL)
COMPRESSION_ERROR: Final = int(ErrorCodes.COMPRESSION_ERROR)
ENHANCE_YOUR_CALM: Final = int(ErrorCodes.ENHANCE_YOUR_CALM)

ENABLE_PUSH: Final = int(SettingCodes.ENABLE_PUSH)
MAX_CONCURRENT_STREAMS: Final = int(SettingCodes.MAX_CONCURRENT_STREAMS)
INITIAL_WINDOW_SIZE: Final = int(SettingCodes.INITIAL_WINDOW_SIZE)
MAX_FRAME_SIZE: Final = int(SettingCodes.MAX_FRAME_SIZE)
MAX_HEADER_LIST_SIZE: Final = int(SettingCodes.MAX_HEADER_LIST_SIZE)
ENABLE_CONNECT_PROTOCOL: Final = int(SettingCodes.ENABLE_CONNECT_PROTOCOL)

WINDOW: Final = 65_535
"""The flow-control window that everybody begins with (RFC 9113 section 6.9.2)."""
MOST: Final = 2**31 - 1
"""The largest window, and the largest stream identifier."""
FRAME: Final = 16_384
"""The largest payload that everybody takes (section 4.2). We neither take nor send larger ones: they would only make streams
wait for each other."""

HEAD: Final = Struct(">IBI")
"""Length (24 bits) and type together, flags, stream."""
WORD: Final = Struct(">I")
SETTING: Final = Struct(">HI")
_TWO_WORDS: Final = Struct(">II")


class Fault(Exception):  # noqa: N818  the client's, not ours
    """A connection error: the connection ends with GOAWAY. `reason` is one sentence without a word of the client's."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class StreamFault(Fault):
    """A stream error: the stream ends with RST_STREAM."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes, *, end: bool) -> bytes:
    """A field block, cut into as many frames as it takes."""
    flags = END_STREAM if end else 0
    if len(block) <= FRAME:
        return HEAD.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream) + block
    pieces = [frame(HEADERS, flags, stream, block[:FRAME])]
    for at in range(FRAME, len(block), FRAME):
        last = at + FRAME >= len(block)
        pieces.append(frame(CONTINUATION, END_HEADERS if last else 0, stream, block[at : at + FRAME]))
    return b"".join(pieces)


def settings(values: dict[int, int]) -> bytes:
    """Our settings."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*item) for item in values.items()))


def rst_stream(stream: int, code: int) -> bytes:
    """The end of a stream, now."""
    return frame(RST_STREAM, 0, stream, WORD.pack(code))


def window_update(stream: int, increment: int) -> bytes:
    """Room for `increment` more bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, WORD.pack(increment))


def goaway(last: int, code: int, reason: str = "") -> bytes:
    """The end of the connection; streams up to `last` have been, or will be, answered."""
    return frame(GOAWAY, 0, 0, _TWO_WORDS.pack(last, code) + reason.encode("ascii"))
