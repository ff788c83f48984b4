"""Leaders and followers: the threads of a worker, and which of them polls.

Whoever has nothing to do takes the lead and polls; what it finds it serves itself, so no request is ever handed from one
thread to another (a hand-over costs 14 us, as much as a small request). While it serves, nobody polls. When that takes
longer than a `PULSE`, since the application waits for something, the *standby* takes the lead or what lies in the queue, and
the next thread becomes the standby. So an application that is quick is served by one thread, which never has to share the
interpreter's lock, and one that waits gets all threads within a few milliseconds; and since a thread that has finished looks
for work before it rests, threads stay busy as long as there is work.

The standby looks at the lead once a pulse, and dozes when nothing happens. Everyone else sleeps without a deadline. When
the last thread is about to serve, and there is no standby, somebody else is called to keep watch: it serves nothing, but sees
to it that what comes while all threads are busy is not left lying.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Seat = TypeVar("Seat")
Found = TypeVar("Found")

LONGEST: Final = 1.0
"""Seconds that the lead may wait: another thread may have set an earlier deadline meanwhile, which is late by so much."""
PULSE: Final = 0.001
"""Seconds that the lead may be away before the standby takes over. A switch between threads costs about 10 us: paid once in
a millisecond, it is 1 % of the time, and nobody notices a millisecond."""
_CALM: Final = 5
"""Pulses in one, once the lead has come and gone for `_SETTLED` of them as it should: a look costs two switches between
threads, which in every millisecond was 5 % of what hello cost. Who waits after that has the next thread 4 ms later."""
_SETTLED: Final = 8
_DROWSY: Final = 20
"""Pulses without a word of the lead after which the standby dozes off. Waking it costs one switch."""


class Crew(Generic[Seat, Found]):
    """Threads that poll and serve. A seat is what a thread has of its own."""

    def __init__(
        self,
        poll: Callable[[Seat, float], None],
        serve: Callable[[Seat, Found], bool],
        call: Callable[[], None] | None = None,
    ) -> None:
        """Nobody yet: see `hire`.

        Args:
            poll: waits up to so many seconds, and puts into `queue` what it has found. Called by one thread at a time.
            serve: serves something out of the queue; False: the thread is not needed any more. Neither may raise.
            call: wakes who keeps watch; None: nobody does.
        """
        self.queue: deque[Found] = deque()
        self._poll = poll
        self._serve = serve
        self._call = call or _nobody
        self.is_watched = call is None
        """Somebody keeps watch, or nobody ever does: there is no need to call."""
        self._lead = threading.Lock()
        self._polls = 0
        self._standby = threading.Lock()
        self._wake = threading.Lock()
        self._wake.acquire()
        self._dozes = False

    def hire(self, seat: Seat, name: str) -> None:
        """Start a thread."""
        threading.Thread(target=self._work, args=(seat,), name=name, daemon=True).start()

    def poll_once(self, seat: Seat) -> None:
        """Poll without waiting if nobody has the lead: for one who serves nothing, when all others may be busy."""
        if self._lead.acquire(blocking=False):
            self._lead_once(seat, 0.0)

    def stand_down(self) -> None:
        """Keep watch no longer, unless the last thread is serving: who keeps watch asks again after a while."""
        self.is_watched = False  # before looking: a thread that has given up the lead by then either calls or is seen
        self.is_watched = not (self._lead.locked() or self._standby.locked())

    def _work(self, seat: Seat) -> None:
        queue, serve, lead, standby = self.queue, self._serve, self._lead, self._standby
        while True:
            try:
                found = queue.popleft()
            except IndexError:
                if lead.acquire(blocking=False):
                    self._lead_once(seat, LONGEST)
                else:
                    self._follow()
            else:
                if not self.is_watched and not standby.locked():
                    self.is_watched = True
                    self._call()
                if not serve(seat, found):
                    return

    def _lead_once(self, seat: Seat, seconds: float) -> None:
        try:
            self._poll(seat, seconds)
        finally:
            self._polls += 1
            if self._dozes:  # before the lead is given up: who dozes must not miss that nobody has it
                self._dozes = False
                self._wake.release()
            self._lead.release()

    def _follow(self) -> None:
        """Return when there may be something to do that nobody does."""
        with self._standby:
            polls, quiet, moved = self._polls, 0, 0
            while True:
                if quiet < _DROWSY:
                    self._wake.acquire(timeout=PULSE if moved < _SETTLED else PULSE * _CALM)
                else:
                    self._dozes = True
                    if self._polls == polls and self._lead.locked():  # whoever polls will see that we doze
                        self._wake.acquire()
                    self._dozes = False
                if self._polls != polls:
                    polls, quiet, moved = self._polls, 0, moved + 1
                elif self._lead.locked():
                    quiet += 1
                else:
                    return


def _nobody() -> None:
    """Nobody keeps watch."""
