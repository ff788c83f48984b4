"""The sync worker: one connection, one request, one response at a time, in the main thread, with blocking calls.

A connection is closed after its response, as everyone expects of a sync worker: the next client waits behind nobody's idle
connection. What a client can take of the worker's time is bounded: its head by `head_timeout` whatever it trickles, its
body and its reading by `write_timeout` and by the worker's own `timeout`, of which a slow client gets `_SHARE` at most;
so a slow client loses its connection, and only an application that hangs loses the worker. Who has a response and is still
sending is not waited for at all (`parting`).
"""

from __future__ import annotations

import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.base import BREATH
from arbiter.workers.contract import Doing, client_name
from arbiter.workers.fronts import host_of
from arbiter.workers.gateway import LINGER, GatewayWorker
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.interfaces.wsgi_environ import add_peer
from arbiter.workers.parting import Parting
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import refuse
from arbiter.workers.timelimit import TimeLimit, guard_main_thread
from arbiter.workers.transport import UNKNOWN, SocketTransport, is_silent, queue_wait

if TYPE_CHECKING:
    import socket

    from arbiter.workers.contract import Order
    from arbiter.workers.opening import Opening
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request

_SHARE: Final = 0.9
"""Of `timeout`, what waiting for a client may use up; the rest is for noticing and answering before the worker is killed."""

_TURN: Final = 0.01
"""Seconds to go on accepting without looking for orders, which costs a tenth of a small request; an order waits no longer
than that, or one request."""


