"""What stands between one stream of an HTTP/2 connection and its exchange: a request's, or a WebSocket's (RFC 8441).

Everything is queued in the engine (`protocols.http2`), and leaves at the end of the loop's turn (`Http2Connection.changed`).
"""

from __future__ import annotations

from math import inf
from sys import maxsize
from typing import TYPE_CHECKING, Final

from arbiter.workers.interfaces.asgi_scope import websocket_scope
from arbiter.workers.interfaces.asgi_websocket import EXTENSIONS, WebSocketExchange
from arbiter.workers.protocols import http2_frames as frames
from arbiter.workers.protocols import websocket_handshake
from arbiter.workers.protocols.http2_fields import (
    encode_informational,
    encode_lines,
    encode_refusal,
    encode_response,
    encode_switch,
)
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.site import LINGER

if TYPE_CHECKING:
    from arbiter.workers.http2_connection import Http2Connection
    from arbiter.workers.interfaces.asgi import Exchange
    from arbiter.workers.protocols.http2_stream import Stream
    from arbiter.workers.protocols.policy import Fields
    from arbiter.workers.protocols.websocket_deflate import Agreement
    from arbiter.workers.protocols.websocket_handshake import Offer

HIGH: Final = 64 * 1024
"""Bytes that wait in a stream from which on its application waits too, and bytes of DATA that a transport is given at once:
asyncio's own measure, and one window of those that clients begin with."""
_CONTINUE: Final = encode_informational(100)


