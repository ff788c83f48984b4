"""The sync worker: one connection, one request, one response at a time, in the main thread, with blocking calls.

A connection is closed after its response, as everyone expects of a sync worker: the next client waits behind nobody's idle
connection. What a client can take of the worker's time is bounded: its head by `head_timeout` whatever it trickles, its
body and its reading by `write_timeout` and by the worker's own `timeout`, of which a slow client gets `_SHARE` at most;
so a slow client loses its connection, and only an application that hangs loses the worker.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.accesslog import AccessLog, Entry
from arbiter.workers.base import Worker
from arbiter.workers.contract import Doing
from arbiter.workers.interfaces.transport import TooSlow
from arbiter.workers.interfaces.wsgi import Exchange
from arbiter.workers.interfaces.wsgi_environ import ErrorStream, add_peer, listener_environ, worker_environ
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import refuse
from arbiter.workers.transport import SocketTransport
from arbiter.workers.warmup import warm_up

if TYPE_CHECKING:
    from arbiter.workers.contract import Order
    from arbiter.workers.protocols.policy import Request

LINGER: Final = 2.0
"""Seconds to wait for a client to take its response and close, when it has sent more than was read: Apache's
SECONDS_TO_LINGER. nginx waits 5, but has other things to do meanwhile."""

_SHARE: Final = 0.9
"""Of `timeout`, what waiting for a client may use up; the rest is for noticing and answering before the worker is killed."""

_TURN: Final = 0.01
"""Seconds to go on accepting without looking for orders, which costs a tenth of a small request; an order waits no longer
than that, or one request."""

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_BREATH: Final = 0.5
"""Seconds until accept is tried again without descriptors, as nginx's accept_mutex_delay: the connection stays in the
backlog and would wake us at once."""


class SyncWorker(Worker):
    """One request at a time."""

    def __init__(self, order: Order, app: Any) -> None:
        super().__init__(order, app)
        settings = self.settings
        self._parse = head_parser(settings.http)
        self._limits = Limits.of(
            request_line=settings.limit_request_line,
            fields=settings.limit_request_fields,
            field_size=settings.limit_request_field_size,
            body=settings.limit_request_body,
        )
        worker = worker_environ(
            errors=ErrorStream(self.log),
            multithread=False,
            multiprocess=True,  # also with one worker: while it is replaced there are two
            script_name=os.environ.get("SCRIPT_NAME", ""),
        )
        self._facts = {
            listener: (int(listener.family), listener_environ(worker, listener.getsockname())) for listener in self.listeners
        }
        self._access_log = AccessLog(settings.access_log_format, self.access) if self.access else None

    def warm(self, path: str) -> int:
        environ = next(environ for _, environ in self._facts.values()) if self._facts else {}
        return warm_up(self.app, path, environ, self._parse, self._limits, self.log)

    def serve(self) -> None:
        """Serve until told to retire; the last of all also serve what is in the backlog."""
        while not self.retiring:
            for listener in self.poll():
                self._take_turn(listener)
        for listener in self.listeners if self.last else ():
            while self._accept(listener):
                pass

    def _take_turn(self, listener: socket.socket) -> None:
        """Serve what waits in `listener`, for a moment."""
        end = time.monotonic() + _TURN
        while self._accept(listener) and not self.retiring and time.monotonic() < end:
            pass

    def _accept(self, listener: socket.socket) -> bool:
        """Serve one connection of `listener`, if there is one."""
        try:
            # What socket.accept does, without turning three numbers into enums: 2 us of about 40.
            descriptor, address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  see above
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another worker was quicker, or the client has gone
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False  # the supervisor has closed the doors: nobody is in the backlog, and nobody comes
            if error.errno == errno.EINVAL:
                return False  # the supervisor has shut the listener down: nobody is in the backlog
            if error.errno not in _NO_DESCRIPTORS:
                raise
            self.log.warning(f"accept failed: {error.strerror}. Connections wait; trying again in {_BREATH} s.")
            time.sleep(_BREATH)
            return False
        self.vouch()
        family, environ = self._facts[listener]
        client = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
        try:
            self._serve(client, address, environ)
        except Exception:  # what an application raises doesn't come here: this is a mistake of ours
            self.log.exception("a connection failed inside Arbiter, which goes on; please report this")
        finally:
            client.close()
        return True

    def _serve(self, client: socket.SocketType, address: Any, environ: dict[str, Any]) -> None:
        """Read one request, have it answered, and leave the connection ready to be closed."""
        transport = SocketTransport(client, patience=self.settings.write_timeout, phase=self.row.phase)
        connection = Connection(self._parse, self._limits)
        try:
            request = self._read_head(transport, connection)
        except Refusal as refusal:
            self._refuse(refusal, address, transport)
            return
        except OSError:
            return
        if request is None:
            return
        started = time.monotonic()
        self.row.begin(request.method, request.target)
        if self.settings.timeout:
            transport.last = started + self.settings.timeout * _SHARE
        environ = environ.copy()
        add_peer(environ, address)
        exchange = Exchange(request, connection, transport, self.log, persistent=False)
        exchange.run(self.app, environ)
        if exchange.reset:
            transport.reset()
        elif connection.pending or not connection.body_ended or transport.unread:
            self._drain(transport)
        client.close()
        self.row.end(exchange.status, transport.sent)
        self.count_request()
        if self._access_log:
            seconds = time.monotonic() - started
            remote = environ.get("REMOTE_ADDR", "")
            self._access_log.add(Entry(remote, request, exchange.status, exchange.sent, seconds, exchange.headers, environ))

    def _read_head(self, transport: SocketTransport, connection: Connection) -> Request | None:
        """The connection's request; None if the client has nothing to say.

        Raises:
            Refusal: it is not let through, or took too long.
            Disconnected: the connection is broken.
        """
        data = transport.receive_now()
        deadline = 0.0
        while True:
            if data is None:
                if not deadline:
                    deadline = time.monotonic() + self.settings.head_timeout
                    self.row.phase(Doing.READING)
                    self.row.beat(deadline + self.settings.timeout if self.settings.timeout else 0.0)
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
                if deadline:
                    self.vouch()
                return request
            data = None

    def _refuse(self, refusal: Refusal, address: Any, transport: SocketTransport) -> None:
        """Answer a request that was not let through."""
        self.log.info(
            f"refused a request from {address[0] if address else 'a unix socket'}: {refusal.status}, {refusal.reason}"
        )
        self.row.begin(b"-", b"-")
        try:
            transport.send(refuse(refusal))
        except OSError:
            pass  # it has gone
        else:
            self._drain(transport)
        self.row.end(refusal.status, transport.sent)

    def _drain(self, transport: SocketTransport) -> None:
        """Let the client take the response before the connection is closed."""
        self.vouch()
        transport.drain(LINGER)
