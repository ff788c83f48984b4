"""One WebSocket through an ASGI 3 application: the state machine between its messages and a stream, whatever carries that.

Theory: until the application accepts, this is an HTTP request that can be answered: `websocket.close` is a 403, the extension
`websocket.http.response` any response (an `asgi.Exchange` sends it). From `websocket.accept` on, the stream carries frames,
which `protocols.websocket` reads and writes. Messages wait in a queue for `receive`; when it is full, nothing more is read of
the client, and TCP (or HTTP/2's flow control) slows it down. `send` waits while the client does not read.

A close frame of the client's is a message in that queue too: it is answered when the application has had everything before
it and asks for more, so its answers to the last messages still go out; an application that does not ask is not waited for
longer than `_ANSWER`.

The carrier is a `WebSocketStream`: a connection of HTTP/1.1 after its 101 (`websocket_connection`), or a stream of HTTP/2
(RFC 8441), which brings what `asgi.Stream` has and five things more. What it tells in turn: `receive_bytes` with what has
arrived, `resume` when it is no longer `blocked`, `leave` when the client has gone, `expire` when `deadline` has passed,
`retire` and `wind_up` when the worker leaves.

It is longer than most modules because it is one state machine: who may close, who must answer and who is told depends on both
sides at once.

Source: the ASGI WebSocket specification 2.4; RFC 6455 section 7 for the end.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections import deque
from math import inf
from sys import maxsize
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol

from arbiter.workers.contract import Interrupted
from arbiter.workers.copies import leave, this
from arbiter.workers.interfaces.asgi import NO_FIELDS, Exchange, Host, Stream, follows_from_parting
from arbiter.workers.interfaces.transport import Disconnected
from arbiter.workers.protocols.policy import Refusal, check_byte_fields
from arbiter.workers.protocols.websocket import (
    ABNORMAL,
    INTERNAL_ERROR,
    NORMAL,
    SERVICE_RESTART,
    Closed,
    Pong,
    WebSocket,
    may_close_with,
)
from arbiter.workers.protocols.websocket_deflate import agree
from arbiter.workers.stacks import application_traceback, stack_of

if TYPE_CHECKING:
    import asyncio

    from arbiter.config.schema import Settings
    from arbiter.workers.interfaces.asgi import Application, Message, Scope
    from arbiter.workers.protocols.policy import Fields, Request
    from arbiter.workers.protocols.websocket_deflate import Agreement
    from arbiter.workers.protocols.websocket_handshake import Offer

EXTENSIONS: Final[dict[str, Any]] = {"websocket.http.response": {}}
"""What `WebSocketExchange.send` understands besides the core messages."""

_CONNECTING, _DENYING, _OPEN, _CLOSED = range(4)

_QUEUED: Final = 64 * 1024
"""Characters and bytes of messages in the queue from which on nothing more is read, however few they are."""
_TURN: Final = 64
"""Frames of one client in one turn of the loop, before others have theirs: about 1 ms, or of messages whatever the application
makes of them."""
_EARLY: Final = 64 * 1024
"""Bytes of a client that sends before it is accepted."""
_ANSWER: Final = 1.0
"""Seconds that a close frame waits for the application, which may be answering what came before it. Autobahn, for one, waits
that long."""
CLOSE_TIMEOUT: Final = 5.0
"""Seconds to wait for the answer to a close frame: browsers take two, the library websockets ten. It bounds how long a client
that has vanished keeps a worker that wants to leave."""


class WebSocketHost(Host, Protocol):
    """What a WebSocket needs of those who run it (`site.Site`)."""

    def answered(self, exchange: Exchange | WebSocketExchange) -> None:
        """The handshake has been answered: count it, log it."""

    def opened(self, exchange: WebSocketExchange) -> None:
        """It has been accepted. After `answered`."""

    def ended(self, exchange: Exchange | WebSocketExchange) -> None:
        """The application has returned."""


class WebSocketStream(Stream, Protocol):
    """What carries one WebSocket. All calls are made on the loop's thread, none of them waits."""

    def accept(self, offer: Offer, subprotocol: str | None, agreement: Agreement | None, fields: Fields) -> int:
        """Answer the handshake; the stream carries frames from now on. Returns the size of the head in bytes.

        `websocket_handshake.accept` makes it for HTTP/1.1; over HTTP/2 it is a 200 with the application's fields and
        `websocket_handshake.lines_of_accept`.

        Raises:
            BadResponseError: see there; nothing was sent.
        """

    def write(self, data: bytes) -> None:
        """Send bytes, or queue them. Nothing happens if the client has gone."""

    def pause_reading(self) -> None:
        """Have no more bytes given to `receive_bytes` than those at hand, so that the client is slowed down."""

    def resume_reading(self) -> None:
        """The opposite."""

    def finish(self, *, gently: bool) -> None:
        """Nothing more will be sent: close when all has been taken. The exchange has ended.

        Args:
            gently: the client may still be sending: what it sends is to be thrown away for a while, since a connection
                that is closed with bytes unread is reset, and the last frame with it (RFC 6455 section 7.1.1).
        """

    def book(self, moment: float) -> None:
        """Have `WebSocketExchange.expire` called at this moment, in monotonic seconds; `inf`: not."""


