"""The server's side of one HTTP/2 connection (RFC 9113): bytes in, requests and content out, responses in, bytes out; no I/O.

Frames, streams and flow control are ours; HPACK's tables and the codes are the h2 project's. `h2.connection` itself takes ten
times the CPU for a GET, and leaves every flood to its user (docs/adr/0006-http2-engine.md); it is the client of the tests.

The caller's loop, whatever it waits with::

    for stream in connection.receive(data):       # streams that something has happened to; new ones have no owner
        ...                                        # then: stream.reset, connection.next_body(stream)
    connection.send_head(stream, block, end=False)
    connection.send_data(stream, piece)            # queued: stream.queued says how much
    transport.write(connection.take(room))         # what may be sent now, streams taking turns

`next_body` is that of `http1.Connection`. Room is given back to a client only for what has been taken, so that a stream holds
at most `WINDOW` bytes and a connection `WINDOW` for each stream. (A smaller window for the connection would let streams whose
application does not read yet stop those whose does.)

**Floods.** Whatever costs us more than the client, and moves nothing, is paid from an allowance (`_spend`): resets (rapid
reset, CVE-2023-44487), faults that make us reset (MadeYouReset, CVE-2025-8671), refused streams, PING, SETTINGS, PRIORITY,
WINDOW_UPDATE, empty DATA, CONTINUATION, unknown frames. Work that is done refills it (`_earn`), and so does time
(`tick`). Who has spent it gets GOAWAY(ENHANCE_YOUR_CALM). A stream that was reset counts as open until its owner has
ended its work (`release`), so that resets never make more work than there may be streams.

Longer than 400 lines: the states of a stream, both windows and the allowance decide together about each frame.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Final

from arbiter.workers.protocols import http2_frames as h2
from arbiter.workers.protocols.http1 import READ_SIZE
from arbiter.workers.protocols.http2_fields import MalformedError, encode_refusal, read_request, read_trailers
from arbiter.workers.protocols.http2_frames import HEAD, MOST, PREFACE, SETTING, WINDOW, WORD, Fault, StreamFault
from arbiter.workers.protocols.http2_hpack import CompressionError, Decoder, OversizedError
from arbiter.workers.protocols.http2_stream import Stream
from arbiter.workers.protocols.policy import Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbiter.workers.protocols.limits import Limits
    from arbiter.workers.protocols.policy import Request

STREAMS: Final = 100
"""Concurrent streams of one connection: the least that RFC 9113 section 6.5.2 recommends, and Gunicorn's default."""

ALLOWANCE: Final = 1000
"""What a client may cost before it has done anything of use, in units of one frame that is read for nothing."""
_RATE: Final = 100  # per second: ten resets, or a hundred PINGs
_RESET: Final = 10  # a stream opened and thrown away is a task, a head decoded, frames
_REQUEST: Final = 20  # a response that is whole pays for the frames around it
_DATA_SHIFT: Final = 9  # and content pays one per 512 bytes: Envoy lets ten WINDOW_UPDATEs pass per DATA frame of any size
_CONTINUATIONS: Final = 16  # frames of one block; 64 KiB in the frames that everybody sends are four
_REMEMBERED: Final = 256  # streams that have ended; what comes late for those before them has one meaning more
_PIECES: Final = 16  # as in http1
_CACHED: Final = 16  # blocks of one connection
_CACHED_SIZE: Final = 8 * 1024  # bytes of fields; 128 KiB for a connection, if a client insists


