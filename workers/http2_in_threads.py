"""HTTP/2 in a threaded worker: its connections live on the portal's event loop, their requests in the worker's threads.

A connection of HTTP/1 is served by whichever thread wakes. One of HTTP/2 carries many requests at once, and somebody has to
listen to it while they run: so it is taken out of the poller, with what was read of it, and given to the loop, where it is a
connection of a `Site` like those of an async worker. Each of its requests becomes a `Job` in the queue of the crew, beside the
connections of HTTP/1: as many run at a time as there are threads, whatever the protocol.

Nothing of this is loaded, and no loop started, before the first such client comes (`threaded` imports this module then).
"""

from __future__ import annotations

import select
from collections import deque
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers import portal
from arbiter.workers.fronts import Fronts
from arbiter.workers.http1_connection import Http1Connection
from arbiter.workers.http2_connection import takes_over
from arbiter.workers.hub import Hub, HubTransport
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.site import Site
from arbiter.workers.wsgi_on_loop import Exchange, Gateway

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from arbiter.config.schema import Settings
    from arbiter.workers.accesslog import AccessLog
    from arbiter.workers.contract import Doing, Hooks, Log, Row
    from arbiter.workers.tls import Tls
    from arbiter.workers.tlssocket import TlsSocket

_SWEEP: Final = 1.0
"""Seconds between two looks at deadlines, while there are connections: see `asynchronous`."""
_OVERRUN: Final = Refusal(504, "The application took too long.")


class Job:
    """A request that waits for a thread; `pool.Place` for a crew."""

    __slots__ = ("_job", "io_bound")

    def __init__(self, job: Callable[[Any], None]) -> None:
        self._job = job
        self.io_bound: Callable[[], bool] = _no_substitute
        """Of the seat that runs it."""

    def run(self) -> None:
        """In a thread: do what there is to do. Never raises."""
        self._job(self)

    def give_up(self) -> bool:
        """``arbiter.io_bound``."""
        return self.io_bound()


def _no_substitute() -> bool:
    return False


class _CrewPool:
    """`pool.Pool`, whose threads are a crew's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: deque[Any], ring: Callable[[], None]) -> None:
        self._loop = loop
        self._queue = queue
        self._ring = ring
        self._entering: set[Job] = set()

    def enter(self, job: Callable[[Any], None]) -> Job:
        place = Job(job)
        self._entering.add(place)
        self._loop.call_soon(self._enqueue, place)  # not before the caller has noted its place: a thread may be that quick
        return place

    def _enqueue(self, place: Job) -> None:
        if place in self._entering:
            self._entering.remove(place)
            self._queue.append(place)
            self._ring()

    def withdraw(self, place: Job) -> bool:
        if place in self._entering:
            self._entering.remove(place)
            return True
        try:
            self._queue.remove(place)
        except ValueError:
            return False
        return True

    def leave(self, place: Job) -> None:
        """A crew's threads look for work by themselves."""


class _Tally:
    """What a site counts, for the row of the worker, which has one writer."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int, int]] = deque()

    def phase(self, doing: Doing) -> None:
        """Each thread has a row of its own for that."""

    def count(self, status: int, sent: int, took: int) -> None:
        self._counts.append((status, sent, took))

    def enter_into(self, row: Row) -> None:
        """Called by the row's writer."""
        while self._counts:
            row.count(*self._counts.popleft())