class Http2Stream:
    """`interfaces.asgi.Stream` of one request."""

    __slots__ = ("_connection", "_engine", "_expects", "_stream", "blocked", "exchange", "sends_files")

    exchange: Exchange

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        self._connection = connection
        self._engine = connection.engine
        self._stream = stream
        self._expects = stream.request.expects_continue
        self.blocked = False
        self.sends_files = False  # frames have to be made of them

    def arrived(self) -> None:
        """Content has come, or its end."""
        self.exchange.wake()

    def retire(self) -> None:
        """The worker leaves: what is under way is finished."""

    def wind_up(self) -> None:
        """Half the grace is over."""
        if self.exchange.begun:
            self.exchange.close_soon()

    @property
    def body_ended(self) -> bool:
        return self._engine.body_ended(self._stream)

    def read(self) -> bytes | None:
        data = self._engine.next_body(self._stream)
        connection = self._connection
        if data is None:
            if self._expects:
                self._expects = False
                self._engine.send_head(self._stream, _CONTINUE, end=False)
                connection.changed()
            connection.expect(self._stream)
            return None
        self._expects = False
        connection.met(self._stream)
        if self._engine.is_ready:
            connection.changed()  # room is given back
        return data

    def send_early_hints(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        self._engine.send_head(self._stream, encode_informational(103, fields), end=False)
        self._connection.changed()

    def send_head(self, exchange: Exchange, body: bytes, known: int, *, ended: bool) -> None:
        head = encode_response(exchange.request, exchange.status, exchange.fields, known=known)
        exchange.head_size = len(head.data)
        self._expects = False
        if body:
            self._engine.send_head(self._stream, head.data, end=False)
            self.send_body(body, ended=ended)
        else:
            self._engine.send_head(self._stream, head.data, end=ended)
            self._connection.changed()

    def send_body(self, body: bytes, *, ended: bool) -> None:
        stream = self._stream
        self._engine.send_data(stream, body, end=ended)
        if stream.queued >= HIGH:
            self.blocked = True
        self._connection.changed()

    def send_file(self, fd: int, offset: int, count: int, *, ended: bool) -> None:
        """Never called: see `sends_files`."""
        raise NotImplementedError

    def send_trailers(self, block: bytes, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        if block:
            self._engine.send_trailers(self._stream, encode_lines(block))
        else:
            self._engine.send_data(self._stream, b"", end=True)
        self._connection.changed()

    def refuse(self, refusal: Refusal, *, head_only: bool) -> int:
        block, body = encode_refusal(refusal, head=head_only)
        self._engine.send_head(self._stream, block, end=not body)
        if body:
            self._engine.send_data(self._stream, body, end=True)
        self._connection.changed()
        return len(body)

    def abort(self) -> None:
        self._engine.cancel(self._stream, frames.INTERNAL_ERROR)
        self._connection.changed()

    def complete(self) -> None:
        stream = self._stream
        self._connection.forget(stream)
        task = self.exchange.task
        if stream.reset is not None and task is not None:
            # It counts until its work is done: or a client that resets could start any number of tasks.
            task.add_done_callback(self._release)
        else:
            self._release()

    def _release(self, _: object = None) -> None:
        self._engine.release(self._stream)
        self._connection.changed()


class Http2WebSocket(Http2Stream):
    """`interfaces.asgi_websocket.WebSocketStream` of one extended CONNECT."""

    __slots__ = ("_is_paused", "_lingers")

    exchange: WebSocketExchange  # type: ignore[assignment]  # other than that of a request

    def __init__(self, connection: Http2Connection, stream: Stream) -> None:
        super().__init__(connection, stream)
        stream.room = maxsize  # limit_request_body is for requests, ws_max_size for messages
        self._is_paused = False
        self._lingers = False  # its last frame has been sent; what comes is thrown away

    def begin(self) -> None:
        """Have the application look at the handshake.

        Raises:
            Refusal: it is not sound, or asks for something else.
        """
        connection = self._connection
        site = connection.site
        request = self._stream.request
        if request.upgrade != b"websocket":
            raise Refusal(501, "The only protocol known here besides HTTP is WebSocket.")
        offer = websocket_handshake.read_offer(request.fields)
        request, template = site.introduce(request, connection.template, connection.waited)
        scope = websocket_scope(template, request, offer)
        scope["state"] = site.websocket_state.copy()
        if site.tells_log:
            site.tell_log(scope, request, template)
        scope["extensions"] = EXTENSIONS | connection.template.get("extensions", {})
        exchange = self.exchange = WebSocketExchange(site, self, request, offer, scope, site.settings)
        if site.request_timeout:
            exchange.deadline = exchange.started + site.request_timeout
        site.start(exchange, site.websocket_app)

    def arrived(self) -> None:
        engine, stream = self._engine, self._stream
        while not self._is_paused or self._lingers:
            data = engine.next_body(stream)
            if data:
                if not self._lingers:
                    self.exchange.receive_bytes(data)
            elif data is None:
                break
            else:
                if self._lingers:
                    self._release()
                else:
                    self.exchange.leave()
                break
        if engine.is_ready:
            self._connection.changed()  # room is given back

    def retire(self) -> None:
        self.exchange.retire()

    def wind_up(self) -> None:
        self.exchange.wind_up()

    @property
    def body_ended(self) -> bool:
        return True  # what comes are frames, for the WebSocket

    def read(self) -> bytes | None:
        return b""

    def accept(self, offer: Offer, subprotocol: str | None, agreement: Agreement | None, fields: Fields) -> int:
        websocket_handshake.check_own(fields)
        own = [
            (name.encode(), value.encode("latin-1"))
            for name, value in websocket_handshake.lines_of_accept(offer, subprotocol, agreement)
        ]
        block = encode_switch(fields, own)
        self._engine.send_head(self._stream, block, end=False)
        self._connection.changed()
        return len(block)

    def write(self, data: bytes) -> None:
        self.send_body(data, ended=False)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._connection.site.loop.call_soon(self.arrived)  # not in the middle of what the exchange does

    def book(self, moment: float) -> None:
        self._connection.book(self, moment)

    def finish(self, *, gently: bool) -> None:  # noqa: ARG002  a stream is parted with in one way
        if self._lingers:
            return
        self._lingers = True
        self._connection.book(self, inf)
        stream = self._stream
        self._engine.send_data(stream, b"", end=True)
        self._connection.changed()
        if stream.receiving and stream.reset is None:
            # The client is to end its side too, as RFC 8441 section 5 has it; one that does not is stopped.
            self._connection.site.loop.call_later(LINGER, self._release)
            self.arrived()
        else:
            self.complete()

    def complete(self) -> None:
        self._lingers = True
        super().complete()
