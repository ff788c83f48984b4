"""One supervisor after another on the same sockets: what crosses the line between the two, and both ends of it.

The old one forks and executes its own command line, in the environment and the directory that it was itself started in, so
that what runs is what is installed now. Descriptors stay open across execve(2); which is which is said in one variable. The
two are joined by a socket pair:

* new to old: `_READY`, `_LEAVING`, or the words in which a start failed; its exit is heard by SIGCHLD like any child's;
* old to new: one of `_WORDS`.

**What has a name (a socket's file, the pid file) belongs to the old one until it has gone**, whoever serves: so each of the
two may die at any moment, and the other has lost nothing. When both leave at once, exactly one of them has it (`part`).

Both versions of Arbiter read this module's words, each its own: never change them, only add.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from select import EPOLLIN
from signal import Signals
from typing import TYPE_CHECKING, Any, Final, NoReturn

from arbiter import facts
from arbiter.child import signal_name
from arbiter.config.sources import INHERIT
from arbiter.errors import why
from arbiter.fork import fork
from arbiter.listeners import Heirloom
from arbiter.signals import Command, reset
from arbiter.workers.contract import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from arbiter.config.resolve import Resolved
    from arbiter.facts import Fact, Force

_READY: Final = b"ready"
_LEAVING: Final = b"leaving"
_WORDS: Final = {b"reign": Command.REIGN, b"abdicate": Command.ABDICATE, b"": Command.INHERIT}
"""What the old one says; the empty one is its end of file. Words that are not known here are for versions that know them."""
_LONGEST: Final = 4096
"""Bytes of a message: a few sentences; the logs have the rest."""
_NOT_PASSED_ON: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
"""What systemd says of the process that it has started itself (sd_listen_fds(3), sd_watchdog_enabled(3)). Without a pid, the
rest is meant for whoever reads it."""


@dataclass(frozen=True, slots=True)
class Bequest:
    """All that is passed on."""

    sockets: tuple[Heirloom, ...] = ()
    pidfile: tuple[str, int] | None = None
    """Its path, and the descriptor that holds its lock: flock(2) belongs to the open file, so it never lapses."""

    @property
    def descriptors(self) -> list[int]:
        """What has to stay open."""
        return [heirloom.fd for heirloom in self.sockets] + ([self.pidfile[1]] if self.pidfile else [])


class Predecessor:
    """In the new supervisor: the one that has started it."""

    def __init__(self, text: str) -> None:
        """Take what the variable says; nothing of it is passed on to any other program.

        Raises:
            ValueError: it does not say what it should.
        """
        try:
            said: dict[str, Any] = json.loads(text)
            sockets = tuple(
                Heirloom(one["address"], one["fd"], tuple(one["file"]) if one["file"] else None, one["activated"], one["kept"])
                for one in said["sockets"]
            )
            self.bequest = Bequest(sockets, tuple(said["pidfile"]) if said["pidfile"] else None)
            for fd in (*self.bequest.descriptors, said["channel"]):
                os.set_inheritable(fd, False)
            self.channel = socket.socket(fileno=said["channel"])
            self.channel.setblocking(False)
        except (ValueError, LookupError, TypeError, OSError) as error:
            raise ValueError(f"{INHERIT} is for one Arbiter to tell another. Don't set it: {error}.") from error

    def fail(self, text: str) -> None:
        """Say why there will be no successor."""
        self._send(_bytes("; ".join(text.splitlines())))

    def say_ready(self) -> None:
        """Say that all workers serve."""
        self._send(_READY)

    def _send(self, data: bytes) -> bool:
        try:
            self.channel.send(data)
        except OSError:
            return False  # it has gone
        return True

    def part(self) -> bool:
        """Leave. Whether it has gone in the meantime, so that what has a name is ours to remove; if not, it is told."""
        return self.channel.fileno() >= 0 and not self._send(_LEAVING)


def predecessor(environ: dict[str, str] | os._Environ[str]) -> Predecessor | None:
    """Who has started this process for an upgrade, if anybody; called once, as early as can be.

    Raises:
        ValueError: as `Predecessor`.
    """
    text = environ.pop(INHERIT, None)
    return Predecessor(text) if text else None


@dataclass(slots=True)
class Successor:
    """In the old supervisor: the one that it has started. Known by its pid until it is reaped, and not a moment longer."""

    pid: int
    channel: socket.socket
    words: str = ""
    """Why it failed, in its own words."""
    is_leaving: bool = False
    """Whether it has left what has a name to us."""


class Neighbours:
    """Both neighbours of this supervisor in the line of succession, as far as there are any."""

    def __init__(self, predecessor: Predecessor | None) -> None:
        self.predecessor = predecessor
        self.successor: Successor | None = None
        self._epoll: select.epoll | None = None
        self._parent = -1
        """A pidfd of the predecessor; -1: none, or its end has been told."""

    def attach(self, epoll: select.epoll) -> None:
        """Have `epoll` wake up whenever `listen` has something to say."""
        self._epoll = epoll
        if self.predecessor:
            epoll.register(self.predecessor.channel, EPOLLIN)
            try:
                self._parent = os.pidfd_open(os.getppid())
            except OSError:
                return  # before Linux 5.3, or it has just gone: nobody is told whose child we are
            epoll.register(self._parent, EPOLLIN)

    # The next ---------------------------------------------------------------------------------------------------------

    def launch(self, resolved: Resolved, bequest: Bequest, first: Callable[[], None] | None = None) -> None:
        """Start a new supervisor. That it can't be executed is heard of later, as any failure of it.

        `first` is called in the new process, before it becomes the new supervisor.

        Raises:
            OSError: no process could be had; nothing has changed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = fork(lambda: _become_successor(resolved, bequest, theirs, first))
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.successor = Successor(pid, ours)
        if self._epoll:
            self._epoll.register(ours, EPOLLIN)

    def obstacle(self, environ: Mapping[str, str]) -> str:
        """Why there can be no successor now, for a sentence; empty if there can."""
        if self.predecessor and self.predecessor.channel.fileno() >= 0:
            return "the supervisor before this one has not left yet"
        if os.getpid() == 1:
            return "this is process 1, and the container would end with it. Start a new container instead"
        if environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()) and not environ.get("NOTIFY_SOCKET"):
            return "systemd would stop the unit when this process ends. Give it Type=notify, or restart it instead"
        return ""

    def say_ready(self) -> None:
        """Tell the predecessor that all workers serve."""
        if self.predecessor:
            self.predecessor.say_ready()

    def stop(self, force: Force) -> None:
        """Send the successor a signal; nothing if it has been reaped."""
        if self.successor:
            os.kill(self.successor.pid, Signals[force.value])

    def tell(self, command: Command) -> None:
        """Say something to the successor."""
        if self.successor and self.successor.channel.fileno() >= 0:
            try:
                self.successor.channel.send(command.value.encode())
            except OSError:
                pass  # it is on its way out

    # What they say ----------------------------------------------------------------------------------------------------

    def listen(self) -> list[Fact | Command]:
        """What has been said. Asked after signals have been read: what was said before one was sent is heard before it."""
        found: list[Fact | Command] = []
        if self.predecessor:
            found += [_WORDS[data] for data in self._read(self.predecessor.channel) if data in _WORDS]
        if self.successor:
            for data in self._read(self.successor.channel):
                if data == _READY:
                    found.append(facts.SuccessorReady())
                elif data == _LEAVING:
                    self.successor.is_leaving = True
                elif data:
                    self.successor.words = data.decode("utf-8", "replace")
        if self._parent >= 0 and select.select([self._parent], [], [], 0)[0]:
            self._let_go_of_parent()
            found.append(Command.ADOPTED)
        return found

    def _let_go_of_parent(self) -> None:
        if self._parent >= 0:
            if self._epoll:
                self._epoll.unregister(self._parent)
            os.close(self._parent)
            self._parent = -1

    def _read(self, channel: socket.socket) -> list[bytes]:
        """The messages that have come; the last is empty when there will be no more, and the channel is closed then."""
        messages: list[bytes] = []
        if channel.fileno() < 0:
            return messages
        try:
            while message := channel.recv(_LONGEST):
                messages.append(message)
        except BlockingIOError:
            return messages
        except OSError:
            pass  # reset: as good as its end
        if self._epoll:
            self._epoll.unregister(channel)
        channel.close()
        return [*messages, b""]

    def reaped(self, pid: int, code: int) -> list[Fact | Command]:
        """Facts, if the process that has exited is the successor. `code` is negative for a signal."""
        if not self.successor or pid != self.successor.pid:
            return []
        last_words = self.listen()
        words = self.successor.words
        self.successor.channel.close()
        self.successor = None
        return [*last_words, facts.SuccessorGone(_how(code, words), was_asked=code == Exit.OK)]

    def part(self) -> bool:
        """Leave, called last of all. Whether what has a name is ours to remove, though a neighbour had it too.

        Between two that leave at once the kernel decides: after shutdown(2) the successor's word is either there or refused.
        """
        if self.successor and self.successor.channel.fileno() >= 0:
            self.successor.channel.shutdown(socket.SHUT_RD)
            self.listen()
        heirless = bool(self.successor and self.successor.is_leaving)
        return heirless or bool(self.predecessor and self.predecessor.part())

    def forget(self) -> None:
        """In a child, and at the end: close what belongs to the supervisor alone."""
        for neighbour in (self.predecessor, self.successor):
            if neighbour:
                neighbour.channel.close()
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[:_LONGEST]


