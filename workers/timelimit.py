"""An end to requests that take too long: an exception, raised from outside in the thread that is in the application.

Only Python code can be interrupted so: a thread that waits in C (a query, a lock) raises when it comes back, and one that
never does is lost. A wait for the portal is in C too, but ours: it is ended, and the thread comes back. The interpreter raises
at any byte code after `PyThreadState_SetAsyncExc`, so also after the application has returned; therefore `run` takes an
exception that came too late for itself, and lets none out but what it was given for.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter.workers import portal
from arbiter.workers.interfaces.wsgi import OverrunError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

NUDGE: Final = signal.SIGRTMIN + 2
"""Interrupts a system call of the main thread, so that it sees its exception: the next real-time signal after DUMP_SIGNAL."""
_NUDGES: Final = 0.1
"""Seconds between two nudges: one that comes just before the system call begins is lost."""
_LONGEST: Final = 1.0
"""Longest sleep of a guard in seconds: a request that gives itself less time than it had is found late by so much."""
GRACE: Final = 2.0
"""Seconds that a thread may take from its cancellation to the end of its request: clean-up, a roll-back. After that it is
taken for lost."""


class TimeLimit:
    """The limit of one thread's requests. `run` and `extend` are the thread's own, all others are another thread's."""

    __slots__ = ("_cancelled", "_lock", "_thread", "_until")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = 0
        self._until = 0.0  # monotonic seconds; 0.0: no request is under way, or it has been cancelled
        self._cancelled = 0.0  # when; 0.0: it has not been

    def run(self, seconds: float, request: Callable[[], None]) -> bool:
        """Run `request`, and cancel it when it takes longer. Whether it ended by itself."""
        done = False
        try:
            self._thread = threading.get_ident()
            self._until = time.monotonic() + seconds
            request()
            done = True
        except OverrunError:
            pass  # it came where nobody expected it any more
        while True:
            try:
                self._end()
            except OverrunError:
                done = False
            else:
                return done

    def _end(self) -> None:
        with self._lock:
            self._until = 0.0
            if self._cancelled:
                _raise_in(self._thread, None)  # if it has not been raised yet, it must not be in the next request
                self._cancelled = 0.0

    def extend(self, seconds: float) -> None:
        """Give the request under way so many seconds from now on, or what it has left, if that is more."""
        with self._lock:
            if self._until:
                self._until = max(self._until, time.monotonic() + seconds)

    def left(self, now: float) -> float:
        """Seconds until `cancel` has something to do; `inf` if it has nothing to do for now."""
        return max(0.0, until - now) if (until := self._until) else inf

    @property
    def is_cancelled(self) -> bool:
        """Whether the thread has been sent an exception, and has not come back."""
        return self._cancelled > 0.0

    def cancel(self, now: float) -> str:
        """Cancel the request if its time is over (by `inf` it always is).

        Returns:
            What it was at, as lines of a traceback; empty: its time is not over, or it has been cancelled before.
        """
        with self._lock:
            if not self._until or now < self._until:
                return ""
            self._until, self._cancelled = 0.0, now
            stack = _stack(self._thread)
            _raise_in(self._thread, OverrunError)
            portal.interrupt(self._thread)  # if it waits there it is in C, and may be woken
        return stack

    def stack(self) -> str:
        """What the thread is at, as lines of a traceback."""
        return _stack(self._thread)

    def is_lost(self, now: float) -> bool:
        """Whether the thread has not come back within `GRACE`."""
        cancelled = self._cancelled
        return cancelled > 0.0 and now > cancelled + GRACE


def _stack(thread: int) -> str:
    frame: FrameType | None = sys._current_frames().get(thread)  # noqa: SLF001 - documented, in spite of its name
    return "".join(traceback.format_stack(frame)).rstrip() if frame else "its thread is gone"


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Have a thread raise `error`; None: have it not raise what it was to raise."""
    import ctypes  # not before it is needed

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def guard_main_thread(limit: TimeLimit, seconds: float, cancelled: Callable[[str], None], lost: Callable[[], None]) -> None:
    """Start a thread that cancels the main thread's requests, where there is no other to do so. Called by the main thread.

    The main thread alone can be woken from a system call (a sleep, a read that Python makes): by a signal, whose handler is
    where the exception is raised then.

    Args:
        limit: of the main thread's requests.
        seconds: that a request may take, at least.
        cancelled: told what a request was at that has just been cancelled, as lines of a traceback.
        lost: told that one has not ended within `GRACE`, once for each.
    """
    main = threading.get_ident()
    signal.signal(NUDGE, _nothing)

    def guard() -> None:
        is_told = False
        while True:
            now = time.monotonic()
            if stack := limit.cancel(now):
                cancelled(stack)
            if not limit.is_cancelled:
                is_told = False
                time.sleep(min(limit.left(now), seconds, _LONGEST))
                continue
            signal.pthread_kill(main, NUDGE)
            if limit.is_lost(now) and not is_told:
                is_told = True
                lost()
            time.sleep(_NUDGES)

    threading.Thread(target=guard, name="arbiter-guard", daemon=True).start()


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Being called is what matters: the interpreter looks for exceptions then."""
