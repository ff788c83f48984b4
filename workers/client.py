"""A connection of the threaded worker: what is known of it while no thread is held by it.

It is the `Transport` of its requests too. What a client does not take at once of a response is put aside, as far as there is
`Slack` (of a file: all of it, since it needs no room); the thread goes on, and `flush` sends it when the client reads. Where
a thread has to wait for its client all the same, another one takes its place after a moment, if there is one.

Rule: a client is owned. While it is `busy`, by the thread that serves it; else by whoever holds the lead (see `poller`).
Only the owner calls its methods and writes its attributes, but for `yields_from` and `yields`, which are the lead's.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from enum import Enum
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.contract import Doing, client_name
from arbiter.workers.interfaces.transport import Disconnected, TooSlow
from arbiter.workers.transport import SLOW_BODY, STRIDE, UNKNOWN, SocketTransport, queue_wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.gathering import Gatherer
    from arbiter.workers.opening import Opening
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.slack import Slack
    from arbiter.workers.tlssocket import TlsSocket


_HELD: Final = 0.02
"""Seconds that a thread waits for its client before another one takes its place: a few round trips to most of them."""
_SLICE: Final = 0.1
"""Seconds from one look of a thread that waits for its client, whether it still must, to the next."""
_STILL: Final = 1.0
"""Seconds without a byte after which a client that holds a thread, or disk, by not reading may have to make room for those who
wait. Who sends a body has `SLOW_BODY`, always: uploads come over lines that stall for longer."""


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


class Client(SocketTransport):
    """An accepted connection."""

    __slots__ = (
        "_client",
        "_gatherer",
        "_is_sending",
        "_relieve",
        "_seen",
        "_seen_at",
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
        super().__init__(client, patience, _nobody, slack)
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
        self._is_sending = False  # what the thread waits for is its body
        self._relieve: Callable[[], bool] = _no_thread
        self._seen: int | None = None  # bytes that it had sent and taken at `_seen_at`, since when it has moved none
        self._seen_at = self._stride_at = 0.0
        self._stride = 0  # the same when its last stride began

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
        slow = self._stride_at + SLOW_BODY
        return slow if self.holds and self._is_sending else min(slow, self._seen_at + _STILL)

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
        self._is_sending = event == select.POLLIN
        self.is_relieved = self.is_relieved or self._relieve()
        self.holds = seconds > slice
        return self.holds

    def _put_aside(self, views: list[memoryview]) -> bool:
        if not super()._put_aside(views):
            return False
        self.holds = False
        return True

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


def _nobody(_doing: Doing) -> None:
    """No thread waits for a client that nobody serves."""


def _no_thread() -> bool:
    """No thread that could be relieved serves it."""
    return False
