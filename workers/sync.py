"""The sync worker: one request and one response at a time, in the main thread.

A connection is closed after its response, as everyone expects of a sync worker: the next client waits behind nobody's idle
connection. Nor does it wait behind a slow one: whose request is not all here, up to `body_buffer` bytes of its body, and who
does not read its response is put aside (`waiting`), as is who has it and is still sending (`parting`). For the rest of a body,
and where there is no `Slack` for a response, the worker waits, bounded by `write_timeout` and by its own `timeout`, of which a
slow client gets `_SHARE` at most; so a slow client loses its connection, and only an application that hangs loses the worker.

It is long for the two ways of a connection: that of nearly all, whose request is here, and that of who is waited for.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.base import BREATH
from arbiter.workers.client import Stage
from arbiter.workers.contract import client_name
from arbiter.workers.fronts import TOO_MANY, host_of
from arbiter.workers.gateway import LINGER, GatewayWorker, allow_connections
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.interfaces.wsgi_environ import ListenerEnviron, add_peer
from arbiter.workers.parting import Parting
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import CONTINUE, refuse
from arbiter.workers.slack import Slack
from arbiter.workers.timelimit import TimeLimit, guard_main_thread
from arbiter.workers.transport import UNKNOWN, SocketTransport, is_silent, queue_wait
from arbiter.workers.waiting import Guest, Waiting

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from arbiter.workers.contract import Order
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request

# A member read from its class costs ten globals.
_FRESH, _HEAD, _BODY, _WRITING, _OPENING = Stage.FRESH, Stage.HEAD, Stage.BODY, Stage.WRITING, Stage.OPENING

_SHARE: Final = 0.9
"""Of `timeout`, what waiting for a client may use up; the rest is for noticing and answering before the worker is killed."""

_TURN: Final = 0.01
"""Seconds to go on accepting without looking for orders, which costs a tenth of a small request; an order waits no longer
than that, or one request."""


_MOMENT: Final = 0.001
"""Seconds to wait for the first bytes of who has just connected. A client on this machine sends 10 to 20 us later, and to put
it aside costs as much as half a small request."""
_VAIN: Final = 0.05
"""Of all time, what may be spent on such waits in vain: who connects and is silent costs the others no more."""
_BURST: Final = 0.05
"""Seconds of it that may be saved: a client that shares a busy processor is late for some milliseconds, and then in time."""
_QUIET: Final = 0.3
"""Seconds that a client may take to begin before a worker that retires leaves it: it may be sending."""

_AWAY: Final = 0.5
"""Seconds in a request from which on they do not count as time that the clients who are waited for have taken."""

_MISTAKE: Final = "a connection failed inside Arbiter, which goes on; please report this"


class SyncWorker(GatewayWorker):
    """One request at a time."""

    def __init__(self, order: Order, app: Any) -> None:
        super().__init__(order, app, multithread=False)
        settings = self.settings
        self._seconds = settings.request_timeout
        self._limit = TimeLimit()
        self._spare: Connection | None = None
        """One as good as new: it has had whole requests without bodies only, so nobody has a stream over it."""
        timeout = settings.timeout
        self._parting = Parting(self._epoll, min(LINGER, timeout * _SHARE) if timeout else LINGER)
        self._budget = settings.write_timeout
        self._slack = Slack(settings.response_buffer, settings.response_spool)
        # Made once, not for each request.
        self._phase = self.row.phase
        self._extend = self._give_time
        self._vouched = int(timeout * 1e9)
        self._share = timeout * _SHARE
        self._serving: SocketTransport | None = None
        patience = {
            _FRESH: settings.head_timeout,
            _HEAD: settings.head_timeout,
            _BODY: settings.write_timeout,
            _WRITING: settings.write_timeout,
            _OPENING: settings.handshake_timeout,
        }
        self._waiting = Waiting(self._epoll, settings.worker_connections, self.fronts.per_address, patience)
        self._ready: list[Guest] = []
        """From whom something has come, or who reads again."""
        self._credit = _BURST
        self._credit_at = 0.0
        """Seconds that may be waited in vain for who has just connected, and when they were that: monotonic seconds."""
        self._opens = self._tls is not None or settings.proxy_protocol != "off"
        """Something comes before HTTP, at least on some connections."""

    def listen(self) -> None:
        allow_connections(self.settings.worker_connections)
        super().listen()

    def breathe(self) -> None:
        if not self._turn_out(self._waiting.slowest()):
            time.sleep(BREATH)

    def serve(self) -> None:
        """Serve until told to retire, and then who has begun to ask; the last of all also serve what is in the backlog."""
        if self._seconds:
            guard_main_thread(self._limit, self._seconds, self._cancelled, self._lost)
        patience = self._patience()
        while not self.retiring:
            listeners = self.poll(patience)
            looked = time.monotonic()
            for listener in listeners:
                self._take_turn(listener)
            if self._waiting:
                self._look_after_the_waiting(looked)
            self._parting.sweep()
            patience = self._patience()
            if self.access_log:
                patience = self.access_log.write_behind(inf if patience is None else patience)
        for listener in self.listeners if self.last else ():
            while self._accept(listener):
                pass
        for listener in self.listeners:
            with suppress(OSError, ValueError):  # closed: the supervisor is gone
                self._epoll.unregister(listener)
        while self._waiting:
            silent = self._waiting.silent(time.monotonic() - _QUIET)
            self._turn_out(guest for guest in silent if not guest.transport.unread)  # it may have come during a request
            self.poll(min(_QUIET, self._patience() or 0.0))
            self._look_after_the_waiting(time.monotonic())
            self._parting.sweep()
            if self.access_log:
                self.access_log.write_behind(0.0)
        self.flush_access()
        self._parting.finish(self.vouch)

    def _patience(self) -> float | None:
        """Seconds until somebody's time is over; None: nobody is waited for."""
        patience = self._parting.patience
        if self._waiting:
            left = max(0.0, self._waiting.next - time.monotonic())
            return left if patience is None else min(left, patience)
        return patience

    def attend(self, ready: list[tuple[int, int]]) -> list[socket.socket]:
        if self._parting:
            ready = [event for event in ready if not self._parting.heed(event[0])]
        if self._waiting:
            self._ready = [guest for fd, _ in ready if (guest := self._waiting.of(fd))]
            ready = [event for event in ready if not self._waiting.of(event[0])]
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
        stays = False
        try:
            stays = self._serve(client, address, environ)
        except Exception:  # what an application raises doesn't come here: this is a mistake of ours
            self.log.exception(_MISTAKE)
        finally:
            if not stays:
                client.close()
        return True

    def _serve(self, client: socket.SocketType, address: Any, environ: dict[str, Any]) -> bool:
        """Have a client that has come answered, or wait for it; whether it stays open, and is somebody else's to close."""
        transport = SocketTransport(client, self._budget, self._phase, self._slack)
        connection, self._spare = self._spare or self.connection(), None
        waited = self._wait_of(client, transport) if self.wants_waits else UNKNOWN
        request = None
        if not self._opens:  # the way of nearly all: the request is here, and has no body
            try:
                data = transport.receive_now()
                if data is None and self._comes_at_once(transport):
                    data = transport.receive_now()
                if data:
                    connection.feed(data)
                    request = connection.next_request()
                    if request is not None and not request.length:
                        return self._answer(client, address, environ, transport, connection, request, waited)
                elif data is not None:
                    return False
            except Refusal as refusal:
                return self._refuse(refusal, client, address, transport)
            except Disconnected:
                return False
        guest = Guest(client, address, environ, transport, connection)
        guest.waited = waited
        guest.opening = self.opening(client, address) if self._opens else None
        guest.request = request
        return self._go_on(guest)

    def _comes_at_once(self, transport: SocketTransport) -> bool:
        """Whether a client that has just connected sends within a `_MOMENT`, if that is to be hoped for."""
        now = time.monotonic()
        credit = min(_BURST, self._credit + (now - self._credit_at) * _VAIN)
        comes = credit >= _MOMENT and transport.has_more(now + _MOMENT)
        self._credit = credit if comes or credit < _MOMENT else credit - _MOMENT
        self._credit_at = now
        return comes

    def _answer(
        self,
        client: socket.SocketType,
        address: Any,
        environ: dict[str, Any],
        transport: SocketTransport,
        connection: Connection,
        request: Request,
        waited: float,
    ) -> bool:
        """Have the application answer a request; whether the client stays open, and is somebody else's to close.

        Raises:
            Refusal: the application does not get it.
        """
        fronts = self.fronts
        host = address[0] if isinstance(address, tuple) else ""  # `host_of`
        told = fronts.judge(request, host, waited, fronts.trusts(host))
        started = self.row.begin(request.method, request.target, client_name(address), self._vouched) / 1e9
        if self._share:
            transport.last = started + self._share
        is_introduced = told is not None or connection.variables
        environ = environ.of(request) if not is_introduced and isinstance(environ, ListenerEnviron) else environ.copy()
        add_peer(environ, address)
        if is_introduced:
            request = self.introduce(environ, connection, request, told)
        cpu = self.prepare_access(request, environ, waited, told) if self.access_prepares else 0
        exchange = self.exchange_class(request, connection, transport, self.log, False)  # by its name it costs 0.3 us
        environ["arbiter.extend_deadline"] = self._extend
        self._serving = transport
        if not self._seconds:
            exchange.run(self.app, environ)
        elif not self._limit.run(self._seconds, partial(exchange.run, self.app, environ)):
            exchange.reset = True
        late = transport.late
        took = self.row.end(exchange.status, transport.sent + late)
        self._serving = None
        stays = False
        if exchange.reset:
            transport.reset()
        elif late:
            stays = self._put_aside(Guest(client, address, environ, transport, connection), _WRITING)
        elif not connection.is_clear or (not is_silent(request, took) and transport.unread):
            stays = self._part(client, transport)
        elif not request.length and not connection.variables:
            self._spare = connection
        if not stays:
            if self._opens or late:
                transport.close()
            else:
                client.close()  # the same, without TLS and if nothing was put aside
        if self._quota:
            self.count_request()
        if self.access_log:
            self.access_log.note(exchange, environ, started, cpu)
        return stays

    def _part(self, client: socket.SocketType, transport: SocketTransport) -> bool:
        """Say that nothing more will be sent; whether the client is still there to hear it, and stays until it has."""
        try:
            transport.half_close()
        except OSError:
            return False
        self._parting.add(client)
        return True

    # Who is waited for ------------------------------------------------------------------------------------------------

    def _look_after_the_waiting(self, looked: float) -> None:
        """Go on with those who were ready when somebody looked (monotonic seconds), and end the others whose time is over.

        While a request was served nobody looked: what has come from the others by now is not late.
        """
        ready, self._ready = self._ready, []
        for guest in ready:
            if guest.stage is not None:  # nobody has turned it out meanwhile
                self._take(guest)
        now = time.monotonic()
        if now - looked > _AWAY:
            self._waiting.allow(now - looked)
        for guest in self._waiting.due(now):
            self._expire(guest)

    def _take(self, guest: Guest) -> None:
        stays = False
        try:
            stays = self._go_on(guest)
        except Exception:  # as in `_accept`
            self.log.exception(_MISTAKE)
        finally:
            if not stays:
                self._close(guest)

    def _close(self, guest: Guest) -> None:
        self._waiting.let_go(guest)
        guest.transport.close()
        guest.client.close()

    def _turn_out(self, guests: Iterable[Guest]) -> bool:
        """Close those; whether there was one."""
        found = False
        for guest in guests:
            self._close(guest)
            found = True
        return found

    def _put_aside(self, guest: Guest, stage: Stage) -> bool:
        """Wait for a guest in `stage`. Always true: it stays.

        Raises:
            Refusal: too many of its address are waited for.
        """
        if guest.stage is None:
            self._turn_out(self._waiting.surplus())
            if stage is not _WRITING and not self._waiting.crowd.has_room(host_of(guest.address), 1):
                raise TOO_MANY
        self._waiting.wait(guest, stage, time.monotonic())
        return True

    def _go_on(self, guest: Guest) -> bool:
        """Read what has come from a client, and have it answered if that makes a request whole; or send what it reads.

        Returns:
            Whether it stays open, and is somebody else's to close.
        """
        transport = guest.transport
        try:
            if guest.stage is _WRITING:
                if not transport.flush():
                    return self._put_aside(guest, _WRITING)
                self._waiting.let_go(guest)
                return (not guest.connection.is_clear or transport.unread) and self._part(guest.client, transport)
            if guest.opening is not None and not self._open(guest):
                return self._put_aside(guest, _OPENING)
            request = self._read(guest)
            if request is None:
                return self._put_aside(guest, _BODY if guest.request else _HEAD if transport.received else _FRESH)
            self._waiting.let_go(guest)
            connection = guest.connection
            return self._answer(guest.client, guest.address, guest.environ, transport, connection, request, guest.waited)
        except Refusal as refusal:
            self._waiting.let_go(guest)
            return self._refuse(refusal, guest.client, guest.address, transport)
        except OSError as broken:
            self.log.debug(f"a connection has ended: {broken}")
            return False

    def _open(self, guest: Guest) -> bool:
        """Go on with what comes before HTTP; whether that is over.

        Raises:
            Refusal, Disconnected: as `Opening.advance`.
        """
        opening = guest.opening
        if opening is None or not opening.advance():
            return opening is None
        self._waiting.let_go(guest)  # it may have another address from now on
        guest.opening = None
        guest.address, guest.environ = self.opened(opening, guest.address, guest.environ)
        if opening.secured:
            guest.transport.secure(opening.secured)
        guest.connection.feed(opening.received)
        return True

    def _read(self, guest: Guest) -> Request | None:
        """A guest's request, once so much of it is here that the application may begin; None: it is to be waited for.

        Raises:
            Refusal: it is not let through.
            Disconnected: the client has gone.
        """
        transport, connection = guest.transport, guest.connection
        while True:
            if guest.request is None and connection.pending:
                guest.request = connection.next_request()
            request = guest.request
            if request is not None and (not request.length or connection.read_ahead(self.settings.body_buffer)):
                return request
            data = transport.receive_now()
            if data is None:
                if request is not None and request.expects_continue and not guest.is_told:
                    guest.is_told = True
                    transport.send(CONTINUE)
                return None
            if not data:
                raise Disconnected("the client has closed it before its request was whole")
            if self.wants_waits:
                guest.waited = max(guest.waited, queue_wait(guest.client))
            connection.feed(data)

    def _expire(self, guest: Guest) -> None:
        """A guest's time is over."""
        stage = guest.stage
        stays = False
        if stage is _HEAD or stage is _BODY:
            self._waiting.let_go(guest)
            what = "head" if stage is _HEAD else "body"
            refusal = Refusal(408, f"The request's {what} did not arrive in time.")
            stays = self._refuse(refusal, guest.client, guest.address, guest.transport)
        elif stage is _WRITING:
            self.log.info("a client was too slow to read the response: its connection is reset")
            guest.transport.reset()
        if not stays:
            self._close(guest)

    @staticmethod
    def _wait_of(client: socket.SocketType, transport: SocketTransport) -> float:
        """Seconds that a client that was just accepted has waited with what it has sent."""
        waited = queue_wait(client)
        return waited if waited < 0 or transport.unread else 0.0

    def _give_time(self, seconds: float) -> None:
        """``arbiter.extend_deadline``: so many seconds from now on for the request, by all that would end it."""
        self._limit.extend(seconds)
        if self.settings.timeout:
            until = max(self.row.deadline(), time.monotonic() + seconds)
            self.row.beat(until)
            if transport := self._serving:
                transport.last = max(transport.last, until - self.settings.timeout * (1 - _SHARE))

    def _cancelled(self, stack: str) -> None:
        self.tell_cancelled(self.row.describe(time.monotonic()), stack)

    def _lost(self) -> None:
        self.tell_lost(self.row.describe(time.monotonic()))

    def _refuse(self, refusal: Refusal, client: socket.SocketType, address: Any, transport: SocketTransport) -> bool:
        """Answer a request that was not let through; whether the client stays, for a moment to take that."""
        self.tell_refused(refusal, host_of(address))
        self.row.begin(b"-", b"-", client_name(address))
        try:
            transport.send(refuse(refusal))
        except OSError:
            stays = False  # it has gone
        else:
            stays = self._part(client, transport)
        self.row.end(refusal.status, transport.sent)
        return stays
