"""What all connections of one event loop share: the application, who is connected, what is under way, and how it is counted.

A `Site` belongs to a loop, not to a kind of worker: the async worker has one, and whoever serves connections on another
worker's portal loop makes one too. It waits for nothing and owns no socket.

**The seam for protocols.** A connection is an `asyncio.Protocol` that is also a `LoopConnection`: the site knows it from
`connection_made` (`add`) to `connection_lost` (`remove`), and calls `retire`, `wind_up` and `expire` on it. Connections begin
as HTTP/1 (`http1_connection.Http1Connection`), which hands over where the site names a successor:

* ``upgrades[b"websocket"]``: a GET with ``Upgrade: websocket`` over HTTP/1.1, before the application is called;
* ``upgrades[b"h2c"]``: likewise (a request with a body is not upgraded, nor a connection with TLS);
* ``upgrades[b"h2"]``: ALPN has chosen ``h2``, or the first bytes are HTTP/2's connection preface; `request` is None then.

A successor is called as ``takes_over(connection, request, rest)``: the connection that it replaces (of which it may use `site`,
`transport`, `template` (see `asgi_scope.connection_scope`), `client`), the request, and the bytes that came behind it. It
answers whether it takes over; then it has called ``connection.hand_over(protocol)`` with its own protocol, on whose
`connection_made` the site's `add` is due, and has fed itself `rest`. If it declines, the request is served as plain HTTP.
"""

from __future__ import annotations

import asyncio
import os
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from arbiter.workers.accessformat import QUEUE, REQUEST_ID
from arbiter.workers.accesslog import Ids
from arbiter.workers.contract import Doing
from arbiter.workers.deadlines import Deadlines
from arbiter.workers.fronts import Crowd, Fronts, longest_wait
from arbiter.workers.interfaces.asgi import Exchange
from arbiter.workers.interfaces.asgi_scope import FILE_EXTENSIONS, HTTP_EXTENSIONS, http_scope, told_scope, variables_scope
from arbiter.workers.interfaces.asgi_websocket import WebSocketExchange
from arbiter.workers.interfaces.health import health_application
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.uwsgi import UwsgiConnection
from arbiter.workers.transport import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import Context

    from arbiter.config.schema import Settings
    from arbiter.workers.accesslog import AccessLog
    from arbiter.workers.contract import Log, Row
    from arbiter.workers.interfaces.asgi import Application, Stream
    from arbiter.workers.protocols.policy import Refusal, Request

    Activity: TypeAlias = Exchange | WebSocketExchange

    class Successor(Protocol):
        """Who takes a connection over from HTTP/1; see the module."""

        def __call__(self, connection: Any, request: Request | None, rest: bytes) -> bool: ...


class LoopConnection(Protocol):
    """What the site wants of each connection. All calls come on the loop's thread."""

    client: str
    """The peer's host; empty on a unix socket."""
    notch: int
    """0 at first; `Deadlines`' own, as is `booked` (`inf` at first)."""
    booked: float
    idle_since: float
    """Monotonic seconds: since when nothing is under way; `inf`: something is."""

    @property
    def is_unread(self) -> bool:
        """The client has sent something that nobody has read: it is idle for a moment only."""

    @property
    def slow_from(self) -> float:
        """Monotonic seconds: from when on it has been so slow that it makes room where nobody is idle; `inf`: never."""

    deadline: float
    """Monotonic seconds: when `expire` is due; `inf`: never. Whoever sets it to an earlier moment than before calls
    `Site.book`; to a later one, it need not."""

    def expire(self) -> None:
        """The deadline has passed."""

    def retire(self) -> None:
        """The worker leaves: close if nothing is under way, else when it is done; begin nothing new."""

    def wind_up(self) -> None:
        """Half the grace is over: tell streaming applications that their clients have gone."""

    def drop(self) -> None:
        """Close now, whatever is under way."""


