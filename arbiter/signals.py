"""The signals that the supervisor takes: one table, from which handlers and documentation are made.

Handlers do nothing: Python writes the number of each signal into the wake-up descriptor, and the loop reads it from there
when it is ready. So a signal is never handled in the middle of a decision. `install` is called in the supervisor before the
first fork; a child undoes it with `uninstall`.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from enum import Enum
from signal import Signals
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType


class Command(Enum):
    """What an operator (or the kernel) wants of the supervisor."""

    STOP = "stop"
    QUIT = "quit"
    RELOAD = "reload"
    MORE = "more"
    FEWER = "fewer"
    REOPEN_LOGS = "reopen-logs"
    UPGRADE = "upgrade"
    REST = "rest"
    REIGN = "reign"
    """Said by the supervisor that has started this one: the service manager's attention is yours."""
    ABDICATE = "abdicate"
    """Said by the same: I take it back."""
    INHERIT = "inherit"
    """It has gone: all that it had is ours."""
    ADOPTED = "adopted"
    """Its process has ended: whoever takes in orphans here is our parent now, under systemd its manager."""
    REAP = "reap"


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
    Signals.SIGUSR2: Handling(Command.UPGRADE, "Start a new supervisor on the same sockets: it takes over once it is ready."),
    Signals.SIGWINCH: Handling(Command.REST, "Retire all workers, until TTIN or HUP; a resized terminal is not taken for it."),
    Signals.SIGCHLD: Handling(Command.REAP, "A worker has ended.", verb=False),
}
"""Every signal that the supervisor changes the disposition of."""


_ENDING: Final = frozenset({Signals.SIGTERM, Signals.SIGINT, Signals.SIGQUIT})
_HARMLESS: Final = (Signals.SIGALRM, Signals.SIGVTALRM, Signals.SIGPROF, Signals.SIGIO)
"""Ignored: timers and descriptors that are not ours, whose default action would end the service."""


class Cut(BaseException):
    """Raised in code of the operator's by a signal that ends the service, or because its time is over (SIGALRM).

    The loop hears the signal afterwards, as ever.
    """


_cuts = False
"""Whether such code runs."""


def _on_signal(signum: int, _frame: FrameType | None) -> None:
    """Being called at all is what matters: the interpreter has written to the wake-up descriptor."""
    if _cuts and (signum in _ENDING or signum == Signals.SIGALRM):
        raise Cut(Signals(signum).name)


@contextmanager
def cutting(seconds: float = 0.0) -> Iterator[None]:
    """While the block runs, which is not ours and may take for ever, a signal that ends the service ends it: `Cut`.

    So does the end of its time, if `seconds` are given: every second from then on, until it lets the exception pass. Only
    what hangs in C goes on.
    """
    global _cuts  # noqa: PLW0603 - signal handlers have no other place to look
    if seconds:
        signal.signal(signal.SIGALRM, _on_signal)
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    _cuts = True
    try:
        try:
            yield
        finally:
            _cuts = False
    finally:
        _cuts = False  # if a signal came just before the first
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)


_ASKED_FOR: Final = frozenset({Signals.SIGWINCH})
"""Blocked, and asked for at every turn of the loop, because only so it is known who sent it: the kernel sends it to whoever
is in the foreground of a terminal whose window changes its size, and that must not cost anybody a worker."""


def reset() -> None:
    """In a child, signals being blocked: every disposition as it is by default."""
    signal.set_wakeup_fd(-1)
    for number in (*SIGNALS, *_HARMLESS):
        signal.signal(number, signal.SIG_DFL)


_COUNTED: Final = frozenset({Command.MORE, Command.FEWER, Command.STOP, Command.QUIT})
"""What means something else each time. A hundred HUPs that came while the loop was busy are one wish to reload."""


class Inbox:
    """Signals as a readable descriptor. Supervisor side."""

    def __init__(self) -> None:
        self.fd, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ()) | _ASKED_FOR
        self.arm()

    def arm(self) -> None:
        """Have signals come here, whoever they came to before."""
        for number in SIGNALS:
            signal.signal(number, _on_signal)
        for number in _HARMLESS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        # A full pipe loses nothing that matters: there are thousands of unread signals in it, and reaping polls anyway.
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def read(self) -> list[Command]:
        """The commands that have come in, in order; what means no more when it is said twice is there once."""
        commands = []
        if (sent := signal.sigtimedwait(_ASKED_FOR, 0)) and sent.si_code <= 0:  # SI_USER and the like; SI_KERNEL is above
            commands.append(SIGNALS[Signals(sent.si_signo)].command)
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return commands
        commands += [SIGNALS[Signals(number)].command for number in numbers if number in SIGNALS]
        last = {command: place for place, command in enumerate(commands)}
        return [command for place, command in enumerate(commands) if command in _COUNTED or place == last[command]]

    def post(self, number: Signals) -> None:
        """Do as if this signal had come. For any thread."""
        try:
            os.write(self._write_end, bytes([number]))
        except BlockingIOError:
            pass  # thousands of signals are unread: this one too is among them, or of no more weight

    def uninstall(self) -> None:
        """In a child, right after its fork, signals being blocked: leave no trace of the supervisor's handling."""
        reset()
        self._close()

    def close(self) -> None:
        """In the supervisor: all is over but the clearing up, which nobody who asks for the end once more may interrupt.

        Ignored, not handled: the interpreter gives back its own handlers before the process has ended. Blocked meanwhile,
        because the interpreter complains of a signal that came between its last look and the change (it has noted it, and
        finds no handler any more).
        """
        signal.set_wakeup_fd(-1)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._close()

    def _close(self) -> None:
        os.close(self.fd)
        os.close(self._write_end)
