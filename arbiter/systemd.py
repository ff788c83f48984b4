"""systemd's side channel: what it passes to the supervisor, and what the supervisor tells it.

The protocol is sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3): lines of text in one datagram, descriptors beside
it. Nothing here waits: when the manager does not read, messages wait. Supervisor side only; `spawn` takes the variables out
of every child's environment.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from arbiter.fork import fork

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTEN_FDS_START: Final = 3
"""The first descriptor that is passed, sd_listen_fds(3)."""

STAND_IN: Final = 60.0
"""Seconds for the manager to read two messages: more than it ever takes (daemon-reload on a busy machine: a few)."""
LINGER: Final = 2.0
"""Seconds for a shell to be started and to send the signal that it was started for."""


class Passed(NamedTuple):
    """A descriptor that systemd passed, and its name (FileDescriptorName=; ``unknown`` when it has none)."""

    fd: int
    name: str


def passed(environ: Mapping[str, str]) -> list[Passed]:
    """The descriptors that systemd passed to this very process; none when they were meant for another."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = _number(environ.get("LISTEN_FDS", ""))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))
    return [Passed(LISTEN_FDS_START + index, names[index] or "unknown") for index in range(count)]


class Notifier:
    """A way to tell the service manager; says nothing where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._where = environ.get("NOTIFY_SOCKET", "")
        if self._where.startswith("@"):
            self._where = f"\0{self._where[1:]}"
        self._socket: socket.socket | None = None
        if self._where:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.watchdog = _watchdog(environ)
        """How often the manager wants to hear from us, in seconds; 0.0: never."""
        self._unsent: list[tuple[bytes, tuple[int, ...]]] = []

    def __bool__(self) -> bool:
        return self._socket is not None

    def tell(self, *lines: str, fds: tuple[int, ...] = ()) -> None:
        """Send lines, like ``READY=1``, and descriptors beside them, in one datagram; after those that wait to be sent."""
        if self._socket is not None:
            self._unsent.append(("\n".join(lines).encode("utf-8", "replace"), fds))
            self.flush()

    def flush(self) -> bool:
        """Send what the manager had no room for. Whether all is sent: if not, better say nothing new yet.

        Its queue holds as few as ten datagrams (net.unix.max_dgram_qlen) of all services together, and while it reads its
        configuration it does not look: a READY that were lost then would make it stop a service that is well.
        """
        while self._socket is not None and self._unsent:
            data, fds = self._unsent[0]
            beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([data], beside, 0, self._where)
            except BlockingIOError:
                return False
            except OSError:
                pass  # nobody is there: no reason to serve worse
            del self._unsent[0]
        return True

    def introduce(self) -> None:
        """Have the manager look anew whose child this process, its main one, is. Supervisor side; it forks.

        It looks only when it is told of another MAINPID, and after an upgrade that was our predecessor's child (us) while the
        predecessor lived. Of a process that is not its own it does not hear the end, and with ``KillMode=mixed`` it kills the
        unit's processes at the very moment when it asks such a main process to stop (systemd.kill(5) says nothing of it;
        found by a test). So a child is made the main one for a moment, and the child, which alone is believed then
        (``NotifyAccess=main``), says that this one is.
        """
        if self._socket is None or not self.flush():
            return
        heard, tell = os.pipe()
        try:
            pid = fork(lambda: self._stand_in(heard, tell))
            self._socket.sendto(f"MAINPID={pid}".encode(), self._where)
            os.write(tell, b".")
        except OSError:
            pass  # no process, or no room in the manager's queue: what it has been told before holds
        finally:
            os.close(heard)
            os.close(tell)

    def _stand_in(self, heard: int, tell: int) -> NoReturn:
        """In the child, signals being blocked: be the main process until the manager has understood who is, and a bit longer.

        It waits for the barrier (sd_notify_barrier(3)), a pipe whose other end the manager closes when it has come to it,
        because what a process has said that has gone since is not heeded. What is sent to it as the main process, also by a
        command that has begun in that moment (``ExecReload=kill -HUP $MAINPID``), it passes on.
        """
        try:
            supervisor = os.getppid()
            os.close(tell)
            os.closerange(3, heard)  # a socket that we held would not be closed when it should
            os.closerange(heard + 1, os.sysconf("SC_OPEN_MAX"))
            if os.read(heard, 1):
                barrier, kept = os.pipe()
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                    manager.sendto(f"MAINPID={supervisor}".encode(), self._where)
                    socket.send_fds(manager, [b"BARRIER=1"], [kept], 0, self._where)
                os.close(kept)
                _pass_on(barrier, supervisor)
        finally:
            os._exit(0)

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _pass_on(barrier: int, supervisor: int) -> None:
    """Send the supervisor what this process gets, until `LINGER` after the barrier is closed. Signals are blocked.

    Those that end a service only before: afterwards they are meant for each process of the unit, and twice would be a hurry.
    """
    is_main, until = True, time.monotonic() + STAND_IN
    while (now := time.monotonic()) < until and os.getppid() == supervisor:
        if is_main and select.select([barrier], [], [], 0)[0]:
            is_main, until = False, now + LINGER
        sent = signal.sigtimedwait(signal.valid_signals(), 0.05)
        if sent and (is_main or sent.si_signo not in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}):
            os.kill(supervisor, sent.si_signo)
        elif sent:
            return


class Store:
    """The descriptors that systemd keeps for the next start (FileDescriptorStoreMax=): by name, none where it keeps none.

    Whether it does is said by the variable FDSTORE, since version 254. Before it, the unit has to say it, with
    ``Environment=FDSTORE=16`` beside ``FileDescriptorStoreMax=16``: a socket that we believed to be kept, and that is not,
    would be closed with all who wait in its queue.
    """

    def __init__(self, environ: Mapping[str, str], notifier: Notifier) -> None:
        self._notifier = notifier
        self._names: set[str] = set()
        self._room = _number(environ.get("FDSTORE", "")) if notifier else 0

    def put(self, name: str, fd: int) -> bool:
        """Have a descriptor kept. Whether there is room for it."""
        if name not in self._names:
            if len(self._names) >= self._room:
                return False
            self._names.add(name)
            self._notifier.tell("FDSTORE=1", f"FDNAME={name}", fds=(fd,))
        return True

    def remove(self, name: str) -> None:
        """Have a descriptor kept no longer."""
        self._names.discard(name)
        self._notifier.tell("FDSTOREREMOVE=1", f"FDNAME={name}")


def monotonic_usec() -> int:
    """CLOCK_MONOTONIC in microseconds, which RELOADING=1 needs since systemd 253."""
    return time.monotonic_ns() // 1000


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() else 0


def _watchdog(environ: Mapping[str, str]) -> float:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return _number(environ.get("WATCHDOG_USEC", "")) / 1e6