class Site:
    """The state that connections of one loop share. Attributes that connections read are public."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: Application,
        settings: Settings,
        log: Log,
        row: Row,
        access_log: AccessLog | None,
    ) -> None:
        self.loop = loop
        self.app: Any = app
        """What `exchange` runs."""
        self.settings = settings
        self.log = log
        self.row = row
        self.access_log = access_log
        self.context: Context | None = None
        """What each request's context is a copy of; None: of the one at hand."""
        self.state: dict[str, Any] = {}
        """Of the lifespan: each request gets a copy."""
        self.connections: set[LoopConnection] = set()
        self.fronts = Fronts(settings)
        self._logs_waits = access_log is not None and access_log.wants_queue
        self.measures_waits = bool(self.fronts.queue_timeout) or self._logs_waits
        """Whether connections have to know how long what they receive lay in the kernel."""
        self.tells_environ = False
        """The application is WSGI's: templates, and the scopes of their requests, have under ``environ`` what its environ has
        and scopes have not: what the connection has shown, and the `Told` of the request or None."""
        self.exchange: type[Exchange] = Exchange
        """What carries out a request: another for what is no ASGI application."""
        self.websocket_app: Any = app
        """Whose WebSockets are."""
        self.websocket_state = self.state
        """Of its lifespan."""
        self.active: dict[Activity, None] = {}
        """Requests and handshakes whose application has not returned, the oldest first."""
        self.sockets: dict[WebSocketExchange, None] = {}
        """WebSockets that are open, or whose application has not returned."""
        self.upgrades: dict[bytes, Successor] = {}
        self.now = 0.0
        """Monotonic seconds: when the last response was over."""
        self.retiring = False
        """The worker leaves: nothing new is begun, and each response says that it is the last on its connection."""
        self.is_leaving: Callable[[], bool] = lambda: self.retiring
        """What a health check is answered by."""
        self.on_request_end: Callable[[], None] | None = None
        """Called when a response is over: ``max_requests``."""
        self.on_departure: Callable[[], None] = _nothing
        """Called when a connection or a task is gone: there is room, or a worker that leaves has less to wait for."""
        self.cancels_on_disconnect = settings.cancel_on_disconnect
        self.root_path = (settings.root_path or os.environ.get("SCRIPT_NAME", "")).rstrip("/")
        """Where the application is mounted; SCRIPT_NAME is the variable that WSGI applications are mounted by."""
        self.keepalive = settings.keepalive
        self.keeps = settings.keepalive > 0
        """Connections are kept after a response."""
        self.head_timeout = settings.head_timeout
        self.write_timeout = settings.write_timeout
        self.request_timeout = settings.request_timeout
        self.limits = Limits.of(
            request_line=settings.limit_request_line,
            fields=settings.limit_request_fields,
            field_size=settings.limit_request_field_size,
            body=settings.limit_request_body,
        )
        self._extensions = {name: _EXTENSIONS[name] for name in _EXTENSIONS if settings.sendfile or name not in FILE_EXTENSIONS}
        self._parse = head_parser(settings.http)
        self._connection_class = UwsgiConnection if settings.protocol == "uwsgi" else Connection
        self._health = (settings.health_path or "").encode()
        self._health_app = health_application(lambda: self.is_leaving())  # noqa: PLW0108 - it may be another by then
        self._deadlines: Deadlines[LoopConnection] = Deadlines()
        self._unbooked: set[LoopConnection] = set()  # since the last sweep
        self._crowd = Crowd(self.fronts.per_address)
        self._parting: set[LoopConnection] = set()
        self._ids = Ids() if access_log and access_log.wants_id else None
        self.tells_log = self._ids is not None or self._logs_waits
        """Scopes have to pass `tell_log`."""
        self._held: list[Exchange] = []
        self._spawn = asyncio.Task if loop.get_task_factory() is None else None

    def parser(self) -> Connection:
        """A new connection, as HTTP/1 sees it."""
        return self._connection_class(self._parse, self.limits)

    # Connections ------------------------------------------------------------------------------------------------------

    def add(self, connection: LoopConnection) -> None:
        """A connection has been made, or has been taken over."""
        self.connections.add(connection)
        self._crowd.enter(connection.client)

    def remove(self, connection: LoopConnection) -> None:
        """A connection is lost, or has been handed over."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._crowd.leave(connection.client)
            self._parting.discard(connection)
        self._unbooked.discard(connection)
        if connection.notch:
            self._deadlines.forget(connection)
        self.on_departure()

    def part(self, connection: LoopConnection) -> None:
        """A connection has its last response and is still sending: from now on it takes nobody's place."""
        self._parting.add(connection)
        self.on_departure()

    @property
    def crowding(self) -> int:
        """Connections, but for those that part; of these there may be some more (`_PARTING`)."""
        return len(self.connections) - min(len(self._parting), _PARTING)

    def book(self, connection: LoopConnection) -> None:
        """Have the connection looked at when its deadline passes.

        In the books it is from the next sweep on, before which nobody would look: most connections that are closed after a
        response never are (7 us of their 100).
        """
        self._unbooked.add(connection)

    def sweep(self, now: float) -> None:
        """Look after the connections whose deadlines have passed. Costs what is due or new, not what there is."""
        unbooked, self._unbooked = self._unbooked, set()
        for connection in unbooked:
            if connection.deadline < connection.booked:
                self._deadlines.book(connection, connection.deadline)
        for connection in self._deadlines.due(now):
            if connection.deadline <= now:
                connection.expire()
            if now < connection.deadline < inf and connection in self.connections:
                self._deadlines.book(connection, connection.deadline)

    def tell_refused(self, refusal: Refusal, client: str) -> None:
        """Log and count a request that was not let through; `client` is empty on a unix socket."""
        self.log.info(f"refused a request from {client or 'a unix socket'}: {refusal.status}, {refusal.reason}")
        self.row.count(refusal.status, 0, 0)

    def count_of(self, host: str) -> int:
        """Connections of an address, if there is a `limit_connections_per_address`. For any thread."""
        return self._crowd.count(host)

    def is_one_too_many(self, connection: LoopConnection) -> bool:
        """Whether its address has more connections than it may, with this one."""
        return not self._crowd.has_room(connection.client)

    # Requests ---------------------------------------------------------------------------------------------------------

    def judges(self, template: dict[str, Any]) -> bool:
        """Whether requests of the connection have to pass `introduce`; to be asked once for a connection."""
        return template["trusted"] or self.fronts.looks or self._logs_waits

    def verdict(self, template: dict[str, Any]) -> str:
        """The name under which a request's `of_fields` has None if `introduce` would change nothing."""
        varies = self.fronts.varies or self._logs_waits
        return "" if varies else self.fronts.forwarding.name(trusted=template["trusted"])  # "": nothing is under that name

    def introduce(
        self, request: Request, template: dict[str, Any], waited: float, variables: Mapping[str, str] | None = None
    ) -> tuple[Request, dict[str, Any]]:
        """The request that is to be served, and its template, by what proxies say of it.

        Args:
            request: as it came.
            template: the connection's.
            waited: seconds that it lay in the kernel, or `transport.UNKNOWN`; of no matter unless `measures_waits`.
            variables: what a front end that speaks the uwsgi protocol says of it.

        Raises:
            Refusal: the application does not get it.
        """
        told = self.fronts.judge(request, template["host"], waited, trusted=template["trusted"])
        if self._logs_waits:
            template = {**template, "waited": longest_wait(waited, told)}
        if variables:
            template = variables_scope(template, variables)
            if self.tells_environ:
                template["environ"] = ({**template.get("environ", ({}, None))[0], **variables}, None)
        if told is None:
            return request, template
        template = told_scope(template, told)
        if self.tells_environ:
            template["environ"] = (template.get("environ", ({}, None))[0], told)
        return told.applied(request), template

    def begin(self, stream: Stream, request: Request, template: dict[str, Any]) -> Exchange:
        """Start the application on a request, in a task of its own; it takes its first step in the loop's next turn.

        `template` is the connection's; see `asgi_scope.connection_scope`.
        """
        scope = http_scope(template, request)
        scope["state"] = self.state.copy()
        extensions = scope["extensions"] = self._extensions.copy()
        if "extensions" in template:
            extensions.update(template["extensions"])
        if "environ" in template:
            scope["environ"] = template["environ"]
        started = monotonic()
        exchange = self.exchange(self, stream, request, scope, started)
        if self.request_timeout:
            exchange.deadline = started + self.request_timeout
            extensions["arbiter.extend_deadline"] = _Extend(exchange)
        if self.tells_log:
            self.tell_log(scope, request, template)
        app = self.app
        if self._health and request.target.partition(b"?")[0] == self._health and request.method in (b"GET", b"HEAD"):
            app = self._health_app
        self.start(exchange, app)
        return exchange

    def tell_log(self, scope: dict[str, Any], request: Request, template: dict[str, Any]) -> None:
        """Add what the access log wants to know of a request later."""
        if self._ids:
            scope[REQUEST_ID] = self._ids.of(request)
        if template.get("waited", UNKNOWN) >= 0:
            scope[QUEUE] = int(template["waited"] * 1e6)

    def start(self, exchange: Activity, app: Application) -> None:
        """Have this application do what `exchange` is about, in a task of its own; it takes its first step in the next turn."""
        if not self.active:
            self.row.phase(Doing.APP)
        self.active[exchange] = None
        context = self.context.copy() if self.context is not None else None
        if self._spawn is not None:
            exchange.task = self._spawn(exchange.run(app), loop=self.loop, name="request", context=context)
        else:
            exchange.task = self.loop.create_task(exchange.run(app), name="request", context=context)

    def hold(self, exchange: Exchange) -> None:
        if not self._held:
            self.loop.call_soon(self._release)
        self._held.append(exchange)

    def _release(self) -> None:
        held, self._held = self._held, []
        for exchange in held:
            exchange.flush()

    def answered(self, exchange: Activity) -> None:
        self.now = now = monotonic()
        seconds = now - exchange.started
        self.row.count(exchange.status, exchange.head_size + exchange.sent, int(seconds * 1e9))
        if self.on_request_end is not None:
            self.on_request_end()
        if self.access_log:
            self._note(exchange, seconds)

    def opened(self, exchange: WebSocketExchange) -> None:
        """A WebSocket has been accepted: from now on it may last, and keeps nobody busy."""
        del self.active[exchange]
        self.sockets[exchange] = None
        if not self.active:
            self.row.phase(Doing.IDLE)

    def ended(self, exchange: Activity) -> None:
        active = self.active
        exchange.task = None
        if exchange in active:
            del active[exchange]
            if not active:
                self.row.phase(Doing.IDLE)
                self.on_departure()
        elif isinstance(exchange, WebSocketExchange):
            del self.sockets[exchange]
            self.on_departure()

    def _note(self, exchange: Activity, seconds: float) -> None:
        scope = exchange.scope
        client = scope.get("client")
        remote = client[0] if client else ""
        environ = getattr(exchange, "environ", scope) if self.tells_environ else scope
        if self.access_log:
            self.access_log.add(remote, exchange.request, exchange.status, exchange.sent, seconds, exchange.headers, environ)

    # The end ----------------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Begin nothing new."""
        self.retiring = True
        self.keeps = False
        for connection in list(self.connections):
            connection.retire()

    def wind_up(self) -> None:
        """Tell applications that stream that their clients have gone."""
        for connection in list(self.connections):
            connection.wind_up()

    @property
    def is_done(self) -> bool:
        """Nothing is under way."""
        return not (self.connections or self.active or self.sockets)


class _Extend:
    """``scope["extensions"]["arbiter.extend_deadline"]`` of a request with a deadline."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self, seconds: float) -> None:
        """Give the request so many seconds from now on."""
        self._exchange.deadline = monotonic() + seconds


def _nothing_to_extend(seconds: float) -> None:
    """The same where there is no deadline."""


_EXTENSIONS: Final = {**HTTP_EXTENSIONS, "arbiter.extend_deadline": _nothing_to_extend}


def _nothing() -> None:
    """Nobody has asked to be told."""


QUIET: Final = 0.3
"""Seconds that a connection must have been idle before a site that retires closes it. Who has just had a response, or has just
connected, may be sending: it gets its answer, and is told to close with it."""
LINGER: Final = 2.0
"""Seconds to wait for a client to take its response and close, when it has sent more than was read: Apache's
SECONDS_TO_LINGER. nginx waits 5."""
_PARTING: Final = 64
"""As `parting.MOST`: a few clients that never stop sending must not hold a worker that has room for one."""
