"""What the kinds of worker share that run WSGI applications in threads of their own: sync and threaded.

The application's environment, the parser and its limits, accepting, and the words for the logs. How connections and threads
meet is each kind's own affair.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.accessformat import QUEUE, REQUEST_ID
from arbiter.workers.accesslog import Ids, open_access_log
from arbiter.workers.base import Worker
from arbiter.workers.contract import Spent
from arbiter.workers.fronts import Fronts, accepted_address, host_of, longest_wait, proxied_address, proxied_environ
from arbiter.workers.interfaces.health import with_health
from arbiter.workers.interfaces.watched import watched
from arbiter.workers.interfaces.wsgi import Exchange
from arbiter.workers.interfaces.wsgi_environ import (
    ErrorStream,
    add_told,
    add_variables,
    listener_environ,
    worker_environ,
)
from arbiter.workers.interfaces.wsgi_file import PlainFileWrapper
from arbiter.workers.opening import Opening
from arbiter.workers.protocols.http1 import Connection, head_parser
from arbiter.workers.protocols.limits import Limits
from arbiter.workers.protocols.uwsgi import UwsgiConnection
from arbiter.workers.warmup import warm_up

if TYPE_CHECKING:
    from arbiter.workers.contract import Order
    from arbiter.workers.protocols.forwarded import Told
    from arbiter.workers.protocols.policy import Refusal, Request
    from arbiter.workers.tls import Tls

LINGER: Final = 2.0
"""Seconds to wait for a client to take its response and close, when it has sent more than was read: Apache's
SECONDS_TO_LINGER. nginx waits 5."""

_SPARE: Final = 1024
"""Descriptors besides those of connections: the application's files and sockets. As many as it would have without us."""


