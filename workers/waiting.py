"""Clients that a worker which serves one request at a time would have to wait for: they are put aside, and others are served.

A client that sends its request at once, and reads its response, never comes here. One that does not costs a place here and none
of the worker's time: it is looked at when something comes from it, when it reads, or when its time is over.
"""

from __future__ import annotations

import select
from heapq import nsmallest
from math import inf
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.client import Stage
from arbiter.workers.deadlines import Deadlines
from arbiter.workers.fronts import Crowd, host_of
from arbiter.workers.transport import STRIDE

if TYPE_CHECKING:
    import socket

    from arbiter.workers.opening import Opening
    from arbiter.workers.protocols.http1 import Connection
    from arbiter.workers.protocols.policy import Request
    from arbiter.workers.transport import SocketTransport

_EVICTED: Final = 32
"""One in so many is closed when there is no room, so that looking for the idlest is not done for each."""
_RANKS: Final = {Stage.FRESH: 0, Stage.OPENING: 0, Stage.HEAD: 1, Stage.BODY: 2, Stage.WRITING: 2}
"""Who makes room first: who has said nothing, then who is slow for longest, at least work lost."""


class Guest:
    """A client that is waited for."""

    __slots__ = (
        "address",
        "booked",
        "client",
        "connection",
        "deadline",
        "environ",
        "is_told",
        "mark",
        "notch",
        "opening",
        "request",
        "since",
        "stage",
        "transport",
        "waited",
    )

    def __init__(
        self,
        client: socket.SocketType,
        address: Any,
        environ: dict[str, Any],
        transport: SocketTransport,
        connection: Connection,
    ) -> None:
        self.client = client
        self.address = address
        self.environ = environ
        """Of its listener, and what its opening has shown; not to be changed."""
        self.transport = transport
        self.connection = connection
        self.opening: Opening | None = None
        """What comes before HTTP, until it is over."""
        self.request: Request | None = None
        """Whose body is waited for."""
        self.is_told = False
        """To go on: it was told 100 Continue."""
        self.waited = -1.0
        """Seconds that its request has waited to be read, if somebody asks."""
        self.stage: Stage | None = None
        """None: it is not waited for, or not yet."""
        self.deadline = 0.0
        """Monotonic seconds: when its time is over."""
        self.since = 0.0
        """Monotonic seconds: when the stage, or the last stride in it, began."""
        self.mark = 0
        """Bytes that had been moved by then."""
        self.notch = 0
        self.booked = inf
        """These two are of `Deadlines`."""


class Waiting:
    """The guests of one worker."""

    def __init__(self, epoll: select.epoll, most: int, per_address: int, patience: dict[Stage, float]) -> None:
        """Nobody yet.

        Args:
            epoll: the worker's; `of` is to be asked about what it reports.
            most: how many there may be.
            per_address: how many of one address; 0: nobody counts.
            patience: seconds for each stage; in a body and a response, for each stride.
        """
        self._epoll = epoll
        self._most = most
        self._patience = patience
        self._guests: dict[int, Guest] = {}
        self._deadlines: Deadlines[Guest] = Deadlines()
        self.crowd = Crowd(per_address)
        """The guests, by address."""

    def __len__(self) -> int:
        return len(self._guests)

    def of(self, fd: int) -> Guest | None:
        """Whose descriptor this is."""
        return self._guests.get(fd)

    @property
    def next(self) -> float:
        """Monotonic seconds; before it, nobody's time is over."""
        return self._deadlines.next

    def wait(self, guest: Guest, stage: Stage, now: float) -> None:
        """Wait for a guest, who is ours from now on: anew, or longer in the stage that it is in.

        A head has one deadline, from the moment when the client came, however it trickles.
        """
        moved = guest.transport.received + guest.transport.sent
        if guest.stage is not stage:
            if guest.stage is not Stage.FRESH or stage is not Stage.HEAD:
                guest.deadline = now + self._patience[stage]
            guest.since, guest.mark = now, moved
        elif moved - guest.mark >= STRIDE and _RANKS[stage] == _RANKS[Stage.BODY]:
            guest.since, guest.mark = now, moved
            guest.deadline = now + self._patience[stage]
        if guest.stage is None:
            fd = guest.client.fileno()
            self._guests[fd] = guest
            self.crowd.enter(host_of(guest.address))
            self._epoll.register(fd, select.EPOLLOUT if stage is Stage.WRITING else select.EPOLLIN)
        guest.stage = stage
        if guest.deadline < guest.booked:
            self._deadlines.book(guest, guest.deadline)

    def let_go(self, guest: Guest) -> None:
        """A guest is the caller's, and waited for no more."""
        if guest.stage is not None:
            guest.stage = None
            self._deadlines.forget(guest)
            fd = guest.client.fileno()
            self._epoll.unregister(fd)  # closing does not do it if a child of the application's has a copy
            self.crowd.leave(host_of(guest.address))
            del self._guests[fd]

    def allow(self, seconds: float) -> None:
        """Give everybody so many seconds more: the worker has had no eye for them."""
        for guest in self._guests.values():
            guest.deadline += seconds

    def due(self, now: float) -> list[Guest]:
        """Those whose time is over."""
        over = []
        for guest in self._deadlines.due(now):
            if guest.deadline > now:
                self._deadlines.book(guest, guest.deadline)
            else:
                over.append(guest)
        return over

    def surplus(self) -> list[Guest]:
        """Who is to make room for the next one: nobody, if there is some."""
        if len(self._guests) < self._most:
            return []
        return self.slowest()

    def slowest(self) -> list[Guest]:
        """Those of whom least is lost: who has said nothing for longest, then who is slowest."""
        return nsmallest(1 + self._most // _EVICTED, self._guests.values(), key=lambda guest: (_rank(guest), guest.since))

    def silent(self, latest: float) -> list[Guest]:
        """Those who had sent nothing at `latest`, monotonic seconds, and have not since."""
        return [guest for guest in self._guests.values() if not _rank(guest) and guest.since <= latest]


def _rank(guest: Guest) -> int:
    return _RANKS[guest.stage] if guest.stage else 0
