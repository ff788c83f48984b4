"""Every system call that the loop makes, behind one Protocol, and the real thing.

The shell of the policy: it turns what the operating system says (signals, bytes of channels, exits, words of the
scoreboard) into facts, and names into processes. It decides nothing. A pid is known here only, and only until its process
has been reaped, so no signal can reach a process that is not ours.
"""

from __future__ import annotations

import os
import select
import socket
import time
from math import inf
from signal import Signals
from typing import TYPE_CHECKING, Final, Protocol

from arbiter import facts
from arbiter.child import Child
from arbiter.lookout import Lookout
from arbiter.scoreboard import Scoreboard
from arbiter.signals import Command, Inbox
from arbiter.spawn import fork_worker
from arbiter.workers.contract import DUMP_SIGNAL, ChannelError, Failed, Order, Ready, Retiring, Spent, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.blueprint import Blueprint
    from arbiter.facts import Fact, Force
    from arbiter.workers.contract import Message, WorkerId

TICK: Final = 1.0
"""Longest wait, in seconds. A worker's own deadline can come nearer while the loop sleeps, and is found late by no more than
this; a wake-up a second is the whole idle cost of the supervisor."""
DUMPING: Final = 0.25
"""Seconds that stacks may take to come. They are written by a signal handler in C: one of a process that runs takes about a
millisecond, whatever holds the interpreter's lock."""
DOZE: Final = 2.0
"""A wait that takes this much longer than asked, in seconds, was no wait: the process was stopped or the machine suspended.
Well above what a loaded machine delays a process that is ready to run."""


class Kernel(Protocol):
    """What the loop needs of the operating system. `tests/fleet` has a simulated one."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wait(self, until: float) -> list[Fact | Command]:
        """What has happened; waits for something up to the time `until` (`inf`: for as long as it takes)."""

    def fork(self, id: WorkerId, blueprint: Blueprint) -> None:  # noqa: A002 - its name everywhere
        """Fork a worker.

        Raises:
            OSError: it could not be; nothing has changed.
        """

    def tell(self, id: WorkerId, message: Message) -> None:  # noqa: A002
        """Send a worker a message; one that can't be delivered is dropped: the policy has a deadline for every answer."""

    def kill(self, id: WorkerId, force: Force) -> None:  # noqa: A002
        """Send a worker a signal; nothing if it has been reaped."""

    def dump(self, id: WorkerId) -> None:  # noqa: A002
        """Ask for a worker's stacks; `facts.Dumped` answers within `DUMPING`."""

    def watch(self, path: str | None) -> None:
        """Take a change of this file's time for a wish to reload."""

    def pid(self, id: WorkerId) -> int | None:  # noqa: A002
        """The pid of a worker, for the log, also of one that the last `wait` has reaped; None when it was never forked."""

    def everyone(self) -> list[WorkerId]:
        """All workers that have not been reaped."""

    def close(self) -> None:
        """Let go of everything."""


