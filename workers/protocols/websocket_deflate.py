"""Compression of WebSocket messages: permessage-deflate, RFC 7692.

What wsproto's own extension leaves open is closed here: a few bytes that inflate to a gigabyte are let grow to the
message's limit and no further; a ping between the fragments of a compressed message leaves the message compressed; an
offer with a parameter that is unknown, doubled or out of range is declined (section 7.1), and the next one is looked at.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, Opcode, RsvBits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wsproto.frame_protocol import FrameDecoder, FrameProtocol

NAME: Final = "permessage-deflate"
_WINDOW: Final = 12
"""Base-2 logarithm of the window that we use and, where the client lets us say so, of the client's. 4 KiB instead of 32
KiB: a connection then costs 44 KB and not 300 KB. The library websockets has chosen the same since 2018."""
_MEMORY_LEVEL: Final = 5
"""Of deflate, for the same reason; the default is 8. It costs a few percent of the ratio."""
_LEAST: Final = 9
"""zlib has no raw deflate with the smallest window, 8."""
_RESTARTS: Final = 16
"""Blocks marked as the last one (RFC 7692 section 7.2.3.5) that one message may hold. Senders have one, if any; each costs
a new decompressor, so a message of nothing else would cost a client two bytes and us ten microseconds each."""
_TAIL: Final = b"\x00\x00\xff\xff"
"""What a sender takes off the end of each message: section 7.2.1."""

_NONE: Final = RsvBits(False, False, False)
_RSV1: Final = RsvBits(True, False, False)


class Agreement(NamedTuple):
    """The parameters that both ends hold to."""

    server_bits: int = 15
    """Base-2 logarithm of the largest window that we may use."""
    client_bits: int = 15
    """The same of the client."""
    server_resets: bool = False
    """We begin each message with an empty window."""
    client_resets: bool = False
    """The client does."""
    answer: str = NAME
    """For the field Sec-WebSocket-Extensions of the response."""


# extension-param of RFC 6455 section 9.1; its values are numbers here, with or without quotes.
_PARAMETER: Final = re.compile(r'([a-z_]+)(?:[ \t]*=[ \t]*(?:([0-9]+)|"([0-9]+)"))?')
_BITS: Final = frozenset(str(bits) for bits in range(8, 16))


def agree(offers: Iterable[str]) -> Agreement | None:
    """What to answer to the client's offers: the first that we can keep to; None if there is none.

    Args:
        offers: elements of the Sec-WebSocket-Extensions fields, of other extensions too, in order of preference.
    """
    for offer in offers:
        name, *parameters = offer.split(";")
        if name.strip(" \t") == NAME:
            agreement = _accept(parameters)
            if agreement:
                return agreement
    return None


def _accept(parameters: list[str]) -> Agreement | None:
    known: dict[str, str | None] = {}
    for parameter in parameters:
        match = _PARAMETER.fullmatch(parameter.strip(" \t"))
        if not match or match[1] in known:
            return None
        known[match[1]] = match[2] or match[3]
    answer = [NAME]
    server_bits = client_bits = 15
    server_resets = client_resets = False
    for name, value in known.items():
        if name == "server_no_context_takeover" and value is None:
            server_resets = True
            answer.append(name)
        elif name == "client_no_context_takeover" and value is None:
            client_resets = True
            answer.append(name)
        elif name == "server_max_window_bits" and value in _BITS:
            server_bits = int(value or 15)
            if server_bits < _LEAST:
                return None
            answer.append(f"{name}={server_bits}")
        elif name == "client_max_window_bits" and (value is None or value in _BITS):
            client_bits = min(int(value or 15), _WINDOW)
            answer.append(f"{name}={client_bits}")
        else:
            return None
    return Agreement(server_bits, client_bits, server_resets, client_resets, "; ".join(answer))


class Inflater(Extension):
    """The receiving side, in the form in which wsproto's decoder of frames calls it."""

    name = NAME

    def __init__(self, agreement: Agreement, limit: int) -> None:
        """Args: what was agreed; the most bytes a message may have when it is inflated."""
        # A window larger than the client's is as good, and 8 is one that zlib refuses.
        self._bits = -max(agreement.client_bits, _LEAST)
        self._resets = agreement.client_resets
        self._limit = limit
        self._left = limit
        self._restarts = 0
        self._zlib: zlib._Decompress | None = None
        self._compressed = False  # the message that has begun
        self.active = False
        """The frame that is being read belongs to a compressed message."""

    def enabled(self) -> bool:
        """It is: it exists only after it has been agreed upon."""
        return True

    def offer(self) -> bool | str:
        """Nothing: a server offers nothing."""
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,
        opcode: Opcode,
        rsv: RsvBits,
        payload_length: int,
    ) -> CloseReason | RsvBits:
        """The reserved bits that this frame may have: the first one, in the first frame of a message."""
        del proto, payload_length
        if opcode.iscontrol():
            self.active = False
            return _NONE
        if opcode is not Opcode.CONTINUATION:
            self._compressed = rsv.rsv1
            self._left = self._limit
            self._restarts = 0
        self.active = self._compressed
        return _NONE if opcode is Opcode.CONTINUATION else _RSV1

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """The data inflated; or the close code of what is wrong with it."""
        del proto
        return self._inflate(data) if self.active else data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """What is still to come of a frame whose payload is over; `fin`: the message is over with it."""
        del proto
        if not (fin and self.active):
            return None
        rest = self._inflate(_TAIL)
        if self._resets:
            self._zlib = None
        return rest

    def _inflate(self, data: bytes) -> bytes | CloseReason:
        inflated = b""
        while data:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(self._bits)
            try:
                piece = self._zlib.decompress(data, self._left + 1)
            except zlib.error:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            if len(piece) > self._left:
                return CloseReason.MESSAGE_TOO_BIG
            self._left -= len(piece)
            inflated = inflated + piece if inflated else piece
            if not self._zlib.eof:
                break
            # What follows a last block is a new stream, with an empty window: that is how zlib writes it.
            self._restarts += 1
            if self._restarts > _RESTARTS:
                return CloseReason.INVALID_FRAME_PAYLOAD_DATA
            data = self._zlib.unused_data
            self._zlib = None
        return inflated


class Deflater:
    """The sending side. Messages may go uncompressed at any time: the window holds the compressed ones only."""

    def __init__(self, agreement: Agreement) -> None:
        self._bits = -min(agreement.server_bits, _WINDOW)
        self._resets = agreement.server_resets
        self._zlib: zlib._Compress | None = None

    def deflate(self, payload: bytes) -> bytes:
        """The payload (not empty) of a compressed message."""
        if self._zlib is None:
            self._zlib = zlib.compressobj(wbits=self._bits, memLevel=_MEMORY_LEVEL)
        data = self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        if self._resets:
            self._zlib = None
        return data[: -len(_TAIL)]