def allow_connections(number: int) -> None:
    """Raise the soft limit of descriptors, as far as the hard one lets us: 1024 is the usual, and made for select(2)."""
    number += _SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        most = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class GatewayWorker(Worker):
    """A worker between HTTP/1 and WSGI."""

    def __init__(self, order: Order, app: Any, *, multithread: bool) -> None:
        path = order.settings.health_path
        super().__init__(order, with_health(app, path, lambda: self.draining or self.retiring) if path else app)
        settings = self.settings
        self._tls = self._prepare_tls() if settings.certfile else None
        self.fronts = Fronts(settings)
        self._connection_class = UwsgiConnection if settings.protocol == "uwsgi" else Connection
        self._parse = head_parser(settings.http)
        self._limits = Limits.of(
            request_line=settings.limit_request_line,
            fields=settings.limit_request_fields,
            field_size=settings.limit_request_field_size,
            body=settings.limit_request_body,
        )
        worker = worker_environ(
            errors=ErrorStream(self.log),
            multithread=multithread,
            multiprocess=True,  # also with one worker: while it is replaced there are two
            script_name=os.environ.get("SCRIPT_NAME", ""),
        )
        if not settings.sendfile:
            worker["wsgi.file_wrapper"] = PlainFileWrapper
        self._worker_environ = worker
        environs = {name: listener_environ(worker, name) for name in {each.getsockname() for each in self.listeners}}
        self._environs = {(each["SERVER_NAME"], each["SERVER_PORT"]): each for each in environs.values()}
        self._facts = {each: (int(each.family), environs[each.getsockname()]) for each in self.listeners}
        self.access_log = open_access_log(settings, self.access, self.log) if self.access else None
        log = self.access_log
        self.access_prepares = log is not None and (log.wants_id or log.wants_queue or log.wants_cpu)
        """Whether the access log needs anything before a request runs."""
        self.access_measures = log is not None and log.wants_seconds
        """Whether it asks how long requests take."""
        self.wants_waits = bool(self.fronts.queue_timeout or (self.access_log and self.access_log.wants_queue))
        """Whether somebody asks how long requests have waited."""
        self._ids = Ids()
        hooks = order.hooks
        self.exchange_class = watched(Exchange, hooks) if hooks and hooks.watches_requests else Exchange
        """What answers a request: `Exchange`, or one that calls pre_request and post_request around it."""

    def warm(self, path: str) -> int:
        environ = next(environ for _, environ in self._facts.values()) if self._facts else {}
        return warm_up(self.app, path, environ, self._parse, self._limits, self.log)

    def connection(self) -> Connection:
        """A new connection, as HTTP sees it."""
        return self._connection_class(self._parse, self._limits)

    def accept(self, listener: socket.socket) -> tuple[socket.SocketType, Any, dict[str, Any]] | None:
        """A connection that waits, its address and the environ of its listener; None if there is none or it can't be had."""
        try:  # what `accept_descriptor` does, without a call
            descriptor, address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  see there
        except OSError as error:
            self.not_accepted(error)
            return None
        family, environ = self._facts[listener]
        client = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
        if self.measures_waits:
            self.note_wait(client)
        return client, accepted_address(address) if family == socket.AF_INET6 else address, environ

    def environ_at(self, server: tuple[str, str]) -> dict[str, Any]:
        """The environ of the listener with this SERVER_NAME and SERVER_PORT, also of one that other workers have."""
        if server not in self._environs:
            self._environs[server] = listener_environ(self._worker_environ, server)
        return self._environs[server]

    def introduce(self, environ: dict[str, Any], http: Connection, request: Request, told: Told | None) -> Request:
        """Add what front ends and proxies say to an environ; the request to be served."""
        if http.variables:
            add_variables(environ, http.variables)
        if told is None:
            return request
        add_told(environ, told)
        return told.applied(request)

    def tell_cancelled(self, request: str, stack: str) -> None:
        """Log that a request has been cancelled; `request` is a sentence's subject, `stack` what it was at."""
        limit = self.settings.request_timeout
        self.log.error(f"{request} takes longer than request_timeout ({limit:g} s): cancelled. It was at:\n{stack}")

    def tell_lost(self, request: str) -> None:
        """Log that a request can't be cancelled, and ask for a successor."""
        self.log.error(f"{request} can't be cancelled: its thread hangs outside of Python. The worker is to be replaced.")
        self.say(Spent("a thread of it hangs in a request that could not be cancelled"))

    def _prepare_tls(self) -> Tls:
        from arbiter.workers.tls import prepared

        tls = prepared()
        if not self.settings.preload_app:  # else a successor comes from the template, which may read no more than this one
            tls.when_unreadable = lambda why: self.say(Spent(why))
        return tls

    def opening(self, client: socket.SocketType, address: Any) -> Opening | None:
        """What comes before HTTP on a connection that was just accepted; None: nothing."""
        reader = self.fronts.header_reader(host_of(address))
        return Opening(client, reader, self._tls) if reader or self._tls else None

    def opened(self, opening: Opening, address: Any, environ: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The client's address, and the environ of its listener, with what an opening has shown of the connection."""
        if self._tls and opening.secured:
            environ = {**environ, "wsgi.url_scheme": "https", **self._tls.facts(opening.secured.tls)}
        if proxied := opening.proxied:
            environ = {**environ, **proxied_environ(proxied)}
            address = proxied_address(proxied, address)
        return address, environ

    def tell_refused(self, refusal: Refusal, host: str) -> None:
        """Log that a request was not let through; `host` is empty for a unix socket's."""
        self.log.info(f"refused a request from {host or 'a unix socket'}: {refusal.status}, {refusal.reason}")

    def prepare_access(self, request: Request, environ: dict[str, Any], waited: float, told: Told | None) -> int:
        """What the access log needs of a request before it runs, if `access_prepares`; gives back what its `note` asks for.

        `waited` and `told`: as `Fronts.judge` has them.
        """
        log = self.access_log
        if log is None:
            return 0
        if log.wants_id:
            environ[REQUEST_ID] = self._ids.of(request)
        if log.wants_queue and (wait := longest_wait(waited, told)) >= 0:
            environ[QUEUE] = int(wait * 1e6)
        return time.thread_time_ns() if log.wants_cpu else 0

    def flush_access(self) -> None:
        """Write what the access log holds back."""
        if self.access_log:
            self.access_log.flush()
