"""The server's side of one WebSocket after its handshake: bytes in, messages out, and the other way round, no I/O.

Frames are read by wsproto's decoder, but for those that nearly all traffic is made of: a whole text or binary message
in one frame, uncompressed, below 64 KiB, wholly received. These are taken apart here, in a sixth of the time, with all of
the decoder's checks (mask, reserved bits, shortest length, UTF-8) and the same outcome, which tests/websocket/ holds
equal to wsproto's for whatever bytes arrive in whatever pieces.

The caller's loop, blocking or not::

    socket.feed(data)                                # whatever was received
    while (event := socket.next_event()) is not None:
        ...                                          # str, bytes: a message;  Pong;  Closed: the last one
    send(socket.take_replies())                      # pongs

A message is given when it is whole; UTF-8 and sizes are judged as bytes arrive, before the message is (RFC 6455 section
8.1, and Autobahn's fail-fast cases).
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from sys import maxsize
from typing import TYPE_CHECKING, Final, NamedTuple

from wsproto.frame_protocol import CloseReason, FrameDecoder, Opcode, ParseFailed

from arbiter.workers.protocols.websocket_deflate import Deflater, Inflater
from arbiter.workers.protocols.websocket_mask import unmask

if TYPE_CHECKING:
    from codecs import IncrementalDecoder

    from wsproto.frame_protocol import Frame

    from arbiter.workers.protocols.websocket_deflate import Agreement

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
NO_STATUS: Final = 1005
"""Never sent: what is told of a close frame without a code (RFC 6455 section 7.1.5)."""
ABNORMAL: Final = 1006
"""Never sent: what is told of a connection that ended without a close frame."""
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
"""Of the IANA registry: the server restarts, come back."""

_PROTOCOL_CODES: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})
"""Codes below 3000 that a close frame may have: RFC 6455 section 7.4.1 and the IANA registry."""
_REASON_BYTES: Final = 123
"""Of a close frame's reason: a control frame has at most 125 bytes, two of them the code."""


class Pong(NamedTuple):
    """The client has answered a ping, or says unasked that it is there."""

    payload: bytes


class Closed(NamedTuple):
    """No more comes of this WebSocket."""

    code: int
    """1005 for a close frame without one."""
    reason: str
    failed: bool
    """The client broke the protocol or a limit, and the code is the one that it is told; else the code is the client's."""
    reply: bytes
    """The close frame to send, when the messages before have been answered; empty if ours has been sent."""


Event = str | bytes | Pong | Closed

_SMALL: Final = 0x80 | 125
_MEDIUM: Final = 0x80 | 126
_TEXT_HEADS: Final = tuple(bytes((0x81, length)) for length in range(126))
_BINARY_HEADS: Final = tuple(bytes((0x82, length)) for length in range(126))


def may_close_with(code: int) -> bool:
    """A close frame may have this code."""
    return code in _PROTOCOL_CODES or 3000 <= code <= 4999


