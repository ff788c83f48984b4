"""A child process seen from its parent: what leads to it, and the handle that `kernel` keeps and `lookout` looks at."""

from __future__ import annotations

import os
import select
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from signal import Signals
from typing import TYPE_CHECKING, Final

from arbiter import facts
from arbiter.workers.contract import Decoder, requests

if TYPE_CHECKING:
    from arbiter.blueprint import Blueprint
    from arbiter.workers.contract import Row, WorkerId

LEAVING: Final = 1.0
"""Seconds to wait, at the very end, for a process that was killed: freeing a gigabyte takes the kernel about 0.1 s."""


class Wires:
    """Channel, pipe for stacks and lifeline of a child, both ends of each: made before the fork."""

    def __init__(self, kind: socket.SocketKind, lifeline: int) -> None:
        """With a channel of this kind; `lifeline` is the descriptor that is opened once more, for this child alone.

        Raises:
            OSError: there are no descriptors left; none has been used.
        """
        with ExitStack() as undo:
            self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, kind)
            undo.callback(self.ours.close)
            undo.callback(self.theirs.close)
            self.stacks, self.dump = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, self.stacks)
            undo.callback(os.close, self.dump)
            self.lifeline = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            undo.pop_all()

    def close_theirs(self) -> None:
        """In the parent: the child has its ends."""
        if self.dump >= 0:
            self.theirs.close()
            os.close(self.dump)
            os.close(self.lifeline)
            self.dump = self.lifeline = -1

    def close_ours(self) -> None:
        """In the child: it has no use for the parent's ends."""
        if self.stacks >= 0:
            self.ours.close()
            os.close(self.stacks)
            self.stacks = -1

    def close(self) -> None:
        """Close what is open."""
        self.close_ours()
        self.close_theirs()


@dataclass(slots=True, kw_only=True)
class Unborn:
    """A worker that is wanted, with all that was made for it."""

    id: WorkerId
    blueprint: Blueprint
    rows: tuple[Row, ...]
    place: int
    """The number of its first row."""
    wires: Wires
    signal: Signals | None = None
    """What it was sent before it lived."""


@dataclass(slots=True, kw_only=True)
class Process:
    """Known by its pid until it is reaped, and not a moment longer."""

    pid: int
    channel: socket.socket
    stacks: int
    """Read end of the pipe into which its stacks are dumped; non-blocking."""
    was_killed: bool = False
    """Whether we sent it SIGKILL: then its death needs no other explanation."""

    def read_stacks(self) -> str:
        """What has been dumped so far, without the frames that are the supervisor's own, from before the fork."""
        pieces = []
        try:
            while piece := os.read(self.stacks, 65536):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return _without_ours(b"".join(pieces).decode("utf-8", "replace"))

    def report(self, now: float) -> str:  # noqa: ARG002 - a template, which has no requests, has nothing that ages
        """All that can be said of what it is at."""
        return self.read_stacks()

    def close(self) -> None:
        """Let go of the descriptors."""
        self.channel.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1


@dataclass(slots=True, kw_only=True)
class Child(Process):
    """A worker that lives."""

    id: WorkerId
    blueprint: Blueprint
    rows: tuple[Row, ...]
    """Its own, then its threads'."""
    decoder: Decoder = field(default_factory=Decoder)
    accused: float = 0.0
    """The self-granted deadline about which it has been reported."""
    forgiven: tuple[float, float] = (0.0, 0.0)
    """A self-granted deadline, and how much time it did not have because everything slept."""
    slow: dict[Row, float] = field(default_factory=dict)
    """By row: when the request began about which it has been reported as slow."""

    @property
    def row(self) -> Row:
        """Its own row, with the deadline that it grants itself."""
        return self.rows[0]

    def requests(self, now: float) -> list[str]:
        """The requests that it is in, the oldest first, each for a sentence."""
        return requests(self.rows, now)

    def report(self, now: float) -> str:
        """Its requests, a line for each, then the stacks of its threads."""
        return "\n".join([*(f"  {request}" for request in self.requests(now)), self.read_stacks()]).rstrip("\n")

    @property
    def is_busy(self) -> bool:
        """Whether it is in a request."""
        return any(row.started() for row in self.rows)


def exited(id: WorkerId, code: int, *, out_of_memory: bool, doing: str = "") -> facts.Exited:  # noqa: A002 - its name everywhere
    """The fact that a process has been reaped; a negative code is a signal's number, as in `os.waitstatus_to_exitcode`."""
    if code >= 0:
        return facts.Exited(id, code, doing=doing)
    return facts.Exited(id, None, signal_name(-code), out_of_memory=out_of_memory, doing=doing)


def signal_name(number: int) -> str:
    """What a signal is called: ``SIGKILL``."""
    try:
        return Signals(number).name
    except ValueError:  # a real-time signal between the first and the last: those have no names
        return f"signal {number}"


def await_end(pid: int) -> None:
    """Reap a process that was killed, if it can be in `LEAVING` seconds: for the very end, when nobody else would."""
    try:
        process = os.pidfd_open(pid)
        select.select([process], [], [], LEAVING)
        os.close(process)
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        pass  # no pidfd to be had: pid 1 reaps it


def _without_ours(stacks: str) -> str:
    """The text of faulthandler, each thread's stack cut where `spawn` has forked."""
    kept, is_ours = [], False
    for line in stacks.splitlines():
        is_frame = line.startswith("  ")
        is_ours = is_frame and (is_ours or _FORK in line)
        if not is_ours:
            kept.append(line)
    return "\n".join(kept)


_FORK: Final = '/arbiter/spawn.py", line'
