"""Become a daemon: daemon(7), the old way, for service managers that want it.

The command returns only when the service serves (status 0) or has failed to (its exit status), with every message of the
start on the terminal; only then does the daemon let go of it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from arbiter.workers.contract import Exit

if TYPE_CHECKING:
    from collections.abc import Callable


class Daemon:
    """The daemon's side of a start that somebody waits for."""

    def __init__(self, report: int) -> None:
        self._report: int | None = report

    def settle(self) -> None:
        """The service serves: let the command return, and let go of the terminal."""
        if self._report is None:
            return
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        self._tell(Exit.OK)

    def fail(self, code: int) -> None:
        """The service has ended before it served: let the command return with this status."""
        self._tell(code)

    def forget(self) -> None:
        """In a child: the answer is not its to give."""
        if self._report is not None:
            os.close(self._report)
            self._report = None

    def _tell(self, code: int) -> None:
        if self._report is not None:
            os.write(self._report, bytes([code]))
            self.forget()


def run_as_daemon(serve: Callable[[Daemon], int]) -> int:
    """Run `serve` in a daemon. Returns in the command's process, when it has settled; never returns in the daemon."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(write_end)
        answer = os.read(read_end, 1)
        return answer[0] if answer else Exit.BOOT
    os.close(read_end)
    os.setsid()
    if os.fork():
        os._exit(0)  # so that the daemon leads no session and can never get a terminal
    code: int = Exit.START
    daemon = Daemon(write_end)
    try:
        code = serve(daemon)
    finally:
        daemon.fail(code)
        os._exit(code)
