"""The signals that the supervisor takes: one table, from which handlers and documentation are made.

Handlers do nothing: Python writes the number of each signal into the wake-up descriptor, and the loop reads it from there
when it is ready. So a signal is never handled in the middle of a decision. `install` is called in the supervisor before the
first fork; a child undoes it with `uninstall`.
"""

from __future__ import annotations

import os
import signal
from enum import Enum
from signal import Signals
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType


class Command(Enum):
    """What an operator (or the kernel) wants of the supervisor."""

    STOP = "stop"
    QUIT = "quit"
    RELOAD = "reload"
    MORE = "more"
    FEWER = "fewer"
    REOPEN_LOGS = "reopen-logs"
    REAP = "reap"
    NOTHING = "nothing"


class Handling(NamedTuple):
    """A line of the table."""

    command: Command
    doc: str
    verb: bool = True
    """Whether `arbiterctl` sends it, under the command's name."""


SIGNALS: Final[Mapping[Signals, Handling]] = {
    Signals.SIGTERM: Handling(Command.STOP, "Stop gracefully: requests are finished, up to `graceful_timeout`. Twice: quick."),
    Signals.SIGINT: Handling(Command.QUIT, "Stop quickly: requests are interrupted. Twice: at once, by SIGKILL."),
    Signals.SIGQUIT: Handling(Command.QUIT, "The same as INT.", verb=False),
    Signals.SIGHUP: Handling(Command.RELOAD, "Reload settings and application: a canary first, then one worker after another."),
    Signals.SIGTTIN: Handling(Command.MORE, "One worker more; remembered across reloads."),
    Signals.SIGTTOU: Handling(Command.FEWER, "One worker fewer, never below one; remembered across reloads."),
    Signals.SIGUSR1: Handling(Command.REOPEN_LOGS, "Open the log files again, after a rotation."),
    Signals.SIGUSR2: Handling(Command.NOTHING, "Not used.", verb=False),
    Signals.SIGCHLD: Handling(Command.REAP, "A worker has ended.", verb=False),
}
"""Every signal that the supervisor changes the disposition of."""


def _no_op(_signum: int, _frame: FrameType | None) -> None:
    """Being called at all is what matters: the interpreter has written to the wake-up descriptor."""


class Inbox:
    """Signals as a readable descriptor. Supervisor side."""

    def __init__(self) -> None:
        self.fd, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._previous = {number: signal.signal(number, _no_op) for number in SIGNALS}
        # A full pipe loses nothing that matters: there are thousands of unread signals in it, and reaping polls anyway.
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def read(self) -> list[Command]:
        """The commands that have come in, in order."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return []
        return [SIGNALS[Signals(number)].command for number in numbers if number in SIGNALS]

    def uninstall(self) -> None:
        """In a child, right after its fork, signals being blocked: leave no trace of the supervisor's handling."""
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._close()

    def close(self) -> None:
        """In the supervisor: give the process back as it was."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._write_end)