def _how(code: int, words: str) -> str:
    if code < 0:
        return f"was killed by {signal_name(-code)}"
    if not words and code in set(Exit):
        words = Exit(code).meaning
    said = f"exited with status {code}"
    # A sentence goes on, or ends, behind it.
    return f"{said}: {words.rstrip('.?')}" if words else said


def _become_successor(
    resolved: Resolved, bequest: Bequest, channel: socket.socket, first: Callable[[], None] | None
) -> NoReturn:
    """In the child, signals being blocked: everything as it was when this supervisor was started, then its command line.

    What is not in the bequest closes by itself (close-on-exec); handlers would be reset by execve(2) too, but a signal must not
    come between.
    """
    try:
        reset()
        if first:
            first()
        environ = {name: value for name, value in resolved.environ.items() if name not in _NOT_PASSED_ON}
        environ[INHERIT] = json.dumps(
            {"sockets": [one._asdict() for one in bequest.sockets], "pidfile": bequest.pidfile, "channel": channel.fileno()}
        )
        for fd in (*bequest.descriptors, channel.fileno()):
            os.set_inheritable(fd, True)
        what = f"enter {resolved.cwd}"
        try:
            os.chdir(resolved.cwd)
            what = f"run {sys.executable}"
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)
        except OSError as error:
            channel.send(_bytes(f"can't {what}: {why(error)}"))
    finally:
        os._exit(Exit.START)
