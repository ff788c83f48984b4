"""How the supervisor forks, whatever the child is to be: with nothing in its buffers, and no signal in between."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def fork(child: Callable[[], NoReturn]) -> int:
    """In the parent: the pid. `child` is the child's whole life, which begins with all signals blocked.

    Raises:
        OSError: the kernel refused (EAGAIN, ENOMEM); nothing has changed.
    """
    sys.stdout.flush()  # else what is in the buffers comes out twice
    sys.stderr.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            child()
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