class Http2InThreads:
    """The connections of HTTP/2 of a threaded worker. Methods are for any thread, unless they say otherwise."""

    def __init__(
        self,
        app: Any,
        settings: Settings,
        log: Log,
        access_log: AccessLog | None,
        hooks: Hooks | None,
        queue: deque[Any],
        ring: Callable[[], None],
        *,
        is_leaving: Callable[[], bool],
        on_request_end: Callable[[], None],
    ) -> None:
        """Starts the portal's loop if need be.

        Args:
            app: the WSGI application.
            settings: of the worker.
            log: of the worker.
            access_log: of the worker.
            hooks: of the worker.
            queue: of the crew.
            ring: wakes who polls.
            is_leaving: what a health check is answered by.
            on_request_end: called on the loop for each response.
        """
        self._settings = settings
        self._loop = portal.loop()
        self._tally = _Tally()
        gateway = Gateway(
            app, self._loop, log, Fronts(settings), hooks=hooks, threads=1, spare=0, body_buffer=settings.body_buffer
        )
        gateway.pool = _CrewPool(self._loop, queue, ring)  # type: ignore[assignment]  # what it asks of a pool is there
        row: Any = self._tally
        self._site = site = Site(self._loop, gateway, settings, log, row, access_log)  # type: ignore[arg-type]  # see Site.app
        site.exchange = Exchange
        site.tells_environ = True
        site.upgrades[b"h2"] = site.upgrades[b"h2c"] = takes_over
        site.is_leaving = is_leaving
        site.on_request_end = on_request_end
        self._hub: Hub | None = None
        self._sweeps = False
        self._adopted = 0  # connections on their way to the loop

    def adopt(
        self,
        client: socket.SocketType | TlsSocket,
        tls: Tls | None,
        address: object,
        environ: dict[str, Any],
        received: bytes,
    ) -> None:
        """Serve this connection, with the environ that it has, from now on; `received` has been read of it."""
        self._adopted += 1
        self._loop.call_soon_threadsafe(self._adopt, client, tls, address, environ, received)

    def _adopt(self, client: Any, tls: Tls | None, address: object, environ: dict[str, Any], received: bytes) -> None:
        """On the loop."""
        self._adopted -= 1
        if self._hub is None:
            self._hub = Hub(self._loop, (), _welcome)
        site = self._site
        server = client.getsockname()
        connection = Http1Connection(site, scheme="http" if tls is None else "https", server=server, client=address)
        connection.template["environ"] = (environ, None)
        if tls is None:
            HubTransport(self._hub, client, address, connection)
        else:
            from arbiter.workers.tls_on_loop import TlsTransport

            transport = TlsTransport(self._hub, client, address, connection)
            if client.tls.selected_alpn_protocol() == "h2":
                takes_over(connection, None, b"")
            if not received:
                transport.ready(select.EPOLLIN)
        if received:
            protocol: Any = connection.transport.get_protocol()  # another one by now, if ALPN has chosen it
            protocol.data_received(received)
        if not self._sweeps:
            self._sweeps = True
            self._loop.call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        """On the loop, while there is anybody."""
        site = self._site
        now = monotonic()
        site.sweep(now)
        limit = self._settings.request_timeout
        for exchange in list(site.active) if limit else ():
            if 0 < exchange.deadline <= now and not exchange.done:
                stack = exchange.stack()
                what = f"{exchange.name} takes longer than request_timeout ({limit:g} s)"
                site.log.error(f"{what}: cancelled. It was at:\n{stack}")
                exchange.deadline = inf
                exchange.cancel(_OVERRUN)
        self._sweeps = not site.is_done
        if self._sweeps:
            self._loop.call_later(_SWEEP, self._sweep)

    @property
    def count(self) -> int:
        """Connections."""
        return self._adopted + len(self._site.connections)

    def count_of(self, host: str) -> int:
        """Connections of an address, where that is limited."""
        return self._site.count_of(host)

    @property
    def is_done(self) -> bool:
        """Nothing is under way."""
        return not self._adopted and self._site.is_done

    def retire(self) -> None:
        """Begin nothing new, and have clients told."""
        self._loop.call_soon_threadsafe(self._site.retire)

    def tally(self, row: Row) -> None:
        """Enter what was counted; for the row's writer."""
        self._tally.enter_into(row)


def _welcome(_: socket.socket) -> bool:
    """There are no listeners."""
    return False
