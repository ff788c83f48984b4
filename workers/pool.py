"""Threads for the requests of an event loop: so many at a time, made when they are needed, the next request whenever one ends.

Requests that say that they only wait (``arbiter.io_bound``) give their places to others, as long as there are spare ones.
Everything is called on the loop's thread but what says otherwise.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Place:
    """A request's claim to a thread."""

    __slots__ = ("_job", "_pool", "is_spare")

    def __init__(self, pool: Pool, job: Callable[[Place], None]) -> None:
        self._pool = pool
        self._job = job
        self.is_spare = False
        """It has given its place to another, and is one of the spare ones."""

    def run(self) -> None:
        """In its thread: do what there is to do."""
        self._job(self)

    def give_up(self) -> bool:
        """``arbiter.io_bound``: let another request begin in place of this one, which only waits. Whether there is a spare one.

        To be called in the thread.
        """
        return self._pool.spare(self)


class Pool:
    """The threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, places: int, spare: int) -> None:
        """None is started yet.

        Args:
            loop: whose requests they are for.
            places: requests at a time.
            spare: more of them that only wait.
        """
        self._loop = loop
        self._places = places
        self._spare = spare
        self._door = threading.Lock()  # of the two above
        self._waiting: deque[Place] = deque()
        self._queue: SimpleQueue[Place] = SimpleQueue()
        self._threads = 0
        self._busy = 0

    def enter(self, job: Callable[[Place], None]) -> Place:
        """Have a thread call `job`, with its place, as soon as there is one. `leave` is due when it has returned.

        The place is given to the job as well, since that may run before this has returned.
        """
        place = Place(self, job)
        self._waiting.append(place)
        self._seat()
        return place

    def withdraw(self, place: Place) -> bool:
        """Take a request back whose job has not begun. Whether that was still possible; then no `leave` is due."""
        try:
            self._waiting.remove(place)
        except ValueError:
            return False
        return True

    def leave(self, place: Place) -> None:
        """The job has returned."""
        self._busy -= 1
        with self._door:
            if place.is_spare:
                self._spare += 1
            else:
                self._places += 1
        self._seat()

    def spare(self, place: Place) -> bool:
        """As `Place.give_up`."""
        with self._door:
            if place.is_spare:
                return True
            if not self._spare:
                return False
            self._spare -= 1
            self._places += 1
            place.is_spare = True
        self._loop.call_soon_threadsafe(self._seat)
        return True

    def _seat(self) -> None:
        while self._waiting:
            with self._door:
                if not self._places:
                    return
                self._places -= 1
            self._busy += 1
            if self._threads < self._busy:
                self._threads += 1
                threading.Thread(target=self._work, name=f"arbiter-{self._threads}", daemon=True).start()
            self._queue.put(self._waiting.popleft())

    def _work(self) -> None:
        while True:
            self._queue.get().run()
