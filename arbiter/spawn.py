"""Fork, and the child's prologue: all that a child must undo before it may be a worker.

Both sides of the fork are in this file and nowhere else. Signals are blocked around the fork: a signal that reaches the
child before it has reset its handlers would be written into the supervisor's wake-up pipe and be taken for the
supervisor's own.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

from arbiter.fork import fork
from arbiter.workers.contract import STOCK_ENTRY, Exit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Order, TemplateOrder

PR_SET_CHILD_SUBREAPER: Final = 36
"""From linux/prctl.h; no module of Python's has it."""

SUPERVISORS_ONLY = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "FDSTORE")
"""What systemd says to the supervisor (sd_notify(3), sd_listen_fds(3)): a worker, or a program that it starts, must not
answer in its place."""


SUPERVISORS_SIGNALS: Final = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
"""What reaches workers too when it is sent by name (`pkill`) or to the whole group, and would end or stop them by default. The
application may take them for itself."""


def share_stock(kind: str, settings: Settings) -> None:
    """Load what all workers of this kind need, once, before the first of them is forked; nothing of it is called here.

    Loaded later it would be one more way to lose a service that runs. Whatever goes wrong, the workers will tell.
    """
    module, _, lay_in = STOCK_ENTRY.partition(":")
    with suppress(Exception):  # a library that can't be imported: each worker's boot fails by it, and says so
        getattr(importlib.import_module(module), lay_in)(kind, settings)
    gc.collect()
    gc.freeze()  # a pass of the collector writes to each object that it sees, and a page that is written to is shared no more


def fork_child(entry: str, order: Order | TemplateOrder, undo: Callable[[], None]) -> int:
    """Fork a worker or a template. In the supervisor: its pid. Never returns in the child.

    Args:
        entry: what runs in the child, as ``module:function``.
        order: what the child is to be.
        undo: called in the child, signals being blocked: closes what is the supervisor's own.

    Raises:
        OSError: the kernel refused (EAGAIN, ENOMEM); nothing has changed.
    """
    return fork(lambda: _be_a_child(entry, order, undo))


def _be_a_child(entry: str, order: Order | TemplateOrder, undo: Callable[[], None]) -> NoReturn:
    """In the child: the prologue, then its whole life. Nothing of the supervisor's stack is ever returned to.

    A template's life ends here too in each process that it forks.
    """
    code: int = Exit.BOOT
    try:
        undo()
        atexit._clear()  # what the supervisor registered is the supervisor's  # noqa: SLF001 - there is no public name
        for name in SUPERVISORS_ONLY:
            os.environ.pop(name, None)
        for number in SUPERVISORS_SIGNALS:
            signal.signal(number, _nothing)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        module, _, run = entry.partition(":")
        code = getattr(importlib.import_module(module), run)(order)
    except BaseException:  # the last line of defence: whatever it is, it must not unwind into the supervisor
        order.log.exception("a mistake of Arbiter's own ended this process; please report it")
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    """Handled and not ignored: a program that the application starts must not inherit it."""


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parent has ended (PR_SET_CHILD_SUBREAPER, prctl(2)).

    Raises:
        OSError: not on this system.
    """
    import ctypes  # only a template's workers need it, and the supervisor is to stay small

    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is None:
        raise OSError(errno.ENOSYS, "preload_app needs Linux, for PR_SET_CHILD_SUBREAPER")
    if prctl(PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