class WebSocket:
    """What has been received of one WebSocket and not been taken yet, and what it owes its client."""

    __slots__ = (
        "_at",
        "_between",
        "_buffer",
        "_decoder",
        "_deflater",
        "_head",
        "_inflater",
        "_least",
        "_limit",
        "_message",
        "_opcode",
        "_utf8",
        "allowance",
        "closing",
        "more",
        "over",
        "replies",
    )

    def __init__(self, limit: int, agreement: Agreement | None = None, least: int = 0) -> None:
        """One whose handshake is done.

        Args:
            limit: most bytes of one message, inflated.
            agreement: on compression; None: there is none.
            least: bytes from which a message that is sent is compressed.
        """
        self._limit = limit
        self._inflater = Inflater(agreement, limit) if agreement else None
        self._deflater = Deflater(agreement) if agreement else None
        self._least = max(least, 1)  # an empty payload deflates to nothing after another one: zlib flushes only once
        self._buffer = b""
        self._at = 0
        self._between = True  # no frame and no message has begun
        self._decoder: FrameDecoder | None = None  # made for the first frame that needs it
        self._head = b""  # what the decoder has of the head of a frame
        self._opcode = 0  # of the message that has begun; 0: none has
        self._message = bytearray()
        self._utf8: IncrementalDecoder | None = None
        self.replies: list[bytes] = []
        """Pongs to send: `take_replies`. Of those that can't be sent yet, the last is enough (RFC 6455 section 5.5.3)."""
        self.more = False
        """There is something to look at behind the message that has just been given."""
        self.allowance = maxsize
        """Frames that `next_event` may still take the long way before it gives None, of the caller's choice: one has six bytes
        at least and costs 15 us, so what one read brings may keep everybody else waiting for a sixth of a second."""
        self.closing = False
        """We have sent a close frame of our own: nothing may follow it. (The reply of `Closed` is the caller's to send.)"""
        self.over = False
        """`Closed` has been given; what is still fed is discarded."""

    # Receiving --------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if self._at < len(self._buffer):
            # At most one read of the caller's, while it leaves events untaken.
            self._buffer = self._buffer[self._at :] + data
        else:
            self._buffer = data
        self._at = 0

    @property
    def pending(self) -> int:
        """Bytes that were fed and not looked at yet."""
        return len(self._buffer) - self._at

    @property
    def inside_frame(self) -> bool:
        """A frame has begun to arrive, so nothing else (no pong) can arrive before its end."""
        return self._decoder is not None and (bool(self._head) or self._decoder.header is not None)

    def next_event(self) -> Event | None:
        """The next message or other event; None: feed more, or allow more."""
        if self._between:
            buffer = self._buffer
            at = self._at
            left = len(buffer) - at
            if left == 0 or self.over:
                return None
            if left >= 6:  # the shortest masked frame
                first = buffer[at]
                if first == 0x81 or first == 0x82:  # noqa: PLR1714  a tuple costs more than the second comparison
                    length = buffer[at + 1]
                    payload = b""
                    end = 0
                    if 0x80 <= length <= _SMALL:
                        length -= 0x80
                        end = at + 6 + length
                        if end <= len(buffer) and length <= self._limit:
                            payload = unmask(buffer[at + 2 : end], length)
                        else:
                            end = 0
                    elif length == _MEDIUM and left >= 8:
                        length = buffer[at + 2] << 8 | buffer[at + 3]
                        end = at + 8 + length
                        if end <= len(buffer) and 126 <= length <= self._limit:
                            payload = unmask(buffer[at + 4 : end], length)
                        else:
                            end = 0
                    if end:
                        self._at = end
                        self.more = end < len(buffer)
                        if first == 0x82:
                            return payload
                        try:
                            return payload.decode()
                        except UnicodeDecodeError as error:
                            return self._fail(INVALID_DATA, f"not UTF-8: {error.reason}")
        self.more = True
        return None if self.over else self._next_of_decoder()

    def _next_of_decoder(self) -> Event | None:
        """The next event, by wsproto: of a frame that is long, fragmented, compressed, of control, in pieces, or wrong."""
        if self._decoder is None:
            self._decoder = FrameDecoder(client=False, extensions=[self._inflater] if self._inflater else [])
        decoder = self._decoder
        try:
            while self._at < len(self._buffer) and self.allowance > 0:
                # The decoder is given one frame and no byte of the next, which may be for the quick way again.
                self._between = False
                begins = decoder.header is None
                self._give(decoder)
                frame = decoder.process_buffer()
                if begins and (frame is not None or decoder.header is not None):
                    self._head = b""
                    self._check_length(decoder)
                if frame is None:
                    continue
                self.allowance -= 1
                event = self._event(frame)
                self._between = decoder.header is None and not self._opcode
                if event is not None:
                    return event
        except ParseFailed as failure:
            return self._fail(int(failure.code), str(failure))
        return None

    def _give(self, decoder: FrameDecoder) -> None:
        """Give the decoder what is here of the frame that it reads, or of its head: two bytes first, which tell the rest."""
        header = decoder.header
        if header is not None:
            size = header.payload_len - decoder.payload_consumed - len(decoder.buffer)
        elif len(self._head) < 2:
            size = 2 - len(self._head)
        else:
            second = self._head[1]
            size = 2 + {126: 2, 127: 8}.get(second & 0x7F, 0) + (4 if second & 0x80 else 0) - len(self._head)
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        if header is None:
            self._head += data
        decoder.receive_bytes(data)

    def _check_length(self, decoder: FrameDecoder) -> None:
        """Nothing, if the frame whose head has been read may be as long as it says."""
        header = decoder.header
        if header is None or header.opcode.iscontrol():
            return
        if self._inflater is not None and self._inflater.active:
            return  # what counts is what comes out, and the inflater counts it
        if len(self._message) + header.payload_len > self._limit:
            raise ParseFailed("message too big", CloseReason.MESSAGE_TOO_BIG)

    def _event(self, frame: Frame) -> Event | None:
        """The event of a piece of a frame, if there is one: pings are answered, pieces are put together."""
        payload = frame.payload
        if not isinstance(payload, bytes):
            raise TypeError(f"wsproto's decoder gave {type(payload)}")
        if frame.opcode is Opcode.PING:
            if not self.closing:
                self.replies.append(bytes((0x8A, len(payload))) + payload)
            return None
        if frame.opcode is Opcode.PONG:
            return Pong(payload)
        if frame.opcode is Opcode.CLOSE:
            return self._take_close(payload)
        return self._assemble(frame.opcode, payload, ended=frame.frame_finished and frame.message_finished)

    def _assemble(self, opcode: Opcode, payload: bytes, *, ended: bool) -> Event | None:
        if not self._opcode:
            if opcode is Opcode.CONTINUATION:
                raise ParseFailed("nothing to continue")
            self._opcode = int(opcode)
            self._utf8 = getincrementaldecoder("utf-8")() if opcode is Opcode.TEXT else None
        elif opcode is not Opcode.CONTINUATION:
            raise ParseFailed("a message has begun inside of another")
        if len(self._message) + len(payload) > self._limit:
            raise ParseFailed("message too big", CloseReason.MESSAGE_TOO_BIG)
        # Bytes, also of text: strings of one character each, from a client that sends such, would take fifty times the room.
        self._message += payload
        if self._utf8 is not None:
            try:
                self._utf8.decode(payload, ended)
            except UnicodeDecodeError as error:
                raise ParseFailed(f"not UTF-8: {error.reason}", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None
        if not ended:
            return None
        message = bytes(self._message)
        text = self._utf8 is not None
        self._opcode = 0
        self._utf8 = None
        self._message = bytearray()
        return message.decode() if text else message

    def _take_close(self, payload: bytes) -> Closed:
        code, reason = NO_STATUS, ""
        if payload:
            code = int.from_bytes(payload[:2])
            if len(payload) == 1 or not may_close_with(code):
                raise ParseFailed("a close frame without a valid code")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError as error:
                raise ParseFailed(f"not UTF-8: {error.reason}", CloseReason.INVALID_FRAME_PAYLOAD_DATA) from None
        # The client's code goes back, as RFC 6455 section 5.5.1 asks for.
        return Closed(code, reason, failed=False, reply=self._end(payload[:2]))

    def _fail(self, code: int, reason: str) -> Closed:
        """The connection fails: RFC 6455 section 7.1.7. The client is told, if it has not been told to close before."""
        return Closed(code, reason, failed=True, reply=self._end(code.to_bytes(2) + _cut(reason)))

    def _end(self, payload: bytes) -> bytes:
        """The close frame that is owed, after which nothing is read."""
        self.over = True
        self._buffer = b""
        self._at = 0
        self._message = bytearray()
        self._decoder = self._inflater = None
        return b"" if self.closing else _close_frame(payload)

    # Sending ----------------------------------------------------------------------------------------------------------

    def take_replies(self) -> bytes:
        """What the events so far oblige us to send; empty if nothing."""
        if not self.replies:
            return b""
        replies = b"".join(self.replies)
        self.replies.clear()
        return replies

    def message(self, data: str | bytes) -> bytes:
        """The frame of a message. Not after `closing`.

        Raises:
            UnicodeEncodeError: a text with half of a surrogate pair. Nothing has changed.
        """
        if isinstance(data, str):
            payload = data.encode()
            first = 0x81
        else:
            payload = data
            first = 0x82
        length = len(payload)
        if self._deflater is not None and length >= self._least:
            payload = self._deflater.deflate(payload)
            length = len(payload)
            first |= 0x40
        elif length <= 125:
            return (_TEXT_HEADS if first == 0x81 else _BINARY_HEADS)[length] + payload
        if length <= 125:
            return bytes((first, length)) + payload
        if length < 1 << 16:
            return bytes((first, 126, length >> 8, length & 0xFF)) + payload
        return bytes((first, 127)) + length.to_bytes(8) + payload

    def ping(self, payload: bytes) -> bytes:
        """The frame of a ping with at most 125 bytes of payload. Not after `closing`."""
        return bytes((0x89, len(payload))) + payload

    def close(self, code: int, reason: str = "") -> bytes:
        """A close frame; nothing but the client's is waited for after it. Empty if one has been sent.

        Raises:
            ValueError: `may_close_with` says no.
        """
        if not may_close_with(code):
            raise ValueError(f"a WebSocket can't be closed with code {code}: it is reserved, or not from 1000 to 4999")
        if self.closing:
            return b""
        self.closing = True
        return _close_frame(code.to_bytes(2) + _cut(reason))


def _cut(reason: str) -> bytes:
    """The reason in UTF-8, as much of it as a close frame can hold."""
    data = reason.encode("utf-8", "replace")
    return data if len(data) <= _REASON_BYTES else data[:_REASON_BYTES].decode("utf-8", "ignore").encode()


def _close_frame(payload: bytes) -> bytes:
    return bytes((0x88, len(payload))) + payload
