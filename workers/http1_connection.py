"""HTTP/1 on an event loop: one connection, whose requests go to the application one after another.

It is an `asyncio.Protocol` towards the transport, a `Stream` towards the request's `Exchange`, and a `LoopConnection` towards
the `Site`. Bytes are kept by the sans-I/O `Connection`: a body is taken from it as the application asks, a pipelined request
when the one before has its response, and reading pauses when too much waits there. Heads come from `response.build`.

Rules: one exchange at a time. A deadline holds the client, never the application: there is one while a head, a piece of body
that the application wants, room for the response, or the next request is waited for.

Where a connection is handed over to another protocol is told in `site`.
"""

from __future__ import annotations

import asyncio
from math import inf
from sys import maxsize
from time import monotonic
from typing import TYPE_CHECKING, Final

from arbiter.workers.interfaces.asgi_scope import connection_scope
from arbiter.workers.protocols.policy import Refusal, status_line
from arbiter.workers.protocols.response import CONTINUE, EARLY_HINTS, LAST_CHUNK, Framing, build, refuse
from arbiter.workers.site import LINGER, QUIET
from arbiter.workers.transport import SLOW_BODY, SLOW_HEAD, UNKNOWN, is_silent

if TYPE_CHECKING:
    from arbiter.workers.hub import HubTransport
    from arbiter.workers.interfaces.asgi import Exchange
    from arbiter.workers.protocols.policy import Fields, Request
    from arbiter.workers.site import Site

_NO_BODY, _LENGTH, _CHUNKED, _CLOSE = Framing  # a member read from its class costs ten globals

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""HTTP/2's connection preface: RFC 9113 section 3.4."""
_WAITING: Final = 64 * 1024
"""Bytes received and not asked for from which on reading pauses."""
_JOINED: Final = 64 * 1024
"""Pieces up to this size together are copied into one; above it, they are gathered."""
_STRIDE: Final = 16 * 1024
"""A client must move this many bytes within `write_timeout`; see `transport.STRIDE`."""
_WITH_ITS_REQUEST: Final = 0.1
"""Seconds in which the end of what a client sends belongs to its request: it has shut down its side at once, and waits for the
answer. Later, it has gone: a client that goes away looks no different."""


