"""One request through a WSGI application: PEP 3333, whole.

Theory: the head is held back until the first non-empty piece of body (PEP 3333, "The start_response() Callable"), so
that until then any failure can still become an honest error response, and head and first piece leave in one send. After
that a failure can only be shown by cutting the response short: the client sees that something is missing, because the
end of the chunked body never comes, or the bytes don't add up; where the connection's end is the only mark, it is reset.

Rules: the application's ``close()`` is called once, whatever happened; no traceback ever reaches a client; whatever an
application raises, `SystemExit` included, is its request's failure and not the worker's. Only `Interrupted` passes.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from arbiter.workers.contract import Interrupted
from arbiter.workers.copies import leave, this
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.interfaces.wsgi_environ import WHOLE, add_request
from arbiter.workers.interfaces.wsgi_file import FileWrapper
from arbiter.workers.interfaces.wsgi_input import MalformedBodyError, open_input
from arbiter.workers.protocols.policy import BadResponseError, Refusal, check_fields, check_response
from arbiter.workers.protocols.response import EARLY_HINTS, LAST_CHUNK, Framing, build, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from arbiter.workers.contract import Log
    from arbiter.workers.interfaces.transport import Transport
    from arbiter.workers.interfaces.wsgi_file import Region
    from arbiter.workers.interfaces.wsgi_input import Body
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Fields, Request
    from arbiter.workers.protocols.response import Head

    ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType]
    Application: TypeAlias = Callable[[dict[str, Any], Callable[..., Callable[[bytes], None]]], Iterable[bytes]]

_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing

_SMALL_FILE: Final = 64 * 1024
"""Files up to this size are read and sent together with the head: one system call less than sendfile, and one packet."""

_SMALL_PIECE: Final = 4 * 1024
"""Pieces of body up to this size are copied behind the head, or between their chunk's ends: 0.2 us, and a transport has less
to do for one part than for three."""


class OverrunError(BaseException):
    """The request takes longer than it may: raised by its worker wherever it is, past all that catches `Exception`."""


class Exchange:
    """A request and its response. `run` once; then the public attributes tell what became of it."""

    __slots__ = (
        "_begun",
        "_body",
        "_connection",
        "_done",
        "_fields",
        "_framing",
        "_left",
        "_log",
        "_parting",
        "_status_line",
        "_transport",
        "headers",
        "persistent",
        "request",
        "reset",
        "sent",
        "status",
    )

    def __init__(self, request: Request, connection: Connection, transport: Transport, log: Log, persistent: bool) -> None:
        """`persistent`: the worker would keep the connection open after this."""
        self.request = request
        self._connection = connection
        self._transport = transport
        self._log = log
        self._body: Body | None = None
        self._status_line = b""
        self._framing = _NONE
        self._left = 0  # bytes of body still to send, under LENGTH
        self._begun = False  # some of the response may be on its way
        self._done = False  # all of it is
        self._parting = False  # the connection ends with this response, if that is not too late to say
        self.status = 0
        """What was answered; 499 (nginx's number) if the client went before there was an answer."""
        self.headers: list[tuple[str, str]] = []
        """As the application gave them; empty for an answer of our own."""
        self.sent = 0
        """Bytes of body that were sent, without their framing."""
        self.persistent = persistent
        """The connection may carry another request."""
        self.reset = False
        """The response was cut short, and only a reset of the connection shows it."""

    def run(self, app: Application, environ: dict[str, Any]) -> None:
        """Have the application answer, whatever it does.

        Args:
            app: the application.
            environ: everything of `wsgi_environ` but the request; the application's from now on.
        """
        try:
            request = self.request
            body: io.IOBase = io.BytesIO()
            if request.length:
                body, self._body = open_input(request, self._connection, self._transport)
            if environ.get("wsgi.input") is WHOLE:
                environ["wsgi.input"] = body
            else:
                add_request(environ, request, body)
            environ["wsgi.early_hints"] = self.send_early_hints
            result = app(environ, self.start_response)
            if this.is_copy:
                leave()
            try:
                self._relay(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Interrupted:
            raise
        except BaseException as failure:  # noqa: BLE001  whatever an application raises ends its request only
            if this.is_copy:
                leave(failure)
            self._fail(failure)
        if this.is_copy:
            leave()  # forked while the body was made: before anybody else is answered
        if self._body is not None:
            self._body.end()
            self.persistent = self.persistent and self._connection.body_ended

    @property
    def status_text(self) -> str:
        """Code and reason as the application gave them; empty for an answer of our own."""
        return self._status_line[len("HTTP/1.1 ") :].decode("latin-1").rstrip()

    def part(self) -> None:
        """The connection is to end with this response; of no effect once its head has been made. For any thread."""
        self._parting = True

    def send_early_hints(self, headers: Iterable[tuple[str, str]]) -> None:
        """``environ["wsgi.early_hints"]``, as Gunicorn has it: a 103 (RFC 8297) with these fields, before the response.

        Nothing is sent once the response has begun, nor to a client of HTTP/1.0, which knows no 1xx.

        Raises:
            BadResponseError, TypeError: a header must not be sent.
            Disconnected, TooSlow: what became of the client.
        """
        headers = list(headers)
        fields = check_fields(headers)
        if fields.length >= 0:
            raise BadResponseError("an early hint has no Content-Length: it has no body")
        if not self._begun:
            self._hint(fields, headers)

    def _hint(self, fields: Fields, headers: list[tuple[str, str]]) -> None:  # noqa: ARG002 - another wire wants them
        if self.request.version != "HTTP/1.0":
            self._transport.send(EARLY_HINTS % fields.block)

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's callable; returns its ``write``.

        Raises:
            BadResponseError, TypeError: the status or a header must not be sent.
            RuntimeError: called twice without `exc_info`.
            BaseException: the one in `exc_info`, if the head has been sent already.
        """
        if exc_info is not None:
            try:
                if self._begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # or this frame and its traceback would hold each other
        elif self._status_line:
            raise RuntimeError("start_response() was called twice without exc_info (PEP 3333)")
        self.status, self._status_line, self._fields = check_response(status, headers)
        self.headers = headers
        return self._write

    def _relay(self, result: Iterable[bytes]) -> None:
        """Send what the application returned, to its end."""
        if not self._begun:
            if type(result) is list or type(result) is tuple:
                self._send_whole(result[0] if len(result) == 1 else b"".join(result))
                return
            if type(result) is FileWrapper and self._send_region(result.region()):
                return
        for piece in result:
            if this.is_copy:
                leave()
            if piece or type(piece) is not bytes:
                self._write(piece)
                if self._framing is _NONE:
                    break
        if not self._begun:
            self._send_whole(b"")
        elif self._framing is _CHUNKED:
            if self.persistent:
                self._transport.send_soon(LAST_CHUNK)
                self._transport.settle()
            else:
                self._transport.send_last(LAST_CHUNK)
        else:
            self._transport.settle()
        if self._left:
            raise BadResponseError(f"the body is {self._left} bytes shorter than the Content-Length that was sent")
        self._done = True

    def _open(self, known: int) -> bytes:
        """The response's head, to be sent at once; `known`: see `response.build`."""
        if not self._status_line or self._body is not None:
            self._end_input()
        head = self._head(known)
        if known >= 0 and head.framing is _LENGTH and known != head.length:
            raise BadResponseError(f"the Content-Length is {head.length}, the body has {known} bytes")
        self._framing = head.framing
        self._left = head.length
        self.persistent = head.persistent
        self._begun = True
        return head.data

    def _end_input(self) -> None:
        """Before the head: there has to be one, and what the application was given of a body has to have been sound."""
        if not self._status_line:
            raise RuntimeError("the application gave a body without calling start_response() (PEP 3333)")
        if self._body is not None:
            if self._body.failure is not None:
                raise self._body.failure  # swallowed by the application, which knows a part of the body only
            self._body.answered()

    def _head(self, known: int) -> Head:
        """The head of HTTP/1; for another wire, whatever its transport takes for a head."""
        persistent = self.persistent and not self._parting
        return build(self.request, self.status, self._status_line, self._fields, known, persistent)

    def _send_whole(self, body: bytes) -> None:
        """Send a body of which nothing else will come, in one piece with the head."""
        if not isinstance(body, bytes):
            raise TypeError(f"the application gave {type(body).__name__} as a piece of body, not bytes")
        head = self._open(len(body))
        if self._framing is _NONE:
            self._send(head, b"")
        else:
            self._left = 0
            self._send(head, body)
        self._done = True

    def _send_region(self, region: Region | None) -> bool:
        """Send part of a file, if that is what the body is."""
        if region is None or not self._status_line:
            return False
        # A Content-Length shorter than the file asks for a part of it.
        head = self._open(min(region.size, self._fields.length) if self._fields.length >= 0 else region.size)
        count = self._left
        if self._framing is _NONE:
            self._send(head, b"")
        elif count <= _SMALL_FILE:
            self._send_within(head, os.pread(region.fd, count, region.offset))
        else:
            self._transport.send(head)
            self.sent = self._transport.send_file(region.fd, region.offset, count)
            self._left -= self.sent
        if self._left:
            raise BadResponseError(f"the file became {self._left} bytes shorter while it was sent")
        self._done = True
        return True

    def _write(self, piece: bytes) -> None:
        """PEP 3333's ``write()``: send a piece of body now, after the head if it is the first."""
        if not isinstance(piece, bytes):
            raise TypeError(f"the application gave {type(piece).__name__} as a piece of body, not bytes")
        if not piece:
            return
        head = b"" if self._begun else self._open(-1)
        framing = self._framing
        if framing is _CHUNKED:
            if len(piece) <= _SMALL_PIECE:
                self._transport.send_soon(b"%b%x\r\n%b\r\n" % (head, len(piece), piece))
            else:
                self._transport.send_soon(head + b"%x\r\n" % len(piece), piece, b"\r\n")
            self.sent += len(piece)
        elif framing is _LENGTH:
            self._send_within(head, piece)
        elif framing is _CLOSE:
            self._send(head, piece)
        elif head:
            self._send(head, b"")

    def _send(self, head: bytes, piece: bytes) -> None:
        """Send a piece of body, after the head if it is the first; `_left` is what is left of it then."""
        transport = self._transport
        if not (self.persistent or self._left or self._framing is _CLOSE):
            send = transport.send_last  # it may be the end of the response, and is that of the connection
        else:
            send = transport.send if head else transport.send_soon
        if not head:
            send(piece)  # alone it is not copied
        elif len(piece) <= _SMALL_PIECE:
            send(head + piece)
        else:
            send(head, piece)
        self.sent += len(piece)

    def _send_within(self, head: bytes, piece: bytes) -> None:
        """Send as much of `piece` as the Content-Length leaves room for.

        Raises:
            BadResponseError: it was longer. The client has a whole response, and never sees the rest.
        """
        surplus = len(piece) - self._left
        if surplus > 0:
            piece = piece[: self._left]
        self._left -= len(piece)
        if head or piece:
            self._send(head, piece)
        if surplus > 0:
            raise BadResponseError(f"the body is {surplus} bytes or more longer than the Content-Length that was sent")

    def _fail(self, failure: BaseException) -> None:
        """Answer, or cut the answer short, and tell the log what was the application's fault. In an except block."""
        self.persistent = False
        if self._begun and not isinstance(failure, Disconnected | TooSlow):
            self._settle()
        if self._body is not None and self._body.failure is not None:
            failure = self._body.failure  # whatever the application made of it
        request = self.request
        name = f"{request.method.decode()} {request.target.decode()}"
        if isinstance(failure, Disconnected):
            self.reset = True
            if not self._begun:
                self.status = 499
        elif isinstance(failure, TooSlow):
            self.reset = self._begun
            self._log.info(f"{name}: {failure}")
            self._answer(Refusal(408, "The body did not arrive in time."))
        elif isinstance(failure, MalformedBodyError):
            self._answer(failure.refusal)
        elif isinstance(failure, Refusal):
            self._answer(failure)
        elif isinstance(failure, OverrunError):
            self.reset = self._begun
            self._answer(Refusal(504, "The application took too long."))
        elif self._done:
            self._log.exception(f"{name}: the application raised after its response was complete")
        elif self._begun:
            self.reset = self._framing is _CLOSE
            self._log.exception(f"{name}: the application failed in the middle of its response, which is cut short")
        else:
            self._log.exception(f"{name}: the application failed; the client was told 500")
            self._answer(Refusal(500, "The application failed; its log says why."))

    def _settle(self) -> None:
        """Have the client get what there is of a response that is cut short."""
        try:
            self._transport.settle()
        except OSError:
            pass  # nobody is left to get it

    def _answer(self, refusal: Refusal) -> None:
        """Send a response of our own, if none has begun."""
        if self._begun:
            return
        self._begun = True
        self.status, self.headers, self._status_line = refusal.status, [], b""
        try:
            self._refuse(refusal)
        except OSError:
            pass  # nobody is left to be told

    def _refuse(self, refusal: Refusal) -> None:
        self._transport.send_last(refuse(refusal, head=self.request.method == b"HEAD"))
