"""Fork, and the child's prologue: all that a child must undo before it may be a worker.

Both sides of the fork are in this file and nowhere else. Signals are blocked around the fork: a signal that reaches the
child before it has reset its handlers would be written into the supervisor's wake-up pipe and be taken for the
supervisor's own.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from arbiter.workers.contract import ENTRY, Exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.workers.contract import Order

SUPERVISORS_ONLY = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What systemd says to the supervisor (sd_notify(3), sd_listen_fds(3)): a worker, or a program that it starts, must not
answer in its place."""


def fork_worker(order: Order, undo: Callable[[], None]) -> int:
    """Fork a worker. In the supervisor: its pid. Never returns in the child.

    Args:
        order: what the child is to be.
        undo: called in the child, signals being blocked: closes what is the supervisor's own.

    Raises:
        OSError: the kernel refused (EAGAIN, ENOMEM); nothing has changed.
    """
    sys.stdout.flush()  # else what is in the buffers comes out twice
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_a_worker(order, undo)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_a_worker(order: Order, undo: Callable[[], None]) -> NoReturn:
    """In the child: the prologue, then the worker's whole life. Nothing of the supervisor's stack is ever returned to."""
    code: int = Exit.BOOT
    try:
        undo()
        atexit._clear()  # what the supervisor registered is the supervisor's  # noqa: SLF001 - there is no public name
        for name in SUPERVISORS_ONLY:
            os.environ.pop(name, None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        module, _, run = ENTRY.partition(":")
        code = getattr(importlib.import_module(module), run)(order)
    except BaseException:  # the last line of defence: whatever it is, it must not unwind into the supervisor
        order.log.exception("a mistake of Arbiter's own ended this worker; please report it")
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