class Connection:
    """A connection, from its preface on (or from an Upgrade: see `upgrade`)."""

    def __init__(self, limits: Limits, *, streams: int = STREAMS, websocket: bool = False) -> None:
        """`websocket`: extended CONNECT (RFC 8441) is let in."""
        self._limits = limits
        self._most = streams
        self._websocket = websocket
        # A list of twice the size that is taken is still decoded, to be refused with an answer; more ends the connection.
        self._decoder = Decoder(2 * limits.head)
        self._cache: dict[bytes, Request] = {}  # by blocks that change no table: they mean the same until another one does
        self._pieces: list[bytes] = []  # of a frame that is not whole
        self._size = 0
        self._needed = len(PREFACE)
        self._begun = False  # the preface has been read
        self._settled = False  # and the client's first SETTINGS

        self.streams: dict[int, Stream] = {}
        """All that are open on the wire, or whose owner is still at work."""
        self._open = 0  # those that count against `_most`
        self._last = 0  # highest stream that the client has opened
        self._taken = 0  # highest stream that was given to the caller
        self._ended: dict[int, bool] = {}  # streams that are over: whether what comes late is ignored
        self._block: tuple[int, int, list[bytes]] | None = None  # of HEADERS whose END_HEADERS is still to come
        self._block_size = 0

        self._credit = WINDOW
        self._owed = 0
        self._window = WINDOW
        self._initial = WINDOW  # the window that the client gives a stream

        self._allowance = ALLOWANCE
        self._news: list[Stream] = []
        self.refused: list[tuple[int, Refusal]] = []
        """Requests that were answered here, by stream: for the log. The caller empties it."""
        self.relieved: list[Stream] = []
        """Streams whose queue `take` has emptied. The caller empties it."""
        self._out: list[bytes | memoryview] = []
        self._turn: deque[Stream] = deque()  # streams with content that their window lets go
        self._stalled: dict[int, Stream] = {}  # those whose window does not
        self.fault: Fault | None = None
        """Why the connection has ended, if it was the client's fault."""
        self.closed = False
        """GOAWAY ended everything: send what `take` gives, and close."""
        self._draining = 0  # 1: GOAWAY for the future is sent; 2: the last one
        self.leaving = False
        """The client has said GOAWAY."""

        values = {
            h2.MAX_CONCURRENT_STREAMS: streams,
            h2.MAX_HEADER_LIST_SIZE: limits.head,
        }
        if websocket:
            values[h2.ENABLE_CONNECT_PROTOCOL] = 1
        self._out.append(h2.settings(values))
        # Not the narrowest place: see above.
        self._grant(0, (streams - 1) * WINDOW)
        self._credit = streams * WINDOW
        self._half = self._credit // 2

    # Received ---------------------------------------------------------------------------------------------------------

    def upgrade(self, request: Request, settings: bytes) -> Stream | None:
        """Begin with the request that asked for ``Upgrade: h2c`` as stream 1 (RFC 7540 section 3.2); it has no content.

        Args:
            request: as HTTP/1 has admitted it.
            settings: the value of HTTP2-Settings.

        Returns:
            None if `settings` is not such a value: the request is to be answered in HTTP/1.
        """
        if b"=" in settings:
            return None
        try:
            payload = base64.b64decode(settings + b"=" * (-len(settings) % 4), altchars=b"-_", validate=True)
            if len(payload) % 6:
                return None
            self._apply(payload)
        except (binascii.Error, Fault):
            return None
        self._last = self._taken = 1
        return self._add(1, request._replace(version="HTTP/2", upgrade=b"", expects_continue=False))

    def receive(self, data: bytes) -> Sequence[Stream]:
        """Take what was received.

        Returns:
            Streams that something has happened to, each once: new ones have no `owner`; the others have content, or their end,
            or were reset.
        """
        if self.closed:
            return ()
        news: list[Stream] = []
        self._news = news
        if self._size:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return news
            data = b"".join(self._pieces)
            self._pieces = []
            self._size = 0
        try:
            self._read(data)
        except Fault as fault:
            self._fail(fault)
        for stream in news:
            stream.newsworthy = False
        self._news = []  # the list is the caller's
        return news

    def _read(self, data: bytes) -> None:
        at = 0
        size = len(data)
        if not self._begun:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise Fault(h2.PROTOCOL_ERROR, "The connection does not begin with the preface of HTTP/2.")
            if size < len(PREFACE):
                self._keep(data, len(PREFACE))
                return
            self._begun = True
            at = len(PREFACE)
        handlers = Connection._handlers
        while size - at >= 9:
            word, flags, number = HEAD.unpack_from(data, at)
            end = at + 9 + (word >> 8)
            kind = word & 0xFF
            if word >> 8 > h2.FRAME:
                raise Fault(h2.FRAME_SIZE_ERROR, "A frame is larger than 16384 bytes.")
            if end > size:
                self._keep(data[at:], end - at)
                return
            if not self._settled and (kind != h2.SETTINGS or flags & h2.ACK):
                raise Fault(h2.PROTOCOL_ERROR, "The first frame is not SETTINGS.")
            if self._block is not None and kind != h2.CONTINUATION:
                raise Fault(h2.PROTOCOL_ERROR, "A frame in the middle of a field block.")
            number &= MOST
            try:
                if kind < 10:
                    handlers[kind](self, flags, number, data[at + 9 : end])
                else:
                    self._spend(1)  # frames unknown to us are ignored: section 5.5
            except StreamFault as fault:
                self._spend(_RESET)
                self._reset(number, fault.code)
            at = end
        if at < size:
            self._keep(data[at:], 9)

    def _keep(self, rest: bytes, needed: int) -> None:
        """Wait for `needed` bytes; `rest` is their beginning."""
        self._pieces = [rest]
        self._size = len(rest)
        self._needed = needed

    def _spend(self, cost: int) -> None:
        self._allowance -= cost
        if self._allowance < 0:
            raise Fault(h2.ENHANCE_YOUR_CALM, "Too many frames to no use.")

    def _earn(self, worth: int) -> None:
        self._allowance = min(self._allowance + worth, ALLOWANCE)

    def _tell(self, stream: Stream) -> None:
        if not stream.newsworthy:
            stream.newsworthy = True
            self._news.append(stream)

    def _find(self, number: int, what: str) -> Stream | None:
        """The stream, or None if it has ended and what comes late is ignored.

        Raises:
            Fault: it was never opened, or the client ended it itself.
        """
        stream = self.streams.get(number)
        if stream is not None and stream.reset is None:
            return stream
        if number > self._last or not number & 1:
            raise Fault(h2.PROTOCOL_ERROR, f"{what} on a stream that was never opened.")
        if not self._ended.get(number, True):  # one that is forgotten has ended long ago: the client may not know
            raise Fault(h2.STREAM_CLOSED, f"{what} on a stream that has ended.")
        return None

    # Content

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise Fault(h2.PROTOCOL_ERROR, "DATA without a stream.")
        size = len(payload)
        if size > self._credit:
            raise Fault(h2.FLOW_CONTROL_ERROR, "DATA beyond the connection's window.")
        self._credit -= size
        content = _unpad(payload) if flags & h2.PADDED else payload
        stream = self._find(number, "DATA")
        if stream is None:
            self._give_back(size)
            self._spend(1)
            return
        if not stream.receiving:
            self._give_back(size)
            raise StreamFault(h2.STREAM_CLOSED, "DATA after END_STREAM.")
        if size > stream.credit:
            self._give_back(size)
            raise StreamFault(h2.FLOW_CONTROL_ERROR, "DATA beyond the stream's window.")
        stream.credit -= size
        padding = size - len(content)
        if padding:
            self._give_back(padding)
            stream.owed += padding
        size -= padding
        ended = flags & h2.END_STREAM
        if size:
            self._earn(size >> _DATA_SHIFT)
            self._add_content(stream, content, size)
        elif not ended:
            self._spend(1)
        if ended:
            self._end_body(stream)
        self._tell(stream)

    def _add_content(self, stream: Stream, content: bytes, size: int) -> None:
        stream.moved += size
        if stream.left >= 0:
            stream.left -= size
            if stream.left < 0:
                self._give_back(size)
                raise StreamFault(h2.PROTOCOL_ERROR, "More content than Content-Length says.")
        stream.room -= size
        if stream.room < 0:
            if stream.refusal is None:
                stream.refusal = Refusal(413, "The body is larger than this server takes.")
            self._give_back(size)
            return
        pieces = stream.pieces
        pieces.append(content)
        stream.held += size
        if len(pieces) > _PIECES:  # an object for each byte that trickles in would take forty times its room
            stream.pieces = [b"".join(pieces)]

    def _end_body(self, stream: Stream) -> None:
        if stream.left > 0:
            raise StreamFault(h2.PROTOCOL_ERROR, "Less content than Content-Length says.")
        stream.receiving = False
        if not stream.sending:
            self._over(stream)

    def next_body(self, stream: Stream, most: int = READ_SIZE) -> bytes | None:
        """At most `most` (over 0) bytes of the request's content; the client may send as many more.

        Returns:
            Some bytes; or None: feed more; or ``b""``: the body has ended (and stays so). None for ever after a reset.

        Raises:
            Refusal: 413 or, for trailers, 400 or 431.
        """
        pieces = stream.pieces
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if len(piece) > most:
                stream.pieces = [piece[most:]]
                piece = piece[:most]
            else:
                stream.pieces = []
            size = len(piece)
            stream.held -= size
            self._give_back(size)
            stream.owed += size
            if stream.owed >= WINDOW // 2 and stream.receiving and stream.reset is None:
                self._grant(stream.id, stream.owed)
                stream.credit += stream.owed
                stream.owed = 0
            return piece
        if stream.refusal is not None:
            raise stream.refusal
        if stream.receiving or stream.reset is not None:
            return None
        return b""

    def body_ended(self, stream: Stream) -> bool:
        """All content has been taken."""
        return not stream.receiving and not stream.pieces and stream.refusal is None and stream.reset is None

    def _give_back(self, size: int) -> None:
        """Let the client send `size` more bytes on the connection; it is told when there are many."""
        self._owed += size
        if self._owed >= self._half:
            self._grant(0, self._owed)
            self._credit += self._owed
            self._owed = 0

    def _grant(self, number: int, size: int) -> None:
        self._out.append(h2.window_update(number, size))

    # Heads and trailers

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number & 1:
            raise Fault(h2.PROTOCOL_ERROR, "HEADERS on a stream that is no client's.")
        if flags & h2.PADDED:
            payload = _unpad(payload)
        depends = -1
        if flags & h2.PRIORITIZED:
            if len(payload) < 5:
                raise Fault(h2.FRAME_SIZE_ERROR, "HEADERS too short for their priority.")
            depends = WORD.unpack_from(payload)[0] & MOST
            payload = payload[5:]
        if flags & h2.END_HEADERS:
            self._read_block(number, flags, payload, itself=depends == number)
        else:
            self._block = number, flags | (0x100 if depends == number else 0), [payload]
            self._block_size = len(payload)

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None:
            raise Fault(h2.PROTOCOL_ERROR, "CONTINUATION without HEADERS.")
        opened, first, pieces = self._block
        if number != opened:
            raise Fault(h2.PROTOCOL_ERROR, "CONTINUATION of another stream.")
        self._spend(1)
        pieces.append(payload)
        self._block_size += len(payload)
        if self._block_size > 2 * self._limits.head or len(pieces) > _CONTINUATIONS:
            raise Fault(h2.ENHANCE_YOUR_CALM, "A field block without end.")
        if flags & h2.END_HEADERS:
            self._block = None
            self._read_block(number, first, b"".join(pieces), itself=bool(first & 0x100))

    def _read_block(self, number: int, flags: int, block: bytes, *, itself: bool) -> None:
        """A whole block. It is decoded whatever becomes of the stream: the table is the connection's."""
        ended = bool(flags & h2.END_STREAM)
        if ended and number > self._last and not itself and (known := self._cache.get(block)) is not None:
            self._open_stream(number, known)
            return
        try:
            section = self._decoder.decode(block)
        except OversizedError:
            raise Fault(h2.ENHANCE_YOUR_CALM, "A field section is larger than this server reads.") from None
        except CompressionError:
            raise Fault(h2.COMPRESSION_ERROR, "A field block can't be decoded.") from None
        changed = self._decoder.changed
        if changed:
            self._cache.clear()
        if itself:
            if number > self._last:
                self._last = number
                self._forget(number, ignored=True)
            raise StreamFault(h2.PROTOCOL_ERROR, "A stream that depends on itself.")
        if number <= self._last:
            self._read_trailers(number, section, ended=ended)
            return
        try:
            request = read_request(section, self._limits, ended=ended, websocket=self._websocket)
        except MalformedError as error:
            self._last = number
            self._forget(number, ignored=True)
            raise StreamFault(h2.PROTOCOL_ERROR, str(error)) from None
        except Refusal as refusal:
            self._refuse(number, refusal, ended=ended, head=(b":method", b"HEAD") in section)
            return
        if ended and not changed and sum(map(len, chain.from_iterable(section))) <= _CACHED_SIZE:
            if len(self._cache) == _CACHED:
                self._cache.clear()
            self._cache[block] = request
        self._open_stream(number, request)

    def _open_stream(self, number: int, request: Request) -> None:
        self._last = number
        if self._draining == 2:
            return  # above the last one of GOAWAY: the client tries elsewhere
        if self._open >= self._most:
            self._forget(number, ignored=True)
            raise StreamFault(h2.REFUSED_STREAM, "Too many streams.")
        self._taken = number
        self._tell(self._add(number, request))

    def _add(self, number: int, request: Request) -> Stream:
        stream = Stream(number, request, WINDOW, self._initial, self._limits.body)
        self.streams[number] = stream
        self._open += 1
        return stream

    def _refuse(self, number: int, refusal: Refusal, *, ended: bool, head: bool) -> None:
        """Answer a request that was not let through."""
        self._last = number
        if self._draining == 2:
            return
        self._taken = number
        self._spend(_RESET)
        block, body = encode_refusal(refusal, head=head)
        # The body is short; a client without window for it gets the head.
        fits = len(body) <= min(self._window, self._initial)
        self._out.append(h2.headers(number, block, end=not fits or not body))
        if fits and body:
            self._window -= len(body)
            self._out.append(h2.frame(h2.DATA, h2.END_STREAM, number, body))
        if not ended:
            self._out.append(h2.rst_stream(number, h2.NO_ERROR))
        self._forget(number, ignored=not ended)
        self.refused.append((number, refusal))

    def _read_trailers(self, number: int, section: list[tuple[bytes, bytes]], *, ended: bool) -> None:
        stream = self.streams.get(number)
        if stream is None or stream.reset is not None:
            if number > self._taken:
                return
            ignored = self._ended.get(number)
            if ignored is None:
                raise Fault(h2.PROTOCOL_ERROR, "HEADERS on a stream below the last one.")
            if not ignored:
                raise Fault(h2.STREAM_CLOSED, "HEADERS on a stream that has ended.")
            self._spend(1)
            return
        if not stream.receiving:
            raise StreamFault(h2.STREAM_CLOSED, "HEADERS after END_STREAM.")
        if not ended:
            raise StreamFault(h2.PROTOCOL_ERROR, "HEADERS in the middle of a request.")
        try:
            stream.trailers = read_trailers(section, self._limits)
        except MalformedError as error:
            raise StreamFault(h2.PROTOCOL_ERROR, str(error)) from None
        except Refusal as refusal:
            stream.refusal = stream.refusal or refusal
        self._end_body(stream)
        self._tell(stream)

    # The ends of streams

    def _on_rst_stream(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fault(h2.FRAME_SIZE_ERROR, "RST_STREAM that is not 4 bytes long.")
        if not number or number > self._last or not number & 1:
            raise Fault(h2.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened.")
        stream = self.streams.get(number)
        if stream is None or stream.reset is not None or not (stream.sending or stream.receiving):
            self._spend(1)
            return
        self._spend(_RESET)
        self._end_early(stream, WORD.unpack(payload)[0], ignored=False)
        self._tell(stream)

    def _reset(self, number: int, code: int) -> None:
        """RST_STREAM, for a fault of the client's."""
        self._out.append(h2.rst_stream(number, code))
        stream = self.streams.get(number)
        if stream is not None:
            if stream.reset is None:
                self._end_early(stream, code, ignored=True)
                self._tell(stream)
        elif number <= self._last:
            self._forget(number, ignored=True)

    def _end_early(self, stream: Stream, code: int, *, ignored: bool) -> None:
        """The stream is over on the wire; it counts until its owner has let it go."""
        stream.reset = code
        stream.receiving = stream.sending = False
        stream.queue.clear()
        stream.queued = 0
        self._stalled.pop(stream.id, None)
        stream.coda = b""
        self._forget(stream.id, ignored=ignored)
        if stream.held:
            self._give_back(stream.held)
            stream.held = 0
            stream.pieces = []
        if not stream.owned:
            self._remove(stream)

    def _over(self, stream: Stream) -> None:
        """Both sides have ended the stream."""
        if stream.counted:
            stream.counted = False
            self._open -= 1
        self._earn(_REQUEST)
        self._forget(stream.id, ignored=False)
        if not stream.owned:
            self._remove(stream)

    def _remove(self, stream: Stream) -> None:
        if stream.counted:
            stream.counted = False
            self._open -= 1
        self.streams.pop(stream.id, None)

    def _forget(self, number: int, *, ignored: bool) -> None:
        """Remember of a stream only that it has ended, and whether the client may not know that yet."""
        self._ended[number] = ignored
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]

    # The connection's own frames

    def _on_priority(self, _: int, number: int, payload: bytes) -> None:
        """Priorities of RFC 7540 are read for their form only, as RFC 9113 section 5.3.2 lets us."""
        if not number:
            raise Fault(h2.PROTOCOL_ERROR, "PRIORITY without a stream.")
        self._spend(1)
        if len(payload) != 5:
            fault = "PRIORITY that is not 5 bytes long."
            if number > self._last:
                raise Fault(h2.FRAME_SIZE_ERROR, fault)  # RST_STREAM must not be sent for an idle stream: section 6.4
            raise StreamFault(h2.FRAME_SIZE_ERROR, fault)
        if WORD.unpack_from(payload)[0] & MOST == number:
            if number > self._last:
                raise Fault(h2.PROTOCOL_ERROR, "A stream that depends on itself.")
            raise StreamFault(h2.PROTOCOL_ERROR, "A stream that depends on itself.")

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(h2.PROTOCOL_ERROR, "SETTINGS on a stream.")
        if flags & h2.ACK:
            if payload:
                raise Fault(h2.FRAME_SIZE_ERROR, "SETTINGS with ACK and content.")
            self._spend(1)
            return
        if len(payload) % 6:
            raise Fault(h2.FRAME_SIZE_ERROR, "SETTINGS that are not multiples of 6 bytes long.")
        self._settled = True
        self._spend(1 + len(payload) // 60)
        self._apply(payload)
        self._out.append(_SETTINGS_ACK)

    def _apply(self, payload: bytes) -> None:
        for key, value in SETTING.iter_unpack(payload):
            if key == h2.ENABLE_PUSH:
                if value > 1:
                    raise Fault(h2.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1.")
            elif key == h2.INITIAL_WINDOW_SIZE:
                if value > MOST:
                    raise Fault(h2.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large.")
                self._spend(1)
                self._change_windows(value)
            elif key == h2.MAX_FRAME_SIZE:
                if not h2.FRAME <= value < 2**24:
                    raise Fault(h2.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of bounds.")
            elif key == h2.ENABLE_CONNECT_PROTOCOL and value > 1:
                raise Fault(h2.PROTOCOL_ERROR, "SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1.")

    def _change_windows(self, initial: int) -> None:
        """What the client gives to each stream has changed, for those that are open too: section 6.9.2."""
        difference = initial - self._initial
        self._initial = initial
        if not difference:
            return
        for stream in self.streams.values():
            stream.window += difference  # it may become negative
            if stream.window > MOST:
                raise Fault(h2.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large.")
            self._enter(stream)

    def _on_push_promise(self, *_: object) -> None:
        raise Fault(h2.PROTOCOL_ERROR, "PUSH_PROMISE from a client.")

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(h2.PROTOCOL_ERROR, "PING on a stream.")
        if len(payload) != 8:
            raise Fault(h2.FRAME_SIZE_ERROR, "PING that is not 8 bytes long.")
        self._spend(1)
        if not flags & h2.ACK:
            self._out.append(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif payload == _LAST_CALL and self._draining == 1:
            self._say_last()

    def _on_goaway(self, _: int, number: int, payload: bytes) -> None:
        if number:
            raise Fault(h2.PROTOCOL_ERROR, "GOAWAY on a stream.")
        if len(payload) < 8:
            raise Fault(h2.FRAME_SIZE_ERROR, "GOAWAY that is shorter than 8 bytes.")
        self._spend(1)
        self.leaving = True

    def _on_window_update(self, _: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Fault(h2.FRAME_SIZE_ERROR, "WINDOW_UPDATE that is not 4 bytes long.")
        self._spend(1)
        increment = WORD.unpack(payload)[0] & MOST
        if not number:
            if not increment:
                raise Fault(h2.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing.")
            self._window += increment
            if self._window > MOST:
                raise Fault(h2.FLOW_CONTROL_ERROR, "The connection's window is too large.")
            return
        stream = self.streams.get(number)
        if stream is None or stream.reset is not None:
            if number > self._last or not number & 1:
                raise Fault(h2.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened.")
            return  # late, which is allowed: section 5.1
        if not increment:
            raise StreamFault(h2.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing.")
        stream.window += increment
        if stream.window > MOST:
            raise StreamFault(h2.FLOW_CONTROL_ERROR, "The stream's window is too large.")
        self._enter(stream)

    # By type of frame. Not bound: they would make each connection a cycle that only the collector ends.
    _handlers = (
        _on_data,
        _on_headers,
        _on_priority,
        _on_rst_stream,
        _on_settings,
        _on_push_promise,
        _on_ping,
        _on_goaway,
        _on_window_update,
        _on_continuation,
    )

    # Sent -------------------------------------------------------------------------------------------------------------

    def send_head(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """Send a response's head: final, or informational (without `end`). Nothing if the stream was reset."""
        if stream.reset is not None or not stream.sending:
            return
        self._out.append(h2.headers(stream.id, block, end=end))
        if end:
            self._end_sending(stream)

    def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Queue content; `end`: nothing follows. Nothing if the stream was reset."""
        if stream.reset is not None or stream.end or not stream.sending:
            return
        if data:
            stream.queue.append(data)
            stream.queued += len(data)
        stream.end = end
        self._enter(stream)

    def send_trailers(self, stream: Stream, block: bytes) -> None:
        """End the response with trailer fields."""
        if stream.reset is None and not stream.end and stream.sending:
            stream.coda = block
            stream.end = True
            self._enter(stream)

    def cancel(self, stream: Stream, code: int) -> None:
        """End the stream now, with RST_STREAM, if it is not over: what was queued is not sent."""
        if stream.reset is None and (stream.sending or stream.receiving):
            self._out.append(h2.rst_stream(stream.id, code))
            self._end_early(stream, code, ignored=True)

    def release(self, stream: Stream) -> None:
        """The stream's owner is done with it: what it queued is still sent, and content that comes is thrown away."""
        stream.owned = False
        stream.owner = None
        if stream.reset is not None:
            self._remove(stream)
            return
        if stream.held:
            self._give_back(stream.held)
            stream.held = 0
            stream.pieces = []
        if not stream.end and stream.sending:
            self.cancel(stream, h2.INTERNAL_ERROR)
        elif not stream.sending:
            if stream.receiving:
                self._stop_upload(stream)
            else:
                self._remove(stream)

    def _stop_upload(self, stream: Stream) -> None:
        """The response is whole and nobody reads the rest of the request: section 8.1."""
        self.cancel(stream, h2.NO_ERROR)

    def _enter(self, stream: Stream) -> None:
        """Give the stream a turn, if it has anything to send."""
        if stream.ready or not stream.sending:
            return
        if stream.queue and stream.window <= 0:
            self._stalled[stream.id] = stream
        elif stream.queue or stream.end:
            self._stalled.pop(stream.id, None)
            stream.ready = True
            self._turn.append(stream)

    def take(self, room: int) -> bytes:
        """What is to be sent now: all frames but DATA, and about `room` bytes of DATA, streams taking turns."""
        out = self._out
        turn = self._turn
        if turn:
            window = self._window
            passed = 0  # streams that only lack the connection's window
            while turn and room > 0 and passed < len(turn):
                stream = turn.popleft()
                queue = stream.queue
                if queue and window <= 0:
                    turn.append(stream)
                    passed += 1
                    continue
                stream.ready = False
                if not stream.sending:
                    continue
                if queue:
                    size = min(h2.FRAME, stream.window, window)
                    if size <= 0:
                        self._enter(stream)  # its window was made smaller
                        continue
                    data = stream.next_piece(size)
                    size = len(data)
                    window -= size
                    room -= size
                    stream.window -= size
                    stream.moved += size
                    stream.queued -= size
                    self._earn((size + 448) >> _DATA_SHIFT)  # one for 64 bytes, too
                    end = stream.end and not queue
                    last = end and not stream.coda
                    out.append(HEAD.pack(size << 8, 1 if last else 0, stream.id))
                    out.append(data)
                    if not queue and stream.owned:
                        self.relieved.append(stream)
                else:
                    end = stream.end
                    last = end and not stream.coda
                    if last:
                        out.append(HEAD.pack(0, 1, stream.id))
                if end:
                    if stream.coda:
                        out.append(h2.headers(stream.id, stream.coda, end=True))
                    self._end_sending(stream)
                else:
                    self._enter(stream)
            self._window = window
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def _end_sending(self, stream: Stream) -> None:
        stream.sending = False
        if not stream.receiving:
            self._over(stream)
        elif not stream.owned:
            self._stop_upload(stream)

    @property
    def is_ready(self) -> bool:
        """`take` has something to give."""
        return bool(self._out) or (bool(self._turn) and (self._window > 0 or not all(stream.queue for stream in self._turn)))

    @property
    def is_stalled(self) -> bool:
        """There are `stalled` streams."""
        return bool(self._stalled) or (bool(self._turn) and self._window <= 0)

    @property
    def stalled(self) -> list[Stream]:
        """Streams with content that the client's windows do not let go."""
        return [*self._stalled.values(), *(self._turn if self._window <= 0 else ())]

    # The end ----------------------------------------------------------------------------------------------------------

    def tick(self, seconds: float = 1.0) -> None:
        """Time has passed: a second at a time, or so."""
        self._earn(int(_RATE * seconds))

    def drain(self) -> None:
        """Take no new streams, soon: those that the client has sent already are still taken (RFC 9113 section 6.8).

        GOAWAY is sent twice: at first without naming a last stream, and again when the client has answered a PING, or, at the
        second call, at once.
        """
        if self.closed or self._draining == 2:
            return
        if self._draining == 1:
            self._say_last()
            return
        self._draining = 1
        self._out.append(h2.goaway(MOST, h2.NO_ERROR))
        self._out.append(h2.frame(h2.PING, 0, 0, _LAST_CALL))

    def _say_last(self) -> None:
        self._draining = 2
        self._out.append(h2.goaway(self._taken, h2.NO_ERROR))

    @property
    def is_draining(self) -> bool:
        """The client has not been told yet which of its streams is the last."""
        return self._draining == 1 and not self.closed

    @property
    def is_over(self) -> bool:
        """Nothing is open and nothing new will be: close when all is sent."""
        return self.closed or ((self._draining == 2 or self.leaving) and not self.streams)

    def end(self, code: int = h2.NO_ERROR, reason: str = "") -> None:
        """End the connection now, whatever is open: GOAWAY is the last frame."""
        self._fail(Fault(code, reason), blame=False)

    def _fail(self, fault: Fault, *, blame: bool = True) -> None:
        if self.closed:
            return
        if blame:
            self.fault = fault
        self.closed = True
        self._turn.clear()
        self._out.append(h2.goaway(self._taken, fault.code, fault.reason))
        self._block = None
        self._pieces = []
        for stream in tuple(self.streams.values()):
            if stream.reset is None and (stream.sending or stream.receiving):
                self._end_early(stream, fault.code, ignored=True)
                if stream.owned:
                    self._tell(stream)


def _unpad(payload: bytes) -> bytes:
    if not payload:
        raise Fault(h2.FRAME_SIZE_ERROR, "A padded frame without its length of padding.")
    padding = payload[0]
    if padding >= len(payload):
        raise Fault(h2.PROTOCOL_ERROR, "More padding than there is frame.")
    return payload[1 : len(payload) - padding]


_LAST_CALL: Final = b"arbiter."  # the content of the PING that tells what the client had sent before GOAWAY reached it
_SETTINGS_ACK: Final = h2.frame(h2.SETTINGS, h2.ACK, 0)
