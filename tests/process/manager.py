"""What systemd is to a service, as far as a datagram socket goes: it hears, keeps descriptors, and passes descriptors on."""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from waiting import until

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUMBERS = count()

_PASS = """
import fcntl, os, sys
numbers, names, *command = sys.argv[1:]
spare = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(",")]
for number, fd in enumerate(spare):
    os.dup2(fd, 3 + number)
os.closerange(3 + len(spare), 200)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(spare)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""
"""Becomes a program that is passed descriptors: sd_listen_fds(3)."""


class Message(NamedTuple):
    """A datagram."""

    lines: tuple[str, ...]
    pid: int
    """Who sent it, as the kernel says."""


@dataclass
class Manager:
    """Listens at `address`, which is a path, or begins with ``@``: the abstract namespace."""

    address: str = field(default_factory=lambda: f"@arbiter-manager-{os.getpid()}-{next(_NUMBERS)}")
    said: list[Message] = field(default_factory=list)
    store: dict[str, int] = field(default_factory=dict)
    """Descriptors that it was asked to keep, by name."""

    def __post_init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address.replace("@", "\0", 1) if self.address.startswith("@") else self.address)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.setblocking(False)

    @property
    def env(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address}

    def hear(self) -> list[Message]:
        """All that has been said until now."""
        while True:
            try:
                data, beside, _, _ = self.socket.recvmsg(4096, 1024)
            except BlockingIOError:
                return self.said
            fds, pid = array.array("i"), 0
            for _, kind, body in beside:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(body)
                elif kind == socket.SCM_CREDENTIALS:
                    pid, _, _ = struct.unpack("3i", body)
            lines = tuple(data.decode().split("\n"))
            self.said.append(Message(lines, pid))
            self._keep(dict(line.split("=", 1) for line in lines), list(fds))

    def _keep(self, words: Mapping[str, str], fds: list[int]) -> None:
        if "FDSTORE" in words:
            (self.store[words["FDNAME"]],) = fds
        elif "FDSTOREREMOVE" in words:
            os.close(self.store.pop(words["FDNAME"]))

    def lines(self, *prefixes: str) -> list[str]:
        """The lines until now that begin with one of these, in order; all without any."""
        return [line for message in self.hear() for line in message.lines if line.startswith(prefixes or "")]

    def wait(self, text: str, times: int = 1) -> list[str]:
        """All lines, as soon as `text` is in so many of them."""
        until(
            lambda: sum(text in line for line in self.lines()) >= times,
            lambda: f"{text!r}, {times} times; it said {self.said}",
        )
        return self.lines()

    @property
    def status(self) -> str:
        """What was last said of the service's state."""
        return (self.lines("STATUS=") or ["STATUS="])[-1].removeprefix("STATUS=")

    def close(self) -> None:
        self.socket.close()
        for fd in self.store.values():
            os.close(fd)
        self.store.clear()


def passing(sockets: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """A prefix that passes these descriptors on under their names, and what it must inherit itself."""
    numbers, names = tuple(sockets.values()), ":".join(sockets)
    return (sys.executable, "-c", _PASS, ",".join(map(str, numbers)), names), numbers
