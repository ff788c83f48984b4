"""The threaded worker: a few threads, many connections, and no thread for a connection that has nothing to do.

It is long for what a connection goes through, stage by stage, in one place; what it is made of has modules of its own.

The threads are leaders and followers (`crew`) over one epoll (`poller`): whichever is awake reads, parses, runs the
application and writes. Only a whole request gets into the application: an incomplete head, the first `body_buffer` bytes of a
body, an idle connection, and what a slow client has not read of its response hold no thread. 100-continue is sent as soon as
the head has been let in, for the same reason: an application that waited for the body would be held by who never sends it.

The main thread serves nothing. It hears orders and signals, whatever the application does; vouches for the worker, which
shows that the interpreter runs; cancels requests that take too long; and when all threads are in the application it looks
after slow clients and deadlines, and hands who waits for a thread to any worker that has one (`handoff`).

Accepting is serving: a thread that takes a connection serves it at once, one at a time. While all threads are busy nobody
polls, and the kernel wakes another worker.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.app import BootError
from arbiter.workers.base import BREATH
from arbiter.workers.client import Client, Stage
from arbiter.workers.contract import Doing, Exit, Failed
from arbiter.workers.crew import PULSE, Crew
from arbiter.workers.fronts import TOO_MANY
from arbiter.workers.gateway import LINGER, GatewayWorker, allow_connections
from arbiter.workers.gathering import Gatherer, Sender
from arbiter.workers.handoff import AT_ONCE, Handoff, can_move
from arbiter.workers.http2_offer import Http2MissingError, can_offer_http2
from arbiter.workers.interfaces.wsgi_environ import ListenerEnviron
from arbiter.workers.poller import READ, WAIT, WRITE, Poller
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import CONTINUE, refuse
from arbiter.workers.slack import Slack
from arbiter.workers.timelimit import TimeLimit
from arbiter.workers.transport import STRIDE, UNKNOWN, is_silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.contract import Order, Row
    from arbiter.workers.http2_in_threads import Http2InThreads, Job
    from arbiter.workers.interfaces.wsgi import Exchange
    from arbiter.workers.opening import Opening
    from arbiter.workers.protocols.forwarded import Told
    from arbiter.workers.protocols.policy import Request

# A member read from its class costs ten globals.
_FRESH, _KEPT, _PIPELINED, _HEAD, _BODY, _WRITING, _LINGERING, _OPENING = Stage

_PRI: Final = b"PRI"
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What HTTP/2 begins with (RFC 9113 section 3.4), and a part that is not mistaken for a method of HTTP/1."""
_TURN: Final = 0.2
"""Seconds from one look of the main thread at what may have been left undone to the next, when all threads are busy."""
_LAST_TURNS: Final = 0.02
"""The same while it waits for the last request to end."""
_STUCK: Final = 0.005
"""Seconds that all threads must have been in requests before another worker is to serve who waits: as long as a thread that
computes keeps the interpreter from all others anyway (sys.getswitchinterval). Handing a connection over costs both sides
0.1 ms together, which is nothing to a request that waits longer than that, and would double what a quick one costs."""
_QUIET: Final = 0.3
"""Seconds that a connection must have been idle before a retiring worker closes it. Who has just had a response, or has just
connected, may be sending: it gets its answer, and is told to close with it. Others are not waited for."""
_MISTAKE: Final = "a connection failed inside Arbiter, which goes on; please report this"


class _Seat:
    """A thread, as far as it matters here."""

    __slots__ = ("began", "exchange", "gatherer", "io_bound", "is_hired", "limit", "phase", "row", "substituted")

    def __init__(self, row: Row, substitute: Callable[[_Seat], bool], wait: Callable[[Gatherer], None]) -> None:
        self.row = row
        self.gatherer = Gatherer(wait)
        self.phase = row.phase
        self.io_bound = partial(substitute, self)
        self.limit = TimeLimit()
        self.exchange: Exchange | None = None
        """Of the request that it serves."""
        self.substituted = False
        """Another thread has taken its place: it leaves after its request."""
        self.is_hired = False
        """It has a thread."""
        self.began = 0.0
        """Monotonic seconds: when its HTTP/2 request began; 0.0 if it is in none."""

    def is_stuck(self, latest: float) -> bool:
        """Whether its thread has been in a request since `latest` (monotonic seconds), or it is none that serves others."""
        if not self.is_hired or self.substituted:
            return True
        return 0.0 < (self.row.started() or self.began) <= latest


