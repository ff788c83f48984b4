"""A WebSocket on a connection of its own: what follows an HTTP/1.1 request that asks for it, on an event loop.

It takes the transport over from `http1_connection` before the application is called (`site` tells how), and is to the
`WebSocketExchange` what `Http1Connection` is to an `Exchange`. If the application does not accept, its answer is the last on
this connection.

Rule: a client is waited for when it does not read (`write_timeout`), when it does not answer a ping or a close frame (the
exchange books that), or when it is to notice that it has been parted with; never when it has nothing to say.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from arbiter.workers.interfaces.asgi_scope import websocket_scope
from arbiter.workers.interfaces.asgi_websocket import EXTENSIONS, WebSocketExchange
from arbiter.workers.protocols import websocket_handshake
from arbiter.workers.protocols.policy import Refusal, status_line
from arbiter.workers.protocols.response import EARLY_HINTS, LAST_CHUNK, Framing, build, refuse
from arbiter.workers.site import LINGER

if TYPE_CHECKING:
    from arbiter.workers.interfaces.asgi import Exchange
    from arbiter.workers.protocols.policy import Fields, Request
    from arbiter.workers.protocols.websocket_deflate import Agreement
    from arbiter.workers.protocols.websocket_handshake import Offer
    from arbiter.workers.site import Site

_STRIDE = 16 * 1024
"""A client must take this many bytes within `write_timeout`; see `transport.STRIDE`."""


def install(site: Site) -> None:
    """Have the site's connections speak WebSocket when a client asks for it."""
    site.upgrades[b"websocket"] = take_over


def take_over(connection: Any, request: Request | None, rest: bytes) -> bool:
    """Serve a handshake in the connection's place, as `site` has it of a successor."""
    if request is None:
        return False
    site: Site = connection.site
    successor = WebSocketConnection(site, connection.client)
    try:
        offer = websocket_handshake.judge(request)
        request, template = site.introduce(request, connection.template, connection.waited)
    except Refusal as refusal:
        site.tell_refused(refusal, connection.client)
        connection.hand_over(successor)
        successor.reject(websocket_handshake.refuse(refusal))
        return True
    connection.hand_over(successor)
    successor.begin(request, offer, template, rest)
    return True


