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
from arbiter.bulletin import NOWHERE, Place
from arbiter.child import Child, Process, Unborn, Wires, exited
from arbiter.lookout import Lookout
from arbiter.nursery import Nursery, Template
from arbiter.rehearsal import Rehearsals, Rehearsed
from arbiter.scoreboard import Scoreboard
from arbiter.signals import Command, Inbox
from arbiter.spawn import adopt_orphans, fork_child
from arbiter.workers.contract import (
    DUMP_SIGNAL,
    ENTRY,
    TEMPLATE_ENTRY,
    ChannelError,
    Failed,
    Ready,
    Retiring,
    Spent,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.blueprint import Blueprint
    from arbiter.bulletin import Bulletin
    from arbiter.facts import Fact, Force
    from arbiter.upgrade import Neighbours
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

    def wait(self, until: float) -> list[Fact | Command | Rehearsed]:
        """What has happened; waits for something up to the time `until` (`inf`: for as long as it takes)."""

    def fork(self, id: WorkerId, blueprint: Blueprint) -> None:  # noqa: A002 - its name everywhere
        """Fork a worker.

        Raises:
            OSError: it could not be; nothing has changed.
        """

    def rehearse(self, generation: int, load: Callable[[], object]) -> None:
        """Load the settings of a generation in a process of their own; `Rehearsed` answers, unless there is a newer wish.

        Raises:
            OSError: no process could be had.
        """

    def rearm(self) -> None:
        """Code of the operator's has run in this process: whatever it did to signals, they come here again."""

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

    def tell_all(self, message: Message) -> None:
        """Send a message to all workers, those included that have not been forked yet."""

    def forget(self, generation: int) -> None:
        """No worker of this generation will be forked any more."""

    def post(self, signal: Signals) -> None:
        """Have the next `wait` say what this signal says. For any thread."""

    def place(self, id: WorkerId) -> Place:  # noqa: A002 - its name everywhere
        """Where a worker is to be found, for the bulletin."""

    def announce(self, bulletin: Bulletin) -> None:
        """Put this where whoever asks sees it."""

    def busy(self) -> int:
        """How many workers are in a request."""

    def is_responsive(self, id: WorkerId) -> bool:  # noqa: A002
        """Whether a worker that has been ready keeps the deadline that it grants itself."""

    def close(self) -> None:
        """Let go of everything."""


class Posix:
    """The real kernel: epoll, fork, waitpid. One per supervisor, and only in the supervisor."""

    def __init__(self, let_go: Callable[[Blueprint | None], None], neighbours: Neighbours) -> None:
        """`let_go` is called in a child, before anything else: it closes what the loop's owner has and this worker not.

        It is given None in a child that is to be no worker.

        What is heard of the `neighbours`, the supervisors before and after this one, comes out of `wait` too.
        """
        self._let_go = let_go
        self._neighbours = neighbours
        self.board = Scoreboard()
        self._lookout = Lookout(self.board)
        self._inbox = Inbox()
        self._epoll = select.epoll()
        self._epoll.register(self._inbox.fd, select.EPOLLIN)
        neighbours.attach(self._epoll)
        self._lifeline, self._lifeline_write = os.pipe2(os.O_CLOEXEC)
        self._children: dict[int, Child] = {}
        self._by_id: dict[WorkerId, Child] = {}
        self._by_channel: dict[int, Child] = {}
        self._departed: dict[WorkerId, int] = {}
        self._dumping: dict[WorkerId, tuple[float, Process]] = {}
        """Whose stacks have been asked for, of which process, and until when they may take to come."""
        self._rehearsals = Rehearsals()
        self._pending: list[Fact | Command] = []
        """What has happened without having been waited for."""
        self._nursery = Nursery(self._epoll, self._pending, fork=self._fork_template, adopt=self._adopt, lose=self._lose)
        self._unclaimed: dict[int, int] = {}
        """Exit statuses by pid of processes that may have been born as workers: of that we have not heard yet."""
        self._awake_at = self.now()

    def now(self) -> float:
        return time.monotonic()

    def pid(self, id: WorkerId) -> int | None:  # noqa: A002
        process = self._by_id.get(id) or self._nursery.mother(id)
        return process.pid if process else self._departed.get(id)

    def post(self, signal: Signals) -> None:
        self._inbox.post(signal)

    def place(self, id: WorkerId) -> Place:  # noqa: A002 - its name everywhere
        child = self._by_id.get(id)
        return Place(child.pid, self.board.number(child.rows), len(child.rows)) if child else NOWHERE

    def announce(self, bulletin: Bulletin) -> None:
        self.board.post(bulletin.encode())

    def busy(self) -> int:
        return sum(child.is_busy for child in self._children.values())

    def is_responsive(self, id: WorkerId) -> bool:  # noqa: A002
        if child := self._by_id.get(id):
            deadline = child.row.deadline()
            return not deadline or self.now() <= deadline
        return False

    def wait(self, until: float) -> list[Fact | Command | Rehearsed]:
        found: list[Fact | Command] = []
        if not self._pending:  # else what is pending is about some of them
            self._departed.clear()
        dumped = min((by for by, _ in self._dumping.values()), default=inf)
        wake_at = min(until, dumped, self._rehearsals.wake_at)
        asked = 0.0 if self._pending else min(max(wake_at - self.now(), 0.0), TICK)
        # Rounded up: a poll that ends a fraction of a millisecond early would find nothing to decide, and spin.
        ready = self._epoll.poll(int(asked * 1000 + 1) / 1000 if asked else 0)
        self._notice_sleep(found, asked)
        for fd, _ in ready:
            if child := self._by_channel.get(fd):
                self._listen(child, found)
            else:
                self._nursery.listen(fd)
        commands = self._inbox.read()
        found += self._neighbours.listen()
        found += [command for command in commands if command is not Command.REAP]
        rehearsed = self._rehearsals.listen(self.now())
        if Command.REAP in commands:
            self._reap(found, rehearsed)
        if not self._nursery.is_expecting:
            self._unclaimed.clear()
        found += self._pending
        self._pending.clear()
        now = self.now()
        for id in [id for id, (by, _) in self._dumping.items() if by <= now]:  # noqa: A001
            found.append(facts.Dumped(id, self._dumping.pop(id)[1].report(now)))
        found += self._lookout.look(self._children.values(), now)
        return [*rehearsed, *found]  # in this order: a HUP that came meanwhile begins another one

    def _notice_sleep(self, found: list[Fact | Command], asked: float) -> None:
        before, self._awake_at = self._awake_at, self.now()
        slept = self._awake_at - before  # all of it: when in the wait the sleep began, nobody can say
        if slept - asked > DOZE:
            self._lookout.forgive(self._children.values(), slept)
            found.append(facts.Slept(slept))

    def _listen(self, child: Child, found: list[Fact | Command]) -> None:
        """Read a channel until there is nothing more."""
        try:
            while data := child.channel.recv(65536):
                for message in child.decoder.feed(data):
                    match message:
                        case Ready(serves):
                            found.append(facts.SaidReady(child.id, serves))
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

    def _reap(self, found: list[Fact | Command], rehearsed: list[Rehearsed]) -> None:
        """Take all that have exited: ours become facts; others (orphans of workers) must not stay zombies."""
        while True:
            try:
                exited_one = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if exited_one is None:
                return
            pid = exited_one.si_pid
            if pid == self._rehearsals.pid:  # it has exited since it was listened to
                rehearsed += self._rehearsals.listen(self.now())
                continue
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if heard := self._neighbours.reaped(pid, code):
                found += heard
            elif child := self._children.get(pid):
                self._bury(child, code, found)
            elif template := self._nursery.find(pid):
                self._nursery.bury(template, code, out_of_memory=self._was_out_of_memory(template, code))
            elif self._nursery.is_expecting:
                self._unclaimed[pid] = code

    def _bury(self, child: Child, code: int, found: list[Fact | Command]) -> None:
        """A worker has been reaped: take its last words and its counters, and let go of it."""
        del self._children[child.pid], self._by_id[child.id]
        self._departed[child.id] = child.pid
        if child.channel.fileno() >= 0:
            last_words: list[Fact | Command] = []
            self._listen(child, last_words)
            found += [fact for fact in last_words if not isinstance(fact, facts.HungUp)]
            self._hang_up(child)
        if self._dumping.pop(child.id, None):
            found.append(facts.Dumped(child.id, child.report(self.now())))
        child.close()
        doing = "; ".join(child.requests(self.now()))
        self.board.give_back(child.rows)
        found.append(exited(child.id, code, out_of_memory=self._was_out_of_memory(child, code), doing=doing))

    def _was_out_of_memory(self, process: Process, code: int) -> bool:
        # Who was killed by us was not killed for memory, whatever the counter says of others.
        return code == -Signals.SIGKILL and not process.was_killed and self._lookout.was_out_of_memory()

    def fork(self, id: WorkerId, blueprint: Blueprint) -> None:  # noqa: A002
        rows = self.board.take(blueprint.rows)
        try:
            wires = Wires(socket.SOCK_STREAM, self._lifeline)
        except OSError:
            self.board.give_back(rows)
            raise
        unborn = Unborn(id=id, blueprint=blueprint, rows=rows, place=self.board.number(rows), wires=wires)
        try:
            if blueprint.settings.preload_app:
                adopt_orphans()
                self._nursery.want(unborn)
            else:
                order = blueprint.order(id, rows, wires.theirs, wires.dump, wires.lifeline)
                self._adopt(unborn, fork_child(ENTRY, order, lambda: self._undo_in_child(blueprint, wires)))
        except OSError:
            self._lose(unborn)
            raise

    def _fork_template(self, unborn: Unborn) -> Template:
        """The template that is to bear this worker, and others of its generation; or OSError."""
        blueprint = unborn.blueprint
        wires = Wires(socket.SOCK_SEQPACKET, self._lifeline)

        def undo() -> None:
            self._undo_in_child(blueprint, wires)
            unborn.wires.close()  # sent to it when it is ready

        try:
            order = blueprint.template_order(self.board.rows, wires.theirs, wires.dump, wires.lifeline)
            pid = fork_child(TEMPLATE_ENTRY, order, undo)
        except OSError:
            wires.close()
            raise
        wires.close_theirs()
        return Template(pid=pid, channel=wires.ours, stacks=wires.stacks, blueprint=blueprint)

    def _adopt(self, unborn: Unborn, pid: int) -> None:
        """A worker has been forked: it is a child of this process."""
        wires = unborn.wires
        wires.close_theirs()
        wires.ours.setblocking(False)
        child = Child(
            pid=pid, channel=wires.ours, stacks=wires.stacks, id=unborn.id, blueprint=unborn.blueprint, rows=unborn.rows
        )
        self._children[pid] = self._by_id[unborn.id] = self._by_channel[wires.ours.fileno()] = child
        self._epoll.register(wires.ours, select.EPOLLIN)
        if unborn.id in self._dumping:
            self._dumping[unborn.id] = (self._dumping[unborn.id][0], child)
        if (code := self._unclaimed.pop(pid, None)) is not None:
            self._bury(child, code, self._pending)
        elif unborn.signal:
            self._send(child, unborn.signal)

    def _lose(self, unborn: Unborn, pid: int | None = None) -> None:
        """A worker will not be born: let go of what was made for it. `pid` is for the log."""
        if pid:
            self._departed[unborn.id] = pid
        self._dumping.pop(unborn.id, None)
        unborn.wires.close()
        self.board.give_back(unborn.rows)

    def _undo_in_child(self, blueprint: Blueprint | None, wires: Wires | None = None) -> None:
        """In the child, signals being blocked: close what is the supervisor's."""
        self._let_go(blueprint)
        self._neighbours.forget()
        self._inbox.uninstall()
        self._epoll.close()
        os.close(self._lifeline)
        os.close(self._lifeline_write)
        if wires:
            wires.close_ours()
        self._rehearsals.forget()
        for child in self._children.values():
            child.close()
        self._nursery.leave()

    def rehearse(self, generation: int, load: Callable[[], object]) -> None:
        self._rehearsals.begin(generation, load, lambda: self._undo_in_child(None), self.now())

    def rearm(self) -> None:
        self._inbox.arm()

    def tell(self, id: WorkerId, message: Message) -> None:  # noqa: A002
        child = self._by_id.get(id)
        if child and child.channel.fileno() >= 0:
            try:
                child.channel.send(encode(message))
            except OSError:
                pass  # full or broken: see `Kernel.tell`

    def tell_all(self, message: Message) -> None:
        for id in self._by_id:  # noqa: A001
            self.tell(id, message)
        self._nursery.tell_all(message)

    def forget(self, generation: int) -> None:
        self._nursery.forget(generation)

    def kill(self, id: WorkerId, force: Force) -> None:  # noqa: A002
        if child := self._by_id.get(id):
            self._send(child, Signals[force.value])
        else:
            self._nursery.kill(id, Signals[force.value])

    @staticmethod
    def _send(child: Child, signal: Signals) -> None:
        child.was_killed = child.was_killed or signal is Signals.SIGKILL
        os.kill(child.pid, signal)  # not reaped yet, so the pid is still its own

    def dump(self, id: WorkerId) -> None:  # noqa: A002
        if process := self._by_id.get(id) or self._nursery.mother(id):  # what an unborn one waits for is in its template
            process.read_stacks()  # what an earlier request left
            self._dumping[id] = (self.now() + DUMPING, process)
            os.kill(process.pid, DUMP_SIGNAL)

    def watch(self, path: str | None) -> None:
        self._lookout.watch(path)

    def close(self) -> None:
        self._rehearsals.cancel(at_end=True)
        for child in self._children.values():
            child.close()
        self._nursery.close()
        self._epoll.close()
        self._inbox.close()
        os.close(self._lifeline)
        os.close(self._lifeline_write)
