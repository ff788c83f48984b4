"""A simulated kernel with simulated workers and a virtual clock, around the real policy.

`World` is the supervisor's loop in miniature: it waits for the earlier of `Fleet.wake_at` and the next event of a process,
observes the facts, reconciles, and performs the effects on its processes. Each process lives by its `Habits`. An `Auditor`
sees every fact and every effect, and raises AssertionError at the first broken promise.

To extend: a new misfortune is a member of `Then` (or `Boot`) and its case in `_step`; a new effect is a case in `_perform`
and one in `Auditor.judge`.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum, auto
from math import inf, nextafter
from pickle import dumps, loads
from typing import TYPE_CHECKING

from auditor import Auditor

from arbiter import facts
from arbiter.autoscale import Sample
from arbiter.facts import Force, Plan
from arbiter.fleet import Fleet
from arbiter.workers.contract import Exit, WorkerId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbiter.facts import Effect, Fact
    from arbiter.lifecycle import Ask
    from arbiter.news import News

PLAN = Plan(count=3, surge=1, boot_timeout=10.0, prove=1.0, graceful_timeout=8.0, min_uptime=5.0)


class Boot(Enum):
    """How a boot ends."""

    READY = auto()
    FAILS = auto()
    """It says so, and exits."""
    DIES = auto()
    HANGS = auto()
    HANGS_UP = auto()
    """It closes its channel, and lives on."""


class Then(Enum):
    """What becomes of a worker that is ready."""

    SERVES = auto()
    EXITS = auto()
    CRASHES = auto()
    RETIRES = auto()
    """It stops accepting on its own account."""
    SPENT = auto()
    """It asks to be replaced, and serves on."""
    HANGS_UP = auto()
    """It closes its channel, and lives on."""
    STUCK = auto()
    """It lets its own deadline pass, and hears nothing any more."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a process behaves. Times in seconds."""

    boots_in: float = 0.5
    boot: Boot = Boot.READY
    then: Then = Then.SERVES
    after: float = 3.0
    """From its being ready to `then`."""
    leaves_in: float = 0.25
    """From being told to leave (or deciding to) to its exit."""
    closes_early: float = 0.0
    """From the end of its channel to its exit; 0: both come as one."""
    is_deaf: bool = False
    """Only SIGKILL ends it."""
    is_unkillable: bool = False
    """It sleeps in the kernel: not even that ends it."""
    shows_in: float = 0.1
    """From being asked for its stacks to having shown them."""
    code: int = Exit.BOOT
    """What it exits with when its boot fails."""


HEALTHY = Habits()


class Step(Enum):
    """What a process does at a time of its own choosing."""

    BOOTED = auto()
    TURNS = auto()
    CLOSES = auto()
    EXITS = auto()
    ANSWERS = auto()
    """It shows its stacks."""


@dataclass(slots=True)
class Process:
    """A child as the simulated kernel knows it."""

    id: WorkerId
    generation: int
    habits: Habits
    is_ready: bool = False
    has_channel: bool = True
    exit: tuple[int | None, str | None] | None = None
    """Its status and signal, once it is on its way out."""


