"""When to look at which connection: one coarse wheel for all of them, no timer for any.

A connection is *booked* for a moment. Most deadlines move on before they come (every request of a kept connection moves
one), so a booking does not move with them: whoever comes due and has more time by now is booked anew. So a request costs
nothing here, and a sweep costs what is due, however many connections there are.
"""

from __future__ import annotations

import threading
from math import inf
from typing import Final, Generic, Protocol, TypeVar

TICK: Final = 0.1
"""Seconds between two notches of the wheel: the shortest deadline that a setting allows."""


class Booked(Protocol):
    """What a connection must have: both are the wheel's."""

    notch: int
    """0: it is not booked."""
    booked: float
    """Monotonic seconds: when it will be looked at; `inf`: never."""


T = TypeVar("T", bound=Booked)


class Deadlines(Generic[T]):
    """Bookings by notch. For several threads."""

    def __init__(self) -> None:
        self._notches: dict[int, set[T]] = {}
        self._lock = threading.Lock()
        self.next = inf
        """Monotonic seconds; before it nothing is due."""

    def book(self, client: T, moment: float) -> None:
        """Have the client come due at `moment` (monotonic seconds) or a tick later, if it does not come due before."""
        notch = int(moment / TICK) + 1
        with self._lock:
            if client.notch:
                if client.notch <= notch:
                    return
                self._remove(client)
            client.notch = notch
            client.booked = notch * TICK
            self._notches.setdefault(notch, set()).add(client)
            self.next = min(self.next, client.booked)

    def forget(self, client: T) -> None:
        """The client is gone."""
        with self._lock:
            if client.notch:
                self._remove(client)

    def due(self, now: float) -> list[T]:
        """Those whose moment has come; they are booked no more."""
        if now < self.next:
            return []
        with self._lock:
            found = [client for notch in self._notches if notch * TICK <= now for client in self._notches[notch]]
            for client in found:
                self._remove(client)
            self.next = min(self._notches, default=inf) * TICK
        return found

    def _remove(self, client: T) -> None:
        notch = self._notches[client.notch]
        notch.discard(client)
        if not notch:
            del self._notches[client.notch]
        client.notch, client.booked = 0, inf
