"""A WSGI application on an event loop: the application in a thread of a pool, its client where all others are.

Theory: `wsgi.Exchange` is PEP 3333 and stays the only place of it. Here its wire is not a socket but the loop's own exchange
(`interfaces.asgi`), to which each send is posted; so any protocol of the loop carries it, and deadlines, the counting of
requests and the end of a connection are what they are for ASGI applications. The thread goes on while what it has posted is on
its way, up to `_WINDOW` bytes, and waits when the client reads more slowly than that. The whole response of most requests is
one post, for which nobody waits.

Only a whole request gets into a thread: its head, and the first `body_buffer` bytes of its body. The rest is fetched when the
application reads. A request that is cancelled gets an exception in its thread (`timelimit`), and whatever it waits for here
ends at once.
"""

from __future__ import annotations

import os
from asyncio import CancelledError, shield
from collections import deque
from contextvars import copy_context
from functools import partial
from math import inf
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arbiter.workers.accessformat import QUEUE, REQUEST_ID
from arbiter.workers.interfaces import asgi, wsgi
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.interfaces.watched import watched
from arbiter.workers.interfaces.wsgi_environ import (
    ErrorStream,
    add_peer,
    add_told,
    add_variables,
    listener_environ,
    worker_environ,
)
from arbiter.workers.pool import Pool
from arbiter.workers.protocols.policy import Refusal
from arbiter.workers.protocols.response import CONTINUE, Framing, Head
from arbiter.workers.timelimit import TimeLimit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from contextvars import Context

    from arbiter.workers.contract import Hooks, Log
    from arbiter.workers.fronts import Fronts
    from arbiter.workers.pool import Place
    from arbiter.workers.protocols.policy import Fields

_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing

_WINDOW: Final = 64 * 1024
"""Bytes that a thread may have posted without knowing that they have found room: as much as a loop's transport holds back."""
_HEAD: Final = b"HEAD"
"""What stands for the head among the parts that are sent: known by being this very object."""
_BROKEN: Final = -1
"""In place of an acknowledgement: nothing arrives any more."""
_BLOCK: Final = 64 * 1024
"""Bytes of a file to read at once where the kernel can't send it."""
_MISTAKE: Final = "a request failed inside Arbiter, which goes on; please report this"
_FAILED: Final = Refusal(500, "The application failed; its log says why.")


class Gateway:
    """A WSGI application, and the threads that run it: what `Site.app` is where `Exchange` is its exchange."""

    def __init__(
        self,
        app: wsgi.Application,
        loop: asyncio.AbstractEventLoop,
        log: Log,
        fronts: Fronts,
        *,
        hooks: Hooks | None,
        threads: int,
        spare: int,
        body_buffer: int,
    ) -> None:
        """Nothing runs yet.

        Args:
            app: the application.
            loop: where its clients are.
            log: also for ``wsgi.errors``.
            fronts: how long a request may wait for a thread.
            hooks: of the operator's.
            threads: requests at a time.
            spare: more of them that only wait (``arbiter.io_bound``).
            body_buffer: bytes of a body that are read before a thread is held.
        """
        self.app = app
        self.loop = loop
        self.log = log
        self.fronts = fronts
        self.pool = Pool(loop, threads, spare)
        self.body_buffer = body_buffer
        self.exchange: type[_Pep3333] = watched(_Pep3333, hooks) if hooks and hooks.watches_requests else _Pep3333
        """What answers in a thread."""
        prefix = os.environ.get("SCRIPT_NAME", "")
        self._environ = worker_environ(errors=ErrorStream(log), multithread=True, multiprocess=True, script_name=prefix)
        self._environs: dict[Any, dict[str, Any]] = {}

    def environ(self, scope: dict[str, Any]) -> dict[str, Any]:
        """The environ of a request with this scope, but for the request itself."""
        server = scope["server"]
        template = self._environs.get(server)
        if template is None:
            # A listener's address; few, unless whoever makes connections says otherwise.
            template = listener_environ(self._environ, server if server and server[1] is not None else None)
            if len(self._environs) < _SERVERS_KEPT:
                self._environs[server] = template
        environ = template.copy()
        environ["wsgi.url_scheme"] = scope["scheme"]
        add_peer(environ, client if (client := scope["client"]) and client[1] is not None else None)
        if "environ" in scope:
            shown, told = scope["environ"]
            add_variables(environ, shown)
            if told:
                add_told(environ, told)
        for key in _LOGGED:
            if key in scope:
                environ[key] = scope[key]
        return environ