class Http1Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_exchange",
        "_expects",
        "_framing",
        "_http",
        "_is_due",
        "_is_fresh",
        "_is_half_closed",
        "_is_judged",
        "_is_kept",
        "_left",
        "_lingers",
        "_mark",
        "_moved",
        "_patience",
        "_persistent",
        "_since",
        "_verdict",
        "blocked",
        "booked",
        "client",
        "deadline",
        "idle_since",
        "notch",
        "sends_files",
        "site",
        "template",
        "transport",
        "waited",
    )

    def __init__(self, site: Site, *, scheme: str, server: object, client: object) -> None:
        """For a transport whose `connection_made` comes next; the addresses are as `connection_scope` takes them."""
        self.site = site
        self.client = client[0] if isinstance(client, tuple) else ""
        """The peer's host; empty on a unix socket."""
        self.template = connection_scope(
            scheme=scheme,
            server=server,
            client=client,
            root_path=site.root_path,
            trusted=site.fronts.trusts(self.client),
        )
        self.waited = UNKNOWN
        """Seconds that the client's next request has waited for the loop, if the site `measures_waits`."""
        self._is_judged = site.judges(self.template)
        self._verdict = site.verdict(self.template)
        self._http = site.parser()
        self._exchange: Exchange | None = None
        self._framing = _NO_BODY
        self._persistent = True
        self._expects = False  # the client waits for a 100
        self._is_fresh = True  # nothing has been received
        self._is_due = False  # a request that was pipelined is looked at in a moment
        self._is_kept = False  # it has had a request
        self._is_half_closed = False  # it sends no more
        self._lingers = False  # it has its last response; what it sends is thrown away
        self.blocked = False
        self.sends_files = False
        self.notch = 0
        self.booked = inf
        self.deadline = inf
        self.idle_since = inf
        self._moved = self._mark = 0  # bytes received of a request with a body: so far, and when the deadline was set
        self._left = 0  # bytes that waited to be sent then
        self._since = 0.0  # when waiting for the body began; 0.0: nobody waits
        self._patience = site.write_timeout  # seconds that may be waited for the rest of this stride of the body

    # The transport's side ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: HubTransport = transport  # type: ignore[assignment]  # or another's with the same methods
        self.sends_files = self.site.settings.sendfile and getattr(transport, "send_file", None) is not None
        self.site.add(self)
        self.idle_since = now = monotonic()
        self.deadline = now + self.site.head_timeout
        self.site.book(self)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        http = self._http
        exchange = self._exchange
        if exchange is not None:
            http.feed(data)
            self._moved += len(data)
            if not http.body_ended:
                exchange.wake()
            if http.pending >= _WAITING:
                self.transport.pause_reading()
            return
        if self.site.measures_waits:
            self._note_wait()
        if self._is_fresh:
            self._is_fresh = False
            if data.startswith(b"PRI") and self._is_preface(data):
                return
        http.feed(data)
        self._next()

    def _note_wait(self) -> None:
        """Note how long what has been read lay in the kernel; what came with a request before it waited for that first."""
        waited = self.transport.wait()
        if self._is_kept and self.idle_since < inf:
            waited = min(waited, monotonic() - self.idle_since)
        self.waited = max(self.waited, waited)

    def _is_preface(self, data: bytes) -> bool:
        """Whether HTTP/2 has taken over, because the client speaks it without asking."""
        successor = self.site.upgrades.get(b"h2")
        return successor is not None and _PREFACE.startswith(data[: len(_PREFACE)]) and successor(self, None, data)

    def eof_received(self) -> bool:
        """Whether the transport is to stay open for a response."""
        self._is_half_closed = True
        exchange = self._exchange
        if exchange is None:
            return self._is_due
        try:
            is_whole = self._http.read_ahead(maxsize)
        except Refusal as refusal:
            exchange.give_up(refusal)
            return True
        if not is_whole or monotonic() - exchange.started > _WITH_ITS_REQUEST:
            self._persistent = False
            exchange.leave()
            return False
        exchange.close_soon()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        exchange = self._exchange
        if exchange is not None:
            self._persistent = False
            exchange.leave()
        self.deadline = inf
        self.site.remove(self)

    def pause_writing(self) -> None:
        self.blocked = True
        self._grant(self.site.write_timeout)

    def resume_writing(self) -> None:
        self.blocked = False
        self.deadline = inf
        if self._since:
            self._since = 0.0
            self._await_body()
        if self._exchange is not None:
            self._exchange.resume()

    # Requests ---------------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Begin the next request, if its head is here."""
        site = self.site
        try:
            request = self._http.next_request()
        except Refusal as refusal:
            self._refuse_head(refusal)
            return
        if request is None:
            if self.idle_since != inf:  # the rest of a head has its own deadline
                self.idle_since = inf
                if self._is_kept:
                    self._grant(site.head_timeout)
            return
        self.idle_since = self.deadline = inf
        self._is_kept = True
        if request.upgrade and self._is_taken_over(request):
            return
        template = self.template
        if self._is_judged and request.of_fields.get(self._verdict, request) is not None:  # else: seen before, as most are
            try:
                request, template = site.introduce(request, template, self.waited, self._http.variables)
            except Refusal as refusal:
                self._refuse_head(refusal)
                return
            self.waited = UNKNOWN
        self._expects = request.expects_continue
        self._exchange = site.begin(self, request, template)

    def _is_taken_over(self, request: Request) -> bool:
        """Whether another protocol has taken the connection."""
        if request.length:
            return False
        rest = self._http.take_rest()
        for offered in request.upgrade.split(b","):  # by the client's preference: RFC 9110 section 7.8
            protocol = offered.strip(b" \t")
            successor = self.site.upgrades.get(protocol)
            if successor is None or (protocol == b"websocket" and request.method != b"GET"):
                continue
            if successor(self, request, rest):
                return True
        self._http.put_back(rest)
        return False

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Leave the transport to another protocol; its `connection_made` is called."""
        self.site.remove(self)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)

    def turn_away(self, refusal: Refusal, *, silently: bool = False) -> None:
        """Answer before anything was asked, or just close: a client that expects HTTP/2 would not understand."""
        if silently:
            self.site.tell_refused(refusal, self.client)
            self._close()
        else:
            self._refuse_head(refusal)

    def _refuse_head(self, refusal: Refusal) -> None:
        """Answer a request that was not let through."""
        self.site.tell_refused(refusal, self.client)
        self.idle_since = inf
        self._persistent = False
        self.transport.write(refuse(refusal))
        self._part()

    def _grant(self, seconds: float) -> None:
        """Wait for the client, for so long from now on."""
        self.deadline = monotonic() + seconds
        self._mark = self._moved
        self._left = self.transport.get_write_buffer_size()
        self.site.book(self)

    def _await_body(self) -> None:
        """Wait for the body: as long as the client moves a stride in its time, of which each wait takes its part."""
        now = monotonic()
        if self._moved - self._mark >= _STRIDE:
            self._mark = self._moved
            self._patience = self.site.write_timeout
        elif self._since:
            self._patience -= now - self._since
        self._since = now
        self.deadline = now + self._patience
        self.site.book(self)

    def _met_body(self) -> None:
        """Some of it has come."""
        self._patience -= monotonic() - self._since
        self._since = 0.0
        self.deadline = inf
        if self._http.body_ended:
            self._patience = self.site.write_timeout

    # The exchange's side (`Stream`) -----------------------------------------------------------------------------------

    @property
    def body_ended(self) -> bool:
        return self._http.body_ended

    def read(self) -> bytes | None:
        http = self._http
        data = http.next_body()
        if data is None:
            if self._expects:
                self._expects = False
                self.transport.write(CONTINUE)
            if not self._since or self._moved - self._mark >= _STRIDE:
                self._await_body()
            self.transport.resume_reading()
            return None
        self._expects = False
        if self._since:
            self._met_body()
        if http.pending < _WAITING and not self._is_half_closed:
            self.transport.resume_reading()
        return data

    def send_early_hints(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        exchange = self._exchange
        if exchange is not None and exchange.request.version == "HTTP/1.1":
            self.transport.write(EARLY_HINTS % fields.block)

    def send_head(self, exchange: Exchange, body: bytes, known: int, *, ended: bool) -> None:
        status = exchange.status
        head = build(
            exchange.request,
            status,
            exchange.status_line or status_line(status),
            exchange.fields,
            known=known,
            persistent=self._persistent and self.site.keeps and not (self._is_half_closed and not self._http.pending),
        )
        self._expects = False
        self._persistent = head.persistent
        self._framing = framing = head.framing
        data = head.data
        exchange.head_size = len(data)
        if not body:
            self.transport.write(data + LAST_CHUNK if ended and framing is _CHUNKED else data)
        elif framing is _CHUNKED:
            self._write_chunk(data, body, b"\r\n0\r\n\r\n" if ended else b"\r\n")
        elif len(body) <= _JOINED:
            self.transport.write(data + body)
        else:
            self.transport.writelines((data, body))

    def send_body(self, body: bytes, *, ended: bool) -> None:
        if self._framing is _CHUNKED:
            if body:
                self._write_chunk(b"", body, b"\r\n0\r\n\r\n" if ended else b"\r\n")
            elif ended:
                self.transport.write(LAST_CHUNK)
        elif body:
            self.transport.write(body)

    def _write_chunk(self, before: bytes, body: bytes, after: bytes) -> None:
        if len(body) <= _JOINED:
            self.transport.write(b"%b%x\r\n%b%b" % (before, len(body), body, after))  # one copy, which `+` would make twice
        else:
            self.transport.writelines((b"%b%x\r\n" % (before, len(body)), body, after))

    def send_file(self, fd: int, offset: int, count: int, *, ended: bool) -> None:
        chunked = self._framing is _CHUNKED
        if chunked:
            self.transport.write(b"%x\r\n" % count)
        self.transport.send_file(fd, offset, count)
        if chunked:
            self.transport.write(b"\r\n0\r\n\r\n" if ended else b"\r\n")

    def send_trailers(self, block: bytes, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: ARG002
        if self._framing is _CHUNKED:
            self.transport.write(b"0\r\n" + block + b"\r\n")

    def refuse(self, refusal: Refusal, *, head_only: bool) -> int:
        self._persistent = False
        data = refuse(refusal, head=head_only)
        self.transport.write(data)
        return len(data) - data.index(b"\r\n\r\n") - 4

    def abort(self) -> None:
        self._persistent = False
        if self._framing is _CLOSE:
            self.transport.abort()  # only a reset tells it from the end
        else:
            self._close()

    def complete(self) -> None:
        exchange, self._exchange = self._exchange, None
        self.deadline = inf
        self._since = 0.0
        http = self._http
        site = self.site
        if self._persistent and site.keeps and http.is_clear and not self._is_half_closed:
            self.idle_since = now = site.now
            self.deadline = deadline = now + site.keepalive
            if deadline < self.booked:
                site.book(self)
            return
        if self.transport.is_closing():
            return
        self._patience = site.write_timeout
        try:
            while not http.body_ended and http.next_body():
                pass  # what is here of a body that nobody has asked for
        except Refusal:
            self._persistent = False
        if not self._persistent or not http.body_ended or not site.keeps:
            self._part(exchange)
        elif http.pending:
            # In a turn of its own: a client that pipelines a thousand requests must not make this a thousand calls deep.
            self._is_due = True
            site.loop.call_soon(self._next_pipelined, site.now)
        elif self._is_half_closed:
            self._part()
        else:
            self.complete()

    def _next_pipelined(self, since: float) -> None:
        """Begin the request that is here since this moment, as far as anybody has to wait for it."""
        self._is_due = False
        if self.site.measures_waits:
            self.waited = monotonic() - since
        if self._exchange is None and not self._lingers and not self.transport.is_closing():
            self._next()
            if self.deadline == inf and not self._exchange:
                if self._is_half_closed:
                    self._close()  # a part of a head was here, and the rest will never come
                    return
                self._grant(self.site.head_timeout)
            if not self._is_half_closed and self._http.pending < _WAITING:
                self.transport.resume_reading()

    def _part(self, exchange: Exchange | None = None) -> None:
        """The client has its last response, if it got one to `exchange`.

        Closing with bytes unread resets (RFC 9112 section 9.6): who has sent any is to take its response first. Who has asked
        to close has promised to send no more, and if it got its answer at once, it is not looked for (9 us of 100).
        """
        transport = self.transport
        asks = exchange is None or not is_silent(exchange.request, (self.site.now - exchange.started) * 1e9)
        if self._is_half_closed or not (self._http.pending or not self._http.body_ended or (asks and self.is_unread)):
            self._close()
            return
        self._lingers = True
        self._http.take_rest()
        self.site.part(self)
        transport.write_eof()
        transport.resume_reading()
        self.deadline = monotonic() + LINGER
        self.site.book(self)

    def _close(self) -> None:
        """Close when the client has taken what is on its way, for which it has `write_timeout` again and again."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._grant(self.site.write_timeout)

    # The site's side (`LoopConnection`) -------------------------------------------------------------------------------

    @property
    def is_unread(self) -> bool:
        return getattr(self.transport, "is_unread", False)

    @property
    def slow_from(self) -> float:
        if self.blocked or self._lingers or self.idle_since < inf or self.transport.is_closing():
            return inf
        if self._exchange is None:
            return self.deadline - self.site.head_timeout + SLOW_HEAD  # no trickle moves the deadline of a head
        return self.deadline - self.site.write_timeout + SLOW_BODY if self._since else inf

    def expire(self) -> None:
        exchange = self._exchange
        if self.transport.is_closing() or self.blocked:
            left = self.transport.get_write_buffer_size()
            if self._left - left >= _STRIDE:
                self._grant(self.site.write_timeout)
            else:
                self.site.log.info("a client was too slow to read the response: its connection is reset")
                self.transport.abort()
        elif exchange is not None:
            if self._moved - self._mark >= _STRIDE:
                self._await_body()
            else:
                self.site.log.info(f"{exchange.name}: the client was too slow to send its body")
                exchange.give_up(Refusal(408, "The body did not arrive in time."))
        elif self._http.pending and not self._lingers:
            self._refuse_head(Refusal(408, "The request's head did not arrive in time."))
        elif self._lingers or not self.is_unread:
            self._close()
        else:
            self._grant(QUIET)  # its request is here, and will be read in a moment

    def retire(self) -> None:
        if self._exchange is not None or self._lingers or self._http.pending or self.transport.is_closing():
            return
        self.deadline = min(self.deadline, self.idle_since + QUIET)
        if self.deadline <= monotonic() and not self.is_unread:
            self._close()
        else:
            self.site.book(self)

    def wind_up(self) -> None:
        if self._exchange is not None and self._exchange.begun:
            self._exchange.close_soon()

    def drop(self) -> None:
        self.transport.abort()
