"""Which connections there are, which of them are ready, and whose each of them is.

One epoll for all connections and listeners of a worker, level-triggered. Whoever calls `poll` holds the *lead*: one thread
at a time (`crew` sees to that). A client is owned by the lead while it is waited for, and by one thread while it is `busy`.

A busy client stays registered: its socket is silent, nearly always, until it has its response, so a request costs no
epoll_ctl. When it is not (the client pipelines, or has gone), the lead is woken for it once and mutes it: unregisters it
until it is released. One-shot registrations would cost every request the system call that this costs the odd one.

Rules: only the lead makes a client busy. Registrations change under `_arming` only. Who releases a client that was muted
registers it anew; if it was muted in the very moment of its release, the lead does, rung for before it waits again.

Listeners are registered with EPOLLEXCLUSIVE: the kernel wakes one worker for a connection, and none in which nobody polls.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from heapq import nsmallest
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.client import Client, Stage
from arbiter.workers.deadlines import Deadlines
from arbiter.workers.fronts import Crowd
from arbiter.workers.transport import SLOW_BODY, SLOW_HEAD

if TYPE_CHECKING:
    import socket
    from collections import deque
    from collections.abc import Iterable

    from arbiter.workers.tlssocket import TlsSocket

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
WAIT: Final = select.EPOLLERR
"""Nothing but the end of the connection: to wait for a thread."""
_GONE: Final = -1  # `armed` of a client that is closed
_MANY: Final = 64
"""Events to take at once: what lies in our queue instead of the kernel's has to wait behind what we serve first."""
_EVICTED: Final = 32
"""One in so many connections is closed when there is no room, so that looking for the idlest is not done for each."""
_LATER: Final = 1.0
"""Seconds until the deadline of a client that was busy is looked at again."""
_BEFORE_REQUEST: Final = (Stage.FRESH, Stage.KEPT, Stage.OPENING)
_SLOW: Final = {Stage.HEAD: SLOW_HEAD, Stage.BODY: SLOW_BODY}