class SyncWorker(GatewayWorker):
    """One request at a time."""

    def __init__(self, order: Order, app: Any) -> None:
        super().__init__(order, app, multithread=False)
        self._seconds = self.settings.request_timeout
        self._limit = TimeLimit()
        self._spare: Connection | None = None
        """One as good as new: it has had whole requests without bodies only, so nobody has a stream over it."""
        timeout = self.settings.timeout
        self._parting = Parting(self._epoll, min(LINGER, timeout * _SHARE) if timeout else LINGER)

    def breathe(self) -> None:
        time.sleep(BREATH)

    def serve(self) -> None:
        """Serve until told to retire; the last of all also serve what is in the backlog."""
        if self._seconds:
            guard_main_thread(self._limit, self._seconds, self._cancelled, self._lost)
        patience = self._parting.patience
        while not self.retiring:
            for listener in self.poll(patience):
                self._take_turn(listener)
            self._parting.sweep()
            patience = self._parting.patience
            if self.access_log:
                patience = self.access_log.write_behind(inf if patience is None else patience)
        for listener in self.listeners if self.last else ():
            while self._accept(listener):
                pass
        self.flush_access()
        self._parting.finish(self.vouch)

    def attend(self, ready: list[tuple[int, int]]) -> list[socket.socket]:
        if self._parting:
            ready = [event for event in ready if not self._parting.heed(event[0])]
        return super().attend(ready)

    def _take_turn(self, listener: socket.socket) -> None:
        """Serve what waits in `listener`, for a moment."""
        end = time.monotonic() + _TURN
        while self._accept(listener) and not self.retiring and time.monotonic() < end:
            pass

    def _accept(self, listener: socket.socket) -> bool:
        """Serve one connection of `listener`, if there is one."""
        if (accepted := self.accept(listener)) is None:
            return False
        client, address, environ = accepted
        parts = False
        try:
            parts = self._serve(client, address, environ)
        except Exception:  # what an application raises doesn't come here: this is a mistake of ours
            self.log.exception("a connection failed inside Arbiter, which goes on; please report this")
        finally:
            if parts:
                self._parting.add(client)
            else:
                client.close()
        return True

    def _serve(self, client: socket.SocketType, address: Any, environ: dict[str, Any]) -> bool:
        """Read one request, and have it answered; whether the client needs a moment to take its response."""
        transport = SocketTransport(client, patience=self.settings.write_timeout, phase=self.row.phase)
        connection, self._spare = self._spare or self.connection(), None
        waited = self._wait_of(client, transport) if self.wants_waits else UNKNOWN
        try:
            if opening := self.opening(client, address):
                if not self._open(opening, transport):
                    return False
                address, environ = self.opened(opening, address, environ)
                connection.feed(opening.received)
            request = self._read_head(transport, connection)
            if request is None:
                return False
            host = host_of(address)
            told = self.fronts.judge(request, host, waited, trusted=self.fronts.trusts(host))
        except Refusal as refusal:
            return self._refuse(refusal, address, transport)
        except OSError:
            return False
        started = time.monotonic()
        self.row.begin(request.method, request.target, client_name(address))
        if timeout := self.settings.timeout:
            self.row.beat(started + timeout)
            transport.last = started + timeout * _SHARE
        environ = self.environ(environ, connection, request, told)
        add_peer(environ, address)
        if told is not None or connection.variables:
            request = self.introduce(environ, connection, request, told)
        cpu = self.prepare_access(request, environ, waited, told) if self.access_prepares else 0
        exchange = self.exchange_class(request, connection, transport, self.log, persistent=False)
        environ["arbiter.extend_deadline"] = partial(self._give_time, transport)
        if not self._seconds:
            exchange.run(self.app, environ)
        elif not self._limit.run(self._seconds, partial(exchange.run, self.app, environ)):
            exchange.reset = True
        took = self.row.end(exchange.status, transport.sent)
        parts = False
        if exchange.reset:
            transport.reset()
        elif not connection.is_clear or (not is_silent(request, took) and transport.unread):
            parts = _half_closed(transport)
        elif not request.length and not connection.variables:
            self._spare = connection
        if not parts:
            transport.close()
        if self._quota:
            self.count_request()
        if self.access_log:
            self.note_access(exchange, environ, started, cpu)
        return parts

    @staticmethod
    def _wait_of(client: socket.SocketType, transport: SocketTransport) -> float:
        """Seconds that a client that was just accepted has waited with what it has sent."""
        waited = queue_wait(client)
        return waited if waited < 0 or transport.unread else 0.0

    def _give_time(self, transport: SocketTransport, seconds: float) -> None:
        """``arbiter.extend_deadline``: so many seconds from now on for the request, by all that would end it."""
        self._limit.extend(seconds)
        if self.settings.timeout:
            until = max(self.row.deadline(), time.monotonic() + seconds)
            self.row.beat(until)
            transport.last = max(transport.last, until - self.settings.timeout * (1 - _SHARE))

    def _cancelled(self, stack: str) -> None:
        self.tell_cancelled(self.row.describe(time.monotonic()), stack)

    def _lost(self) -> None:
        self.tell_lost(self.row.describe(time.monotonic()))

    def _open(self, opening: Opening, transport: SocketTransport) -> bool:
        """See what comes before HTTP through; whether the client is still there.

        Raises:
            Refusal: it has not come in the right form.
        """
        deadline = time.monotonic() + self.settings.handshake_timeout
        self._expect(deadline)
        try:
            while not opening.advance():
                if not transport.has_more(deadline):
                    return False
        except Disconnected as broken:
            self.log.debug(f"a connection was not opened: {broken}")
            return False
        if opening.secured:
            transport.secure(opening.secured)
        self.vouch()
        return True

    def _expect(self, deadline: float) -> None:
        """Vouch for the worker while it reads, until this moment."""
        self.row.phase(Doing.READING)
        self.row.beat(deadline + self.settings.timeout if self.settings.timeout else 0.0)

    def _read_head(self, transport: SocketTransport, connection: Connection) -> Request | None:
        """The connection's request; None if the client has nothing to say.

        Raises:
            Refusal: it is not let through, or took too long.
            Disconnected: the connection is broken.
        """
        deadline = 0.0
        if connection.pending and (request := connection.next_request()):
            return request  # it came with what was before HTTP
        data = transport.receive_now()
        while True:
            if data is None:
                if not deadline:
                    deadline = time.monotonic() + self.settings.head_timeout
                    self._expect(deadline)
                try:
                    data = transport.receive_before(deadline)
                except TooSlow:
                    if not transport.received:
                        return None
                    raise Refusal(408, "The request's head did not arrive in time.") from None
            if not data:
                return None
            connection.feed(data)
            request = connection.next_request()
            if request is not None:
                return request
            data = None

    def _refuse(self, refusal: Refusal, address: Any, transport: SocketTransport) -> bool:
        """Answer a request that was not let through; whether the client needs a moment to take that."""
        self.tell_refused(refusal, host_of(address))
        self.row.begin(b"-", b"-", client_name(address))
        try:
            transport.send(refuse(refusal))
        except OSError:
            parts = False  # it has gone
        else:
            parts = _half_closed(transport)
        self.row.end(refusal.status, transport.sent)
        return parts


def _half_closed(transport: SocketTransport) -> bool:
    """Say that nothing more will be sent; whether the client is still there to hear it."""
    try:
        transport.half_close()
    except OSError:
        return False
    return True
