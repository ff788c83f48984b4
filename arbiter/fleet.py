"""The policy: which workers are to be forked, retired and killed, and when. No hands, no clock.

Facts come in by `observe`, decisions go out of `reconcile` as effects, and `wake_at` says when time alone will decide
something. It is long because its rules are joint, and have to be read beside each other; what stands by itself is in `books`,
`succession` and `autoscale`. The theory:

* A **slot** (1..count) is a place; it is filled while one *active* worker (booting or ready) is in it. A slot with a stale
  worker (of an older generation, or spent) gets a successor beside it; the old one is retired only when the successor is
  ready. So reload, recycling and replacement are one rule, and capacity never falls by our own doing.
* A **generation** is trusted only after one canary has stood its trial. The first generation is no exception, except that
  there is nothing to fall back to: its refusal ends the service, and nothing else does.
* Rules are small, joint, and run to a fixed point: each looks at the books as they are, never at how they came to be so.

Never broken: active <= count + surge; no fork while ending or inside a back-off; no signal to a reaped worker; a READY
worker that is not stale, not above the count and not overdue is never retired; nothing is decided before `wake_at()`
without a new fact. `tests/fleet` holds these as properties.

Rejected: a queue of planned actions (goes stale the moment a worker dies), and rolling back an accepted generation by itself
(the code on disk is no longer the old one, so there is nothing to go back to).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

from arbiter import facts
from arbiter.autoscale import Autoscaler
from arbiter.books import BOOT_DELAY, FIRST_DELAY, SERVED_DELAY, Generation, Slot, Worker, delay
from arbiter.facts import Adopt, Drain, Dump, EndDoors, Finish, Force, Forget, Fork, Kill, Retire, Serving, ShutDoors, Tell
from arbiter.lifecycle import NEXT, THEN, Ask, Happening, Judgement, Phase, Standing
from arbiter.news import News
from arbiter.succession import Heir, Succession
from arbiter.workers.contract import Exit, WorkerId

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbiter.autoscale import Sample
    from arbiter.facts import Effect, Fact, Plan, SuccessorFact, WorkerFact

LEAVE_GRACE: Final = 2.0
"""Seconds for a worker to go that has said that its boot failed, or was interrupted while booting: interpreter shutdown
with a large application loaded was measured at under half a second."""
QUICK_GRACE: Final = 1.0
"""Seconds between the interruption and the SIGKILL of a quick stop: time for `finally` and atexit, no more."""
HANGUP_GRACE: Final = 1.0
"""Seconds between the end of a channel and the exit that explains it; the kernel closes files just before it tells."""
KILL_GRACE: Final = 5.0
"""Seconds in which SIGKILL must have worked. Only a process that sleeps uninterruptibly in the kernel takes longer."""

DUMP_GRACE: Final = 0.5
"""Seconds between asking a worker for its stacks and killing it: they are written by a signal handler in C, in a few
milliseconds; a worker that is stopped or hangs in the kernel will not answer at all."""
DOORS_PERIOD: Final = 0.05
"""Seconds between two looks whether anybody still waits behind the shut doors."""
SLOW_PERIOD: Final = 10.0
"""Seconds between two reports of slow requests: a slow database makes all of them slow, and one report tells why."""

_TRUSTED: Final = frozenset({Judgement.ROLLING, Judgement.CURRENT, Judgement.OUTGOING})
_FAILURES: Final = frozenset(Exit) - {Exit.OK}


@dataclass(slots=True)
class Fleet:
    """The books of one service. `plan` is that of the first generation, which is numbered `generation`."""

    plan: Plan
    generation: int = 1
    standing: Standing = Standing.STARTING
    workers: dict[WorkerId, Worker] = field(default_factory=dict)
    """All that live, as far as anybody knows; GONE ones are dropped."""
    current: Generation | None = None
    """The generation that new workers are forked from; None until the first has proven itself."""
    candidate: Generation | None = None
    delta: int = 0
    """Workers more or fewer than the settings say, by TTIN and TTOU."""
    resting: bool = False
    """Whether the operator wants no workers for now (WINCH), or they have been handed over."""
    succession: Succession = field(default_factory=Succession)
    code: Exit = Exit.OK
    _scaler: Autoscaler | None = None
    """Decides the count where the settings leave it to the load."""
    _doors_at: float = inf
    """When to look next whether anybody waits behind the shut doors; `inf` while they are open, or closed for good."""
    _drained_at: float = inf
    """When DRAINING is over."""
    _is_complete: bool = False
    """Whether every slot has ever had a ready worker."""
    _slow_at: float = -inf
    """When a slow request was last reported."""
    _down_since: float = inf
    """Since when no worker is ready; `inf` while one is, or should not be."""
    _slots: dict[int, Slot] = field(default_factory=dict)
    _generations: dict[int, Generation] = field(default_factory=dict)
    _spawns: int = 0
    _forks: Slot = field(default_factory=Slot)
    """Back-off of ``fork()`` itself, for all slots together."""
    _repeats: Counter[str] = field(default_factory=Counter)
    _effects: list[Effect] = field(default_factory=list)
    _now: float = -inf

    def __post_init__(self) -> None:
        self.candidate = self._generations[self.generation] = Generation(self.generation, self.plan)
        self._choose_scaler(self.plan, self.plan.count)

    @property
    def count(self) -> int:
        """How many workers are wanted."""
        if self.resting:
            return 0
        return self._scaler.count if self._scaler else max(1, self._ruling.count + self.delta)

    @property
    def active(self) -> list[Worker]:
        """The workers that fill slots, oldest first."""
        return [worker for worker in self.workers.values() if worker.phase.is_active]

    @property
    def _newest(self) -> Generation:
        return next(reversed(self._generations.values()))

    @property
    def _ruling(self) -> Plan:
        return (self.current or self._newest).plan

    @property
    def _ruling_number(self) -> int:
        return (self.current or self._newest).number

    @property
    def _filled(self) -> set[int]:
        """The slots in 1..count that have a worker; a canary fills none."""
        return {worker.id.slot for worker in self.active if worker.id.slot <= self.count and not self._is_on_trial(worker)}

    @property
    def _has_room(self) -> bool:
        """Whether a worker may be forked beside another. The places of empty slots are kept free for them."""
        return len(self.active) - len(self._filled) < self._ruling.surge

    @property
    def retry_at(self) -> float:
        """When the next fork may be tried that a back-off holds up; `inf` when none does. Always after the last `reconcile`."""
        times = (self._forks.retry_at, *(slot.retry_at for slot in self._slots.values()))
        return min((time for time in times if time > self._now), default=inf)

    # Facts ------------------------------------------------------------------------------------------------------------

    def observe(self, fact: Fact, now: float) -> None:
        """Enter a fact into the books. Facts about workers that are gone, or were never known, are ignored."""
        match fact:
            case facts.Asked(ask):
                self._end(ask, now)
            case facts.Scaled(by):
                self._scale(by)
            case facts.Proposed(number, plan):
                self._propose(number, plan, now)
            case facts.Rest():
                self._rest(News.RESTING)
            case facts.DoorsEnded():
                self._doors_at = inf
            case facts.Loaded(sample):
                self._loaded(sample, now)
            case facts.MemoryShort(used):
                self._relieve_memory(used)
            case facts.UpgradeAsked() | facts.SuccessorReady() | facts.SuccessorGone():
                self._succeed_ourselves(fact, now)
            case facts.Slept(seconds):
                self._tell(News.WOKE, seconds=seconds)
                self._down_since += seconds
                self.succession.deadline += seconds
                self._drained_at += seconds
                for worker in self.workers.values():
                    worker.deadline += seconds
                    worker.dump_at += seconds
            case _:
                if fact.id in self.workers:
                    self._observe_worker(fact, self.workers[fact.id], now)

    def _observe_worker(self, fact: WorkerFact, worker: Worker, now: float) -> None:
        match fact:
            case facts.SaidReady(_, serves):
                if worker.phase is Phase.BOOTING:
                    self._step(worker, Happening.SAID_READY, now, inf)
                    worker.ready_at = now
                    self._forks.failures = 0  # a fork that came to something: the next failure is a new story
                    self._tell(News.READY, worker, after=now - worker.born, serves=f"; {serves}" if serves else "")
            case facts.SaidFailed(_, during, error):
                if worker.phase.is_active:
                    worker.failure = fact
                    self._step(worker, Happening.SAID_FAILED, now, now + LEAVE_GRACE)
                    below = _below(fact.traceback)
                    fault = f"failed while {during}: {error}"
                    self._blame(worker, fault, now, News.BOOT_FAILED, during=during, error=error, traceback=below)
            case facts.SaidSpent(_, why):
                self._spend(worker, why)
            case facts.SaidRetiring(_, why):
                if worker.phase.is_active:
                    worker.why = why
                    self._step(worker, Happening.SAID_RETIRING, now, self._drain_by(worker, now))
                    self._tell(News.RETIRING, worker, why=why)
                    if now - worker.ready_at < self._plan_of(worker).min_uptime:
                        self._blame(worker, f"retired by itself: {why}", now)  # a loop in the making
            case facts.HungUp():
                if worker.phase.is_active:
                    worker.hung_up = True
                    worker.deadline = min(worker.deadline, now + HANGUP_GRACE)
            case facts.Overdue(_, doing):
                if worker.phase is Phase.READY:
                    self._blame(worker, f"was stuck: {doing}", now, News.STUCK, doing=doing)
                    self._condemn(worker, now)
            case facts.Slow(_, doing):
                if worker.phase is Phase.READY and now >= self._slow_at + SLOW_PERIOD:
                    self._slow_at = now
                    self._tell(News.SLOW, worker, doing=doing)
                    self._effects.append(Dump(worker.id))
            case facts.Dumped(_, stacks):
                if stacks:
                    self._tell(News.STACKS, worker, stacks=stacks.rstrip())
                if worker.condemned and worker.phase is Phase.RETIRING:
                    worker.deadline = min(worker.deadline, now + self._plan_of(worker).abort_grace)
            case facts.Weighed(_, size):
                self._weighed(worker, size, now)
            case facts.NotForked(_, error):
                self._not_forked(worker, error, now)
            case _:
                self._exited(worker, fact, now)

    def _end(self, ask: Ask, now: float) -> None:
        before, self.standing = self.standing, THEN[self.standing, ask]
        if self.standing is before:
            return
        delay = self._ruling.drain_delay
        has_guests = any(worker.serves for worker in self.active) and self.succession.heir is not Heir.REIGNING
        if self.standing is Standing.DRAINING and not (delay and has_guests):
            self.standing = THEN[self.standing, ask]  # there is nothing to wait for
        self.succession.end(now, self._ruling, at_once=self.standing is Standing.KILLING)
        if self.standing.is_ending and not before.is_ending:
            self._drained_at = inf
            if self.succession.heir is not Heir.REIGNING:
                self._doors_at = now
                self._effects.append(ShutDoors())
        if self.standing is Standing.DRAINING:
            self._drained_at = now + delay
            self._effects.append(Drain())
            self._tell(News.DRAINING, seconds=delay)
        elif self.standing is Standing.STOPPING:
            self._tell(News.STOPPING, limit=self._ruling.graceful_timeout)
        elif self.standing is Standing.QUITTING:
            self._tell(News.QUITTING)
            for worker in self._not_killed():
                worker.why = worker.why or "quick stop"
                # Only a worker that has booted handles SIGQUIT; by default it would dump core.
                self._effects.append(Kill(worker.id, Force.INTERRUPT if worker.ready_at < inf else Force.ASK))
                self._step(worker, Happening.TOLD_TO_RETIRE, now, min(worker.deadline, now + QUICK_GRACE))
        else:
            self._tell(News.KILLING)
            for worker in self._not_killed():
                worker.why = worker.why or "killed by order"
                self._kill(worker, now)

    def _not_killed(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.phase < Phase.KILLED]

    def _rest(self, news: News | None) -> None:
        if not self.resting and not self.standing.is_ending:
            self.resting = True
            if news:
                self._tell(news)

    def _wake(self) -> None:
        if self.resting:
            self.resting = False
            self._tell(News.AWAKE, count=self.count)

    def _succeed_ourselves(self, fact: SuccessorFact, now: float) -> None:
        refusal = ""
        if self.standing is not Standing.SERVING:
            refusal = "the service is starting or ending"
        elif self.candidate:
            refusal = "a reload is under way"
        before = self.succession.heir
        self.succession.observe(fact, now, self._ruling, self._ruling_number, refusal)
        if self.succession.heir is Heir.REIGNING is not before:
            self._rest(None)
        elif before is Heir.REIGNING is not self.succession.heir and not self.standing.is_ending:
            if self.succession.is_over:
                self._end(Ask.STOP, now)
            else:
                self._wake()

    def _spend(self, worker: Worker, why: str) -> None:
        """Have a worker replaced; it serves until its successor is ready."""
        if not worker.spent:
            worker.spent = why
            self._tell(News.SPENT, worker, why=why)

    def _weighed(self, worker: Worker, size: int, now: float) -> None:
        worker.size = size
        plan = self._plan_of(worker)
        if worker.phase is not Phase.READY:
            return
        if 0 < plan.max_worker_memory_hard < size:
            words = {"size": size >> 20, "limit": plan.max_worker_memory_hard >> 20}
            self._blame(worker, f"used {size >> 20} MiB", now, News.TOO_BIG, **words)
            self._condemn(worker, now)
        elif 0 < plan.max_worker_memory < size:
            self._spend(worker, f"it uses {size >> 20} MiB, max_worker_memory is {plan.max_worker_memory >> 20} MiB")

    def _relieve_memory(self, used: float) -> None:
        """Replace the largest worker, one at a time: a fresh one is smaller."""
        ready = [worker for worker in self.active if worker.serves]
        if ready and not any(worker.spent for worker in ready):
            largest = max(ready, key=lambda worker: worker.size)
            size = f"{largest.size >> 20} MiB"
            self._spend(largest, f"{used:.0%} of the memory is used, and with {size} it is the largest worker")

    def _choose_scaler(self, plan: Plan, count: int) -> None:
        self._scaler = Autoscaler(plan.min_workers, plan.max_workers, count) if plan.max_workers else None

    def _loaded(self, sample: Sample, now: float) -> None:
        """Let the load decide the count, but never while a reload is under way: its surge is not the load's doing."""
        is_calm = self.current and self.current.judgement is Judgement.CURRENT and not self.candidate
        if not self._scaler or not is_calm or self.resting or self.standing is not Standing.SERVING:
            return
        before = self._scaler.count
        after = self._scaler.observe(sample, now)
        if after != before:
            self._tell(News.AUTOSCALED, count=after, before=before, busy=sample.busy / sample.seconds)

    def _scale(self, by: int) -> None:
        if self.resting:
            if by > 0 and self.succession.heir is Heir.REIGNING:
                self._tell(News.HANDED_ALREADY)  # no canary would show whether its workers boot
            elif by > 0:
                self._wake()
            return
        if self._scaler:
            wanted = self._scaler.count + by
            if not self._scaler.least <= wanted <= self._scaler.most:
                self._tell(News.AT_BOUND, count=self.count, bound="fewest" if by < 0 else "most")
                return
            self._scaler.count = wanted  # and the load goes on from there: nothing is left of the wish to be remembered
            self._tell(News.SCALED, count=wanted, delta=by)
        elif self.count + by < 1:
            self._tell(News.AT_MINIMUM)
        else:
            self.delta += by
            self._tell(News.SCALED, count=self.count, delta=self.delta)

    def _propose(self, number: int, plan: Plan, now: float) -> None:
        generation = self._generations[number] = Generation(number, plan)
        if self.standing.is_leaving:
            generation.judgement = Judgement.REFUSED
            self._tell(News.TOO_LATE)
            return
        if self.succession.heir is Heir.STARTING:
            generation.judgement = Judgement.REFUSED
            self._tell(News.UPGRADING)
            return
        if self.candidate:
            self._tell(News.SUPERSEDED)
            self.candidate.judgement = Judgement.REFUSED
            if canary := self.candidate.canary:
                self._retire(canary, now, "a newer generation is tried")
            if not self.current:
                self._recount(self.candidate.plan, plan)
                self._choose_scaler(plan, plan.count)
        self.candidate = generation
        self._tell(News.TRIAL)

    def _recount(self, before: Plan, after: Plan) -> None:
        if after.count != before.count:
            self.delta = 0  # a number that the settings newly say is what the operator wants now

    def _not_forked(self, worker: Worker, error: str, now: float) -> None:
        self._step(worker, Happening.NOT_FORKED, now, inf)
        self._drop(worker)
        for generation in self._generations.values():
            if generation.canary is worker:
                generation.canary = None  # not its fault: the trial waits for a fork that works
        if now < self._forks.retry_at:
            return  # one of several that were decided in the same turn: one failure, not many
        self._forks.failures += 1
        self._forks.retry_at = now + max(FIRST_DELAY, delay(self._forks.failures, BOOT_DELAY, worker))
        if _is_power_of_two(self._forks.failures):
            self._tell(News.FORK_FAILED, worker, error=error, when=_when(self._forks.retry_at - now))

    def _exited(self, worker: Worker, fact: facts.Exited, now: float) -> None:
        was = worker.phase
        self._step(worker, Happening.EXITED, now, inf)
        self._drop(worker)
        if was.is_active:
            how = f"was killed by {fact.signal}" if fact.signal else f"exited with status {fact.code}"
            if fact.out_of_memory:
                how += " by the kernel, out of memory"
            fault = f"{how} while booting" if was is Phase.BOOTING else how
            doing = f" It was in: {fact.doing}." if fact.doing else ""
            self._blame(worker, fault, now, News.DIED, how=fault, after=now - worker.born, doing=doing)
        elif not worker.fault:
            self._tell(News.LEFT, worker, after=now - worker.born, why=worker.why)

    def _blame(self, worker: Worker, fault: str, now: float, news: News | None = None, **words: object) -> None:
        """Count a fault against the worker's slot, and say so the 1st, 2nd, 4th, 8th ... time.

        A canary's fault is its generation's: the trial tells it. And what dies while all is ending is no news.
        """
        worker.fault = fault
        generation = self._generations[worker.generation]
        if self.standing.is_ending or generation.judgement not in _TRUSTED:
            return
        slot = self._slot(worker.id.slot)
        if now - worker.ready_at >= generation.plan.min_uptime:
            slot.failures = 0
            del self._repeats[fault]  # no loop, so the next line about it is not one of many
        slot.failures += 1
        slot.retry_at = now + delay(slot.failures, SERVED_DELAY if worker.ready_at < inf else BOOT_DELAY, worker)
        self._repeats[fault] += 1
        times = self._repeats[fault]
        if news and _is_power_of_two(times):
            count = f" ({times} times so far)" if times > 1 else ""
            self._tell(news, worker, count=count, when=_when(slot.retry_at - now), **words)

    # Decisions --------------------------------------------------------------------------------------------------------

    def reconcile(self, now: float) -> list[Effect]:
        """What is to be done now, in order. Asked again at once, there is nothing more to do."""
        self._now = now
        while any(rule(self, now) for rule in self._RULES):
            pass
        effects, self._effects = [*self.succession.effects, *self._effects], []
        self.succession.effects.clear()
        # A decision of this very turn may be about a worker whose exit came in right behind what provoked it.
        return [effect for effect in effects if not isinstance(effect, Kill | Retire | Dump) or effect.id in self.workers]

    def wake_at(self) -> float:
        """The earliest time at which the clock alone decides something; `inf` for never. Always after the last `reconcile`."""
        times = [self._doors_at, self._drained_at, self.succession.leave_at, self.succession.deadline]
        for worker in self.workers.values():
            times += (worker.deadline, worker.dump_at)
            if worker.phase is Phase.READY and not worker.spent:
                times.append(self._lives_until(worker))
        if (candidate := self.candidate) and (canary := candidate.canary) and canary.phase is Phase.READY:
            times.append(canary.since + candidate.plan.prove)
        if not self.standing.is_ending:
            times.append(self.retry_at)
            if limit := self._ruling.give_up_after:
                times.append(self._down_since + limit)
        return min((time for time in times if time > self._now), default=inf)

    def _enforce_deadlines(self, now: float) -> bool:
        self.succession.enforce(now, self._ruling, self._ruling_number)
        acted = False
        for worker in [worker for worker in self.workers.values() if worker.deadline <= now]:
            acted = True
            plan = self._plan_of(worker)
            match worker.phase:
                case _ if worker.hung_up and worker.phase.is_active:
                    self._blame(worker, "closed its channel", now, News.HUNG_UP)
                    self._step(worker, Happening.TOLD_TO_RETIRE, now, self._drain_by(worker, now))
                    self._effects.append(Kill(worker.id, Force.ASK))
                case Phase.BOOTING:
                    fault = f"was not ready within boot_timeout ({plan.boot_timeout:g} s)"
                    self._blame(worker, fault, now, News.BOOT_TIMEOUT, limit=plan.boot_timeout)
                    self._condemn(worker, now)
                case Phase.KILLED:
                    self._tell(News.UNKILLABLE, worker, limit=KILL_GRACE)
                    self._drop(worker)
                case _:
                    if not worker.failure and not worker.condemned and worker.why:
                        self._tell(News.DRAIN_TIMEOUT, worker, limit=now - worker.since, why=worker.why)
                    self._kill(worker, now)
        return acted

    def _show_stacks(self, now: float) -> bool:
        """Ask for the stacks of those that are about to be killed."""
        for worker in self.workers.values():
            if worker.dump_at <= now:
                worker.dump_at = inf
                self._effects.append(Dump(worker.id))
        return False

    def _wear_out(self, now: float) -> bool:
        """Have workers replaced that have lived long enough."""
        old = [worker for worker in self.active if worker.phase is Phase.READY and self._lives_until(worker) <= now]
        for worker in old:
            self._spend(worker, f"it has served for {now - worker.ready_at:.0f} s (max_lifetime)")
        return False

    def _give_up(self, now: float) -> bool:
        """End a service that does not come back, where the operator wants that."""
        should_serve = self.standing is Standing.SERVING and not self.resting
        if not should_serve or any(worker.serves for worker in self.active):
            self._down_since = inf
            return False
        self._down_since = min(self._down_since, now)
        limit = self._ruling.give_up_after
        if limit and now >= self._down_since + limit:
            self._tell(News.GAVE_UP, seconds=now - self._down_since)
            self.code = Exit.BOOT
            self._end(Ask.STOP, now)
            return True
        return False

    def _stop_draining(self, now: float) -> bool:
        if now < self._drained_at:
            return False
        self._end(Ask.STOP, now)
        return True

    def _finish(self, now: float) -> bool:
        has_left = self.resting and not self.workers and not self.candidate
        if has_left and now >= self.succession.leave_at and not self.standing.is_ending:
            self.standing = Standing.STOPPING  # and nothing else ends: it is all our successor's
            self._tell(News.SUCCEEDED)
        if not self.standing.is_ending:
            return False
        if self._doors_at <= now:
            self._doors_at = now + DOORS_PERIOD
            self._effects.append(EndDoors())
        for worker in self.active:
            self._retire(worker, now, "the service stops")
        if not self.workers and not self.succession.heir.is_ending and self.standing is not Standing.ENDED:
            self.standing, self._doors_at = Standing.ENDED, inf
            self._effects.append(Finish(self.code))
        return False

    def _judge(self, now: float) -> bool:
        """The trial of the candidate: fork its canary, promote it, or refuse it."""
        candidate = self.candidate
        if not candidate or self.standing.is_ending:
            return False
        canary = candidate.canary
        if not canary:
            slot = self._canary_slot()
            # A new trial owes nothing to the failures of its slot: only fork() itself may hold it up.
            if now < self._forks.retry_at or not self._has_room:
                return False
            candidate.canary = self._fork(slot, candidate, now)
            return True
        if canary.phase > Phase.READY:
            self._refuse(candidate, canary)
            return True
        if canary.serves and (not self.current or now >= canary.since + candidate.plan.prove):
            self._promote(candidate)
            return True
        return False

    def _canary_slot(self) -> int:
        """Where the canary boots: beside the oldest worker that would be replaced first."""
        return next((worker.id.slot for worker in self.active if worker.id.slot <= self.count), 1)

    def _promote(self, candidate: Generation) -> None:
        self.candidate, outgoing = None, self.current
        candidate.judgement, self.current = Judgement.ROLLING, candidate
        self._effects.append(Adopt(candidate.number))
        self._repeats.clear()
        for slot in self._slots.values():
            slot.failures, slot.retry_at = 0, -inf
        if outgoing:
            outgoing.judgement = Judgement.OUTGOING
            self._choose_scaler(candidate.plan, self.count or candidate.plan.count)
            self._wake()
            self._recount(outgoing.plan, candidate.plan)
            self._tell(News.PROMOTED)
        else:
            self.standing = Standing.SERVING
            self._effects.append(Serving())
            self._tell(News.SERVING, count=self.count)

    def _refuse(self, candidate: Generation, canary: Worker) -> None:
        self.candidate = None
        candidate.judgement = Judgement.REFUSED
        why = _ended(canary.fault or canary.why)
        below = _below(canary.failure.traceback) if canary.failure else ""
        if self.current:
            serving = sum(worker.phase is Phase.READY for worker in self.workers.values())
            keeps = f"gen={self.current.number} keeps serving ({serving} workers)."
            self._tell(
                News.REFUSED,
                refused=candidate.number,
                slot=canary.id.slot,
                why=why,
                keeps=keeps,
                traceback=below,
            )
        else:
            code = canary.failure.code if canary.failure else Exit.BOOT
            self.code = Exit(code) if code in _FAILURES else Exit.BOOT  # its word is not to be trusted with OK, or with 77
            self._tell(News.NEVER_SERVED, slot=canary.id.slot, why=why, traceback=below)
            self.standing = THEN[self.standing, Ask.STOP]

    def _shrink(self, now: float) -> bool:
        extra = [worker for worker in self.active if worker.id.slot > self.count and not self._is_on_trial(worker)]
        for worker in extra:
            why = "the new supervisor serves" if self.succession.heir is Heir.REIGNING else "fewer workers are wanted"
            self._retire(worker, now, why)
        return bool(extra)

    def _retire_stale(self, now: float) -> bool:
        """Retire those whose successor is ready, and those that boot for a generation that is on its way out.

        A successor may have become stale itself in the meantime: the youngest stays then, until it has its own.
        """
        serving = [worker for worker in self.active if worker.serves and not self._is_on_trial(worker)]
        kept = {worker.id.slot: worker for worker in sorted(serving, key=lambda worker: not self._is_stale(worker))}
        for worker in self.active:
            if self._is_stale(worker) and (worker.phase is Phase.BOOTING or kept.get(worker.id.slot, worker) is not worker):
                self._retire(worker, now, worker.spent or "its successor is ready")
                return True
        return False

    def _fill(self, now: float) -> bool:
        """Fork a worker for an empty slot."""
        if not self.current or self.standing.is_ending:
            return False
        for slot in range(1, self.count + 1):
            if slot not in self._filled and self._may_fork(slot, now):
                self._fork(slot, self.current, now)
                return True
        return False

    def _succeed(self, now: float) -> bool:
        """Fork a successor beside a stale worker: the oldest first, within the surge."""
        if not self.current or self.standing.is_ending or not self._has_room:
            return False
        settled = Counter(worker.id.slot for worker in self.active)
        # The spent are replaced one after the other, whatever the surge: what wears one out wears out its twins.
        is_replacing = any(worker.spent and settled[worker.id.slot] > 1 for worker in self.active)
        for worker in self.active:
            if worker.spent and is_replacing:
                continue
            if self._is_stale(worker) and settled[worker.id.slot] == 1 and self._may_fork(worker.id.slot, now):
                self._fork(worker.id.slot, self.current, now)
                return True
        return False

    def _settle(self, now: float) -> bool:
        """See that a roll is over, and let go of generations that nobody needs."""
        if (current := self.current) and current.judgement is Judgement.ROLLING and not self.resting:
            # What is worn out and serves counts: under a short max_lifetime there would never be an end otherwise.
            ready = {worker.id.slot for worker in self.active if worker.phase is Phase.READY}
            if len(ready) == self.count and all(worker.generation == current.number for worker in self.active):
                current.judgement = Judgement.CURRENT
                is_first = current.number == self.generation
                self._tell(News.ALL_READY if is_first else News.RELOADED, count=self.count)
                if not self._is_complete:
                    self._is_complete = True
                    self._effects.append(facts.Complete())
                self.succession.reclaim(now, self._ruling, self._ruling_number)
        in_use = {worker.generation for worker in self.workers.values()}
        idle = [
            number
            for number, generation in self._generations.items()
            if generation.judgement >= Judgement.OUTGOING and number not in in_use
        ]
        for number in idle:
            if len(self._generations) > 1:
                del self._generations[number]
                self._effects.append(Forget(number))
        return False

    # Hands of the rules -------------------------------------------------------------------------------------------------

    def _plan_of(self, worker: Worker) -> Plan:
        return self._generations[worker.generation].plan

    def _lives_until(self, worker: Worker) -> float:
        plan = self._plan_of(worker)
        if worker.spent or not plan.max_lifetime:
            return inf
        return worker.ready_at + plan.max_lifetime + plan.max_lifetime_jitter * worker.jitter

    def _is_on_trial(self, worker: Worker) -> bool:
        return self._generations[worker.generation].judgement is Judgement.TRIAL

    def _is_stale(self, worker: Worker) -> bool:
        judgement = self._generations[worker.generation].judgement
        # A canary that has served its share within the trial has proven itself: it is replaced after, not refused.
        is_spent = bool(worker.spent) and worker.phase is Phase.READY and judgement in _TRUSTED
        return is_spent or judgement >= Judgement.OUTGOING

    def _slot(self, number: int) -> Slot:
        return self._slots.setdefault(number, Slot())

    def _may_fork(self, slot: int, now: float) -> bool:
        return now >= self._forks.retry_at and now >= self._slot(slot).retry_at

    def _fork(self, slot: int, generation: Generation, now: float) -> Worker:
        self._spawns += 1
        worker = Worker(WorkerId(slot, self._spawns), generation.number, born=now, since=now)
        worker.deadline = now + (generation.plan.boot_timeout or inf)
        self.workers[worker.id] = worker
        self._effects.append(Fork(worker.id, generation.number))
        if self.standing is Standing.DRAINING:
            self._effects.append(Drain())
        self._tell(News.BOOTING, worker)
        return worker

    def _step(self, worker: Worker, happening: Happening, now: float, deadline: float) -> None:
        phase = NEXT[worker.phase, happening]
        if phase is not worker.phase:
            worker.phase, worker.since = phase, now
        worker.deadline = deadline
        # Whoever is killed for taking too long is first asked what takes so long; those of a quick stop are no riddle.
        dumps = phase is Phase.RETIRING and self.standing < Standing.QUITTING
        worker.dump_at = max(now, deadline - DUMP_GRACE) if dumps else inf

    def _condemn(self, worker: Worker, now: float) -> None:
        """Take a worker out of service at once, and kill it as soon as its stacks have been shown."""
        worker.condemned = True
        grace = DUMP_GRACE + self._plan_of(worker).abort_grace
        self._step(worker, Happening.TOLD_TO_RETIRE, now, now + grace)
        worker.dump_at = now if worker.dump_at < inf else inf

    def _drain_by(self, worker: Worker, now: float) -> float:
        return now + (self._plan_of(worker).graceful_timeout or QUICK_GRACE)

    def _retire(self, worker: Worker, now: float, why: str) -> None:
        if not worker.phase.is_active:
            return
        worker.why = why
        # One that boots does not read its channel yet, and has nothing to finish; one that has hung up never will.
        is_last = self.standing.is_ending and self.succession.heir is not Heir.REIGNING
        self._effects.append(Retire(worker.id, last=is_last) if worker.serves else Kill(worker.id, Force.ASK))
        is_idle = worker.phase is Phase.BOOTING and not worker.hung_up
        self._step(worker, Happening.TOLD_TO_RETIRE, now, now + LEAVE_GRACE if is_idle else self._drain_by(worker, now))
        self._tell(News.RETIRING, worker, why=why)

    def _kill(self, worker: Worker, now: float) -> None:
        self._step(worker, Happening.TOLD_TO_DIE, now, now + KILL_GRACE)
        self._effects.append(Kill(worker.id, Force.END))

    def _drop(self, worker: Worker) -> None:
        del self.workers[worker.id]

    def _tell(self, news: News, worker: Worker | None = None, **words: object) -> None:
        if worker:
            self._effects.append(Tell(news, worker.generation, worker.id, words))
        else:
            self._effects.append(Tell(news, (self.candidate or self.current or self._newest).number, None, words))

    _RULES: ClassVar[tuple[Callable[[Fleet, float], bool], ...]] = (
        _enforce_deadlines,
        _show_stacks,
        _wear_out,
        _give_up,
        _stop_draining,
        _finish,
        _judge,
        _shrink,
        _retire_stale,
        _fill,
        _succeed,
        _settle,
    )
    """In order of urgency. Each returns whether it changed the books in a way that another rule may care about."""


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _when(delay: float) -> str:
    return f"in {delay:.2g} s" if delay > 0 else "now"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def _below(traceback: str) -> str:
    return f"\n{traceback.rstrip()}" if traceback else ""
