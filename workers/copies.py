"""A copy of a worker, which the application has forked out of its import or of a request: it is not to become another worker.

An application may fork (os.fork, multiprocessing). What it forks is its own, until it comes back to us: a child that returns
from the application, or calls sys.exit, would answer the client a second time, and then go on as a worker that nobody knows of,
with the same sockets, never reaped and never told to stop. So it leaves where it comes back.

Until then it has nothing of ours: its copies of the listening sockets and of the wires to the supervisor are replaced by
/dev/null, so that it neither keeps a port that is to be free nor speaks in its parent's name; and signals do to it what they
do to any program, so that `Process.terminate` works. Connections stay open in it; which those are, nobody here knows.

Costs nothing but a flag to be looked at: what is done is done after the fork, in the child.
"""

from __future__ import annotations

import os
import signal
import sys
from threading import get_ident
from typing import TYPE_CHECKING, Final, NoReturn

from arbiter.workers.contract import Exit

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from arbiter.workers.contract import Log

_OURS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGIO)
"""What a worker handles that would end a program."""


class _Self:
    """What is known of this process."""

    is_copy = False
    """Whether it was forked from a worker by the application."""
    log: Log | None = None
    descriptors: tuple[int, ...] = ()
    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self) -> None:
        self.masks: dict[int, set[int | signal.Signals]] = {}
        """By thread: the signals that were blocked before its fork."""


this: Final = _Self()


def run_on(loop: asyncio.AbstractEventLoop) -> None:
    """The application's coroutines run on this loop: a copy that suspends in one comes back to it."""
    this.loop = loop


def own(descriptors: Iterable[int], log: Log) -> None:
    """Be a worker (or a template), and no copy of one; these descriptors are of no use to anybody else."""
    this.is_copy = False
    this.log, this.descriptors, this.loop = log, tuple(descriptors), None


def disown() -> None:
    """What is forked from now on is not the application's doing."""
    this.log, this.descriptors, this.loop = None, (), None


def leave(raised: BaseException | None = None) -> NoReturn:
    """In a copy that has come back from the application, with this exception if any: end it, as a program would."""
    code: int = Exit.OK
    try:
        if isinstance(raised, SystemExit):
            code = raised.code if isinstance(raised.code, int) else int(raised.code is not None)
        elif this.log:
            what = f"raised {type(raised).__name__}: {raised}" if raised else "came back from the application"
            this.log.warning(
                f"a process that the application has forked {what}, which would have made it a second worker. It was ended: "
                "call os._exit() or sys.exit() in it, when it has done what it is for."
            )
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _hold() -> None:
    """Just before a fork: a signal that is meant for the child must not come before it can end it."""
    if this.log:
        this.masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)


def _release() -> None:
    """Let signals come again, in the parent or in the child."""
    mask = this.masks.pop(get_ident(), None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become_a_copy() -> None:
    """In a child, right after its fork."""
    if this.log:
        _let_go()
    _release()


def _let_go() -> None:
    this.is_copy = True
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in this.descriptors:
        try:
            os.fstat(descriptor)
        except OSError:
            continue  # closed in the meantime
        os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    signal.set_wakeup_fd(-1)
    for number in _OURS:
        handler = signal.getsignal(number)
        if getattr(getattr(handler, "func", handler), "__module__", "").startswith("arbiter."):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if this.loop:
        this.loop.call_soon(leave)  # if it suspends, it is the loop that it comes back to


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_become_a_copy)
