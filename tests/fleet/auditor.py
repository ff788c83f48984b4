"""The promises of the policy, checked on every fact and every effect by books of its own.

The auditor knows what anyone could know who hears the facts and sees the effects; it never looks at how the policy comes to
its decisions. It raises AssertionError at the first promise that is broken:

* the books are equal to the kernel's, and a life only goes forward;
* no signal to a process that has been reaped, no SIGQUIT to one that does not handle it yet, no word into a closed channel;
* no fork while ending (one that drains goes on being whole), none inside a back-off, never more than count + surge, never more than one canary;
* but an empty slot is filled, a stale worker succeeded, a trial begun and decided as soon as nothing forbids it;
* a slot that serves goes on serving unless its own worker fails, and a healthy worker is never told to leave;
* a generation is adopted only when its canary has stood its trial, and refused only when it has not;
* each deadline is met to the moment: nobody is killed before it, nobody lives past it, and its stacks are asked for first;
* nobody is replaced without a reason, and of the spent only one at a time;
* the service ends with the status that its life deserves, and with nobody left behind.

The numbers below are those of the documented behaviour, written down a second time on purpose.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from arbiter import facts
from arbiter.facts import Force
from arbiter.lifecycle import Ask, Phase
from arbiter.news import News
from arbiter.workers.contract import Exit, WorkerId

if TYPE_CHECKING:
    from arbiter.facts import Effect, Fact, Plan
    from arbiter.fleet import Fleet

BOOTING, READY, RETIRING, KILLED, GONE = Phase
LEAVE_GRACE = 2.0
QUICK_GRACE = 1.0
HANGUP_GRACE = 1.0
KILL_GRACE = 5.0
DUMP_GRACE = 0.5
DOORS_PERIOD = 0.05
SLOW_PERIOD = 10.0
LAUNCH_GRACE = 10.0
END_GRACE = 10.0
FIRST_DELAY = 0.25
BOOT_DELAY = 30.0
SERVED_DELAY = 2.0
JITTER = 0.25
"""The part of a delay by which it may be shorter."""

FAILURES = {Exit.START, Exit.USAGE, Exit.BOOT, Exit.NOT_FOUND}
RUNNING, STOPPING, QUITTING, KILLING = range(4)
STAGES = {Ask.STOP: (STOPPING, QUITTING, KILLING, KILLING), Ask.QUIT: (QUITTING, QUITTING, KILLING, KILLING)}


@dataclass(slots=True)
class Account:
    """What the facts and effects say of one worker."""

    id: WorkerId
    generation: int
    born: float
    due: float
    """When its phase must be over."""
    dump_at: float = inf
    """When its stacks must be asked for."""
    phase: Phase = BOOTING
    ready_at: float = inf
    is_spent: bool = False
    is_condemned: bool = False
    size: int = 0
    hung_up: bool = False
    fell: bool = False
    """Whether it left its phase by its own doing or by a missed deadline, not by order."""
    code: int = Exit.BOOT
    """What it said that its failed boot is to end with."""

    @property
    def is_active(self) -> bool:
        return self.phase in (BOOTING, READY)

    @property
    def serves(self) -> bool:
        return self.phase is READY and not self.hung_up


@dataclass(slots=True)
class Backoff:
    """The time in which a next try is forbidden for certain (up to `earliest`), and allowed for certain (from `latest`)."""

    failures: int = 0
    earliest: float = -inf
    latest: float = -inf

    def fail(self, now: float, longest: float, least: float = 0.0) -> None:
        self.failures += 1
        delay = 0.0 if self.failures == 1 else min(longest, FIRST_DELAY * 2 ** (self.failures - 2))
        self.earliest = now + max(least, delay * (1 - JITTER))
        self.latest = now + max(least, delay)


@dataclass
class Auditor:
    """Raises AssertionError when the policy breaks a promise. `plan` is that of generation 1."""

    fleet: Fleet
    plan: Plan
    accounts: dict[WorkerId, Account] = field(default_factory=dict)
    current: int | None = None
    trial: int | None = 1
    canary: Account | None = None
    stage: int = RUNNING
    delta: int = 0
    resting: bool = False
    scale: int = 0
    """The count, where the load decides it."""
    is_rolling: bool = False
    heir: str = ""
    """The successor's state: "", "starting", "reigning", "leaving" or "killed"."""
    heir_due: float = inf
    """When the successor must have left its state."""
    leave_at: float = inf
    doors_at: float = inf
    drained_at: float = inf
    """When the stop begins that was asked for; `inf` unless the service drains."""
    slow_at: float = -inf
    down_since: float = inf
    code: int = Exit.OK
    finished: bool = False

    def __post_init__(self) -> None:
        self.plans = {1: self.plan}
        self.scale = self._clamped(self.plan.count)
        self.adopted: set[int] = set()
        self.forgotten: set[int] = set()
        self.slots: dict[int, Backoff] = {}
        self.forks = Backoff()
        self.spawns = 0
        self.owed: list[Effect] = []
        """Effects that a fact has made due in the next turn."""
        self.expected_news: list[tuple[News, WorkerId | None]] = []
        self.serving_slots: set[int] = set()
        self.ignored: set[int] = set()
        """Generations that were not even tried, because an upgrade was under way."""
        self.had_left = self.is_complete = False

    # What is wanted -----------------------------------------------------------------------------------------------------

    @property
    def ruling(self) -> Plan:
        """The plan that says how many workers there are to be."""
        return self.plans[self.current or self.trial or max(self.plans)]

    @property
    def count(self) -> int:
        if self.resting:
            return 0
        return self.scale if self.ruling.max_workers else max(1, self.ruling.count + self.delta)

    @property
    def is_draining(self) -> bool:
        return self.drained_at < inf

    def _clamped(self, count: int) -> int:
        return min(max(count, self.ruling.min_workers), self.ruling.max_workers)

    @property
    def active(self) -> list[Account]:
        return [account for account in self.accounts.values() if account.is_active]

    def in_slot(self, slot: int) -> list[Account]:
        """The active workers that fill a slot; a canary fills none."""
        return [account for account in self.active if account.id.slot == slot and account.generation != self.trial]

    @property
    def empty_slots(self) -> list[int]:
        return [slot for slot in range(1, self.count + 1) if not self.in_slot(slot)]

    @property
    def has_room(self) -> bool:
        """Whether a worker may be forked beside others: the places of empty slots are kept free for them."""
        return len(self.active) + len(self.empty_slots) < self.count + self.ruling.surge

    def is_stale(self, account: Account) -> bool:
        if account.generation == self.trial:
            return False
        return account.generation != self.current or (account.is_spent and account.phase is READY)

    def drain(self, account: Account) -> float:
        return self.plans[account.generation].graceful_timeout or QUICK_GRACE

    # Facts --------------------------------------------------------------------------------------------------------------

    def hear(self, fact: Fact, now: float) -> None:
        match fact:
            case facts.Asked(ask):
                self._asked(ask, now)
            case facts.Scaled(by) if self.resting:
                self.resting = by < 0 or self.heir == "reigning"
            case facts.Scaled(by) if self.ruling.max_workers:
                self.scale = self.scale + by if self._clamped(self.scale + by) == self.scale + by else self.scale
            case facts.Scaled(by) if self.count + by >= 1:
                self.delta += by
            case facts.Rest():
                self.resting = self.resting or not self.stage
            case facts.DoorsEnded():
                self.doors_at = inf
            case facts.MemoryShort():
                self._memory_short()
            case facts.UpgradeAsked() | facts.SuccessorReady() | facts.SuccessorGone():
                self._heard_of_successor(fact, now)
            case facts.Proposed(number, plan):
                self._proposed(number, plan, now)
            case facts.Slept(seconds):
                for account in self.accounts.values():
                    account.due += seconds
                    account.dump_at += seconds
                self.down_since += seconds
                self.heir_due += seconds
                self.drained_at += seconds
            case facts.Scaled() | facts.Loaded():
                pass  # one worker is the least; what the load does is told
            case _:
                if fact.id in self.accounts:
                    self._heard_of(self.accounts[fact.id], fact, now)

    def _heard_of(self, account: Account, fact: facts.WorkerFact, now: float) -> None:
        match fact:
            case facts.SaidReady() if account.phase is BOOTING:
                self._enter(account, READY, inf, now)
                account.ready_at = now
                self.forks.failures = 0
            case facts.SaidFailed() if account.is_active:
                self._fault(account, now)
                self._enter(account, RETIRING, now + LEAVE_GRACE, now)
                account.code = fact.code
            case facts.SaidSpent():
                self._spent(account)
            case facts.SaidRetiring() if account.is_active:
                if now - account.ready_at < self.plans[account.generation].min_uptime:
                    self._fault(account, now)
                self._enter(account, RETIRING, now + self.drain(account), now)
                account.fell = True
            case facts.HungUp() if account.is_active:
                account.hung_up, account.due = True, min(account.due, now + HANGUP_GRACE)
            case facts.Overdue() if account.phase is READY:
                self._fault(account, now, News.STUCK)
                self._condemn(account, now)
            case facts.Slow() if account.phase is READY and now >= self.slow_at + SLOW_PERIOD:
                self.slow_at = now
                self.owed.append(facts.Dump(account.id))
            case facts.Dumped() if account.is_condemned and account.phase is RETIRING:
                account.due = now
            case facts.Weighed(_, size):
                self._weighed(account, size, now)
            case facts.NotForked():
                if now >= self.forks.earliest:  # not one more of the same turn
                    self.forks.fail(now, BOOT_DELAY, FIRST_DELAY)
                if self.canary is account:
                    self.canary = None
                del self.accounts[account.id]
            case facts.Exited():
                if account.is_active:
                    self._fault(account, now, News.DIED)
                account.phase = GONE
                del self.accounts[account.id]
            case _:
                pass  # too late to matter

    def _enter(self, account: Account, phase: Phase, due: float, now: float) -> None:
        account.phase, account.due = phase, due
        account.dump_at = max(now, due - DUMP_GRACE) if phase is RETIRING and self.stage < QUITTING else inf

    def _condemn(self, account: Account, now: float) -> None:
        account.is_condemned = True
        self._enter(account, RETIRING, now + DUMP_GRACE, now)

    def _spent(self, account: Account) -> None:
        if not account.is_spent:
            account.is_spent = True
            self.expected_news.append((News.SPENT, account.id))

    def _weighed(self, account: Account, size: int, now: float) -> None:
        account.size = size
        plan = self.plans[account.generation]
        if account.phase is not READY:
            return
        if plan.max_worker_memory_hard and size > plan.max_worker_memory_hard:
            self._fault(account, now, News.TOO_BIG)
            self._condemn(account, now)
        elif plan.max_worker_memory and size > plan.max_worker_memory:
            self._spent(account)

    def _memory_short(self) -> None:
        serving = [account for account in self.active if account.serves]
        if serving and not any(account.is_spent for account in serving):
            self._spent(max(serving, key=lambda account: account.size))

    def _heard_of_successor(self, fact: facts.SuccessorFact, now: float) -> None:
        match fact:
            case facts.UpgradeAsked(obstacle) if not (self.heir or self.trial or self.stage or self.is_draining or obstacle):
                boots = 2 * self.ruling.boot_timeout
                self._heir_is("starting", now + boots + LAUNCH_GRACE if boots else inf)
                self.owed.append(facts.Launch())
            case facts.SuccessorReady() if self.heir == "starting":
                self._heir_is("reigning", inf)
                self.resting, self.leave_at = self.resting or not self.stage, now + self.ruling.upgrade_keep
                self.owed.append(facts.HandOver())
            case facts.SuccessorGone(_, was_asked) if self.heir:
                was_reigning = self.heir == "reigning"
                self._heir_is("", inf)
                if was_reigning:
                    self.owed.append(facts.TakeBack())
                    is_over = was_asked and now >= self.leave_at
                    self.leave_at = inf
                    if is_over and not self.stage:
                        self._asked(Ask.STOP, now)
                    elif not self.stage:
                        self.resting = False

    def _heir_is(self, state: str, due: float) -> None:
        self.heir, self.heir_due = state, due

    def _heir_dismissed(self, now: float) -> None:
        self._heir_is("leaving", now + self.ruling.graceful_timeout + END_GRACE)

    def _heir_killed(self, now: float) -> None:
        self._heir_is("killed", now + KILL_GRACE)

    @property
    def has_left(self) -> bool:
        """Whether this supervisor has nothing more to do than to wait for the end of its keep."""
        return self.resting and not self.accounts and not self.trial

    def _fault(self, account: Account, now: float, news: News | None = None) -> None:
        """A worker of a trusted generation has failed: its slot pays."""
        account.fell = True
        if self.stage or account.generation not in self.adopted:
            return
        slot = self.slots.setdefault(account.id.slot, Backoff())
        if now - account.ready_at >= self.plans[account.generation].min_uptime:
            slot.failures = 0
            if news:
                self.expected_news.append((news, account.id))
        slot.fail(now, SERVED_DELAY if account.ready_at < inf else BOOT_DELAY)

    def _proposed(self, number: int, plan: Plan, now: float) -> None:
        before = self.ruling
        self.plans[number] = plan
        if self.stage or self.is_draining:
            self.ignored.add(number)
            return
        if self.heir == "starting":
            self.ignored.add(number)
            return
        if self.canary and self.canary.is_active:
            owed = facts.Retire(self.canary.id) if self.canary.serves else facts.Kill(self.canary.id, Force.ASK)
            self.owed.append(owed)
            self._leaves(self.canary, now)
        self.trial, self.canary = number, None
        if not self.current:
            self.delta = self.delta if plan.count == before.count else 0
            self.scale = self._clamped(plan.count)

    def _asked(self, ask: Ask, now: float) -> None:
        has_guests = any(account.serves for account in self.active) and self.heir != "reigning"
        if ask is Ask.STOP and not self.stage and not self.is_draining and self.ruling.drain_delay and has_guests:
            self.drained_at = now + self.ruling.drain_delay
            self.owed.append(facts.Drain())
            self._heir_not_wanted(now)
            return
        self.drained_at = inf
        before, self.stage = self.stage, STAGES[ask][self.stage]
        if self.stage == before:
            return
        if not before:
            self._doors_shut(now)
        elif self.stage == KILLING and self.heir == "leaving":
            self.owed.append(facts.StopSuccessor(Force.END))
            self._heir_killed(now)
        for account in self.accounts.values():
            if account.phase is KILLED or self.stage == STOPPING:
                continue
            if self.stage == KILLING:
                self.owed.append(facts.Kill(account.id, Force.END))
                self._enter(account, KILLED, now + KILL_GRACE, now)
            else:
                self.owed.append(facts.Kill(account.id, Force.ASK if account.ready_at == inf else Force.INTERRUPT))
                self._enter(account, RETIRING, min(account.due, now + QUICK_GRACE), now)

    def _doors_shut(self, now: float) -> None:
        """The end begins: nobody new comes in, except to a successor."""
        if self.heir != "reigning":
            self.doors_at = now
            self.owed.append(facts.ShutDoors())
        self._heir_not_wanted(now)

    def _heir_not_wanted(self, now: float) -> None:
        if self.heir == "starting":
            self.owed.append(facts.StopSuccessor(Force.ASK))
            self._heir_dismissed(now)

    def _leaves(self, account: Account, now: float) -> None:
        boots_only = account.phase is BOOTING and not account.hung_up
        self._enter(account, RETIRING, now + (LEAVE_GRACE if boots_only else self.drain(account)), now)

    # Effects ------------------------------------------------------------------------------------------------------------

    def before_deciding(self, now: float, *, late: bool) -> None:
        self.serving_slots = {account.id.slot for account in self._trusted_serving()}
        overslept = [account for account in self.accounts.values() if min(account.due, account.dump_at) < now]
        assert late or not overslept, f"wake_at() was too late for {overslept}"
        assert late or now <= self.heir_due
        assert late or self.stage or not self.had_left or now <= self.leave_at
        assert late or not self.stage or now <= self.doors_at
        assert late or now <= self.drained_at
        if now >= self.drained_at:
            self._asked(Ask.STOP, now)

    def judge(self, effect: Effect, now: float) -> None:
        """Hold one decision against the promises; decisions come in the order in which they are carried out."""
        assert not self.finished or isinstance(effect, facts.Forget), f"decided after the end: {effect}"
        if isinstance(effect, facts.Retire | facts.Kill | facts.Dump):
            assert effect.id in self.accounts, "a process was signalled that has been reaped, or never was"
        if effect in self.owed:
            self.owed.remove(effect)
            return
        match effect:
            case facts.Fork(id_, generation):
                self._judge_fork(id_, generation, now)
            case facts.Retire(id_) | facts.Kill(id_):
                if isinstance(effect, facts.Kill) and effect.force is Force.END:
                    self._judge_kill(self.accounts[id_], now)
                else:
                    self._judge_leaving(self.accounts[id_], effect, now)
            case facts.Dump(id_):
                self._judge_dump(self.accounts[id_], now)
            case facts.EndDoors():
                assert now >= self.doors_at, "looked behind the doors too often"
                self.doors_at = now + DOORS_PERIOD
            case facts.Adopt(generation):
                self._judge_adoption(generation, now)
            case facts.Serving():
                assert len(self.adopted) == 1, "Serving belongs to the first adoption"
            case facts.Forget(generation):
                assert generation not in self.forgotten, "forgotten twice"
                assert generation != self.current, "the current generation was forgotten"
                assert all(account.generation != generation for account in self.accounts.values()), "a worker still needs it"
                self.forgotten.add(generation)
            case facts.StopSuccessor(Force.ASK):
                assert self.heir == "starting", "there is no successor to be stopped"
                assert now >= self.heir_due, "stopped before its deadline"
                self._heir_dismissed(now)
            case facts.StopSuccessor(Force.END):
                assert self.heir == "leaving", "there is no successor to be killed"
                assert now >= self.heir_due, "killed before its deadline"
                self._heir_killed(now)
            case facts.TakeBack():
                assert self.heir == "reigning", "there is nothing to be taken back"
                assert not self.resting
                assert self._is_whole, "took the service back with less than all its workers"
                self._heir_dismissed(now)
                self.owed.append(facts.StopSuccessor(Force.ASK))
                self.leave_at = inf
            case facts.Complete():
                assert not self.is_complete, "complete for the first time, again"
                assert self._is_whole, "a slot has no ready worker"
                self.is_complete = True
            case facts.Finish(code):
                assert self.stage, "nobody asked for the end"
                assert not self.accounts, "the end leaves workers behind"
                assert self.heir not in ("leaving", "killed") or self.heir_due <= now, "the end leaves a successor behind"
                assert code == self.code, "the wrong exit status"
                self.finished = True
            case facts.Tell():
                self._judge_news(effect, now)
            case _:
                raise AssertionError(f"not asked for: {effect}")

    def _judge_fork(self, id_: WorkerId, generation: int, now: float) -> None:
        assert not self.stage, "forked while ending"
        assert id_.spawn == self.spawns + 1, "a spawn number is never reused, and none is left out"
        assert 1 <= id_.slot <= max(1, self.count)
        assert now >= self.forks.earliest, "forked inside the back-off of fork()"
        account = Account(id_, generation, now, now + (self.plans[generation].boot_timeout or inf))
        if generation == self.trial:
            assert not self.canary, "a second canary"
            self.canary = account
        else:
            assert generation == self.current, "forked from a generation that is neither current nor on trial"
            assert now >= self.slots.get(id_.slot, Backoff()).earliest, "forked inside a back-off"
            beside = self.in_slot(id_.slot)
            assert all(self.is_stale(other) and other.phase is READY for other in beside), "the slot has its worker"
            replaced = [other for other in self.active if other.is_spent and len(self.in_slot(other.id.slot)) > 1]
            assert not (replaced and any(other.is_spent for other in beside)), "two spent workers are replaced at once"
        self.spawns += 1
        self.accounts[id_] = account
        if self.is_draining:
            self.owed.append(facts.Drain())
        assert len(self.active) <= self.count + self.ruling.surge, "more active workers than count + surge"

    def _judge_leaving(self, account: Account, effect: facts.Retire | facts.Kill, now: float) -> None:
        assert account.is_active, "told to leave twice"
        if account.hung_up and now >= account.due:
            self._fault(account, now)
        else:
            assert self._may_be_told_to_leave(account), f"a healthy worker was told to leave: {account}"
        is_last = bool(self.stage) and self.heir != "reigning"
        right = facts.Retire(account.id, last=is_last) if account.serves else facts.Kill(account.id, Force.ASK)
        assert effect == right, "told in a way that it can't hear"
        self._leaves(account, now)

    def _may_be_told_to_leave(self, account: Account) -> bool:
        if self.stage:
            return True
        if account.generation == self.trial:
            return False
        if account.id.slot > self.count:
            return True
        successors = [other for other in self.in_slot(account.id.slot) if other is not account and other.serves]
        return self.is_stale(account) and (account.phase is BOOTING or bool(successors))

    def _judge_kill(self, account: Account, now: float) -> None:
        assert account.phase is RETIRING, "killed twice, or out of the blue"
        assert now >= account.due, "killed before its deadline"
        self._enter(account, KILLED, now + KILL_GRACE, now)

    def _judge_dump(self, account: Account, now: float) -> None:
        if account.phase is BOOTING:
            assert now >= account.due, "its boot was cut short"
            self._fault(account, now)
            self._condemn(account, now)
        assert now >= account.dump_at, "stacks were asked for without a reason"
        account.dump_at = inf

    def _judge_lifetime(self, account: Account, now: float) -> None:
        lifetime = self.plans[account.generation].max_lifetime
        assert account.phase is READY
        assert not account.is_spent
        assert lifetime
        assert now >= account.ready_at + lifetime, "replaced before its time"
        account.is_spent = True

    def _judge_adoption(self, generation: int, now: float) -> None:
        assert generation == self.trial, "adopted without a trial"
        assert self.canary, "adopted without a canary"
        assert self.canary.serves, "adopted though its canary does not serve"
        assert self._is_proven(now), "adopted before its canary had proven itself"
        before, was_scaled, self.current = self.current, bool(self.ruling.max_workers), generation
        count = self.scale if was_scaled else max(1, self.ruling.count + self.delta)
        if before:
            self.scale = self._clamped(self.ruling.count if self.resting else count)
            self.delta = self.delta if self.plans[before].count == self.ruling.count else 0
            self.resting = False
        self.adopted.add(generation)
        self.trial, self.canary, self.is_rolling = None, None, True
        self.slots.clear()

    def _is_proven(self, now: float) -> bool:
        if not self.canary or not self.canary.serves or not self.trial:
            return False
        return not self.current or now >= self.canary.ready_at + self.plans[self.trial].prove

    def _judge_news(self, told: facts.Tell, now: float) -> None:
        assert told.news.sentence.format(**told.words), "words are missing for the sentence"
        assert told.generation in self.plans
        if is_expected := (told.news, told.id) in self.expected_news:
            self.expected_news.remove((told.news, told.id))
        match told.news:
            case News.UNKILLABLE:
                assert told.id
                account = self.accounts.pop(told.id)
                assert account.phase is KILLED
                assert now >= account.due, "given up too early"
            case News.SPENT if not is_expected:
                assert told.id
                self._judge_lifetime(self.accounts[told.id], now)
            case News.AUTOSCALED:
                is_calm = not (self.stage or self.is_draining or self.resting or self.trial or self.is_rolling)
                assert is_calm, "scaled while the service is not calm"
                assert told.words["before"] == self.scale != told.words["count"]
                self.scale = int(str(told.words["count"]))
                assert self._clamped(self.scale) == self.scale, "scaled beyond the bounds"
            case News.ALL_READY | News.RELOADED:
                self.is_rolling = False
            case News.GAVE_UP:
                limit = self.ruling.give_up_after
                assert limit
                assert now >= self.down_since + limit, "gave up too early"
                self.code = Exit.BOOT
                self.stage = STOPPING
                self._doors_shut(now)
            case News.SUCCEEDED:
                assert not self.stage
                assert now >= self.leave_at, "left before the end of its keep"
                assert self.has_left, "left with work to do"
                self.stage = STOPPING
            case News.REFUSED | News.NEVER_SERVED:
                assert (told.news is News.NEVER_SERVED) == (not self.current)
                assert self.canary, "refused without a trial"
                assert self.canary.fell, "refused though its canary did no wrong"
                self.trial = None
                if told.news is News.NEVER_SERVED:
                    self.stage = STOPPING
                    self.code = self.canary.code if self.canary.code in FAILURES else Exit.BOOT
                self.canary = None

    # After a turn ---------------------------------------------------------------------------------------------------------

    def after_deciding(self, now: float, living: set[WorkerId]) -> None:
        """Hold the books, and what was left undone, against the promises. `living`: all that the kernel has not reaped."""
        assert {id_: account.phase for id_, account in self.accounts.items()} == {
            id_: worker.phase for id_, worker in self.fleet.workers.items()
        }, "the books differ"
        assert all(id_ in living or account.born == now for id_, account in self.accounts.items())
        if self.heir == "killed" and self.heir_due <= now:
            self._heir_is("", inf)
        assert self.heir_due > now, "the successor lives past its deadline"
        assert self.heir != "starting" or not self.stage, "the service ends, and the successor was not told"
        self.had_left = self.has_left
        assert self.stage or self.fleet.count == self.count
        assert (self.fleet.current.number if self.fleet.current else None) == self.current
        owed = [effect for effect in self.owed if getattr(effect, "id", None) in {None, *self.accounts}]
        assert owed == [], "an effect is missing"
        assert self.expected_news == [], "nothing was told of the fault of a worker that had served"
        assert [account for account in self.accounts.values() if account.due <= now] == [], "lives past its deadline"
        assert [account for account in self.accounts.values() if account.dump_at <= now] == [], "its stacks were not asked for"
        assert len(self.active) <= self.count + self.ruling.surge, "more active workers than count + surge"
        self.owed.clear()
        if self.stage:
            assert self.active == [], "ending, and a worker was not told"
            is_waiting = self.heir in ("leaving", "killed")
            assert self.finished or self.accounts or is_waiting, "nobody is left, and the service does not end"
            assert self.finished or self.doors_at > now, "nobody looked behind the doors"
            return
        assert now < self.leave_at or not self.has_left, "stays longer than its keep"
        assert self.heir != "reigning" or self.resting or not self._is_whole, "does not take the service back"
        is_wanted = self.current and not self.is_draining and not self.resting
        is_down = is_wanted and not any(account.serves for account in self.active)
        self.down_since = min(self.down_since, now) if is_down else inf
        limit = self.ruling.give_up_after
        assert not limit or now < self.down_since + limit, "does not give up"
        serving = {account.id.slot for account in self._trusted_serving()}
        lost = {slot for slot in self.serving_slots - serving if slot <= self.count}
        assert not lost, f"slots {lost} served, and do no more by the policy's own doing"
        self._check_nothing_left_undone(now)

    @property
    def _is_whole(self) -> bool:
        """Whether every slot has a ready worker of the current generation, and there are none of another."""
        ready = {account.id.slot for account in self.active if account.phase is READY}
        return len(ready) == self.count and all(account.generation == self.current for account in self.active)

    def _trusted_serving(self) -> list[Account]:
        return [account for account in self.active if account.serves and account.generation != self.trial]

    def _check_nothing_left_undone(self, now: float) -> None:
        assert not self._is_proven(now), "a canary has stood its trial, and its generation was not adopted"
        assert not self.canary or self.canary.is_active, "a canary has fallen, and its generation was not refused"
        for account in self.active:
            if account.generation != self.trial and account.id.slot > self.count:
                raise AssertionError(f"more workers than wanted: {account}")
            plan = self.plans[account.generation]
            if plan.max_lifetime and account.phase is READY and not account.is_spent:
                assert now < account.ready_at + plan.max_lifetime + plan.max_lifetime_jitter, f"outlives itself: {account}"
            if self.is_stale(account) and (account.phase is BOOTING or self._successor(account)):
                raise AssertionError(f"its successor is ready, and it was not retired: {account}")
        if now < self.forks.latest:
            return
        if self.trial and not self.canary:
            assert not self.has_room, "there is room for a canary, and none was forked"
        if not self.current:
            return
        open_slots = {slot for slot in range(1, self.count + 1) if now >= self.slots.get(slot, Backoff()).latest}
        assert not open_slots.intersection(self.empty_slots), "an empty slot was not filled"
        crowd = Counter(account.id.slot for account in self.active)
        waiting = [a for a in self.active if self.is_stale(a) and crowd[a.id.slot] == 1 and a.id.slot in open_slots]
        if any(account.is_spent and crowd[account.id.slot] > 1 for account in self.active):
            waiting = [account for account in waiting if not account.is_spent]
        assert not (waiting and self.has_room), f"a stale worker got no successor: {waiting}"

    def _successor(self, account: Account) -> Account | None:
        """A worker of its slot that serves and that is not stale, or is younger."""
        for other in self.in_slot(account.id.slot):
            if other.serves and other is not account and (not self.is_stale(other) or other.id.spawn > account.id.spawn):
                return other
        return None
