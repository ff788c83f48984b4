"""Upgrades of a server under test: supervisors in a line, each started by the one before it."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Self

import procfs
from waiting import until

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from harness import Server

NOT_ALONE = r"upgrade ignored: the supervisor before this one has not left yet"
TAKEN_OVER = r"the new supervisor serves and has taken over"


def supervisors(server: Server) -> list[int]:
    """The pids of all that live, and for a moment of workers that have just been forked: they still have the title."""
    return [member.pid for member in server.members() if member.title.startswith("arbiter: supervisor")]


def children(pid: int) -> set[int]:
    """The pids of all child processes of a supervisor."""
    return {found.pid for found in procfs.everyone() if found.parent == pid}


def workers(pid: int) -> list[procfs.Process]:
    """The living workers of a supervisor."""
    return [found for found in procfs.everyone() if found.parent == pid and found.slot and found.state not in "ZX"]


def begin(server: Server, pid: int | None = None) -> int:
    """Send USR2 to a supervisor (the first one); the pid of the new one, once it is there."""
    pid = pid or server.pid
    known = children(pid)

    def begun() -> set[int]:
        """USR2 comes too early for one whose own predecessor is on its last instructions: then it is sent again."""
        ignored = server.count(NOT_ALONE)
        os.kill(pid, signal.SIGUSR2)
        until(lambda: children(pid) - known or server.count(NOT_ALONE) > ignored, "an answer to USR2")
        return children(pid) - known

    (fresh,) = until(begun, "a new supervisor")
    return fresh


def upgrade(server: Server, pid: int | None = None) -> int:
    """Send USR2 to a supervisor (the first one); the pid of the new one, once it has taken over."""
    before = server.count(TAKEN_OVER)
    fresh = begin(server, pid)
    until(lambda: server.count(TAKEN_OVER) > before, "the new supervisor's taking over")
    return fresh


def leave(server: Server) -> None:
    """Wait until the first supervisor has left, as it should, and the next has noticed."""
    assert server.wait_exit() == 0


def stop(server: Server, pid: int) -> None:
    """Stop a successor; then nothing is left of the whole line."""
    os.kill(pid, signal.SIGTERM)
    until(lambda: not server.members(), lambda: f"the end of all processes: {server.members()}")
    assert server.ended() == 0


class Watch:
    """Reads a file as often as it can while the `with` block runs; `seen` is all that was ever in it, without repetitions."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seen: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                text = self._path.read_text().rstrip("\n")
            except FileNotFoundError:
                text = "nothing"
            if not self.seen or self.seen[-1] != text:
                self.seen.append(text)

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.seen, "the first look")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