class Poller:
    """The connections of a worker."""

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        bound: int,
        foreign: frozenset[socket.socket] = frozenset(),
        per_address: int = 0,
    ) -> None:
        """Does not listen yet.

        Args:
            listeners: non-blocking.
            bound: how many connections there may be.
            foreign: listeners that have workers of their own, who come first.
            per_address: how many connections one address is to have; 0: nobody counts.
        """
        self.bound = bound
        self.clients: dict[int, Client] = {}
        self.crowd = Crowd(per_address)
        """The clients, by address."""
        self._deadlines: Deadlines[Client] = Deadlines()
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._foreign = foreign
        self._knocked = False
        self.is_short = False
        """There are fewer descriptors than connections that there may be: who is idle is to make room as if there were none."""
        self._listening = False
        self._deaf_until = 0.0  # 0.0: it is not deaf, or for ever
        self._is_away = False
        self._arming = threading.Lock()
        self._muted: list[Client] = []
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, READ)

    # By the lead ------------------------------------------------------------------------------------------------------

    def poll(self, seconds: float, ready: deque[Any]) -> list[Client]:
        """Put clients from whom something has come into `ready`, after them listeners that may have a connection.

        Waits up to so many seconds, or until something is due. Returns clients in the stages after the response from whom
        something has come, or who read again. All of them are busy from now on.
        """
        if self._muted:
            self._unmute()
        if seconds:
            now = time.monotonic()
            seconds = min(seconds, max(0.0, self._deadlines.next - now))
            if self._is_away or (self._deaf_until and now >= self._deaf_until):
                self.listen()
        answered = []
        doors = []
        clients = self.clients
        for fd, _ in self._epoll.poll(seconds, _MANY):
            client = clients.get(fd)
            if client is None:
                if (listener := self._listeners.get(fd)) is not None:
                    doors.append(listener)
                    if listener in self._foreign:  # whose own worker is to be asked before us from now on
                        with self._arming:
                            self._step_behind([listener])
                else:
                    self._forget(fd)
            elif client.busy:
                self._mute(client)
            else:
                client.busy = True
                if client.answered:
                    answered.append(client)
                else:
                    ready.append(client)
        self._knocked = bool(doors)
        ready.extend(doors)
        return answered

    def overdue(self) -> list[Client]:
        """Clients whose deadlines have passed, busy from now on."""
        now = time.monotonic()
        over = []
        for client in self._deadlines.due(now):
            if client.armed == _GONE:
                continue
            if client.busy:
                self._deadlines.book(client, now + _LATER)
            elif client.deadline > now:
                self._deadlines.book(client, client.deadline)
            else:
                client.busy = True
                over.append(client)
        return over

    def idle(self, seconds: float) -> list[Client]:
        """Clients that have had nothing to say for so long, and have begun no request; busy from now on."""
        latest = time.monotonic() - seconds
        return self._own(client for client in self._idle() if client.since <= latest and not client.unread)

    def surplus(self, others: int, seconds: float) -> list[Client]:
        """If somebody knocks and there is no room: who should make it; busy from now on.

        These are the longest idle; where nobody is, those who have been slow for longest to send a head or a body. Where nobody
        is that either, connections are not waited for.

        Args:
            others: connections that are counted and are not here.
            seconds: not to wait for connections, unless a client goes.
        """
        if not self._knocked or (len(self.clients) + others < self.bound and not self.is_short):
            return []
        number = 1 + self.bound // _EVICTED
        found: list[Client] = []
        for candidates in (self._idle, self._slow):
            longest = nsmallest(number, candidates(), key=lambda client: client.since)
            # Whom we do not read, since there is no thread for them, we do not wait for.
            found = found or [client for client in longest if client.armed == WAIT or not client.unread]
        if not found:
            self.stop_listening(seconds)
        self.is_short = False
        return self._own(found)

    def holders(self, most: int, *, disk: bool) -> list[Client]:
        """If a thread waits for its client and nobody has taken its place: who should make room; busy from now on.

        These are who has moved too little for longest. Whom threads wait for are told, and are not among those returned.

        Args:
            most: of those, at most.
            disk: also who takes disk, since there is none left for whom threads wait for.
        """
        clients = list(self.clients.values())  # in one step: other threads add and remove
        held = [client for client in clients if client.busy and client.holds]
        if all(client.is_relieved for client in held):
            return []
        if disk:
            held += [client for client in clients if client.takes_disk and client.stage is Stage.WRITING and not client.busy]
        now = time.monotonic()
        since = [(client.yields_from(now), client) for client in held]
        found = nsmallest(min(most, 1 + self.bound // _EVICTED), since, key=itemgetter(0))
        going = [client for moment, client in found if moment <= now]
        for client in going:
            client.yields = True
        return self._own(client for client in going if not client.busy)

    def recall(self, client: Client) -> bool:
        """Make a client busy that waits for a thread; False: it does not, or has gone. Called with the lead."""
        if client.busy or client.armed != WAIT:
            return False
        client.busy = True
        return True

    def _idle(self) -> list[Client]:
        clients = list(self.clients.values())  # in one step: other threads add and remove
        return [client for client in clients if not client.busy and client.stage in _BEFORE_REQUEST]

    def _slow(self) -> list[Client]:
        now = time.monotonic()
        clients = list(self.clients.values())  # as above
        return [client for client in clients if not client.busy and client.since <= now - _SLOW.get(client.stage, inf)]

    @staticmethod
    def _own(clients: Iterable[Client]) -> list[Client]:
        owned = list(clients)
        for client in owned:
            client.busy = True
        return owned

    # By anybody -------------------------------------------------------------------------------------------------------

    def add(self, client: Client) -> None:
        """A new one, busy."""
        self.clients[client.fd] = client
        if self.crowd.most:
            with self._arming:
                self.crowd.enter(client.host)

    def meet(self, client: Client, address: Any) -> None:
        """A busy client has another address, by the word of a proxy."""
        with self._arming:
            self.crowd.leave(client.host)
            client.meet(address)
            self.crowd.enter(client.host)

    def release(self, client: Client, events: int) -> None:
        """Wait for `events` of a busy client, until its deadline. It is not the caller's any more."""
        if client.deadline < client.booked:
            self._deadlines.book(client, client.deadline)
        if client.armed == events:
            client.busy = False
            if client.armed != events:
                self.ring()
            return
        with self._arming:
            if client.armed:
                self._epoll.modify(client.fd, events)
            else:
                self._epoll.register(client.fd, events)
                if not self._foreign:
                    self._step_behind(self._listeners.values())
            client.armed = events
            client.busy = False

    def close(self, client: Client) -> None:
        """The end of a busy client."""
        self._let_go(client)
        client.close()

    def detach(self, client: Client) -> socket.SocketType | TlsSocket:
        """A busy client's socket, for whoever serves it from now on."""
        self._let_go(client)
        return client.detach()

    def _let_go(self, client: Client) -> None:
        self._deadlines.forget(client)
        with self._arming:
            if client.armed:
                # A child of the application's may have a copy of the socket: then closing ours would not unregister it.
                self._epoll.unregister(client.fd)
            client.armed = _GONE
            del self.clients[client.fd]
            self.crowd.leave(client.host)
        if self._deaf_until:
            self._deaf_until = time.monotonic()
            self.ring()

    def listen(self) -> None:
        """Wait for connections too."""
        with self._arming:
            self._deaf_until = 0.0
            self._is_away = False
            if not self._listening:
                self._listening = True
                for listener in self._listeners.values():
                    with suppress(OSError, ValueError):  # closed: the supervisor is gone
                        self._epoll.register(listener, READ | select.EPOLLEXCLUSIVE)

    def stop_listening(self, seconds: float = 0.0) -> None:
        """Don't wait for connections, for so long or until a client has gone; 0.0: until `listen`."""
        with self._arming:
            self._deaf_until = time.monotonic() + seconds if seconds else 0.0
            self._is_away = False
            self._unregister()

    def turn_away(self) -> None:
        """Don't wait for connections until somebody polls who waits: who doesn't has no thread for them."""
        with self._arming:
            self._is_away = self._is_away or self._listening
            self._unregister()

    def _unregister(self) -> None:
        """Leave the listeners; called while arming."""
        if self._listening:
            self._listening = False
            for listener in self._listeners.values():
                with suppress(OSError, ValueError):
                    self._epoll.unregister(listener)

    def fileno(self) -> int:
        """A descriptor that can be read from when `poll` has something to tell."""
        return self._epoll.fileno()

    def is_knocked(self) -> bool:
        """Whether a connection waits to be accepted. In a listener that was shut down nobody does, whatever poll says first."""
        waiting = select.poll()
        for listener in self._listeners.values():
            if listener.fileno() >= 0:
                waiting.register(listener, select.POLLIN)
        return any(event & (select.POLLIN | select.POLLHUP) == select.POLLIN for _, event in waiting.poll(0))

    def ring(self) -> None:
        """Wake who polls."""
        os.eventfd_write(self._bell, 1)

    def _step_behind(self, listeners: Iterable[socket.socket]) -> None:
        """Have other workers asked before us from now on; called while arming.

        The kernel asks those who poll in the order of registration, which is the order of birth: one that isn't busy at the
        moment gets every connection. Of those that stay, each worker is to have its share.
        """
        if self._listening:
            for listener in listeners:
                with suppress(OSError, ValueError):  # closed: the supervisor is gone
                    self._epoll.unregister(listener)
                    self._epoll.register(listener, READ | select.EPOLLEXCLUSIVE)

    def _forget(self, fd: int) -> None:
        """The bell, or a socket that is closed here and lives on in a child of the application's."""
        if fd == self._bell:
            with suppress(BlockingIOError):
                os.eventfd_read(fd)
        else:
            with suppress(OSError):
                self._epoll.unregister(fd)

    def _mute(self, client: Client) -> None:
        with self._arming:
            if client.busy and client.armed > 0:
                self._epoll.unregister(client.fd)
                client.wanted, client.armed = client.armed, 0
                self._muted.append(client)

    def _unmute(self) -> None:
        """Register those again that were muted in the moment of their release; forget those who are registered anyway."""
        muted, self._muted = self._muted, []
        with self._arming:
            for client in muted:
                if client.armed:
                    continue
                if client.busy:
                    self._muted.append(client)
                else:
                    self._epoll.register(client.fd, client.wanted)
                    client.armed = client.wanted
