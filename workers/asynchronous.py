"""The async worker: one event loop in the main thread, one task per request, as many connections as `worker_connections`.

Connections live on a `Hub`, an epoll of our own that the loop watches; what they share is the `Site`. The loop hears orders
too: the descriptor that other kinds of worker wait on (`Worker.orders`) is one more that it watches. The worker vouches for
itself from inside the loop, so the supervisor sees a loop that is blocked; and requests, slow clients and deadlines are looked
after by one sweep a second, without a timer for any.

Leaving, when it is told to retire: idle connections are closed at once, each response is the last of its connection; at half
of `graceful_timeout` applications that stream are told that their clients have gone; shortly before its end what is left is
cancelled; then comes the lifespan's shutdown. So the worker has left before anybody has to kill it.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from contextvars import copy_context
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers import copies, portal
from arbiter.workers.accesslog import open_access_log
from arbiter.workers.app import BootError, load
from arbiter.workers.base import ORPHAN_GRACE, Worker
from arbiter.workers.contract import Exit, Failed, Interrupted, Spent
from arbiter.workers.detection import Interface, as_asgi3, detect
from arbiter.workers.fronts import TOO_MANY, accepted_address, host_of, proxied_address, proxied_environ
from arbiter.workers.http1_connection import Http1Connection
from arbiter.workers.http2_offer import Http2MissingError, offer_http2
from arbiter.workers.hub import Hub, HubTransport
from arbiter.workers.interfaces.lifespan import Lifespan
from arbiter.workers.interfaces.watched import watched_asgi
from arbiter.workers.lag import LagWatch
from arbiter.workers.loops import LoopError, new_loop
from arbiter.workers.opening import Opening
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.site import QUIET, Site
from arbiter.workers.stacks import application_traceback
from arbiter.workers.transport import UNKNOWN, queue_wait
from arbiter.workers.warmup_asgi import warm_up_asgi
from arbiter.workers.websocket_connection import install as install_websocket

if TYPE_CHECKING:
    from types import FrameType

    from arbiter.workers.contract import Order
    from arbiter.workers.protocols.proxy import ProxyReader
    from arbiter.workers.site import Activity
    from arbiter.workers.tls import Tls

_SWEEP: Final = 1.0
"""Longest time between two sweeps, in seconds; a quarter of the shortest deadline if that is less."""
_SHORTEST_SWEEP: Final = 0.05
_LAST_TURNS: Final = 0.05
"""Seconds between two looks of a worker that leaves."""
_FLUSH: Final = 0.05
"""Seconds that lines of the access log are held back for more, at most: 20 writes a second under any load."""
_MARGIN: Final = 2.0
"""Seconds before the end of the grace at which what is left is cancelled, or a quarter of the grace if that is less: for the
applications' clean-up, and for the lifespan's shutdown."""
_EVICTED: Final = 32
"""One in so many connections is closed when there is no room; see `poller`."""
_BREATH: Final = 0.5
"""Seconds until accept is tried again without descriptors; see `gateway.BREATH`."""
_CLEAN_UP: Final = 2.0
"""Seconds that a cancelled request has before it is said to ignore its cancellation; `timelimit.GRACE` for threads."""
_GONE: Final = Refusal(503, "The server is shutting down.")
_OVERRUN: Final = Refusal(504, "The application took too long.")


class AsyncWorker(Worker):
    """Many requests at a time, all in one thread."""

    def __init__(self, order: Order, app: Any) -> None:
        """Starts the application's lifespan, too.

        Raises:
            BootError: there is no such loop, or the application says that it can't start.
        """
        super().__init__(order, app)
        settings = self.settings
        websocket_app = _load_websocket_app(settings.websocket_app)
        try:
            self.loop = new_loop(settings.asgi_loop)
        except LoopError as error:
            raise BootError(Failed("making the event loop", str(error), "", Exit.BOOT)) from error
        asyncio.set_event_loop(self.loop)
        portal.adopt(self.loop)
        copies.run_on(self.loop)
        self.loop.set_exception_handler(self._on_loop_error)
        context = copy_context()
        self.access_log = open_access_log(settings, self.access, self.log) if self.access else None
        self.lifespan = context.run(Lifespan, self.app, self.lifespan_mode, self.log, context)
        mode = settings.asgi_lifespan if websocket_app is not None else "off"
        self.websocket_lifespan = context.run(Lifespan, websocket_app, mode, self.log, context)
        for lifespan in (self.lifespan, self.websocket_lifespan):
            if failed := self.loop.run_until_complete(lifespan.start()):
                self._end_loop(1.0)
                raise BootError(failed)
        self.site = Site(self.loop, self.app, settings, self.log, self.row, self.access_log)
        if order.hooks and order.hooks.watches_requests:
            self.site.exchange = watched_asgi(self.site.exchange, order.hooks)
        install_websocket(self.site)
        self.furnish(self.site)
        self.site.context = context
        self.site.state = self.site.websocket_state = self.lifespan.state
        if websocket_app is not None:
            self.site.websocket_app, self.site.websocket_state = websocket_app, self.websocket_lifespan.state
        self.site.is_leaving = lambda: self.draining or self.retiring
        if self._quota or self.access_log:
            self.site.on_request_end = self._count
        self.site.on_departure = self._make_room
        self._tls = self._prepare_tls() if settings.certfile else None
        try:
            choice = settings.http2 if settings.protocol == "http" else "off"
            is_offered = offer_http2(self.site, choice, at_once=self._tls is not None)
        except Http2MissingError as error:
            self._end_loop(1.0)
            raise BootError(Failed("offering HTTP/2", str(error), "", Exit.BOOT)) from error
        if self._tls is not None and is_offered:
            self._tls.offer("h2", "http/1.1")
        self.hub = Hub(self.loop, self.listeners, self._welcome, self._foreign)
        self._facts = {listener: (int(listener.family), listener.getsockname()) for listener in self.listeners}
        self._expects_headers = settings.proxy_protocol != "off"
        self._is_full = False
        self._leaving = 0.0  # when it was told to retire, in monotonic seconds; 0.0: it was not
        self._is_cancelled = False
        self._cancelled: dict[Activity, float] = {}  # requests that were cancelled, and when
        self._slow: set[Activity] = set()  # requests that were told to be slow
        self._flush_due = False
        self._cpu = time.process_time_ns()
        self._swept = time.monotonic_ns()
        deadlines = [
            settings.head_timeout,
            settings.write_timeout,
            settings.keepalive,
            settings.request_timeout,
            settings.slow_request_time,
            settings.timeout,
            settings.handshake_timeout,
        ]
        self._interval = max(_SHORTEST_SWEEP, min(_SWEEP, *(deadline / 4 for deadline in deadlines if deadline)))

    @property
    def lifespan_mode(self) -> str:
        """Whether the application is told of the worker's start and end: ``auto``, ``on`` or ``off``."""
        return self.settings.asgi_lifespan

    def furnish(self, site: Site) -> None:
        """Make the site fit for what is no ASGI application; here it is one."""

    def warm(self, path: str) -> int:
        return self.loop.run_until_complete(warm_up_asgi(self.site, path))

    def listen(self) -> None:
        self.hub.listen()

    # Serving ----------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until told to retire, then until the last request is done; the last of all also what is in the backlog."""
        loop = self.loop
        loop.add_reader(self.orders, self._hear_orders)
        loop.call_soon(self._look)  # an order may have come before
        loop.call_later(self._interval, self._sweep)
        lag = LagWatch(self.site, self.settings.loop_lag_warning) if self.settings.loop_lag_warning else None
        try:
            loop.run_forever()
        finally:
            if lag:
                lag.end()
            loop.remove_reader(self.orders)
        if self._interrupted:
            raise Interrupted

    def close(self) -> None:
        if self._leaving:
            grace = ORPHAN_GRACE if self._orphan else self.settings.graceful_timeout
            patience = self._leaving + grace - time.monotonic()
        else:
            patience = ORPHAN_GRACE  # interrupted, or it was never ready
        self._end_loop(max(0.2, patience))
        if self.access_log:
            self.access_log.flush()

    def _welcome(self, listener: socket.socket) -> bool:
        """Take one connection of `listener`, if there is one; whether another may be taken."""
        site = self.site
        bound = self.settings.worker_connections
        if site.crowding >= bound:
            self._evict()
        if site.crowding >= bound:
            self._is_full = True
            self.hub.stop_listening()
            self.loop.call_later(QUIET, self._make_room)  # somebody may be idle for long enough then
            return False
        accepted = self.accept_descriptor(listener)
        if accepted is None:
            return False
        descriptor, address = accepted
        family, server = self._facts[listener]
        client = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
        self.note_wait(client)
        address = accepted_address(address)
        reader = site.fronts.header_reader(host_of(address)) if self._expects_headers else None
        if self._tls is not None or reader is not None:
            self._open(client, address, server, reader)
        else:
            connection = Http1Connection(site, scheme="http", server=server, client=address)
            transport = HubTransport(self.hub, client, address, connection)
            if site.is_one_too_many(connection):
                connection.turn_away(TOO_MANY)
            else:
                self.hub.begin(transport)
        return site.crowding < bound

    def _prepare_tls(self) -> Tls:
        from arbiter.workers.tls import prepared

        tls = prepared()
        if not self.settings.preload_app:  # see `gateway`
            tls.when_unreadable = lambda why: self.say(Spent(why))
        return tls

    def _open(self, client: socket.SocketType, address: Any, server: object, reader: ProxyReader | None) -> None:
        """Serve a connection when what comes before HTTP is over: a PROXY header, a TLS handshake, or both."""
        from arbiter.workers.tls_on_loop import Handshake, TlsTransport, tls_extension

        site, tls = self.site, self._tls
        waited = queue_wait(client) if site.measures_waits else UNKNOWN

        def serve(opening: Opening) -> None:
            proxied, secured = opening.proxied, opening.secured
            peer = proxied_address(proxied, address) if proxied else address
            connection = Http1Connection(site, scheme="https" if secured else "http", server=server, client=peer)
            connection.waited = waited
            if site.tells_environ:
                shown = {**(tls.facts(secured.tls) if tls and secured else {}), **(proxied_environ(proxied) if proxied else {})}
                connection.template["environ"] = (shown, None)
            if tls and secured:
                connection.template["extensions"] = {"tls": tls_extension(tls, secured.tls)}
                transport: HubTransport = TlsTransport(self.hub, secured, peer, connection)
            else:
                transport = HubTransport(self.hub, client, peer, connection)
            is_http2 = secured is not None and secured.tls.selected_alpn_protocol() == "h2"
            if site.is_one_too_many(connection):
                connection.turn_away(TOO_MANY, silently=is_http2)
                return
            if is_http2:
                site.upgrades[b"h2"](connection, None, b"")
            if secured:
                transport.ready(select.EPOLLIN)  # a request that came with the handshake's end is in no kernel's buffer
            elif opening.received:
                connection.data_received(opening.received)

        Handshake(
            self.hub, site, client, host_of(address), Opening(client, reader, tls), self.settings.handshake_timeout, serve
        )

    def _evict(self) -> bool:
        """Make room: the longest idle connections go, or where nobody is, the longest slow. Whether there were any."""
        now = time.monotonic()
        number = 1 + self.settings.worker_connections // _EVICTED
        connections = self.site.connections
        idle = [connection for connection in connections if connection.idle_since <= now - QUIET]
        going = [each for each in nsmallest(number, idle, key=lambda each: each.idle_since) if not each.is_unread]
        if not going:
            slow = [connection for connection in connections if connection.slow_from <= now]
            going = [each for each in nsmallest(number, slow, key=lambda each: each.slow_from) if not each.is_unread]
        for connection in going:
            connection.drop()
            self.site.remove(connection)
        return bool(going)

    def _make_room(self) -> None:
        """A connection or a task is gone."""
        if self._is_full:
            self._is_full = False
            if not self._leaving or self.last:
                self.hub.listen()

    def breathe(self) -> None:
        if self._evict():
            return  # whose descriptors are as good as any
        self.hub.stop_listening()
        self.loop.call_later(_BREATH, self._listen_again)

    def _listen_again(self) -> None:
        if not self._leaving or self.last:
            self.hub.listen()

    def _count(self) -> None:
        """A response is over."""
        if self._quota:
            self.count_request()
        if self.access_log and not self._flush_due:
            self._flush_due = True
            self.loop.call_later(_FLUSH, self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self.access_log:
            self.access_log.flush()

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the loop can give to nobody: a callback of the application's, or a task of it that nobody waits for."""
        failure = context.get("exception")
        if isinstance(failure, Interrupted):
            return
        message = context.get("message", "an error in the event loop")
        self.log.error(f"event loop: {message}\n{application_traceback(failure)}".rstrip())

    # The sweep --------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        self.loop.call_later(self._interval, self._sweep)
        self.vouch()
        now = time.monotonic()
        self.site.sweep(now)
        if self.settings.request_timeout:
            self._cancel_overruns(now)
        if self.settings.slow_request_time:
            self._tell_slow(now)
        if self._cancelled:
            self._look_at_cancelled(now)
        cpu, wall = time.process_time_ns(), time.monotonic_ns()
        self.row.spent(min(cpu - self._cpu, wall - self._swept))
        self._cpu, self._swept = cpu, wall

    def _cancel_overruns(self, now: float) -> None:
        limit = self.settings.request_timeout
        for exchange in list(self.site.active):  # the oldest first
            if now - exchange.started < limit:
                break
            if exchange.deadline <= now and not exchange.done and exchange not in self._cancelled:
                stack = exchange.stack()
                self.log.error(
                    f"{exchange.name} takes longer than request_timeout ({limit:g} s): cancelled after"
                    f" {now - exchange.started:.1f} s. It was at:\n{stack}"
                )
                self._cancelled[exchange] = now
                exchange.cancel(_OVERRUN)

    def _tell_slow(self, now: float) -> None:
        """Log requests that take longer than `slow_request_time`, once each."""
        limit = self.settings.slow_request_time
        for activity in self.site.active:  # the oldest first
            if now - activity.started < limit:
                break
            if activity not in self._slow and activity.task is not None:
                self._slow.add(activity)
                stack = activity.stack()
                self.log.warning(f"slow: {activity.name} for {now - activity.started:.1f} s. It is at:\n{stack}")
        self._slow.intersection_update(self.site.active)

    def _look_at_cancelled(self, now: float) -> None:
        for exchange, since in list(self._cancelled.items()):
            if exchange not in self.site.active:
                del self._cancelled[exchange]
            elif 0 < since < now - _CLEAN_UP:
                self._cancelled[exchange] = 0.0  # said once
                self.log.error(f"{exchange.name} ignores its cancellation. The worker is to be replaced.")
                self.say(Spent("a request of it ignores its cancellation"))

    # Orders and leaving -----------------------------------------------------------------------------------------------

    def _hear_orders(self) -> None:
        self.attend(self.poll_orders())
        self._look()

    def _look(self) -> None:
        """See what has been ordered."""
        if self._interrupted:
            self.loop.stop()
        elif self.retiring and not self._leaving:
            self._leaving = self.retired_at
            if not self.last:
                self.hub.stop_listening()
            self.site.retire()
            self._leave()

    def _leave(self) -> None:
        """A look at whether the worker can go, again and again until it can."""
        now = time.monotonic()
        site = self.site
        is_accepting = self.last and not self._orphan and self._is_knocked()
        if is_accepting:
            self.hub.listen()
        else:
            self.hub.stop_listening()
        grace = ORPHAN_GRACE if self._orphan else self.settings.graceful_timeout
        end = self._leaving + grace
        site.sweep(now)
        if now >= self._leaving + grace / 2:
            site.wind_up()
        if now >= end - min(_MARGIN, grace / 4):
            self._cancel_all()
        is_over = now >= end - min(_MARGIN, grace / 4) / 2
        if (site.is_done and not is_accepting) or is_over:
            if not site.is_done:
                left = len(site.active) + len(site.sockets)
                self.log.warning(f"leaving with {left} requests that ignore their cancellation")
            self.loop.stop()
        else:
            self.vouch()
            self.loop.call_later(_LAST_TURNS, self._leave)

    def _cancel_all(self) -> None:
        if self._is_cancelled:
            return
        self._is_cancelled = True
        if self.site.active:
            self.log.warning(f"{len(self.site.active)} requests are cancelled at the end of graceful_timeout")
        if self.site.sockets:
            self.log.warning(f"{len(self.site.sockets)} WebSockets are ended at the end of graceful_timeout")
        for exchange in [*self.site.active, *self.site.sockets]:
            exchange.cancel(_GONE)
        for connection in list(self.site.connections):
            connection.drop()

    def _is_knocked(self) -> bool:
        """Whether a connection waits to be accepted. In a listener that was shut down nobody does, whatever poll says first."""
        waiting = select.poll()
        for listener in self.listeners:
            if listener.fileno() >= 0:
                waiting.register(listener, select.POLLIN)
        return any(event & (select.POLLIN | select.POLLHUP) == select.POLLIN for _, event in waiting.poll(0))

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        super()._on_term(signum, frame)
        self.loop.call_soon_threadsafe(self._look)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        # The loop swallows what is raised in a task, so it is stopped as well; the raise ends what blocks it.
        if not self._interrupted:
            self.loop.call_soon_threadsafe(self.loop.stop)
        super()._on_interrupt(signum, frame)

    def _orphaned(self) -> None:
        if not self._orphan:
            self.hub.stop_listening()  # before they are closed: epoll would go on to report them
        super()._orphaned()
        self.loop.call_soon_threadsafe(self._look)

    def _end_loop(self, patience: float) -> None:
        """Shut the lifespan down, end what the application has left running, and close the loop. Bounded."""
        loop = self.loop
        if loop.is_closed():
            return
        try:
            loop.run_until_complete(portal.settle(patience / 2))
            for lifespan in (self.websocket_lifespan, self.lifespan):
                loop.run_until_complete(lifespan.stop(max(0.1, patience / 2)))
            loop.run_until_complete(_end_tasks(min(1.0, patience)))
            loop.run_until_complete(loop.shutdown_asyncgens())
        except (Interrupted, RuntimeError):
            pass  # stopped in the middle: leave now
        finally:
            if hasattr(self, "hub"):
                self.hub.close()
            asyncio.set_event_loop(None)


def _load_websocket_app(name: str | None) -> Any:
    """The application of the setting `websocket_app`, as ASGI 3; None without the setting.

    Raises:
        BootError: it can't be had, or is none of ASGI.
    """
    if name is None:
        return None
    app = load(name)
    interface = detect(app)
    if not interface.is_asgi:
        wrong = "it is a WSGI application, and WebSockets need ASGI: name one like project.asgi:application"
        raise BootError(Failed(f"looking at websocket_app, {name}", wrong, "", Exit.BOOT))
    return as_asgi3(app) if interface is Interface.ASGI2 else app


async def _end_tasks(patience: float) -> None:
    """Cancel all other tasks, as `asyncio.run` does, and wait for them."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=patience)