class WebSocketConnection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_exchange",
        "_framing",
        "_left",
        "_lingers",
        "_moment",
        "_slow",
        "blocked",
        "body_ended",
        "booked",
        "client",
        "deadline",
        "idle_since",
        "notch",
        "sends_files",
        "site",
        "transport",
        "write",
    )

    def __init__(self, site: Site, client: str) -> None:
        self.site = site
        self.client = client
        """The peer's host; empty on a unix socket."""
        self.blocked = False
        self.body_ended = True
        self.sends_files = False
        self.notch = 0
        self.booked = inf
        self.deadline = inf
        self.idle_since = inf  # a WebSocket is never idle: who is silent has nothing to say, and wants to hear
        self._exchange: WebSocketExchange | None = None
        self._framing = Framing.NONE
        self._lingers = False  # it has been told that this is the end; what it sends is thrown away
        self._moment = inf  # when the exchange wants to be called
        self._slow = inf  # when the client will have been too slow to read, or to part
        self._left = 0  # bytes that waited to be sent when that was set

    def begin(self, request: Request, offer: Offer, template: dict[str, Any], rest: bytes) -> None:
        """Have the application take up the handshake; `rest` has come behind it."""
        site = self.site
        scope = websocket_scope(template, request, offer)
        scope["state"] = site.websocket_state.copy()
        if site.tells_log:
            site.tell_log(scope, request, template)
        scope["extensions"] = EXTENSIONS | template.get("extensions", {})
        exchange = self._exchange = WebSocketExchange(site, self, request, offer, scope, site.settings)
        if site.request_timeout:
            exchange.deadline = exchange.started + site.request_timeout
        site.start(exchange, site.websocket_app)
        if site.retiring:
            exchange.retire()
        if rest:
            exchange.receive_bytes(rest)

    def reject(self, answer: bytes) -> None:
        """Send this answer, and close."""
        self.write(answer)
        self.finish(gently=True)

    is_unread = False  # of who is idle only
    slow_from = inf

    # The transport's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # one that reads and writes
        self.write = self.transport.write
        self.site.add(self)

    def data_received(self, data: bytes) -> None:
        if not self._lingers and self._exchange is not None:
            self._exchange.receive_bytes(data)

    def eof_received(self) -> bool:
        if self._exchange is not None:
            self._exchange.leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  why is of no use to anybody
        self.deadline = self._moment = self._slow = inf
        if self._exchange is not None:
            self._exchange.leave()
        self.site.remove(self)

    def pause_writing(self) -> None:
        self.blocked = True
        self._grant(self.site.write_timeout)

    def resume_writing(self) -> None:
        self.blocked = False
        self._slow = inf
        if self._exchange is not None:
            self._exchange.resume()

    # The exchange's side (`WebSocketStream`) --------------------------------------------------------------------------

    def accept(self, offer: Offer, subprotocol: str | None, agreement: Agreement | None, fields: Fields) -> int:
        head = websocket_handshake.accept(offer, subprotocol, agreement, fields)
        self.write(head)
        return len(head)

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def book(self, moment: float) -> None:
        self._moment = moment
        self._reckon()

    def finish(self, *, gently: bool) -> None:
        transport = self.transport
        if self._lingers or transport.is_closing():
            return
        self._moment = inf
        if not gently:
            transport.close()
            if transport.get_write_buffer_size():
                self._grant(self.site.write_timeout)
            return
        self._lingers = True
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._grant(LINGER)

    def complete(self) -> None:
        self.finish(gently=False)

    # The same, for an answer that is no 101 (`asgi.Stream`) -----------------------------------------------------------

    def read(self) -> bytes | None:
        return b""

    def send_early_hints(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        self.write(EARLY_HINTS % fields.block)

    def send_head(self, exchange: Exchange, body: bytes, known: int, *, ended: bool) -> None:
        line = status_line(exchange.status)
        head = build(exchange.request, exchange.status, line, exchange.fields, known=known, persistent=False)
        self._framing = head.framing
        exchange.head_size = len(head.data)
        self.write(head.data)
        if body or ended:
            self.send_body(body, ended=ended)

    def send_body(self, body: bytes, *, ended: bool) -> None:
        if self._framing is Framing.CHUNKED:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if ended:
                body += LAST_CHUNK
        self.write(body)

    def send_file(self, fd: int, offset: int, count: int, *, ended: bool) -> None:
        raise NotImplementedError(f"sends_files is False: {fd, offset, count, ended}")

    def send_trailers(self, block: bytes, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        if self._framing is Framing.CHUNKED:
            self.write(b"0\r\n" + block + b"\r\n")

    def refuse(self, refusal: Refusal, *, head_only: bool) -> int:
        data = refuse(refusal, head=head_only)
        self.write(data)
        return len(data) - data.index(b"\r\n\r\n") - 4

    def abort(self) -> None:
        self.transport.close()

    # The site's side (`LoopConnection`) -------------------------------------------------------------------------------

    def _grant(self, seconds: float) -> None:
        """Wait for the client to read, or to part, for so long from now on."""
        self._slow = monotonic() + seconds
        self._left = self.transport.get_write_buffer_size()
        self._reckon()

    def _reckon(self) -> None:
        self.deadline = min(self._moment, self._slow)
        self.site.book(self)

    def expire(self) -> None:
        now = monotonic()
        if self._slow <= now:
            left = self.transport.get_write_buffer_size()
            if left and self._left - left >= _STRIDE:
                self._grant(self.site.write_timeout)
            elif self._lingers and not left:
                self._slow = inf
                self.transport.close()
            else:
                self.site.log.info("a client was too slow to read its WebSocket: its connection is reset")
                self.transport.abort()
        if self._moment <= now and self._exchange is not None:
            self._moment = inf
            self._exchange.expire()
        self.deadline = min(self._moment, self._slow)

    def retire(self) -> None:
        if self._exchange is not None:
            self._exchange.retire()

    def wind_up(self) -> None:
        if self._exchange is not None:
            self._exchange.wind_up()

    def drop(self) -> None:
        self.transport.abort()