class WebSocketExchange:
    """A WebSocket and its handshake. The attributes that `asgi.Exchange` has too tell of the handshake's answer."""

    __slots__ = (
        "_agreement",
        "_asked",
        "_drains",
        "_early",
        "_ended",
        "_heard",
        "_host",
        "_http",
        "_offer",
        "_paused",
        "_pinged",
        "_queue",
        "_queued",
        "_restarts",
        "_rests",
        "_room",
        "_settings",
        "_socket",
        "_state",
        "_stream",
        "_waiter",
        "_waiters",
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

    def __init__(
        self, host: WebSocketHost, stream: WebSocketStream, request: Request, offer: Offer, scope: Scope, settings: Settings
    ) -> None:
        self._host = host
        self._stream = stream
        self._offer = offer
        self._settings = settings
        self.request = request
        self.scope = scope
        self.started = monotonic()
        self.deadline = inf
        """Monotonic seconds: when the handshake is cancelled. Its host's."""
        self.task: asyncio.Task[None] | None = None
        self.status = 0
        self.headers: Any = ()
        self.fields = NO_FIELDS
        self.head_size = 0
        self.sent = 0
        self.gone = False
        """Nothing that the application sends arrives any more."""
        self._state = _CONNECTING
        self._asked = False  # the application has had websocket.connect
        self._early = b""
        self._socket: WebSocket = _NOT_YET
        self._http: Exchange | None = None  # sends another answer than 101
        self._queue: deque[str | bytes] = deque()
        self._queued = 0
        self._room = settings.ws_max_queue
        self._paused = False
        self._rests = False  # it goes on with what has been received in the next turn of the loop
        self._ended: Closed | None = None  # what websocket.disconnect will say, after the queue
        self._restarts = False  # to be closed when nothing is under way
        self._pinged = 0.0  # when a ping was sent whose pong has not come; 0.0: none
        self._heard = False  # something has been received since then
        self._waiter: asyncio.Future[None] | None = None  # in `receive`; each has one of its own: to cancel a waiter cancels it
        self._waiters: list[asyncio.Future[None]] = []  # more of them
        self._drains: list[asyncio.Future[None]] | None = None

    # The application's side -------------------------------------------------------------------------------------------

    async def run(self, app: Application) -> None:
        """Have the application do its part, whatever it does. The body of the task; never raises."""
        try:
            await app(self.scope, self.receive, self.send)
        except Interrupted:
            pass  # the worker leaves at once
        except BaseException as failure:  # noqa: BLE001  whatever an application raises ends its WebSocket only
            if this.is_copy:
                leave(failure)
            self._fail(failure)
        else:
            if this.is_copy:
                leave()
            self._fail(None)
        self._host.ended(self)

    async def receive(self) -> Message:
        """ASGI's ``receive``. Any number of tasks may wait in it."""
        if not self._asked:
            self._asked = True
            return {"type": "websocket.connect"}
        while True:
            if self._queue:
                message = self._queue.popleft()
                self._queued -= len(message)
                if self._paused and not self._rests:
                    self._pump()
                if type(message) is str:
                    return {"type": "websocket.receive", "text": message}
                return {"type": "websocket.receive", "bytes": message}
            if self._ended is not None:
                self._answer_close()
                return {"type": "websocket.disconnect", "code": self._ended.code, "reason": self._ended.reason}
            if self._http is not None and self._http.done:
                return {"type": "websocket.disconnect", "code": ABNORMAL, "reason": ""}
            if self._restarts and self._state == _OPEN:
                self._close(SERVICE_RESTART, "")
                continue
            # Written out: a coroutine more costs a tenth of an echo.
            waiter = self._host.loop.create_future()
            if self._waiter is None:
                self._waiter = waiter
            else:
                self._waiters.append(waiter)
            await waiter

    async def send(self, message: Message) -> None:
        """ASGI's ``send``.

        Raises:
            Disconnected: an OSError, as ASGI 2.4 wants it: nothing arrives any more.
            BadResponseError, TypeError, ValueError: the message must not be sent; nothing was.
            RuntimeError: the message is not due now.
        """
        kind = message["type"]
        if self._state == _OPEN:
            if kind == "websocket.send":
                data = message.get("text")
                if data is None:
                    data = message.get("bytes")
                    if type(data) is not bytes:
                        data = _as_bytes(data)
                elif type(data) is not str:
                    raise TypeError(f"the 'text' of websocket.send is {type(data).__name__}, not str")
                self._stream.write(self._socket.message(data))
                if self._stream.blocked:
                    await self._drained()
            elif kind == "websocket.close":
                self._close_by_application(message)
            else:
                raise RuntimeError(f"{kind!r} was sent after the WebSocket was accepted")
        elif self.gone:
            raise Disconnected("the WebSocket is closed: its client has gone, or has been told to")
        elif kind == "websocket.accept" and self._state == _CONNECTING:
            self._accept(message)
        elif kind == "websocket.close" and self._state == _CONNECTING:
            self._refuse(Refusal(403, "The application does not accept this WebSocket."))
        elif kind in ("websocket.http.response.start", "websocket.http.response.body") and self._state != _CLOSED:
            await self._deny(message)
        elif self._state == _CONNECTING:
            raise RuntimeError(f"{kind!r} was sent before the WebSocket was accepted")
        else:
            raise RuntimeError(f"{kind!r} was sent after the WebSocket was closed or refused")

    def _accept(self, message: Message) -> None:
        headers = [(name, value) for name, value in message.get("headers") or ()]
        check_byte_fields(headers)
        subprotocol = message.get("subprotocol") or None
        if subprotocol is None:
            # Some applications choose it by its header.
            chosen = [value for name, value in headers if name.lower() == b"sec-websocket-protocol"]
            if chosen:
                subprotocol = chosen[0].decode("latin-1")
                headers = [pair for pair in headers if pair[0].lower() != b"sec-websocket-protocol"]
        settings = self._settings
        agreement = agree(self._offer.extensions) if settings.ws_per_message_deflate else None
        self.fields = check_byte_fields(headers)
        self.head_size = self._stream.accept(self._offer, subprotocol, agreement, self.fields)
        self.headers = headers
        self.status = 101
        self._state = _OPEN
        self._socket = WebSocket(settings.ws_max_size, agreement, settings.ws_per_message_deflate_threshold)
        self._host.answered(self)
        self._host.opened(self)
        if settings.ws_ping_interval:
            self._stream.book(monotonic() + settings.ws_ping_interval)
        early, self._early = self._early, b""
        self._stream.resume_reading()
        if early:
            self.receive_bytes(early)

    def _close_by_application(self, message: Message) -> None:
        code = message.get("code")
        code = NORMAL if code is None else code
        reason = message.get("reason") or ""
        if not isinstance(code, int) or not may_close_with(code):
            raise ValueError(f"a WebSocket can't be closed with code {code!r}: it is reserved, or no number from 1000 to 4999")
        if not isinstance(reason, str):
            raise TypeError(f"the reason {reason!r} for closing a WebSocket is no str")
        self._close(code, reason)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer the handshake with a response of the server's own."""
        self._state = _CLOSED
        self.status = refusal.status
        self.sent = self._stream.refuse(refusal, head_only=False)
        self._part(ABNORMAL, "")
        self._host.answered(self)
        self._stream.complete()

    async def _deny(self, message: Message) -> None:
        """Answer the handshake with a response of the application's."""
        if self._http is None:
            self._http = Exchange(self._host, self._stream, self.request, self.scope, self.started)
            self._state = _DENYING
        http = self._http
        await http.send({**message, "type": message["type"].removeprefix("websocket.")})
        if http.done:
            self._state = _CLOSED
            self._wake()

    def _fail(self, failure: BaseException | None) -> None:
        """The application has returned, or has raised."""
        what = "failed" if failure is not None else "returned"
        if self._state == _OPEN:
            if failure is None:
                self._close(NORMAL, "")
            elif isinstance(failure, CancelledError):
                self._close(SERVICE_RESTART, "")
            else:
                self._tell(failure, f"failed; its WebSocket is closed with {INTERNAL_ERROR}")
                self._close(INTERNAL_ERROR, "")
        elif self._state == _CLOSED:
            if failure is not None and not follows_from_parting(failure):
                self._tell(failure, "failed after its WebSocket had been closed")
        elif self._http is not None and self._http.begun:
            self._tell(failure, f"{what} in the middle of its response, which is cut short")
            self._http.give_up(_FAILED)
        else:
            self._tell(failure, f"{what} without accepting or closing; the client was told 500")
            self._refuse(_FAILED)

    def _tell(self, failure: BaseException | None, what: str) -> None:
        """Log what the application has done wrong, once."""
        trace = application_traceback(failure)
        self._host.log.error(f"{self.name}: the application {what}" + (f"\n{trace}".rstrip() if trace else ""))

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
            raise Disconnected("the client has gone, or has been told to")

    # The stream's side ------------------------------------------------------------------------------------------------

    def receive_bytes(self, data: bytes) -> None:
        """Take what the client has sent."""
        if self._state != _OPEN:
            if self._state == _CONNECTING:
                self._early += data
                if len(self._early) >= _EARLY:
                    self._stream.pause_reading()
            elif not self._socket.over and self._socket is not _NOT_YET:
                self._take_close_only(data)
            return
        if self._pinged:
            self._heard = True
        self._socket.feed(data)
        self._socket.allowance = _TURN
        self._pump()

    def _pump(self) -> None:
        """Move what has been received into the queue, as far as there is room."""
        socket = self._socket
        queue = self._queue
        room = self._room
        waits = bool(queue)
        while True:
            if len(queue) >= room or self._queued >= _QUEUED:
                if not self._paused:
                    self._paused = True
                    self._stream.pause_reading()
                break
            if socket.allowance <= 0:
                self._rest()
                break
            event = socket.next_event()
            if event is None:
                if socket.allowance <= 0:
                    continue
                if self._paused:
                    self._paused = False
                    self._stream.resume_reading()
                break
            if type(event) is str or type(event) is bytes:
                queue.append(event)
                self._queued += len(event)
                if not (socket.more or self._paused):
                    break
                socket.allowance -= 1
            elif type(event) is Pong:
                self._take_pong()
            elif type(event) is Closed:
                self._take_close(event)
                break
        if socket.replies:
            self._send_pongs()
        if queue and not waits:
            self._wake()

    def _rest(self) -> None:
        """Go on in the next turn of the loop: a client that sends frame upon frame has one turn while others wait."""
        if not self._paused:
            self._paused = True
            self._stream.pause_reading()
        self._rests = True
        self._host.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._rests = False
        if self._state == _OPEN:
            self._socket.allowance = _TURN
            self._pump()

    def _send_pongs(self) -> None:
        socket = self._socket
        if self._stream.blocked:
            del socket.replies[:-1]  # a client that pings and does not read makes us hold one
        else:
            self._stream.write(socket.take_replies())

    def _take_pong(self) -> None:
        if self._pinged:
            self._pinged = 0.0
            self._stream.book(monotonic() + self._settings.ws_ping_interval)

    def _take_close(self, closed: Closed) -> None:
        """The client closes, or has broken a rule. Answered at once if the application has nothing to do, else soon."""
        if self._socket.replies:
            self._send_pongs()
        self._ended = closed
        if self._is_idle:
            self._wake()
            self._answer_close()
        else:
            self._stream.book(monotonic() + _ANSWER)

    def _answer_close(self) -> None:
        """Send the answer to the client's close frame, if it is still to be sent, and end."""
        if self._state == _OPEN and self._ended is not None:
            ended = self._ended
            self._stream.write(ended.reply)
            self._part(ended.code, ended.reason)
            self._stream.finish(gently=ended.failed)

    def _close(self, code: int, reason: str) -> None:
        """Close from our side: the client's answer is waited for, the application is done with."""
        ended = self._ended
        self._stream.write(self._socket.close(code, reason))
        self._part(code, reason)
        if ended is not None:
            self._stream.finish(gently=ended.failed)  # it had closed before
        else:
            self._stream.book(monotonic() + CLOSE_TIMEOUT)
            self._paused = False
            self._stream.resume_reading()
            self.receive_bytes(b"")  # its close may be among what was not looked at

    def _take_close_only(self, data: bytes) -> None:
        """After our close: the client's ends it; what else it sends is for nobody."""
        socket = self._socket
        socket.feed(data)
        socket.allowance = maxsize
        while (event := socket.next_event()) is not None:
            if isinstance(event, Closed):
                self._stream.finish(gently=event.failed)
                return

    def _part(self, code: int, reason: str) -> None:
        """The application can send no more, and learns it when it asks, after what waits for it."""
        self._state = _CLOSED
        self.gone = True
        if self._ended is None:
            self._ended = Closed(code, reason, failed=False, reply=b"")
        self._wake()
        self.resume()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
            if self._waiters:
                waiters, self._waiters = self._waiters, []
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def resume(self) -> None:
        """The stream is not blocked any more."""
        if self._state == _OPEN and self._socket.replies:
            self._send_pongs()
        if self._drains:
            drains, self._drains = self._drains, None
            for waiter in drains:
                if not waiter.done():
                    waiter.set_result(None)

    def leave(self) -> None:
        """The client has gone, without a close frame or after it."""
        if self.gone:
            return
        if self._http is not None:
            self._http.leave()
        elif self._state == _CONNECTING:
            self.status = 499
            self._host.answered(self)
        self._part(ABNORMAL, "")

    def expire(self) -> None:
        """The moment of `WebSocketStream.book` has come."""
        if self._state == _CLOSED:
            self._stream.finish(gently=False)  # the answer to our close has not come
        elif self._ended is not None:
            self._answer_close()
        elif self._state == _OPEN:
            self._keep_alive()

    def _keep_alive(self) -> None:
        now = monotonic()
        settings = self._settings
        timeout = settings.ws_ping_timeout
        if not self._pinged:
            self._stream.write(self._socket.ping(b""))
            self._pinged = now
            self._heard = False
            self._stream.book(now + (timeout or settings.ws_ping_interval))
        elif not timeout:
            self._pinged = 0.0
            self._keep_alive()
        elif self._paused or self._stream.blocked or (self._heard and self._socket.inside_frame):
            # Its pong can't have arrived: we don't read, or it has not had our ping, or it is sending a long frame.
            self._heard = False
            self._stream.book(now + timeout)
        else:
            self._host.log.info(f"{self.name}: no pong within ws_ping_timeout ({timeout:g} s): the WebSocket is closed")
            self._close(INTERNAL_ERROR, "no pong")
            self._stream.finish(gently=False)

    def retire(self) -> None:
        """The worker leaves: close when the application has nothing to do for the client."""
        if self._state == _OPEN and self._is_idle:
            self._close(SERVICE_RESTART, "")
        self._restarts = True

    def wind_up(self) -> None:
        """Close now, whatever the application does."""
        if self._state == _OPEN:
            self._close(SERVICE_RESTART, "")

    # The host's side --------------------------------------------------------------------------------------------------

    @property
    def _is_idle(self) -> bool:
        """The application has had everything, and asks for more."""
        return not self._queue and self._waiter is not None and not self._waiter.done()

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"WebSocket {self.request.target.decode()}"

    def stack(self) -> str:
        """What the application is at, as lines of a traceback."""
        return stack_of(self.task)

    @property
    def done(self) -> bool:
        """It is over."""
        return self._state == _CLOSED

    def cancel(self, refusal: Refusal) -> None:
        """End it in the application's place, and cancel the application."""
        if self._state == _OPEN:
            self._close(SERVICE_RESTART, "")
        elif self._http is not None:
            self._http.give_up(refusal)
            self._part(ABNORMAL, "")
        elif self._state == _CONNECTING:
            self._refuse(refusal)
        if self.task is not None:
            self.task.cancel()


_FAILED: Final = Refusal(500, "The application failed; its log says why.")
_NOT_YET: Final = WebSocket(0)


def _as_bytes(data: object) -> bytes:
    """A binary message that is no `bytes` but as good.

    Raises:
        TypeError: it is not.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"websocket.send has neither 'text' (str) nor 'bytes': {type(data).__name__}")