class ThreadedWorker(GatewayWorker):
    """Several requests at a time, each in a thread."""

    def __init__(self, order: Order, app: Any) -> None:
        super().__init__(order, app, multithread=True)
        settings = self.settings
        own, *rows = order.rows
        sender = Sender()
        self._own = _Seat(own, self._substitute, sender.wait)
        self._seats = [_Seat(row, self._substitute, sender.wait) for row in rows]
        self._free = self._seats[settings.threads :]
        """For those who take the places of threads that only wait."""
        self._slack = Slack(settings.response_buffer, settings.response_spool)
        self._speaks_http2 = self._may_speak_http2()
        self._http2: Http2InThreads | None = None
        """Made for the first client that speaks it."""
        self._handoff = Handoff(order.handoff) if order.handoff else None
        doors = [*self.listeners, *([self._handoff.inbox] if self._handoff else [])]
        self._doors = frozenset(doors)
        self._poller = Poller(doors, settings.worker_connections, self._foreign, self.fronts.per_address)
        call = self._wake if self._handoff else None
        self._crew: Crew[_Seat, Client | socket.socket | Job] = Crew(self._attend, self._take, call)
        self._sending: set[_Seat] = set()
        """Who serves a request whose body was not whole when it began."""
        self._deferred: deque[Client] = deque()
        """Clients with such a request, for whom there is no thread yet."""
        self._looked_at = 0.0  # monotonic seconds: when the main thread last looked for who is to make room
        self._glance_at = 0.0  # monotonic seconds: when who pipelines is to look for others
        self._stuck = False
        self._has_waiting = False
        """Somebody waits who could be handed over, but for those who have not been taken yet."""
        self._polled = 0.0  # monotonic seconds: when the main thread did last
        self._readiness = select.poll()
        self._readiness.register(self.orders, select.POLLIN)
        self._readiness.register(self._poller.fileno(), select.POLLIN)
        self._door = threading.Lock()
        self._accepting = True
        self._has_left = False
        self._reported: set[_Seat] = set()
        self._limit = settings.request_timeout
        self._keepalive = settings.keepalive
        self._patience = {
            _FRESH: settings.head_timeout,
            _KEPT: settings.keepalive,
            _HEAD: settings.head_timeout,
            _BODY: settings.write_timeout,
            _WRITING: settings.write_timeout,
            _LINGERING: LINGER,
            _OPENING: settings.handshake_timeout,
        }

    def _may_speak_http2(self) -> bool:
        """Whether HTTP/2 is offered.

        Raises:
            BootError: it is demanded, and can't be had.
        """
        try:
            is_offered = self.settings.protocol == "http" and can_offer_http2(self.settings.http2)
        except Http2MissingError as error:
            raise BootError(Failed("offering HTTP/2", str(error), "", Exit.BOOT)) from error
        if is_offered and self._tls is not None:
            self._tls.offer("h2", "http/1.1")
        return is_offered

    def listen(self) -> None:
        allow_connections(self.settings.worker_connections)
        self._poller.listen()

    def breathe(self) -> None:
        self._poller.is_short = True

    # The main thread --------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until told to retire, then until the last request is done; the last of all also what is in the backlog."""
        for seat in self._seats[: self.settings.threads]:
            self._hire(seat)
        while not self.retiring:
            self._turn(_TURN)
        if self._http2 is not None:
            self._http2.retire()
        while self._is_needed():
            for seat in self._seats:
                if exchange := seat.exchange:
                    exchange.part()
            self._poller.ring()
            self._turn(_LAST_TURNS)
        self.flush_access()

    def _hire(self, seat: _Seat) -> None:
        seat.is_hired = True
        seat.row.phase(Doing.IDLE)
        self._crew.hire(seat, f"arbiter-{self._seats.index(seat) + 1}")

    def _turn(self, seconds: float) -> None:
        if self._stuck:
            self._readiness.poll((_STUCK if self._has_waiting else seconds) * 1000)
            self.poll(0)
        elif self._handoff and self._crew.is_watched:
            self.poll(min(seconds, _STUCK))
        else:
            self.poll(seconds)
        if self._http2 is not None:
            self._http2.tally(self._own.row)
        if self._limit:
            self._cancel_overruns()
        if self.access_log:
            self.access_log.write_behind(seconds)  # when all threads are in the application, nobody else does
        self._look(seconds)

    def _look(self, seconds: float) -> None:
        """See to what the threads leave undone: always when they are stuck, else once in so many seconds."""
        now = monotonic()
        if self._handoff:
            self._stuck = all(seat.is_stuck(now - _STUCK) for seat in self._seats)
            self._has_waiting = False
            if self._stuck:
                self._crew.is_watched = True
            else:
                self._crew.stand_down()
                if now - self._polled < seconds:
                    return
        self._polled = now
        self._crew.poll_once(self._own)

    def _wake(self) -> None:
        """End the wait of the main thread."""
        with suppress(BlockingIOError):  # it has been woken often enough
            os.write(self._wake_write, b"\0")

    def _is_needed(self) -> bool:
        """Whether a retiring worker has anybody to serve."""
        now = monotonic()
        with self._door:
            if self._accepting:
                if not self.last:
                    self._poller.stop_listening()
                # The kernel wakes one worker for a connection: this one may have been the one, and must not leave it behind.
                self._accepting = self._poller.is_knocked() and (self.last or now < self.retired_at + _QUIET)
                if self._accepting:
                    self._crew.queue.extend(self.listeners)
                else:
                    self._poller.stop_listening()
            # Nobody leaves somebody behind in the queue; but where that never ends, all others take their share.
            helps = self.last or now < self.retired_at + self.settings.graceful_timeout / 2
            is_taking = helps and self._is_handed()
            lost = sum(seat.limit.is_lost(now) for seat in self._seats)
            if self._http2 is not None and not self._http2.is_done:
                return True
            self._has_left = not (self._accepting or is_taking or len(self._poller.clients) > lost)
            return not self._has_left

    def _is_handed(self) -> bool:
        """Whether a connection waits that some worker had no thread for; if so, the next thread looks at it."""
        if self._handoff is None or not self._handoff.is_waiting:
            return False
        self._crew.queue.append(self._handoff.inbox)
        return True

    def _cancel_overruns(self) -> None:
        now = monotonic()
        for seat in self._seats:
            if stack := seat.limit.cancel(now):
                self.tell_cancelled(self._describe(seat, now), stack)
            elif not seat.limit.is_lost(now):
                self._reported.discard(seat)
            elif seat not in self._reported:
                self._reported.add(seat)
                self.tell_lost(self._describe(seat, now))

    def _describe(self, seat: _Seat, now: float) -> str:
        return seat.row.describe(now, 1 + self._seats.index(seat))

    # The lead ---------------------------------------------------------------------------------------------------------

    def _attend(self, seat: _Seat, seconds: float) -> None:
        """See who is ready, to those who have their response, and to those whose time is over."""
        try:
            if self.access_log and seconds:
                seconds = self.access_log.write_behind(seconds)
            poller = self._poller
            if seat is self._own:
                self._make_way()
            for client in poller.poll(seconds, self._crew.queue):
                self._go_on(seat, client)
            for client in poller.overdue():
                self._expire(seat, client)
            others = self._http2.count if self._http2 else 0
            for client in poller.idle(_QUIET) if self.retiring else ():
                poller.close(client)
            for client in poller.surplus(others, BREATH):
                poller.close(client)
            if self._deferred:
                self._admit()
            if self._handoff and self._stuck and seat is self._own:
                self._hand_on(self._handoff)
        except Exception:
            self.log.exception(_MISTAKE)

    def _go_on(self, seat: _Seat, client: Client) -> None:
        """A client that has its response reads again, or sends something, or has gone."""
        try:
            if client.stage is _WRITING:
                if client.flush():
                    self._part(seat, client)
                else:
                    self._wait_for(client, _WRITING, WRITE)
            elif client.receive_now() == b"":
                self._poller.close(client)
            else:
                self._poller.release(client, READ)  # what it says while we linger is thrown away
        except OSError:
            self._poller.close(client)

    def _make_way(self) -> None:
        """If others wait for a thread while all that there can be wait for clients: who moves too little makes room.

        Called by the main thread with the lead. Who lies in the queue now has lain there since the last look, at least.
        """
        waiting = len(self._crew.queue) + len(self._deferred)
        now = monotonic()
        if not waiting or now < self._looked_at + _TURN:
            return
        self._looked_at = now
        for client in self._poller.holders(waiting, disk=self._slack.is_short):
            self._poller.close(client)

    def _admit(self) -> None:
        """Serve the next of those whose bodies are not whole, if a thread may be held by it. Called with the lead."""
        while self._deferred and self._may_be_held():
            client = self._deferred.popleft()
            if self._poller.recall(client):
                client.stage = _PIPELINED  # there is nothing to be read of it first
                self._crew.queue.append(client)
                break

    def _may_be_held(self) -> bool:
        """Whether a thread may serve a request that holds it as long as its body is not whole.

        One is always left to those whose requests are.
        """
        if self._free:
            return True
        held = sum(not seat.substituted for seat in list(self._sending))
        return held + 1 < max(self.settings.threads, 2)

    def _hand_on(self, handoff: Handoff) -> None:
        """All threads are stuck: let any worker that has one serve those who wait for one, and take those who come.

        Called with the lead, so whoever becomes free meanwhile finds what is put back into the queue.
        """
        self._poller.turn_away()
        queue = self._crew.queue
        room = most = 0 if handoff.is_waiting else AT_ONCE
        missing = set(self._doors)
        for _ in range(len(queue)):
            try:
                found = queue.popleft()
            except IndexError:
                break  # a thread is free
            if isinstance(found, Client) and can_move(found):
                if room and handoff.give(found):
                    room -= 1
                    self._poller.close(found)
                    continue
                self._has_waiting = True
            elif isinstance(found, socket.socket):
                missing.discard(found)
            queue.append(found)
        if room < most:
            self.log.debug(f"all threads are in requests: {most - room} connections were handed to whoever has a thread")
        if queue and self._accepting:  # whoever is free first takes from the queue and does not poll: nobody is to be forgotten
            queue.extend(missing)

    def _expire(self, seat: _Seat, client: Client) -> None:
        """A client's time is over."""
        if client.stage is _HEAD:
            self._refuse(seat, client, Refusal(408, "The request's head did not arrive in time."))
        elif client.stage is _BODY and client.armed == WAIT:
            client.deadline = monotonic() + self._patience[_BODY]  # it is not the client who keeps us waiting
            self._poller.release(client, WAIT)
        elif client.stage is _BODY:
            self._refuse(seat, client, Refusal(408, "The request's body did not arrive in time."))
        else:
            if client.stage is _WRITING:
                self.log.info("a client was too slow to read the response: its connection is reset")
                client.reset()
            self._poller.close(client)

    # The threads ------------------------------------------------------------------------------------------------------

    def _take(self, seat: _Seat, found: Client | socket.socket | Job) -> bool:
        """Serve what has come; False: the thread is not needed any more."""
        try:
            if isinstance(found, Client):
                self._advance(seat, found)
            elif isinstance(found, socket.socket):
                if self._handoff and found is self._handoff.inbox:
                    self._take_over(seat, self._handoff)
                else:
                    self._accept(seat, found)
            else:
                self._run(seat, found)
        except Exception:  # what an application raises doesn't come here
            self.log.exception(_MISTAKE)
        if seat.substituted:
            seat.substituted = seat.is_hired = False
            seat.row.phase(Doing.NOTHING)
            self._free.append(seat)
            if self._deferred:
                self._poller.ring()
            return False
        return True

    def _run(self, seat: _Seat, job: Job) -> None:
        """Answer a request of an HTTP/2 connection."""
        job.io_bound = seat.io_bound
        seat.row.phase(Doing.APP)
        seat.began = monotonic()
        job.run()
        seat.began = 0.0
        seat.row.phase(Doing.IDLE)

    def _hand_over(self, client: Client, received: bytes) -> None:
        """The client speaks HTTP/2."""
        if self._http2 is None:
            with self._door:
                if self._http2 is None:
                    self._http2 = self._open_http2()
        address = (client.host, int(client.port)) if client.port else ""
        tls = self._tls if client.is_secured else None
        self._http2.adopt(self._poller.detach(client), tls, address, client.environ, received)

    def _open_http2(self) -> Http2InThreads:
        from arbiter.workers.http2_in_threads import Http2InThreads

        return Http2InThreads(
            self.app,
            self.settings,
            self.log,
            self.access_log,
            self.order.hooks,
            self._crew.queue,
            self._poller.ring,
            is_leaving=lambda: self.draining or self.retiring,
            on_request_end=self.count_request,
        )

    def _accept(self, seat: _Seat, listener: socket.socket) -> None:
        """Serve one connection of `listener`, if there is one."""
        with self._door:
            if not self._accepting:
                return
            if self._is_full():
                return  # whoever polls next makes room, or stops listening
            accepted = self.accept(listener)
            if accepted is None:
                return
            client = Client(*accepted, self.connection(), self._patience[_BODY], self._slack)
            self._poller.add(client)
            has_room = self._has_room(client.host)
        self._crew.queue.append(listener)  # another one may wait: for whoever is free first
        client.since = monotonic()
        client.is_trusted = self.fronts.trusts(client.host)
        client.opening = self.opening(accepted[0], client.address)
        if client.opening is None:
            if not has_room:
                self._refuse(seat, client, TOO_MANY)
                return
        else:
            client.stage = _OPENING
            if self.wants_waits and client.unread:
                client.note_wait()
        client.deadline = client.since + self._patience[client.stage]
        self._advance(seat, client)

    def _take_over(self, seat: _Seat, handoff: Handoff) -> None:
        """Serve a connection that another worker had no thread for, if there is one.

        It counts among those of its address, but is not refused: it has been let in.
        """
        with self._door:
            if self._has_left or self._is_full():
                return
            try:
                handed = handoff.take()
            except OSError:
                self.breathe()
                return
            if handed is None:
                return
            environ = self.environ_at(handed.server)
            if handed.shown:
                environ = {**environ, **handed.shown}
            client = Client(handed.connection, handed.address, environ, self.connection(), self._patience[_BODY], self._slack)
            self._poller.add(client)
        self._crew.queue.append(handoff.inbox)  # as in `_accept`
        client.is_trusted = self.fronts.trusts(client.host)
        client.stage = _KEPT if handed.is_kept else _FRESH
        client.since = handed.since
        client.deadline = client.since + self._patience[client.stage]
        self._advance(seat, client)

    def _is_full(self) -> bool:
        """Whether there can't be one connection more."""
        return len(self._poller.clients) + (self._http2.count if self._http2 else 0) >= self._poller.bound

    def _has_room(self, host: str) -> bool:
        """Whether an address has no more connections than it may."""
        return self._poller.crowd.has_room(host, self._http2.count_of(host) if self._http2 else 0)

    def _open(self, client: Client, opening: Opening) -> bool:
        """Go on with what comes before HTTP; whether that is over, and HTTP/1 is what follows."""
        if not opening.advance():
            client.since = monotonic()
            self._wait_for(client, _OPENING)
            return False
        client.opening = None
        if opening.secured:
            client.secure(opening.secured)
        address, client.environ = self.opened(opening, client.address, client.environ)
        self._poller.meet(client, address)
        client.is_trusted = self.fronts.trusts(client.host)
        client.stage = _FRESH
        client.since = now = monotonic()
        client.deadline = now + self._patience[_FRESH]
        if opening.received:
            client.http.feed(opening.received)
            client.stage = _PIPELINED
        if not self._has_room(client.host):
            raise TOO_MANY
        if self._speaks_http2 and not client.is_secured and _is_preface(opening.received):
            self._hand_over(client, opening.received)
            return False
        return True

    def _advance(self, seat: _Seat, client: Client) -> None:
        """Read what has come from a client, and have it answered if that makes a request whole."""
        http = client.http
        try:
            if client.opening is not None and not self._open(client, client.opening):
                return
            if client.stage is _FRESH and client.is_secured and client.protocol == "h2":
                self._hand_over(client, b"")
                return
            is_first, data = False, b""
            if client.stage is not _PIPELINED:
                received = client.receive_now()
                if not received:
                    if received is None:
                        self._poller.release(client, READ)
                    else:
                        self._poller.close(client)
                    return
                if self.wants_waits:
                    client.note_wait()
                data = received
                is_first = client.stage is _FRESH and self._speaks_http2 and not client.is_secured
                if is_first and _is_preface(data):
                    self._hand_over(client, data)
                    return
                http.feed(data)
            elif self.wants_waits:
                client.waited = max(client.waited, monotonic() - client.since)
            request = client.request
            if request is None:
                request = http.next_request()
                if request is None:
                    self._wait_for(client, _HEAD)
                    return
            if request.length and not self._has_body(seat, client, request):
                return
            if is_first and request.upgrade == b"h2c" and not request.length:
                self._hand_over(client, data)
                return
            told = self.fronts.judge(request, client.host, client.waited, client.is_trusted)
        except Refusal as refusal:
            self._sending.discard(seat)
            self._refuse(seat, client, refusal)
        except OSError:
            self._poller.close(client)
        else:
            self._answer(seat, client, request, told)

    def _has_body(self, seat: _Seat, client: Client, request: Request) -> bool:
        """Whether so much of the body is here that the application may begin; else the client waits, or is gone."""
        http = client.http
        if client.request is None:
            if request.expects_continue and not http.pending:
                client.send(CONTINUE)
            client.request = request
        while not http.read_ahead(self.settings.body_buffer):
            data = client.receive_now()
            if not data:
                if data is None:
                    self._wait_for(client, _BODY)
                else:
                    self._poller.close(client)
                return False
            http.feed(data)
        if not http.is_whole:
            if not self._may_be_held():
                self._wait_for(client, _BODY, WAIT)
                self._deferred.append(client)
                return False
            self._sending.add(seat)
        client.request = None
        return True

    def _answer(self, seat: _Seat, client: Client, request: Request, told: Told | None) -> None:
        """Run the application, and leave the client to whatever comes next."""
        row = seat.row
        started = monotonic() if self.access_measures else 0.0
        row.begin(request.method, request.target, client.name)
        client.begin(seat.phase, seat.gatherer, seat.io_bound)
        environ = client.environ
        is_introduced = told is not None or client.http.variables
        environ = environ.of(request) if not is_introduced and isinstance(environ, ListenerEnviron) else environ.copy()
        environ["REMOTE_ADDR"] = client.host
        if client.port:
            environ["REMOTE_PORT"] = client.port
        if is_introduced:
            request = self.introduce(environ, client.http, request, told)
        environ["arbiter.extend_deadline"] = seat.limit.extend
        environ["arbiter.io_bound"] = seat.io_bound
        cpu = self.prepare_access(request, environ, client.waited, told) if self.access_prepares else 0
        client.waited = UNKNOWN
        persistent = self._keepalive > 0 and not self.retiring
        exchange = seat.exchange = self.exchange_class(request, client.http, client, self.log, persistent)
        if not self._limit:
            exchange.run(self.app, environ)
        elif not seat.limit.run(self._limit, partial(exchange.run, self.app, environ)):
            exchange.persistent, exchange.reset = False, True
        seat.exchange = None
        if request.length:
            self._sending.discard(seat)
        if seat.gatherer.size:
            seat.gatherer.drop()
        late = client.late
        took = row.end(exchange.status, client.sent + late)
        if self._quota:
            self.count_request()
        if self.access_log:
            self.access_log.note(exchange, environ, started, cpu)
        if exchange.reset:
            client.reset()
            self._poller.close(client)
            return
        client.persistent = exchange.persistent
        if late:
            self._wait_for(client, _WRITING, WRITE)
        else:
            self._part(seat, client, asks=client.persistent or not is_silent(request, took))

    def _substitute(self, seat: _Seat) -> bool:
        """``arbiter.io_bound``: have another thread serve in place of this one, which only waits. Whether there is one."""
        if not seat.substituted:
            try:
                substitute = self._free.pop()
            except IndexError:
                return False
            seat.substituted = True
            self._hire(substitute)
        return True

    def _part(self, seat: _Seat, client: Client, *, asks: bool = True) -> None:
        """The client has its response; if the connection ends with it, ask whether it has sent more."""
        http = client.http
        if client.persistent:
            client.answered = False
            if http.pending:
                client.stage = _PIPELINED
                client.since = now = monotonic()
                if now >= self._glance_at:  # while it is in the queue nobody polls, and others wait in the kernel
                    self._glance_at = now + PULSE
                    self._crew.poll_once(seat)
                self._crew.queue.append(client)  # at the end: nobody has two turns while others wait
            else:
                client.stage = _KEPT
                client.since = now = monotonic()
                client.deadline = now + self._keepalive
                self._poller.release(client, READ)
        elif not http.is_clear or (asks and client.unread):
            self._linger(client)
        else:
            self._poller.close(client)

    def _linger(self, client: Client) -> None:
        """Give the client time to take its response: closing with bytes unread resets (RFC 9112 section 9.6)."""
        try:
            client.half_close()
        except OSError:
            self._poller.close(client)
        else:
            client.http.take_rest()
            self._wait_for(client, _LINGERING)

    def _refuse(self, seat: _Seat, client: Client, refusal: Refusal) -> None:
        """Answer a request that was not let through."""
        self.tell_refused(refusal, client.host)
        row = seat.row
        row.begin(b"-", b"-", client.name)
        client.begin(seat.phase, seat.gatherer, seat.io_bound)
        try:
            client.send(refuse(refusal))
        except OSError:
            self._poller.close(client)
        else:
            client.persistent = False
            if client.late:
                self._wait_for(client, _WRITING, WRITE)
            else:
                self._linger(client)
        row.end(refusal.status, client.sent)

    def _wait_for(self, client: Client, stage: Stage, events: int = READ) -> None:
        """Wait for a client in `stage`.

        A head has one deadline, however it trickles; a body or a response gets more time with each stride that it moves.
        """
        if client.stage is not stage:
            now = monotonic()
            if client.stage is not _FRESH or stage is not _HEAD:
                client.deadline = now + self._patience[stage]
            client.stage = stage
            client.answered = stage is _WRITING or stage is _LINGERING
            client.since = now
            client.mark = client.moved
        elif client.moved - client.mark >= STRIDE and (stage is _BODY or stage is _WRITING):
            client.since = now = monotonic()
            client.deadline = now + self._patience[stage]
            client.mark = client.moved
        self._poller.release(client, events)


def _is_preface(data: bytes) -> bool:
    """Whether a connection that begins so, without TLS, speaks HTTP/2 without having asked."""
    return data.startswith(_PRI) and _PREFACE.startswith(data[: len(_PREFACE)])
