"""One request through an ASGI 3 application: the state machine between its messages and a stream, whatever the wire.

Theory: the head is held back until the first body message, so that until then any failure can still become an honest error
response, the length of a short response is known, and head and body leave in one write. An application that suspends between
the two gets its head sent at the end of the loop's turn (`Site.hold`). After the head a failure can only be shown by cutting
the response short: the stream is aborted.

The wire is a `Stream`: HTTP/1 (`http1_connection`), a stream of HTTP/2, a blocking transport of another worker's. It frames;
what a response may be (its order, its length, whether there is a body at all) is judged here, once for all of them.

Rules: one real task per request. A response is over when it is over, not when the application returns: what the application
does after it (background tasks) holds no connection. No traceback ever reaches a client; whatever an application raises,
`SystemExit` included, is its request's failure and not the worker's.

Source: the ASGI HTTP specification 2.4 and its extensions.
"""

from __future__ import annotations

import os
import stat
from asyncio import CancelledError
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from arbiter.workers.contract import Interrupted
from arbiter.workers.copies import leave, this
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.protocols.policy import (
    BadResponseError,
    Refusal,
    check_byte_fields,
    check_response_trailers,
    status_line,
)
from arbiter.workers.stacks import application_traceback, stack_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from arbiter.workers.contract import Log
    from arbiter.workers.protocols.policy import Fields, Request

    Message: TypeAlias = dict[str, Any]
    Scope: TypeAlias = dict[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# What the application may send next.
_START, _HELD, _BODY, _TRAILERS, _DONE = range(5)

_BLOCK: Final = 64 * 1024
"""Bytes of a file to read at once for a stream that can't have the kernel send it."""


class Stream(Protocol):
    """One request's place on the wire. All calls are made on the loop's thread, none of them waits.

    What the exchange is told in turn: `Exchange.wake` (there is something to `read`), `Exchange.resume` (no longer
    `blocked`), `Exchange.leave` (the client has gone: nothing more can be sent), `Exchange.give_up` (the request is answered
    by the server itself).
    """

    blocked: bool
    """More is on its way than the client takes: `send` waits for `Exchange.resume`, or for the end."""
    sends_files: bool
    """`send_file` may be called."""

    @property
    def body_ended(self) -> bool:
        """All content of the request has been read."""

    def read(self) -> bytes | None:
        """Some content of the request; ``b""``: it has ended; None: nothing is here yet, and `Exchange.wake` will be called.

        A client that waits for 100-continue is told to go on by the first call.

        Raises:
            Refusal: the content is malformed or too long. `Exchange.give_up` with it answers.
        """

    def send_early_hints(self, fields: Fields, headers: list[tuple[bytes, bytes]]) -> None:
        """Send a 103 (RFC 8297), if the client can have one."""

    def send_head(self, exchange: Exchange, body: bytes, known: int, *, ended: bool) -> None:
        """Send the head of the final response and the first piece of its body.

        Args:
            exchange: with `status`, `fields`, `headers`; the stream may note in `head_size` how many bytes the head took.
            body: already without what must not be sent (HEAD, 204, 304).
            known: bytes that the whole body will have, if that is known; else -1.
            ended: nothing follows, no trailers either.
        """

    def send_body(self, body: bytes, *, ended: bool) -> None:
        """Send a piece of body, perhaps an empty one."""

    def send_file(self, fd: int, offset: int, count: int, *, ended: bool) -> None:
        """Send part of a regular file as body; `fd` is the stream's to close. Only where `sends_files`."""

    def send_trailers(self, block: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """End the response with trailer fields, as lines and as pairs; where there can be none, without."""

    def refuse(self, refusal: Refusal, *, head_only: bool) -> int:
        """Answer with a whole response of the server's own. Returns the bytes of its body."""

    def abort(self) -> None:
        """Cut the response short, so that the client sees it."""

    def complete(self) -> None:
        """The response is over, whole, refused or aborted: the exchange says nothing more. The last call."""


class Host(Protocol):
    """What an exchange needs of those who run it (`site.Site`)."""

    cancels_on_disconnect: bool
    loop: asyncio.AbstractEventLoop
    log: Log

    def hold(self, exchange: Exchange) -> None:
        """Call `flush` of the exchange at the end of the loop's turn."""

    def answered(self, exchange: Exchange) -> None:
        """The response is over: count it, log it."""

    def ended(self, exchange: Exchange) -> None:
        """The application has returned."""


class Exchange:
    """A request and its response. The public attributes tell what became of it."""

    __slots__ = (
        "_drains",
        "_host",
        "_left",
        "_received",
        "_state",
        "_stream",
        "_trailers",
        "_waiters",
        "closing",
        "deadline",
        "fields",
        "gone",
        "head_size",
        "headers",
        "request",
        "scope",
        "sent",
        "started",
        "status",
        "task",
    )

    status_line: bytes = b""
    """With words of its own and its line end, where an application has any; ASGI has the number only."""

    def __init__(self, host: Host, stream: Stream, request: Request, scope: Scope, started: float) -> None:
        """`started`: when the head had arrived, in monotonic seconds."""
        self._host = host
        self._stream = stream
        self.request = request
        self.scope = scope
        """The application's; it may have changed it."""
        self.started = started
        self.deadline = 0.0
        """Monotonic seconds: when the request is cancelled; 0.0: never. Its host's."""
        self.task: asyncio.Task[None] | None = None
        self.status = 0
        """What was answered; 499 (nginx's number) if the client went before there was an answer."""
        self.headers: Any = ()
        """As the application gave them; empty for an answer of our own."""
        self.fields = NO_FIELDS
        """The same, checked."""
        self.sent = 0
        """Bytes of body that were sent, without their framing."""
        self.head_size = 0
        self.gone = False
        """Nothing that the application sends arrives any more: its client has left, or was answered by the server."""
        self.closing = False
        """The application is to see ``http.disconnect`` when it asks, though its client is there."""
        self._state = _START
        self._received = False  # the application has had the whole body
        self._left = _ANY  # bytes of body that may still be sent
        self._trailers: Any = False  # whether there are to be any; then those that have been sent, while more are to come
        self._waiters: list[asyncio.Future[None]] | None = None
        self._drains: list[asyncio.Future[None]] | None = None

    # The application's side -------------------------------------------------------------------------------------------

    async def run(self, app: Application) -> None:
        """Have the application answer, whatever it does. The body of the request's task; never raises."""
        try:
            await app(self.scope, self.receive, self.send)
        except Interrupted:
            pass  # the worker leaves at once
        except BaseException as failure:  # noqa: BLE001  whatever an application raises ends its request only
            if this.is_copy:
                leave(failure)
            self._fail(failure)
        else:
            if this.is_copy:
                leave()
            if self._state != _DONE:
                self._fail(None)
        self._host.ended(self)

    async def receive(self) -> Message:
        """ASGI's ``receive``. Any number of tasks may wait in it."""
        while not self._received and self._state != _DONE:
            if self.gone:
                return {"type": "http.disconnect"}
            stream = self._stream
            try:
                data = stream.read()
            except Refusal as refusal:
                self.give_up(refusal)
                continue
            if data is None:
                await self._wait()
                continue
            self._received = ended = stream.body_ended
            return {"type": "http.request", "body": data, "more_body": not ended}
        while not (self.gone or self.closing or self._state == _DONE):
            await self._wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI's ``send``.

        Raises:
            Disconnected: an OSError, as ASGI 2.4 wants it: nothing arrives any more.
            BadResponseError: the message must not be sent; if the head has been, the response is cut short.
            RuntimeError: the message is not due now.
        """
        kind = message["type"]
        state = self._state
        if self.gone:
            raise Disconnected("the client has gone, or was answered in the application's place")
        if kind == "http.response.body":
            if state != _HELD and state != _BODY:  # noqa: PLR1714 - a tuple costs more in the path of every response
                raise self._not_due(kind)
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = _as_bytes(body)
            more = message.get("more_body", False)
            if state == _HELD:
                self._begin(body, more=more)
            else:
                self._go_on(body, more=more)
            if more and self._stream.blocked:
                await self._drained()
        elif kind == "http.response.start":
            if state != _START:
                raise self._not_due(kind)
            if this.is_copy:
                leave()
            status = message["status"]
            status_line(status)
            headers = message.get("headers", ())
            if type(headers) is not list:
                headers = list(headers)
            self.fields = check_byte_fields(headers)
            self.status = int(status)
            self.headers = headers
            self._trailers = message.get("trailers", False)
            self._state = _HELD
            self._host.hold(self)
        else:
            await self._send_other(kind, message)

    async def _send_other(self, kind: str, message: Message) -> None:
        """The messages of ASGI's extensions."""
        state = self._state
        if kind == "http.response.trailers":
            if state != _TRAILERS:
                raise self._not_due(kind)
            headers = [(name, value) for name, value in message.get("headers", ())]
            check_response_trailers(headers)  # before any are kept
            if type(self._trailers) is list:
                headers = [*self._trailers, *headers]
            if message.get("more_trailers", False):
                self._trailers = headers
            else:
                self._stream.send_trailers(check_response_trailers(headers), headers)
                self._done()
        elif kind == "http.response.early_hint":
            if state != _START:
                raise self._not_due(kind)
            links = [(b"link", link) for link in message.get("links", ())]
            if links:
                self._stream.send_early_hints(check_byte_fields(links), links)
        elif kind == "http.response.debug":
            pass  # for test clients, which take it from the application themselves
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            if state not in (_HELD, _BODY):
                raise self._not_due(kind)
            if kind == "http.response.pathsend":
                await self._send_path(message["path"])
            else:
                await self._send_part(message)
        else:
            raise RuntimeError(f"ASGI has no message {kind!r} for a response")

    async def _send_path(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._send_file(fd, 0, os.fstat(fd).st_size, more=False)
        finally:
            os.close(fd)

    async def _send_part(self, message: Message) -> None:
        file = message["file"]
        fd = file if isinstance(file, int) else file.fileno()
        offset = message.get("offset")
        begin = os.lseek(fd, 0, os.SEEK_CUR) if offset is None else offset
        left = max(0, os.fstat(fd).st_size - begin)
        wanted = message.get("count")
        count = left if wanted is None else min(left, wanted)
        await self._send_file(fd, begin, count, more=message.get("more_body", False))
        if offset is None:
            os.lseek(fd, begin + count, os.SEEK_SET)

    async def _send_file(self, fd: int, offset: int, count: int, *, more: bool) -> None:
        """Send part of a file, by the kernel where that can be."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadResponseError("only a regular file can be sent without copying it")
        stream = self._stream
        if self._state == _HELD and count > _BLOCK and not more and not self._trailers and self.fields.length < 0:
            self.fields = self.fields._replace(length=count, block=self.fields.block + b"content-length: %d\r\n" % count)
            self.headers = [*self.headers, (b"content-length", b"%d" % count)]
        if count > _BLOCK and stream.sends_files:
            if self._state == _HELD:
                self._begin(b"", more=True)
            if self._left != _NONE:
                if self._left != _ANY and count > self._left:
                    raise BadResponseError(f"the file has {count} bytes, and the Content-Length leaves room for {self._left}")
                ended = not more and not self._trailers
                if ended and self._left != _ANY and count < self._left:
                    raise BadResponseError(f"the body is {self._left - count} bytes shorter than its Content-Length")
                stream.send_file(os.dup(fd), offset, count, ended=ended)
                self.sent += count
                if self._left != _ANY:
                    self._left -= count
            if not more:
                self._finish()
            elif stream.blocked:
                await self._drained()
            return
        while True:
            block = os.pread(fd, min(count, _BLOCK), offset)
            if len(block) < min(count, _BLOCK):
                raise BadResponseError("the file became shorter while it was sent")
            offset += len(block)
            count -= len(block)
            message = {"type": "http.response.body", "body": block, "more_body": more or count > 0}
            await self.send(message)
            if not count:
                return

    def _begin(self, body: bytes, *, more: bool) -> None:
        """Send the head, and a first piece of body that may be empty."""
        fields = self.fields
        length = fields.length
        size = len(body)
        known = -1 if more or self._trailers else size
        if self.status in _BODILESS or self.request.method == b"HEAD":
            self._left = _NONE
            body = b""
        elif length >= 0:
            if size > length or (not more and size < length):
                raise BadResponseError(
                    f"the Content-Length is {length}, the body has {size} bytes{' and more' if more else ''}"
                )
            self._left = length - size
            self.sent = size
        else:
            self.sent = size
        self._state = _BODY
        ended = not more and not self._trailers
        self._stream.send_head(self, body, known, ended=ended)
        if not more:
            self._finish()

    def _go_on(self, body: bytes, *, more: bool) -> None:
        """Send a piece of body."""
        ended = not more and not self._trailers
        left = self._left
        if left == _NONE:
            if ended:
                self._stream.send_body(b"", ended=True)
        else:
            size = len(body)
            if left >= 0:
                if size > left:
                    if left:
                        self.sent += left
                        self._left = 0
                        self._stream.send_body(body[:left], ended=False)
                    raise BadResponseError(
                        f"the body is {size - left} bytes or more longer than the Content-Length that was sent"
                    )
                self._left = left = left - size
                if left and not more:
                    raise BadResponseError(f"the body is {left} bytes shorter than the Content-Length that was sent")
            self.sent += size
            if size or ended:
                self._stream.send_body(body, ended=ended)
        if not more:
            self._finish()

    def _finish(self) -> None:
        """The application has sent its whole body."""
        if self._trailers:
            self._state = _TRAILERS
        else:
            self._done()

    def _not_due(self, kind: str) -> RuntimeError:
        if self._state == _DONE:
            return RuntimeError(f"{kind!r} was sent after the response was complete")
        due = {_START: "http.response.start", _TRAILERS: "http.response.trailers"}.get(self._state, "http.response.body")
        return RuntimeError(f"{kind!r} was sent where ASGI expects {due!r}")

    async def _wait(self) -> None:
        """Wait until something happens: each waiter has a future of its own, since a cancelled waiter cancels its future."""
        waiter = self._host.loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        await waiter

    async def _drained(self) -> None:
        """Wait until the client has taken enough.

        Raises:
            Disconnected: it has gone.
        """
        while self._stream.blocked and not self.gone:
            waiter = self._host.loop.create_future()
            if self._drains is None:
                self._drains = [waiter]
            else:
                self._drains.append(waiter)
            await waiter
        if self.gone:
            raise Disconnected("the client has gone in the middle of the response")

    # The stream's and the host's side ---------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Some of the response may be on its way."""
        return self._state > _HELD

    @property
    def done(self) -> bool:
        """The response is over."""
        return self._state == _DONE

    @property
    def name(self) -> str:
        """What the log calls it."""
        request = self.request
        return f"{request.method.decode()} {request.target.decode()}"

    def stack(self) -> str:
        """What the application is at, as lines of a traceback."""
        return stack_of(self.task)

    def flush(self) -> None:
        """Send the head, if it is still held back: the application has suspended before it gave a piece of body."""
        if self._state == _HELD and not self.gone:
            self._begin(b"", more=True)

    def wake(self) -> None:
        """Something has come, or will never come: whoever waits in `receive` is to look again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def resume(self) -> None:
        """The stream is not blocked any more: whoever waits in `send` may go on."""
        if self._drains:
            drains, self._drains = self._drains, None
            for waiter in drains:
                if not waiter.done():
                    waiter.set_result(None)

    def close_soon(self) -> None:
        """Tell the application, when it asks, that its client has gone: the worker leaves, and waits no longer than it must."""
        self.closing = True
        self.wake()

    def leave(self) -> None:
        """The client has gone."""
        if self._state == _DONE or self.gone:
            return
        self._part(499 if not self.begun else self.status)
        if self._host.cancels_on_disconnect and self.task is not None:
            self.task.cancel()

    def give_up(self, refusal: Refusal) -> None:
        """Answer in the application's place, or cut short what it has begun. It learns that its client has gone."""
        if self._state == _DONE or self.gone:
            return
        if self.begun:
            self._stream.abort()
            self._part(self.status)
        else:
            self.headers, self.fields = (), NO_FIELDS
            self.sent = self._stream.refuse(refusal, head_only=self.request.method == b"HEAD")
            self._part(refusal.status)

    def cancel(self, refusal: Refusal) -> None:
        """`give_up`, and cancel the application."""
        self.give_up(refusal)
        if self.task is not None:
            self.task.cancel()

    def _part(self, status: int) -> None:
        self.status = status
        self.gone = True
        self._done()
        self.resume()

    def _done(self) -> None:
        """The response is over."""
        self._state = _DONE
        self._host.answered(self)
        if self._waiters:
            self.wake()
        self._stream.complete()

    def _fail(self, failure: BaseException | None) -> None:
        """The application has ended without a whole response, or has raised after it. In an except block, or with None."""
        if self.gone:
            if failure is not None and not follows_from_parting(failure):
                self._tell(failure, "failed after its client had gone")
        elif self._state == _DONE:
            if not isinstance(failure, CancelledError):
                self._tell(failure, "raised after its response was complete")
        else:
            what = "failed" if failure is not None else "returned"
            if self.begun:
                self._tell(failure, f"{what} in the middle of its response, which is cut short")
            else:
                self._tell(failure, f"{what} without a response; the client was told 500")
            self.give_up(Refusal(500, "The application failed; its log says why."))

    def _tell(self, failure: BaseException | None, what: str) -> None:
        """Log what the application has done wrong, once."""
        trace = application_traceback(failure)
        self._host.log.error(f"{self.name}: the application {what}" + (f"\n{trace}".rstrip() if trace else ""))


NO_FIELDS: Final = check_byte_fields(())
_ANY: Final = -1  # there may be any number of bytes
_NONE: Final = -2  # all bytes are thrown away
_BODILESS: Final = frozenset({204, 304})


def _as_bytes(body: object) -> bytes:
    """A body that is no `bytes` but as good (Starlette hands on memoryviews).

    Raises:
        TypeError: it is not.
    """
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise TypeError(f"the application gave {type(body).__name__} as a piece of body, not bytes")


def follows_from_parting(failure: BaseException) -> bool:
    """Whether an exception is what a client's going makes of an application: no fault of its own."""
    seen: BaseException | None = failure
    while seen is not None:
        if isinstance(seen, (Disconnected, CancelledError)):
            return True
        if isinstance(seen, BaseExceptionGroup):
            return all(follows_from_parting(part) for part in seen.exceptions)
        seen = seen.__cause__ or seen.__context__
    return False