_SERVERS_KEPT: Final = 64
_LOGGED: Final = (REQUEST_ID, QUEUE)
"""What the access log is told by the scope, and the application by the environ."""


class _Answer(NamedTuple):
    """What the head of a response says."""

    status: int
    line: bytes
    """With the application's own words, as PEP 3333 has it."""
    fields: Fields
    headers: list[tuple[bytes, bytes]]


class Exchange(asgi.Exchange):
    """A request of a `Gateway`, on the loop."""

    __slots__ = ("_visit", "status_line")  # the first is set when a thread is asked for

    async def run(self, app: Any) -> None:
        """Have the application answer, whatever it does. The body of the request's task; never raises."""
        self.status_line = b""
        if not isinstance(app, Gateway):  # a health check's
            await super().run(app)
            return
        try:
            await self._visit_thread(app)
        except CancelledError:
            pass  # by whoever has answered
        except BaseException as failure:  # noqa: BLE001  a mistake of ours
            self._fail(failure)
        self._host.ended(self)

    async def _visit_thread(self, gateway: Gateway) -> None:
        pieces: list[bytes] = []
        size, ended = 0, False
        while not ended and (size < gateway.body_buffer or not pieces):
            message = await self.receive()
            if message["type"] != "http.request":
                return  # it has gone, or was refused
            pieces.append(message["body"])
            size += len(message["body"])
            ended = not message["more_body"]
        self._visit = visit = _Visit(gateway, self, pieces, ended=ended, context=copy_context())
        while not visit.over.done():
            try:
                await shield(visit.over)
            except CancelledError:
                visit.cancel()

    def stack(self) -> str:
        """What its thread is at, as lines of a traceback."""
        visit: _Visit | None = getattr(self, "_visit", None)
        return visit.limit.stack() if visit else "it waits for its body, or for a thread"

    @property
    def environ(self) -> dict[str, Any]:
        """The application's; the scope, if it was not called."""
        visit: _Visit | None = getattr(self, "_visit", None)
        return visit.environ if visit and visit.environ else self.scope

    # What a thread has posted -----------------------------------------------------------------------------------------

    def begin(self, answer: _Answer, body: bytes, *, more: bool) -> None:
        """Send the head and a first piece of body, perhaps an empty one."""
        self.status, self.status_line, self.fields, self.headers = answer
        self._begin(body, more=more)

    def go_on(self, body: bytes, *, more: bool) -> None:
        """Send another piece."""
        self._go_on(body, more=more)

    def send_descriptor(self, fd: int, offset: int, count: int) -> None:
        """Send part of a file as the rest of the body; `fd` is ours to close."""
        self._stream.send_file(fd, offset, count, ended=True)
        self.sent += count
        self._finish()

    def inform(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:
        """Send a 103, if there is still time for it."""
        if not self.begun and not self.gone:
            self._stream.send_early_hints(fields, headers)

    @property
    def blocked(self) -> bool:
        """The client reads more slowly than is sent."""
        return self._stream.blocked

    @property
    def sends_files(self) -> bool:
        """`send_descriptor` may be called."""
        return self._stream.sends_files

    def resume(self) -> None:
        """As its base has it; a thread waits likewise."""
        super().resume()
        visit: _Visit | None = getattr(self, "_visit", None)
        if visit is not None:
            visit.acknowledge()


class _Visit:
    """A request in its thread: the `Transport` of its WSGI exchange, and the connection that its body is read from."""

    def __init__(self, gateway: Gateway, exchange: Exchange, arrived: list[bytes], *, ended: bool, context: Context) -> None:
        """Enters the pool at once.

        Args:
            gateway: whose application is called.
            exchange: on the loop.
            arrived: of the body.
            ended: that is all of it.
            context: to call the application in.
        """
        self.limit = TimeLimit()
        self.over: asyncio.Future[None] = gateway.loop.create_future()
        """Done when the thread has returned."""
        self._gateway = gateway
        self._exchange = exchange
        self._context = context
        self._post = gateway.loop.call_soon_threadsafe
        # The thread's own.
        self._pieces = deque(piece for piece in arrived if piece)
        self._ended = ended
        self._head: _Answer | None = None
        self._left = 0  # bytes of body that are still to come; -1: any number
        self._posted = self._acknowledged = 0
        self._is_broken = False
        self.environ: dict[str, Any] = {}
        """The application's, which may have changed it; empty before it is called."""
        self._remote: object = None
        # For the thread, from the loop.
        self._is_cancelled = False
        self._acknowledgements: SimpleQueue[int] = SimpleQueue()
        self._contents: SimpleQueue[bytes | None] = SimpleQueue()
        # The loop's own.
        self._unacknowledged = 0
        self._entered = monotonic()
        self._place: Place = gateway.pool.enter(self._run)  # last: the thread may run before the next line does

    # On the loop ------------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the request, wherever it is."""
        self._is_cancelled = True
        if self._gateway.pool.withdraw(self._place):
            self.over.set_result(None)
        else:
            self.limit.cancel(inf)

    def acknowledge(self) -> None:
        """What has been posted has found room, or never will."""
        if self._exchange.gone:
            self._acknowledgements.put(_BROKEN)
        elif self._unacknowledged:
            self._acknowledgements.put(self._unacknowledged)
            self._unacknowledged = 0

    def _take(self, head: _Answer | None, body: bytes, more: bool) -> None:
        exchange = self._exchange
        if not exchange.gone and not exchange.done:
            try:
                if head:
                    exchange.begin(head, body, more=more)
                else:
                    exchange.go_on(body, more=more)
            except Exception:  # it has been judged already: a mistake of ours
                self._gateway.log.exception(_MISTAKE)
                exchange.give_up(_FAILED)
        self._unacknowledged += len(body)
        if not exchange.blocked or exchange.gone:
            self.acknowledge()

    def _take_file(self, fd: int, offset: int, count: int) -> None:
        if self._exchange.gone or self._exchange.done:
            os.close(fd)
        else:
            self._exchange.send_descriptor(fd, offset, count)

    def _fetch(self) -> None:
        self._gateway.loop.create_task(self._fetch_content())

    async def _fetch_content(self) -> None:
        message = await self._exchange.receive()
        if message["type"] == "http.request":
            self._ended = not message["more_body"]
            self._contents.put(message["body"])
        else:
            self._contents.put(None)

    def _end(self, refusal: Refusal | None) -> None:
        """The thread has returned. `refusal`: its answer, or why what it has begun is cut short."""
        if refusal:
            self._exchange.give_up(refusal)
        self._gateway.pool.leave(self._place)
        if not self.over.done():
            self.over.set_result(None)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _run(self, place: Place) -> None:
        refusal: Refusal | None = _FAILED
        try:
            exchange = self._gateway.exchange(self._exchange.request, self, self, self._gateway.log)
            self.limit.run(inf, partial(self._serve, exchange, place))
            refusal = exchange.refusal
            if exchange.is_whole:
                refusal = None
        except Exception:  # what an application raises doesn't come here
            self._gateway.log.exception(_MISTAKE)
        finally:
            self._post(self._end, refusal)

    def _serve(self, exchange: _Pep3333, place: Place) -> None:
        if self._is_cancelled:
            return  # between the pool and here
        scope = self._exchange.scope
        waited = monotonic() - self._entered
        if QUEUE in scope:
            scope[QUEUE] += int(waited * 1e6)
        try:
            self._gateway.fronts.check_wait(waited)
        except Refusal as refusal:
            self._gateway.log.info(f"{self._exchange.name} has waited for a thread longer than queue_timeout")
            exchange.refusal = refusal
            return
        environ = self.environ = self._gateway.environ(scope)
        self._remote = environ["REMOTE_ADDR"]
        environ["arbiter.extend_deadline"] = scope["extensions"]["arbiter.extend_deadline"]
        environ["arbiter.io_bound"] = place.give_up
        self._context.run(exchange.run, self._gateway.app, environ)

    def open(self, answer: _Answer, framing: Framing, size: int) -> None:
        """A head is to go with the next part; `size` bytes of body belong to it, -1: any number."""
        remote = self.environ.get("REMOTE_ADDR")
        if remote is not self._remote:  # middleware like Werkzeug's ProxyFix: the access log has it too, as in Gunicorn
            self._exchange.scope["client"] = (str(remote), None)
        self._head = answer
        self._left = 0 if framing is _NONE else size

    def close(self) -> None:
        """The body is over."""
        if self._left:  # its end is not told by its length
            self._left = 0
            self._post(self._take, None, b"", False)

    def inform(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:
        """Post an interim response."""
        self._post(self._exchange.inform, fields, headers)

    def send(self, *parts: bytes) -> None:
        """Post all of the parts, as `Transport` has it; wait if too much is on its way."""
        if parts[0] is CONTINUE:
            return  # the stream's affair, when it is read
        if self._is_broken:
            raise Disconnected("the client has gone")
        head = None
        if parts[0] is _HEAD:
            head, self._head = self._head, None
            parts = parts[1:]
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        size = len(body)
        if self._left > 0:
            self._left -= size
        more = self._left != 0
        self._posted += size
        self._post(self._take, head, body, more)
        while more and self._posted - self._acknowledged > _WINDOW:
            count = self._acknowledgements.get()
            if count == _BROKEN:
                self._is_broken = True
                raise Disconnected("the client has gone in the middle of the response")
            self._acknowledged += count

    def settle(self) -> None:
        """Nothing is held: the loop writes what has been posted meanwhile in one piece."""

    send_soon = send
    send_last = send  # what becomes of the connection is the loop's affair

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Post part of a regular file, as `Transport` has it."""
        if self._exchange.sends_files and count == self._left:
            self._left = 0
            self._post(self._take_file, os.dup(fd), offset, count)
            return count
        done = 0
        while done < count and (block := os.pread(fd, min(_BLOCK, count - done), offset + done)):
            self.send(block)
            done += len(block)
        return done

    def receive(self) -> bytes:
        """Some content of the request, as `Transport` has it."""
        self._post(self._fetch)
        content = self._contents.get()
        if content is None:
            self._is_broken = True
            raise Disconnected("the client has gone, or was answered in the application's place")
        return content

    # What `wsgi_input` asks of a connection

    @property
    def body_ended(self) -> bool:
        """All content has been taken."""
        return self._ended and not self._pieces

    def next_body(self, most: int = _BLOCK) -> bytes | None:
        """As `http1.Connection` has it."""
        if not self._pieces:
            return b"" if self._ended else None
        piece = self._pieces.popleft()
        if len(piece) > most:
            self._pieces.appendleft(piece[most:])
            piece = piece[:most]
        return piece

    def feed(self, data: bytes) -> None:
        """As `http1.Connection` has it, for content."""
        if data:
            self._pieces.append(data)


class _Pep3333(wsgi.Exchange):
    """The WSGI exchange whose wire is a visit."""

    __slots__ = ("_visit", "refusal")

    def __init__(self, request: Any, connection: Any, visit: _Visit, log: Log) -> None:
        super().__init__(request, connection, visit, log, persistent=True)
        self._visit = visit
        self.refusal: Refusal | None = _FAILED
        """What the loop's exchange is to do if the response is not whole."""

    @property
    def is_whole(self) -> bool:
        """All of the response has been posted."""
        return self._done

    def _head(self, known: int) -> Head:
        fields = self._fields
        method = self.request.method
        size = fields.length if fields.length >= 0 else known
        framing = _LENGTH if size >= 0 else _CLOSE
        if method == b"HEAD" or self.status in (204, 304):
            framing = _NONE
        if fields.length < 0 and known >= 0 and self.status not in (204, 304) and (known or method != b"HEAD"):
            fields = fields._replace(length=known, block=fields.block + b"Content-Length: %d\r\n" % known)
        self._visit.open(_Answer(self.status, self._status_line, fields, _pairs(self.headers)), framing, size)
        return Head(_HEAD, framing, size if framing is _LENGTH else 0, persistent=True)

    def _relay(self, result: Iterable[bytes]) -> None:
        super()._relay(result)
        self._visit.close()

    def _send(self, head: bytes, piece: bytes) -> None:
        if head:
            self._visit.send(head, piece)  # apart: the head is none of bytes
        else:
            self._visit.send(piece)
        self.sent += len(piece)

    def _hint(self, fields: Fields, headers: list[tuple[str, str]]) -> None:
        self._visit.inform(fields, _pairs(headers))

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal


def _pairs(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
