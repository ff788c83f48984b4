"""Response heads of HTTP/1: status line, fields, and how the client will find the end of the body.

Pure but for the wall clock, which is read for the Date field. Rules (RFC 9112 section 6): no body and no framing where
there can be none (HEAD, 204, 304); otherwise a length if it is known, chunked for HTTP/1.1, the connection's end for
HTTP/1.0; a body that only the connection's end delimits closes it.
"""

from __future__ import annotations

import time
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from arbiter.workers.protocols.policy import Fields, Refusal, Request

SOFTWARE: Final = "arbiter"
"""In the Server field and SERVER_SOFTWARE; no version, which would tell attackers more than users."""

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS: Final = b"HTTP/1.1 103 Early Hints\r\n%b\r\n"
"""With its field lines."""
LAST_CHUNK: Final = b"0\r\n\r\n"


class Framing(Enum):
    """How the body's end is told."""

    NONE = 1
    """There is no body."""
    LENGTH = 2
    CHUNKED = 3
    CLOSE = 4


_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing  # a member read from its class costs ten times a global


class Head(NamedTuple):
    """A response head, ready to be sent."""

    data: bytes
    framing: Framing
    length: int
    """Bytes of body to send under LENGTH; else 0."""
    persistent: bool
    """The connection stays open after the body."""


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> str:
    """IMF-fixdate (RFC 9110 section 5.6.7) of seconds since the epoch, whatever the locale."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(seconds)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"


class _Stamp:
    """The Date and Server lines, written anew when the second has changed: 0.1 us instead of 2."""

    __slots__ = ("_both", "_date", "known", "second")

    def __init__(self) -> None:
        self.second = -1
        self._date = self._both = b""
        self.known: dict[object, Head] = {}
        """Heads of this second, to be added to."""

    def both(self) -> bytes:
        if not 0 <= time.time() - self.second < 1:
            self.renew()
        return self._both

    def renew(self) -> None:
        second = int(time.time())
        self._date = f"Date: {http_date(second)}\r\n".encode()
        self._both = self._date + _SERVER
        self.known = {}
        # Last, so that another thread never takes old lines for new ones.
        self.second = second

    def date(self) -> bytes:
        self.both()
        return self._date


_HEADS_KEPT: Final = 128
"""Of one second: an application has a few, and one that has many gains nothing here."""
_SERVER: Final = f"Server: {SOFTWARE}\r\n".encode()
_stamp: Final = _Stamp()


def build(request: Request, code: int, status_line: bytes, fields: Fields, known: int = -1, persistent: bool = True) -> Head:
    """The head of the final response to `request`.

    Args:
        request: what is answered.
        code: 200 to 999.
        status_line: of `policy.check_status`.
        fields: of `policy.check_fields`.
        known: bytes of body, if known before it is sent; -1 if not. The application's own Content-Length goes first.
        persistent: the worker would keep the connection open; the request and the application have their say too.
    """
    if not fields.is_known:
        return _build(request, code, status_line, fields, known, persistent=persistent)
    # Most responses of a second have one of few heads: found in 0.4 us, made in 1.1.
    if not 0 <= time.time() - _stamp.second < 1:
        _stamp.renew()
    heads = _stamp.known
    key = (status_line, fields, known, persistent, request.version, request.persistent, request.method)
    head = heads.get(key)
    if head is None:
        head = _build(request, code, status_line, fields, known, persistent=persistent)
        if len(heads) < _HEADS_KEPT:
            heads[key] = head
    return head


def _build(request: Request, code: int, status_line: bytes, fields: Fields, known: int, *, persistent: bool) -> Head:
    length = fields.length
    block = fields.block
    http11 = request.version == "HTTP/1.1"
    persistent = persistent and request.persistent and not fields.close
    framing = _LENGTH
    end = b"\r\n"
    if request.method == b"HEAD" or code in (204, 304):
        framing = _NONE
        if length >= 0 and code == 204:  # it may not have one: RFC 9110 section 8.6
            block = _without_length(block)
        elif length < 0 and known > 0 and code not in (204, 304):
            # HEAD with the body that GET would have; an empty one may be the application's way to answer HEAD.
            end = b"Content-Length: %d\r\n\r\n" % known
        length = 0
    elif length >= 0:
        pass
    elif known >= 0:
        length = known
        end = b"Content-Length: %d\r\n\r\n" % known
    elif http11:
        framing = _CHUNKED
        end = b"Transfer-Encoding: chunked\r\n\r\n"
        length = 0
    else:
        framing = _CLOSE
        persistent = False
        length = 0
    if persistent is not http11:
        end = (b"Connection: keep-alive\r\n" if persistent else b"Connection: close\r\n") + end
    stamp = _stamp_for(fields) if fields.dated or fields.named else _stamp.both()
    # tuple.__new__ is what Head() comes down to, without the call in between (0.3 us).
    return tuple.__new__(Head, (status_line + stamp + block + end, framing, length, persistent))


def _stamp_for(fields: Fields) -> bytes:
    if fields.dated or fields.named:
        return (b"" if fields.dated else _stamp.date()) + (b"" if fields.named else _SERVER)
    return _stamp.both()


def switch(own: bytes, fields: Fields) -> bytes:
    """The head that ends HTTP/1.1 on this connection: RFC 9110 section 15.2.2.

    Args:
        own: field lines of the server's, with their line ends: Upgrade, Connection, and what the new protocol needs.
        fields: the application's.
    """
    block = _without_length(fields.block) if fields.length >= 0 else fields.block  # no 1xx has one: section 8.6
    return b"HTTP/1.1 101 Switching Protocols\r\n" + own + _stamp_for(fields) + block + b"\r\n"


def _without_length(block: bytes) -> bytes:
    lines = block.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"content-length:"))


# RFC 9110 section 15 and RFC 6585; the standard library's table has other words in each of its versions.
_PHRASES: Final = {
    400: "Bad Request",
    403: "Forbidden",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    426: "Upgrade Required",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}


def refuse(refusal: Refusal, *, head: bool = False) -> bytes:
    """The whole answer to a request that was not let through; the connection closes after it."""
    extra = b"Retry-After: %d\r\n" % refusal.retry_after if refusal.retry_after else b""
    return error(refusal.status, refusal.reason, head=head, extra=extra)


def error(status: int, reason: str, *, head: bool = False, extra: bytes = b"") -> bytes:
    """A whole response of our own, in plain text; the connection closes after it.

    Args:
        status: one of `_PHRASES`.
        reason: one sentence, ASCII.
        head: the request was a HEAD: without the body.
        extra: more field lines, with their line ends.
    """
    title, body = error_text(status, reason)
    lines = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return b"HTTP/1.1 %b\r\n%b%b%b%b" % (title.encode(), _stamp.both(), extra, lines, b"" if head else body)


def error_text(status: int, reason: str) -> tuple[str, bytes]:
    """Status with its phrase, and the body, of a response of our own; as `error` has it."""
    title = f"{status} {_PHRASES[status]}"
    return title, f"{title}\n{reason}\n".encode()