class Posix:
    """The real kernel: epoll, fork, waitpid. One per supervisor, and only in the supervisor."""

    def __init__(self, let_go: Callable[[Blueprint], None]) -> None:
        """`let_go` is called in a child, before anything else: it closes what the loop's owner has and this worker not."""
        self._let_go = let_go
        self.board = Scoreboard()
        self._lookout = Lookout()
        self._inbox = Inbox()
        self._epoll = select.epoll()
        self._epoll.register(self._inbox.fd, select.EPOLLIN)
        self._lifeline, self._lifeline_write = os.pipe2(os.O_CLOEXEC)
        self._children: dict[int, Child] = {}
        self._by_id: dict[WorkerId, Child] = {}
        self._by_channel: dict[int, Child] = {}
        self._departed: dict[WorkerId, Child] = {}
        self._awake_at = self.now()

    def now(self) -> float:
        return time.monotonic()

    def pid(self, id: WorkerId) -> int | None:  # noqa: A002
        child = self._by_id.get(id) or self._departed.get(id)
        return child.pid if child else None

    def everyone(self) -> list[WorkerId]:
        return list(self._by_id)

    def wait(self, until: float) -> list[Fact | Command]:
        found: list[Fact | Command] = []
        self._departed.clear()
        dumped = min((child.dump_by for child in self._children.values()), default=inf)
        asked = min(max(min(until, dumped) - self.now(), 0.0), TICK)
        # Rounded up: a poll that ends a fraction of a millisecond early would find nothing to decide, and spin.
        ready = self._epoll.poll(int(asked * 1000 + 1) / 1000 if asked else 0)
        self._notice_sleep(found, asked)
        for fd, _ in ready:
            if child := self._by_channel.get(fd):
                self._listen(child, found)
        commands = self._inbox.read()
        found += [command for command in commands if command not in (Command.REAP, Command.NOTHING)]
        if Command.REAP in commands:
            self._reap(found)
        now = self.now()
        for child in self._children.values():
            if child.dump_by <= now:
                child.dump_by = inf
                found.append(facts.Dumped(child.id, child.read_stacks()))
        found += self._lookout.look(self._children.values(), now)
        return found

    def _notice_sleep(self, found: list[Fact | Command], asked: float) -> None:
        before, self._awake_at = self._awake_at, self.now()
        slept = self._awake_at - before - asked
        if slept > DOZE:
            self._lookout.forgive(self._children.values(), slept)
            found.append(facts.Slept(slept))

    def _listen(self, child: Child, found: list[Fact | Command]) -> None:
        """Read a channel until there is nothing more."""
        try:
            while data := child.channel.recv(65536):
                for message in child.decoder.feed(data):
                    match message:
                        case Ready():
                            found.append(facts.SaidReady(child.id))
                        case Failed(phase, error, traceback, code):
                            found.append(facts.SaidFailed(child.id, phase, error, traceback, code))
                        case Spent(why):
                            found.append(facts.SaidSpent(child.id, why))
                        case Retiring(why):
                            found.append(facts.SaidRetiring(child.id, why))
                        case _:
                            pass  # a word of ours to them, from them: nothing to learn
        except BlockingIOError:
            return
        except (OSError, ChannelError):
            pass  # as good as its end: the policy gives it a moment, then replaces the worker
        self._hang_up(child)
        found.append(facts.HungUp(child.id))

    def _hang_up(self, child: Child) -> None:
        if self._by_channel.pop(child.channel.fileno(), None):
            self._epoll.unregister(child.channel)
            child.channel.close()

    def _reap(self, found: list[Fact | Command]) -> None:
        """Take all that have exited: ours become facts; others (as pid 1, orphans of workers) must not stay zombies."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if not (child := self._children.pop(pid, None)):
                continue
            self._departed[child.id] = self._by_id.pop(child.id)
            if child.channel.fileno() >= 0:
                last_words: list[Fact | Command] = []
                self._listen(child, last_words)
                found += [fact for fact in last_words if not isinstance(fact, facts.HungUp)]
                self._hang_up(child)
            if child.dump_by < inf:
                found.append(facts.Dumped(child.id, child.read_stacks()))
            child.close()
            self.board.give_back(child.row)
            found.append(self._exited(child, os.waitstatus_to_exitcode(status)))

    def _exited(self, child: Child, code: int) -> Fact:
        if code >= 0:
            return facts.Exited(child.id, code)
        signal = Signals(-code)
        # Who was killed by us was not killed for memory, whatever the counter says of others.
        is_memory = signal is Signals.SIGKILL and not child.was_killed and self._lookout.was_out_of_memory()
        return facts.Exited(child.id, None, signal.name, out_of_memory=is_memory)

    def fork(self, id: WorkerId, blueprint: Blueprint) -> None:  # noqa: A002
        row = self.board.take()
        ours = theirs = None
        stacks = dump = -1
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            stacks, dump = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            order = Order(
                id=id,
                generation=blueprint.number,
                settings=blueprint.settings,
                kind=blueprint.kind,
                listeners=blueprint.listeners,
                channel=theirs,
                lifeline=self._lifeline,
                dump=dump,
                row=row,
                log=blueprint.log.bind(worker=id.slot, generation=blueprint.number),
                access=blueprint.access,
                title=blueprint.title,
            )
            pid = fork_worker(order, lambda: self._undo_in_child(ours, blueprint))
        except OSError:
            self.board.give_back(row)
            if ours is not None:
                ours.close()
            if stacks >= 0:
                os.close(stacks)
            raise
        finally:
            if theirs is not None:
                theirs.close()
            if dump >= 0:
                os.close(dump)
        ours.setblocking(False)
        child = Child(id, pid, blueprint, ours, stacks, row)
        self._children[pid] = self._by_id[id] = self._by_channel[ours.fileno()] = child
        self._epoll.register(ours, select.EPOLLIN)

    def _undo_in_child(self, ours: socket.socket, blueprint: Blueprint) -> None:
        """In the child, signals being blocked: close what is the supervisor's."""
        self._let_go(blueprint)
        self._inbox.uninstall()
        self._epoll.close()
        os.close(self._lifeline_write)
        ours.close()
        for child in self._children.values():
            child.close()

    def tell(self, id: WorkerId, message: Message) -> None:  # noqa: A002
        child = self._by_id.get(id)
        if child and child.channel.fileno() >= 0:
            try:
                child.channel.send(encode(message))
            except OSError:
                pass  # full or broken: see `Kernel.tell`

    def kill(self, id: WorkerId, force: Force) -> None:  # noqa: A002
        if child := self._by_id.get(id):
            signal = Signals[force.value]
            child.was_killed = child.was_killed or signal is Signals.SIGKILL
            os.kill(child.pid, signal)  # not reaped yet, so the pid is still its own

    def dump(self, id: WorkerId) -> None:  # noqa: A002
        if child := self._by_id.get(id):
            child.read_stacks()  # what an earlier request left
            child.dump_by = self.now() + DUMPING
            os.kill(child.pid, DUMP_SIGNAL)

    def watch(self, path: str | None) -> None:
        self._lookout.watch(path)

    def close(self) -> None:
        for child in self._children.values():
            child.close()
        self._epoll.close()
        self._inbox.close()
        os.close(self._lifeline)
        os.close(self._lifeline_write)