class World:
    """One service in a simulated machine. All its methods that take time let the virtual clock run."""

    def __init__(self, plan: Plan = PLAN, habits: Habits = HEALTHY, fork_failures: int = 0) -> None:
        self.now = 1000.0
        self.fleet = Fleet(plan)
        self.auditor = Auditor(self.fleet, plan)
        self.plan = plan
        """That of the newest proposal."""
        self.habits = {1: habits}
        """By generation."""
        self.next_habits: deque[Habits] = deque()
        """Of the next processes, before those of their generation."""
        self.fork_failures = fork_failures
        """How many of the next ``fork()`` fail."""
        self.doors_empty_in = 0.2
        """How long after the doors are shut the last one behind them is served."""
        self._doors_empty_at = inf
        self.processes: dict[WorkerId, Process] = {}
        """Not reaped yet."""
        self.code: int | None = None
        """The status that the supervisor left with."""
        self.effects: list[tuple[float, Effect]] = []
        """All that was ever decided, with its time."""
        self.least_serving = 0
        """The fewest workers that served after any turn; set it to start anew."""
        self.is_broken = False
        """Whether a promise was broken: the world is of no use any more."""
        self._events: list[tuple[float, int, WorkerId, Step]] = []
        self._tickets = 0
        self._moment = self.now
        """The time in the machine; behind `now` while a late supervisor hears what it has missed."""
        self._turn()

    # What the machine and its operator can do -------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let time pass, with a supervisor that is always on time."""
        until = self.now + seconds
        self._turn()
        for _ in range(10_000):
            at = min(self.fleet.wake_at(), self._next_event())
            if self.code is not None or at > until:
                break
            self.now = max(self.now, at)
            self._turn()
        else:
            raise AssertionError("the policy is busy without end")
        self._moment = self.now = until
        if self.code is None:
            self._turn()  # a fork that failed in the last turn was a new fact
            decided = self._turn()
            assert decided == [], f"decided before wake_at() and without a new fact: {decided}"

    def lag(self, seconds: float) -> None:
        """Let time pass in which the supervisor does not get a turn; then it hears everything at once."""
        self.now += seconds
        self._turn(late=True)

    def sleep(self, seconds: float) -> None:
        """The same, but the supervisor noticed that it had not run."""
        self.now += seconds
        self.hear(facts.Slept(seconds))
        self._turn(late=True)

    def reload(self, habits: Habits = HEALTHY, **changes: float) -> int:
        """HUP: propose a generation; its number."""
        number = max(self.habits) + 1
        self.habits[number] = habits
        self.plan = replace(self.plan, **changes)  # type: ignore[arg-type]  # the caller's names are checked at run time
        self.hear(facts.Proposed(number, self.plan))
        return number

    def scale(self, by: int) -> None:
        self.hear(facts.Scaled(by))

    def load(self, busy: float, waited: float = 0.0) -> None:
        """A sample of the last second: so many workers were busy, and somebody waited so long."""
        self.hear(facts.Loaded(Sample(1.0, busy, waited)))
        self._turn()

    def ask(self, ask: Ask) -> None:
        self.hear(facts.Asked(ask))

    def befall(self, process: Process, then: Then) -> None:
        """Have something happen to a worker that is ready, now."""
        if process.is_ready and not process.exit:
            process.habits = replace(process.habits, then=then)
            self._step(process, Step.TURNS)

    def hear(self, fact: Fact) -> None:
        """Hand the policy a fact at this moment; it decides in the next turn."""
        if self.code is None:
            self.auditor.hear(fact, self.now)
            self.fleet.observe(fact, self.now)

    # What a test may want to know -------------------------------------------------------------------------------------

    @property
    def serving(self) -> list[WorkerId]:
        """The ready workers that have not been told to leave, in the order of their slots."""
        active = {worker.id for worker in self.fleet.active}
        return sorted(process.id for process in self.processes.values() if process.is_ready and process.id in active)

    @property
    def generations(self) -> list[int]:
        """Of the serving workers, in the order of their slots."""
        return [self.processes[id_].generation for id_ in self.serving]

    def told(self, news: News) -> list[facts.Tell]:
        return [effect for _, effect in self.effects if isinstance(effect, facts.Tell) and effect.news is news]

    def forks(self, slot: int | None = None) -> list[float]:
        """When workers were forked (for one slot)."""
        return [at for at, effect in self.effects if isinstance(effect, facts.Fork) and slot in (None, effect.id.slot)]

    def signals(self, id_: WorkerId) -> list[tuple[float, str]]:
        """What a worker was told, and when."""
        found = []
        for at, effect in self.effects:
            if isinstance(effect, facts.Kill) and effect.id == id_:
                found.append((at, effect.force.value))
            if isinstance(effect, facts.Retire) and effect.id == id_:
                found.append((at, "retire"))
        return found

    # The loop -----------------------------------------------------------------------------------------------------------

    def _turn(self, *, late: bool = False) -> list[Effect]:
        if self.code is not None:
            return []
        self.is_broken = True
        while self._events and self._events[0][0] <= self.now:
            self._moment, _, id_, step = heapq.heappop(self._events)
            if process := self.processes.get(id_):
                self._step(process, step)
        self._moment = self.now
        self.auditor.before_deciding(self.now, late=late)
        effects = self.fleet.reconcile(self.now)
        for effect in effects:
            self.effects.append((self.now, effect))
            self.auditor.judge(effect, self.now)
        self.auditor.after_deciding(self.now, set(self.processes))
        assert self.fleet.reconcile(self.now) == [], "reconcile is not idempotent"
        self._check_clock()
        for effect in effects:
            self._perform(effect)
        self.least_serving = min(self.least_serving, len(self.serving))
        self.is_broken = False
        return effects

    def _check_clock(self) -> None:
        """`wake_at` lies ahead, and before it nothing is decided."""
        wake_at = self.fleet.wake_at()
        assert wake_at > self.now, "wake_at() is not after now"
        for early in self._moments_before(wake_at):
            copy: Fleet = loads(dumps(self.fleet))
            assert copy.reconcile(early) == [], f"decided {wake_at - early} s before wake_at()"

    def _moments_before(self, wake_at: float) -> Iterator[float]:
        if wake_at == inf:
            yield self.now + 1e6
        elif (last := nextafter(wake_at, -inf)) > self.now:
            yield (self.now + last) / 2
            yield last

    def _perform(self, effect: Effect) -> None:
        match effect:
            case facts.Fork(id_, generation):
                self._fork(id_, generation)
            case facts.Retire(id_):
                process = self.processes[id_]
                if process.is_ready and process.has_channel:
                    self._obey(process, (0, None))
            case facts.Kill(id_, force):
                self._push(self.processes[id_], force)
            case facts.Dump(id_):
                self._plan(self.processes[id_].habits.shows_in, id_, Step.ANSWERS)
            case facts.ShutDoors():
                self._doors_empty_at = self.now + self.doors_empty_in
            case facts.EndDoors() if self.now >= self._doors_empty_at:
                self.hear(facts.DoorsEnded())
            case facts.Finish(code):
                self.code = code
            case _:
                pass  # changes nothing in a process

    def _fork(self, id_: WorkerId, generation: int) -> None:
        if self.fork_failures:
            self.fork_failures -= 1
            self.hear(facts.NotForked(id_, "Resource temporarily unavailable"))
            return
        habits = self.next_habits.popleft() if self.next_habits else self.habits[generation]
        self.processes[id_] = Process(id_, generation, habits)
        if habits.boot is not Boot.HANGS:
            self._plan(habits.boots_in, id_, Step.BOOTED)

    def _push(self, process: Process, force: Force) -> None:
        if force is not Force.END:
            self._obey(process, (0, None) if process.is_ready else (None, force.value))
        elif not process.habits.is_unkillable:
            process.exit = (None, force.value)
            self._plan(0.0, process.id, Step.EXITS)

    def _obey(self, process: Process, exit_: tuple[int | None, str | None]) -> None:
        if not process.habits.is_deaf and not process.exit:
            self._leave(process, process.habits.leaves_in, exit_)

    def _leave(self, process: Process, seconds: float, exit_: tuple[int | None, str | None]) -> None:
        process.exit = exit_
        early = process.habits.closes_early
        if early:
            self._plan(seconds, process.id, Step.CLOSES)
        self._plan(seconds + early, process.id, Step.EXITS)

    # The lives of processes -----------------------------------------------------------------------------------------------

    def _step(self, process: Process, step: Step) -> None:
        match step:
            case Step.BOOTED:
                self._booted(process)
            case Step.TURNS if not process.exit:
                self._turns(process)
            case Step.CLOSES:
                self._hang_up(process)
            case Step.EXITS if process.exit:
                del self.processes[process.id]
                code, signal = process.exit
                self.hear(facts.Exited(process.id, code, signal or ""))
            case Step.ANSWERS:
                self.hear(facts.Dumped(process.id, "" if process.habits.is_unkillable else 'File "shop.py", line 7'))
            case _:
                pass

    def _booted(self, process: Process) -> None:
        habits = process.habits
        if process.exit and process.exit[1] == Force.END.value:
            return
        match habits.boot:
            case Boot.READY:  # perhaps late: it may have been told to leave in the meantime
                process.is_ready = True
                self.hear(facts.SaidReady(process.id))
                if habits.then is not Then.SERVES:
                    self._plan(habits.after, process.id, Step.TURNS)
            case Boot.FAILS:
                self.hear(
                    facts.SaidFailed(process.id, "importing shop.wsgi", "ImportError: nope", "Traceback ...", habits.code)
                )
                if not habits.is_deaf:
                    self._leave(process, habits.leaves_in, (habits.code, None))
            case Boot.HANGS_UP:
                self._hang_up(process)
            case _:
                self._leave(process, 0.0, (None, "SIGSEGV"))

    def _turns(self, process: Process) -> None:
        match process.habits.then:
            case Then.EXITS:
                self._leave(process, 0.0, (1, None))
            case Then.CRASHES:
                self._leave(process, 0.0, (None, "SIGSEGV"))
            case Then.RETIRES:
                self.hear(facts.SaidRetiring(process.id, "it has had enough"))
                self._obey(process, (0, None))
            case Then.SPENT:
                self.hear(facts.SaidSpent(process.id, "max_requests reached"))
            case Then.HANGS_UP:
                self._hang_up(process)
            case Then.STUCK:
                process.habits = replace(process.habits, is_deaf=True)
                self.hear(facts.Overdue(process.id, "GET /slow for 31 s"))
            case Then.SERVES:
                pass

    def _hang_up(self, process: Process) -> None:
        if process.has_channel:
            process.has_channel = False
            self.hear(facts.HungUp(process.id))

    def _plan(self, seconds: float, id_: WorkerId, step: Step) -> None:
        self._tickets += 1
        heapq.heappush(self._events, (self._moment + seconds, self._tickets, id_, step))

    def _next_event(self) -> float:
        return self._events[0][0] if self._events else inf
