"""Connections that have their response, and get a moment to take it, while their worker serves others.

Closing with bytes unread makes the kernel reset the connection, and a reset can overtake the response (RFC 9112 section 9.6).
So who is still sending is half-closed, and what comes is thrown away until the client closes too. To wait for that would let
a few clients that never stop sending hold a worker that serves one at a time: they are looked at between requests instead.
"""

from __future__ import annotations

import select
import socket
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MOST: Final = 64
"""Connections at a time; one more, and the oldest is closed. Each costs a descriptor, and at most `_BLOCK` bytes a turn."""
_BLOCK: Final = 64 * 1024
_TURN: Final = 0.1
"""Seconds that `finish` waits at most before it vouches for the worker again."""


class Parting:
    """Those of one worker."""

    def __init__(self, epoll: select.epoll, seconds: float) -> None:
        """Nobody yet.

        Args:
            epoll: the worker's; `heed` is to be asked about what it reports.
            seconds: for each of them.
        """
        self._epoll = epoll
        self._seconds = seconds
        self._clients: dict[int, tuple[socket.SocketType, float]] = {}  # the oldest first, and so their deadlines
        self._waste = bytearray(_BLOCK)

    def __bool__(self) -> bool:
        return bool(self._clients)

    def add(self, client: socket.SocketType) -> None:
        """One that is half-closed; it is ours from now on."""
        if len(self._clients) >= MOST:
            self._close(next(iter(self._clients)))
        fd = client.fileno()
        self._epoll.register(fd, select.EPOLLIN)
        self._clients[fd] = client, time.monotonic() + self._seconds

    @property
    def patience(self) -> float | None:
        """Seconds until `sweep` has something to do; None: until somebody is added."""
        for _, deadline in self._clients.values():
            return max(0.0, deadline - time.monotonic())
        return None

    def heed(self, fd: int) -> bool:
        """Something has come from the client of this descriptor: throw it away, or close; False: it is none of ours."""
        if fd not in self._clients:
            return False
        try:
            # MSG_TRUNC: TCP forgets the bytes without copying them (tcp(7)).
            is_over = not self._clients[fd][0].recv_into(self._waste, _BLOCK, socket.MSG_DONTWAIT | socket.MSG_TRUNC)
        except BlockingIOError:
            return True
        except OSError:
            is_over = True
        if is_over:
            self._close(fd)
        return True

    def sweep(self) -> None:
        """Close those whose time is over."""
        now = time.monotonic()
        for fd in [fd for fd, (_, deadline) in self._clients.items() if deadline <= now]:
            self._close(fd)

    def finish(self, vouch: Callable[[], None]) -> None:
        """Wait until all have closed, or their time is over: for a worker that goes."""
        while self._clients:
            vouch()
            waiting = select.poll()
            for fd in self._clients:
                waiting.register(fd, select.POLLIN)
            for fd, _ in waiting.poll(min(self.patience or 0.0, _TURN) * 1000):
                self.heed(fd)
            self.sweep()

    def _close(self, fd: int) -> None:
        client, _ = self._clients.pop(fd)
        self._epoll.unregister(fd)  # closing does not do it if a child of the application's has a copy
        client.close()
