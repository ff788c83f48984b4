"""systemd's side channel: what it passes to the supervisor, and what the supervisor tells it.

The protocol is sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3): lines of text in one datagram, descriptors beside
it. Nothing here waits: a manager that does not read loses a message, not the service. Supervisor side only; `spawn` takes
the variables out of every child's environment.
"""

from __future__ import annotations

import array
import os
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTEN_FDS_START: Final = 3
"""The first descriptor that is passed, sd_listen_fds(3)."""


class Passed(NamedTuple):
    """A descriptor that systemd passed, and its name (FileDescriptorName=; ``unknown`` when it has none)."""

    fd: int
    name: str


def passed(environ: Mapping[str, str]) -> list[Passed]:
    """The descriptors that systemd passed to this very process; none when they were meant for another."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError:
        return []
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
        """How often the watchdog must be patted, in seconds; 0.0: never."""
        self._status = ""

    def __bool__(self) -> bool:
        return self._socket is not None

    def tell(self, *lines: str, fds: tuple[int, ...] = ()) -> None:
        """Send lines, like ``READY=1``, and descriptors beside them."""
        if self._socket is None:
            return
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg(["\n".join(lines).encode()], beside, 0, self._where)
        except OSError:
            pass  # nobody is there, or it does not read: no reason to serve worse

    def status(self, text: str) -> None:
        """What `systemctl status` shows; sent when it has changed."""
        if text != self._status:
            self._status = text
            self.tell(f"STATUS={text}")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()


def monotonic_usec() -> str:
    """The line that RELOADING=1 needs since systemd 253, so that a late message is not taken for a new one."""
    return f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def _watchdog(environ: Mapping[str, str]) -> float:
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    try:
        return int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
