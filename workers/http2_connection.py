"""An HTTP/2 connection on an event loop: many requests at once, each an ASGI exchange over a stream of its own.

`protocols.http2` does the protocol; here its bytes meet a transport, and its streams the site's exchanges. Whatever happens in
a turn of the loop, requests that have come and what the applications answer in their first step, leaves in one write at the
turn's end (`_flush`), DATA of all streams taking turns. No more is taken from the engine than the transport has room for: the
rest waits in the streams, whose applications wait in `send`.

Deadlines, by the site's sweep: between requests `keepalive` (before the first `head_timeout`); a client that does not read, or
gives no window, or does not send the body that an application waits for, has `write_timeout` for each `STRIDE` bytes. A
stream that is too slow is ended alone, the connection goes with the transport's silence only.

A connection becomes HTTP/2 by ALPN; without TLS by its first bytes, or by ``Upgrade: h2c`` (see `http2_offer`).
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.http2_streams import HIGH, Http2Stream, Http2WebSocket
from arbiter.workers.protocols import http2_frames as frames
from arbiter.workers.protocols.http2 import Connection
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.site import LINGER
from arbiter.workers.transport import UNKNOWN

if TYPE_CHECKING:
    from arbiter.workers.hub import HubTransport
    from arbiter.workers.protocols.http2_stream import Stream
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.site import Site

_STRIDE: Final = 16 * 1024
"""See `transport.STRIDE`."""
_LAST_CALL: Final = 1.0
"""Seconds for a client to answer the PING behind the first GOAWAY; nobody is farther away."""
_SWITCH: Final = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def takes_over(connection: Any, request: Request | None, rest: bytes) -> bool:
    """`site.Successor`, for ``h2`` and ``h2c``."""
    if connection.template["scheme"] == "https" and (request or rest):
        return False  # behind TLS, ALPN chooses and nothing else: RFC 9113 sections 3.1 and 3.2
    site: Site = connection.site
    successor = Http2Connection(site, connection.template, connection.client)
    successor.waited = connection.waited
    if request is None:
        connection.hand_over(successor)
    else:
        settings = _http2_settings(request)
        stream = None if settings is None else successor.engine.upgrade(request, settings)
        if stream is None:
            return False
        connection.transport.write(_SWITCH)
        connection.hand_over(successor)
        successor.begin(stream)
    if rest:
        successor.data_received(rest)
    return True


def _http2_settings(request: Request) -> bytes | None:
    """The value of HTTP2-Settings, if there is exactly one and Connection names it: RFC 7540 section 3.2.1."""
    values = [value for name, value in request.fields if name == b"http2-settings"]
    options = b",".join(value for name, value in request.fields if name == b"connection").lower().split(b",")
    return values[0] if len(values) == 1 and b"http2-settings" in [option.strip(b" \t") for option in options] else None


class Http2Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_blocked_until",
        "_deadlines",
        "_flush_due",
        "_idle_until",
        "_is_fresh",
        "_is_judged",
        "_last_call",
        "_left",
        "_lingers",
        "_moments",
        "_patience",
        "_ticked",
        "blocked",
        "booked",
        "client",
        "deadline",
        "engine",
        "idle_since",
        "notch",
        "site",
        "template",
        "transport",
        "waited",
    )

    def __init__(self, site: Site, template: dict[str, Any], client: str) -> None:
        """Takes over from another protocol; see `site`."""
        self.site = site
        self.template = template
        self.client = client
        """The peer's host; empty on a unix socket."""
        self.waited = UNKNOWN
        """Seconds that what has just come lay in the kernel, if the site `measures_waits`."""
        self._is_judged = site.judges(template)
        self.engine = Connection(
            site.limits, streams=site.settings.http2_max_concurrent_streams, websocket=b"websocket" in site.upgrades
        )
        self._deadlines: dict[
            Stream, tuple[float, int]
        ] = {}  # of streams that wait for the client: when, and bytes moved when its time for a stride began
        self._patience: dict[Stream, tuple[float, int]] = {}  # of those that have waited: seconds left, and the same
        self._moments: dict[Http2WebSocket, float] = {}  # when they want to be called
        self._flush_due = False
        self._idle_until = inf  # when an idle connection is closed; inf: requests are under way
        self._is_fresh = True  # no request has come
        self._lingers = False  # the last frame has been sent; what comes is thrown away
        self._last_call = inf  # when the client has been given time enough to answer the first GOAWAY
        self._blocked_until = inf  # when a transport that takes nothing is given up
        self._left = 0  # bytes that waited to be sent when the deadline of a blocked transport was set
        self._ticked = monotonic()
        self.blocked = False
        self.notch = 0
        self.booked = inf
        self.deadline = inf
        self.idle_since = inf

    # The transport's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: HubTransport = transport  # type: ignore[assignment]  # or another's with the same methods
        self.site.add(self)
        self._rest()
        if self.site.retiring:
            self.retire()
        self._flush_soon()

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        engine = self.engine
        now = monotonic()
        if self.site.measures_waits:
            self.waited = max(self.waited, self.transport.wait())
        if now - self._ticked >= 1:
            engine.tick(now - self._ticked)
            self._ticked = now
        for stream in engine.receive(data):
            owner: Http2Stream | None = stream.owner
            if owner is None:
                self.begin(stream)
            elif stream.reset is not None:
                owner.exchange.leave()
            else:
                owner.arrived()
        if engine.refused:
            for _, refusal in engine.refused:
                self.site.tell_refused(refusal, self.client)
            engine.refused.clear()
        self.waited = UNKNOWN
        self._flush_soon()

    def begin(self, stream: Stream) -> None:
        """Start the application on a stream's request."""
        if self._idle_until < inf:
            self._is_fresh = False
            self._idle_until = self.idle_since = inf
        request = stream.request
        if request.upgrade:
            self._begin_websocket(stream)
            return
        owner = Http2Stream(self, stream)
        template = self.template
        if self._is_judged:
            try:
                request, template = self.site.introduce(request, template, self.waited)
            except Refusal as refusal:
                self._refuse(owner, stream, refusal)
                return
        stream.owner = owner
        owner.exchange = self.site.begin(owner, request, template)

    def _begin_websocket(self, stream: Stream) -> None:
        """Start the application on a stream that asks to be a WebSocket."""
        owner = Http2WebSocket(self, stream)
        stream.owner = owner
        try:
            owner.begin()
        except Refusal as refusal:
            self._refuse(owner, stream, refusal)

    def _refuse(self, owner: Http2Stream, stream: Stream, refusal: Refusal) -> None:
        """Answer a request that the application does not get."""
        self.site.tell_refused(refusal, self.client)
        owner.refuse(refusal, head_only=stream.request.method == b"HEAD")
        self.engine.release(stream)

    def eof_received(self) -> bool:
        """Whether the transport is to stay open: no. A client of HTTP/2 has no use for half a connection."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.deadline = inf
        for owner in [stream.owner for stream in self.engine.streams.values()]:
            if owner is not None:
                owner.exchange.leave()
        self.site.remove(self)

    def pause_writing(self) -> None:
        self.blocked = True
        # What a client sends that does not read makes answers, too. It is heard again when it reads.
        self.transport.pause_reading()
        self._grant()

    def resume_writing(self) -> None:
        self.blocked = False
        if not self.transport.is_closing():
            self.transport.resume_reading()
        self._flush_soon()

    def _grant(self) -> None:
        """Give a client that does not read some time to do so."""
        self._left = self.transport.get_write_buffer_size()
        self._blocked_until = monotonic() + self.site.write_timeout
        self._set_deadline(self._blocked_until)

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.site.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what may be sent, and wake those who waited for that."""
        self._flush_due = False
        transport = self.transport
        if self.blocked or self._lingers or transport.is_closing():
            return
        engine = self.engine
        data = engine.take(HIGH)
        if data:
            transport.write(data)
        if engine.relieved:
            relieved = engine.relieved
            engine.relieved = []
            for stream in relieved:
                if self._deadlines:
                    self._deadlines.pop(stream, None)
                owner: Http2Stream | None = stream.owner
                if owner is not None and owner.blocked:
                    owner.blocked = False
                    owner.exchange.resume()
        if engine.is_stalled:
            self._watch_stalled()
        if engine.is_over:
            self._part()
        elif engine.is_ready and not self.blocked:
            self._flush_soon()  # after the other connections' turn
        elif not engine.streams and self._idle_until == inf:
            self._rest()

    def _rest(self) -> None:
        """Nothing is under way."""
        site = self.site
        self.idle_since = now = monotonic()
        self._idle_until = now + (site.head_timeout if self._is_fresh else site.keepalive)
        self._set_deadline(self._idle_until)

    def _set_deadline(self, deadline: float) -> None:
        """Be looked at then, if it is not sooner: a look too early does nothing."""
        self.deadline = min(self.deadline, deadline)
        if deadline < self.booked:
            self.site.book(self)

    def _part(self) -> None:
        """The last frame is on its way. Closing with bytes unread resets, so let the client take it, and close."""
        self._lingers = True
        for owner in [stream.owner for stream in self.engine.streams.values()]:
            if owner is not None:
                owner.exchange.leave()
        if self.engine.fault is not None:
            self.site.log.info(f"ended the HTTP/2 connection of {self.client or 'a unix socket'}: {self.engine.fault.reason}")
        self.idle_since = inf
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS has no half of a connection; its close says the same
        self.transport.resume_reading()
        self.deadline = inf
        self._set_deadline(monotonic() + LINGER)

    # Streams ----------------------------------------------------------------------------------------------------------

    def expect(self, stream: Stream) -> None:
        """An application waits for what the client has to do about its stream: send content, or give window."""
        known = self._deadlines.get(stream)
        if known is None or stream.moved - known[1] >= _STRIDE:
            patience, mark = self._patience.get(stream, (0.0, -_STRIDE))
            if stream.moved - mark >= _STRIDE:
                patience, mark = self.site.write_timeout, stream.moved
            deadline = monotonic() + patience
            self._deadlines[stream] = deadline, mark
            self._set_deadline(deadline)

    def met(self, stream: Stream) -> None:
        """The client has done it, or some of it: for the rest of a stride it has what is left of its time."""
        if stream in self._deadlines:
            deadline, mark = self._deadlines.pop(stream)
            self._patience[stream] = deadline - monotonic(), mark

    def forget(self, stream: Stream) -> None:
        """Its response is over: nothing is expected any more."""
        self._deadlines.pop(stream, None)
        self._patience.pop(stream, None)

    def book(self, owner: Http2WebSocket, moment: float) -> None:
        """Have the WebSocket's `expire` called at this moment; `inf`: not."""
        if moment == inf:
            self._moments.pop(owner, None)
        else:
            self._moments[owner] = moment
            self._set_deadline(moment)

    def _watch_stalled(self) -> None:
        for stream in self.engine.stalled:
            self.expect(stream)

    def changed(self) -> None:
        """There is something to send."""
        if not self._flush_due:
            self._flush_due = True
            self.site.loop.call_soon(self._flush)

    # The site's side (`LoopConnection`) -------------------------------------------------------------------------------

    def expire(self) -> None:
        now = monotonic()
        self.deadline = inf
        engine = self.engine
        transport = self.transport
        if self._lingers:
            if transport.get_write_buffer_size():
                transport.abort()
            else:
                transport.close()
            return
        if self.blocked:
            left = transport.get_write_buffer_size()
            if self._blocked_until > now:
                self._set_deadline(self._blocked_until)
            elif self._left - left >= _STRIDE:
                self._grant()
            else:
                self.site.log.info("a client was too slow to read its responses: its connection is reset")
                transport.abort()
            return
        if engine.is_draining:
            if self._last_call <= now:
                engine.drain()
            else:
                self._set_deadline(self._last_call)
        if self._moments:
            self._expire_websockets(now)
        if engine.streams:
            self._expire_streams(now)
        elif self._idle_until <= now:
            engine.end()
        else:
            self._set_deadline(self._idle_until)
        self._flush_soon()

    def _expire_streams(self, now: float) -> None:
        engine = self.engine
        for stream, (deadline, moved) in list(self._deadlines.items()):
            if stream.id not in engine.streams or stream.reset is not None:
                del self._deadlines[stream]
            elif stream.moved - moved >= _STRIDE:
                self._deadlines[stream] = now + self.site.write_timeout, stream.moved
            elif deadline <= now:
                del self._deadlines[stream]
                self._end_slow(stream)
        if self._deadlines:
            self._set_deadline(min(deadline for deadline, _ in self._deadlines.values()))

    def _expire_websockets(self, now: float) -> None:
        for owner, moment in list(self._moments.items()):
            if moment <= now:
                del self._moments[owner]
                owner.exchange.expire()
        if self._moments:
            self._set_deadline(min(self._moments.values()))

    def _end_slow(self, stream: Stream) -> None:
        exchange = None if stream.owner is None else stream.owner.exchange
        request = stream.request
        name = f"{request.method.decode()} {request.target.decode()}"
        if stream.queued:
            self.site.log.info(f"{name}: the client was too slow to read the response: it is cut short")
            self.engine.cancel(stream, frames.CANCEL)
            if exchange is not None:
                exchange.leave()
        elif exchange is not None:
            self.site.log.info(f"{name}: the client was too slow to send its body")
            exchange.give_up(Refusal(408, "The body did not arrive in time."))

    def retire(self) -> None:
        if self._lingers or self.transport.is_closing():
            return
        self.engine.drain()
        for stream in tuple(self.engine.streams.values()):
            if stream.owner is not None:
                stream.owner.retire()
        self._last_call = monotonic() + _LAST_CALL
        self._set_deadline(self._last_call)
        self._flush_soon()

    def wind_up(self) -> None:
        for stream in tuple(self.engine.streams.values()):
            owner: Http2Stream | None = stream.owner
            if owner is not None:
                owner.wind_up()

    @property
    def is_unread(self) -> bool:
        return getattr(self.transport, "is_unread", False)

    slow_from = inf

    def drop(self) -> None:
        self.transport.abort()
