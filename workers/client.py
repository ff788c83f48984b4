"""A connection of the threaded worker: what is known of it while no thread is held by it.

It is the `Transport` of its requests too. What a client does not take at once of a response is put aside, as far as there is
`Slack` (of a file: all of it, since it needs no room); the thread goes on, and `flush` sends it when the client reads. Where
a thread has to wait for its client all the same, another one takes its place after a moment, if there is one.

Rule: a client is owned. While it is `busy`, by the thread that serves it; else by whoever holds the lead (see `poller`).
Only the owner calls its methods and writes its attributes, but for `yields_from` and `yields`, which are the lead's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
import termios
from enum import Enum
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arbiter.workers.contract import Doing, client_name
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.protocols.http1 import READ_SIZE
from arbiter.workers.slack import BLOCK, Overflow
from arbiter.workers.transport import SLOW_BODY, STRIDE, UNKNOWN, SocketTransport, queue_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.gathering import Gatherer
    from arbiter.workers.opening import Opening
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.slack import Slack
    from arbiter.workers.tlssocket import TlsSocket


_MOMENT: Final = 0.001
"""Seconds until a client that took nothing is asked again, as long as there is room for what the application gives: each
attempt in vain costs as much as 10 KiB of response."""
_HELD: Final = 0.02
"""Seconds that a thread waits for its client before another one takes its place: a few round trips to most of them."""
_SLICE: Final = 0.1
"""Seconds from one look of a thread that waits for its client, whether it still must, to the next."""
_STILL: Final = 1.0
"""Seconds without a byte after which a client that holds a thread, or disk, may have to make room for those who wait."""


class Stage(Enum):
    """What a client is waited for."""

    FRESH = 1
    """Its first byte."""
    KEPT = 2
    """The first byte of its next request."""
    PIPELINED = 3
    """Nothing: what it sent with its last request is looked at when its turn comes."""
    HEAD = 4
    """The rest of a head."""
    BODY = 5
    """The rest of a body, or so much of it that a thread may be held by what is missing."""
    WRITING = 6
    """That it reads its response."""
    LINGERING = 7
    """That it closes: it has its response, and is still sending."""
    OPENING = 8
    """The rest of what comes before HTTP, like a TLS handshake."""


class _File(NamedTuple):
    """Part of a file that is still to be sent."""

    fd: int
    """Our own."""
    offset: int
    size: int


class Client(SocketTransport):
    """An accepted connection."""

    __slots__ = (
        "_again",
        "_client",
        "_file",
        "_gatherer",
        "_overflow",
        "_relieve",
        "_seen",
        "_seen_at",
        "_slack",
        "_stride",
        "_stride_at",
        "address",
        "answered",
        "armed",
        "booked",
        "busy",
        "deadline",
        "environ",
        "fd",
        "holds",
        "host",
        "http",
        "is_relieved",
        "is_trusted",
        "mark",
        "name",
        "notch",
        "opening",
        "persistent",
        "port",
        "request",
        "since",
        "stage",
        "waited",
        "wanted",
        "yields",
    )

    def __init__(
        self, client: socket.SocketType, address: Any, environ: dict[str, Any], http: Connection, patience: float, slack: Slack
    ) -> None:
        """A fresh one, owned by the thread that has accepted it.

        Args:
            client: the socket, which is the client's from now on.
            address: as ``accept()`` gives it.
            environ: of its listener; not to be changed.
            http: nothing has been fed to it.
            patience: seconds to wait for `transport.STRIDE` bytes.
            slack: where to put aside what it does not take.
        """
        super().__init__(client, patience=patience, phase=_nobody)
        self.fd = client.fileno()
        self.meet(address)
        self.waited = UNKNOWN
        """Seconds that its request has waited for a thread, if somebody asks."""
        self._client = client
        self.environ = environ
        self.http = http
        self.opening: Opening | None = None
        """What comes before HTTP, until it is over."""
        self.stage = Stage.FRESH
        self.busy = True
        """A thread owns it."""
        self.armed = self.wanted = 0
        """The events that epoll reports of it, and those that it should have reported when the poller muted it."""
        self.deadline = 0.0
        """Monotonic seconds: when what it is waited for is over. Of no meaning while it is busy."""
        self.since = 0.0
        """Monotonic seconds: when the stage, or the last stride in it, began."""
        self.notch = 0
        self.booked = inf
        """Monotonic seconds: when `Deadlines`, whose attributes these two are, will look at it; `inf`: never."""
        self.mark = 0
        """What `moved` was when the deadline was set."""
        self.request: Request | None = None
        """Whose body is waited for."""
        self.answered = False
        """It has its response, or what there is of it has been put aside: the stages WRITING and LINGERING."""
        self.persistent = False
        """It may go on after the response that it is being sent."""
        self.holds = False
        """A thread waits for it, and has for a while."""
        self.is_relieved = False
        """Another thread has taken the place of the one that serves it."""
        self.yields = False
        """It has to make room."""
        self._relieve: Callable[[], bool] = _no_thread
        self._seen: int | None = None  # bytes that it had sent and taken at `_seen_at`, since when it has moved none
        self._seen_at = self._stride_at = 0.0
        self._stride = 0  # the same when its last stride began
        self._slack = slack
        self._late = bytearray()
        self._overflow: Overflow | None = None  # what comes behind `_late`, which is never empty then
        self._again = 0.0  # monotonic seconds: when it may be worth while to try to send more
        self._file: _File | None = None

    def meet(self, address: Any) -> None:
        """Its address, as ``accept()`` gives it, or as a proxy does."""
        self.address = address
        self.host: str = ""
        """Empty on a unix socket, as is the port."""
        self.port = ""
        if isinstance(address, tuple):
            self.host, self.port = address[0], str(address[1])
        self.name = client_name(address)
        """On the scoreboard."""
        self.is_trusted = False
        """What it says of those who stand behind it is believed."""

    def note_wait(self) -> None:
        """Note how long what it has sent lay in the kernel: it has been read, or is about to be.

        What came while its last request was served waited for that, and for a thread from then on only.
        """
        waited = queue_wait(self._client)
        if self.stage is Stage.KEPT:
            waited = min(waited, monotonic() - self.since)
        self.waited = max(self.waited, waited)

    @property
    def moved(self) -> int:
        """Bytes received and sent, of the request and so far: what tells a slow client from one that does nothing."""
        return self.received + self.sent

    @property
    def late(self) -> int:
        """Bytes of the response that have been put aside."""
        encrypted = self._tls.unsent if self._tls is not None else 0
        spilled = len(self._overflow) if self._overflow else 0
        return encrypted + len(self._late) + spilled + (self._file.size if self._file else 0)

    @property
    def takes_disk(self) -> bool:
        """Part of what was put aside is on disk."""
        return self._overflow is not None

    def begin(self, phase: Callable[[Doing], None], gatherer: Gatherer, relieve: Callable[[], bool]) -> None:
        """A thread serves a request of it from now on.

        Args:
            phase: told what the thread waits for.
            gatherer: the thread's.
            relieve: has another thread take its place; whether one has.
        """
        self._phase = phase
        self._gatherer = gatherer
        self._relieve = relieve
        if self._seen is not None or self.is_relieved:
            self._seen = None
            self.holds = self.is_relieved = self.yields = False
        self._budget = self._patience
        self._mark = self.received = self.sent = 0
        self.last = 0.0

    def send_soon(self, *parts: bytes) -> None:
        """Send all of the parts, as `Transport` has it."""
        if self._tls is None:
            self._gatherer.send(self, parts)
        else:  # which is not for two threads at once
            self.send(*parts)

    def settle(self) -> None:
        """Send what is held, as `Transport` has it."""
        self._gatherer.settle()

    def offer(self, data: bytes) -> int:
        """As `gathering.Wire` has it. Who has gone is told so by the next send of its own thread."""
        try:
            return 0 if self._late and not self.flush() else self._send_now(data, socket.MSG_DONTWAIT)
        except Disconnected:
            return len(data)

    def send_last(self, *parts: bytes) -> None:
        """Send all of the parts, as `Transport` has it."""
        self._gatherer.settle()
        SocketTransport.send_last(self, *parts)

    def yields_from(self, now: float) -> float:
        """When it may have to make room: it moves nothing then, or less than a stride in its time. Monotonic seconds.

        As far as who asks again and again can tell; for the lead. What counts is what the client's side has taken, not what
        is on its way: the kernel holds megabytes, and asks for more of them by the megabyte.
        """
        try:
            unread = int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        except (OSError, ValueError):  # its thread has just closed it
            return inf
        moved = self.received + self.sent - unread
        if self._seen is None or moved - self._stride >= STRIDE:
            self._stride, self._stride_at = moved, now
        if moved != self._seen:
            self._seen, self._seen_at = moved, now
        return min(self._seen_at + _STILL, self._stride_at + SLOW_BODY)

    def _poll(self, event: int, seconds: float) -> bool:
        """Whether it is worth while to try again: the client is ready, or there may be disk by now.

        Raises:
            TooSlow: it has to make room.
        """
        slice = _SLICE if self.holds else _HELD  # noqa: A001 - what it is
        if super()._poll(event, min(slice, seconds)):
            self.holds = self.yields = False
            return True
        if self.yields:
            self.holds = False
            raise TooSlow("the client moved too little, and others waited for a thread")
        self.is_relieved = self.is_relieved or self._relieve()
        self.holds = seconds > slice
        return self.holds

    def _add(self, parts: tuple[bytes, ...]) -> bool:
        """Put these aside too, or wait until there is nothing before them."""
        if self._flush_again():
            return False
        views = [memoryview(part) for part in parts]
        while not self._put_aside(views):
            self._wait(Doing.WRITING)
            if self.flush():
                return False
        return True

    def _flush_again(self) -> bool:
        """`flush`, unless that was in vain a moment ago: an application gives pieces quicker than a client reads."""
        now = monotonic()
        if now < self._again:
            return False
        if self.flush():
            return True
        self._again = now + _MOMENT
        return False

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send or put aside part of a regular file, as `Transport` has it."""
        if self._late and not self.flush():
            self._put_file_aside(fd, offset, count)
            return count
        return SocketTransport.send_file(self, fd, offset, count)

    def flush(self) -> bool:
        """Send what the client takes now of what was put aside; whether that was the last of it.

        Raises:
            Disconnected: the connection is broken, or the file has become shorter than was promised.
        """
        try:
            if self._tls is not None and not self._tls.flush():
                return False
            if self._late:
                sent = self._socket.send(self._late, socket.MSG_DONTWAIT)
                self.sent += sent
                del self._late[:sent]
                if self._overflow and not self._late:
                    self._late += self._overflow.take()
                    if not self._overflow:
                        self._overflow = None
            if self._file and not self._late:
                self._flush_file(self._file)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Disconnected(*error.args) from error
        return not self.late

    def _flush_file(self, file: _File) -> None:
        try:
            sent = self._read_file(file) if self._tls is not None else os.sendfile(self.fd, file.fd, file.offset, file.size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            sent = self._read_file(file)  # a file system that can't: sendfile(2)
        else:
            if self._tls is None:
                self.sent += sent
        if not sent:
            raise ConnectionAbortedError(errno.ECONNABORTED, "a file became shorter while it was sent")
        if sent == file.size:
            self._close_file()
        else:
            self._file = _File(file.fd, file.offset + sent, file.size - sent)

    def _read_file(self, file: _File) -> int:
        """Put a block of the file before what is left of it."""
        block = os.pread(file.fd, min(file.size, READ_SIZE), file.offset)
        self._late += block
        return len(block)

    def _settle(self, tls: TlsSocket) -> None:
        """Nothing: `flush` sends it when the client reads."""

    def detach(self) -> socket.SocketType | TlsSocket:
        """What it is a client over, which is not its any more."""
        return self._socket if self._tls is None else self._tls

    @property
    def family(self) -> int:
        """The socket's address family."""
        return self._client.family

    @property
    def is_secured(self) -> bool:
        """It is under TLS."""
        return self._tls is not None

    @property
    def protocol(self) -> str | None:
        """What ALPN has chosen, under TLS."""
        return None if self._tls is None else self._tls.tls.selected_alpn_protocol()

    def close(self) -> None:
        """Close the socket."""
        self._close_file()
        if self._overflow is not None:
            self._overflow.close()
            self._overflow = None
        self._socket.close()

    def _close_file(self) -> None:
        if self._file:
            os.close(self._file.fd)
            self._file = None

    def _put_aside(self, views: list[memoryview]) -> bool:
        space = 0 if self._overflow else self._slack.room - len(self._late)
        if sum(map(len, views)) <= space:
            for view in views:
                self._late += view
            return True
        overflow = self._overflow or Overflow(self._slack)
        first, rest = _split(views, min(space, BLOCK))
        if not overflow.append(rest):
            return False
        self.holds = False
        for view in first:
            self._late += view
        self._overflow = overflow
        return True

    def _put_file_aside(self, fd: int, offset: int, count: int) -> bool:
        self._file = _File(os.dup(fd), offset, count)
        return True


def _nobody(_doing: Doing) -> None:
    """No thread waits for a client that nobody serves."""


def _no_thread() -> bool:
    """No thread that could be relieved serves it."""
    return False


def _split(views: list[memoryview], size: int) -> tuple[list[memoryview], list[memoryview]]:
    """The first `size` bytes (not all there are), and the rest."""
    first: list[memoryview] = []
    for number, view in enumerate(views):
        if size < len(view):
            return [*first, view[:size]], [view[size:], *views[number + 1 :]]
        first.append(view)
        size -= len(view)
    return first, []
