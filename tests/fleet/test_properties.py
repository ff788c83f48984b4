"""Whatever happens, in whatever order: the promises of the policy hold. `auditor.py` lists them.

Each step of the machine is something that an operator, a worker, the kernel or the clock can do. The auditor checks every
fact and every effect in between; at the end the world heals, and must settle, and then stop.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from world import HEALTHY, PLAN, Boot, Habits, Then, World

from arbiter import facts
from arbiter.facts import Plan
from arbiter.lifecycle import Ask
from arbiter.news import News
from arbiter.workers.contract import Exit, WorkerId

SETTLING = 240.0
"""Seconds: time for the longest back-offs, one after the other, and for a hanging canary."""

plans = st.builds(
    Plan,
    count=st.integers(1, 4),
    surge=st.integers(1, 2),
    boot_timeout=st.sampled_from([2.0, 10.0]),
    prove=st.sampled_from([0.0, 1.0]),
    graceful_timeout=st.sampled_from([0.0, 8.0]),
    min_uptime=st.sampled_from([0.0, 5.0]),
    max_lifetime=st.sampled_from([0.0, 0.0, 20.0]),
    max_lifetime_jitter=st.sampled_from([0.0, 5.0]),
    max_worker_memory=st.sampled_from([0, 100 << 20]),
    max_worker_memory_hard=st.sampled_from([0, 200 << 20]),
    give_up_after=st.sampled_from([0.0, 0.0, 6.0]),
    min_workers=st.integers(1, 2),
    max_workers=st.sampled_from([0, 0, 4]),
    upgrade_keep=st.sampled_from([0.0, 5.0]),
    drain_delay=st.sampled_from([0.0, 0.0, 3.0]),
)
habits = st.builds(
    Habits,
    boots_in=st.sampled_from([0.5, 0.05, 3.0]),
    boot=st.sampled_from([Boot.READY, Boot.READY, Boot.READY, *Boot]),
    then=st.sampled_from([Then.SERVES, Then.SERVES, *Then]),
    after=st.sampled_from([3.0, 0.0, 0.5, 9.0]),
    leaves_in=st.sampled_from([0.25, 0.0, 20.0]),
    closes_early=st.sampled_from([0.0, 0.5, 3.0]),
    is_deaf=st.sampled_from([False, False, True]),
    is_unkillable=st.sampled_from([False, False, False, True]),
    code=st.sampled_from([Exit.BOOT, Exit.NOT_FOUND, Exit.OK, 77]),
)
mostly_healthy = st.one_of(st.just(HEALTHY), habits)
durations = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 7.0, 40.0])


class FleetMachine(RuleBasedStateMachine):
    """Everything that can happen to a service."""

    world: World

    @initialize(plan=plans, first=mostly_healthy)
    def start(self, plan: Plan, first: Habits) -> None:
        self.world = World(plan, first)

    @rule(seconds=durations)
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(seconds=durations)
    def the_supervisor_is_late(self, seconds: float) -> None:
        self.world.lag(seconds)

    @rule(seconds=durations)
    def the_supervisor_sleeps(self, seconds: float) -> None:
        self.world.sleep(seconds)

    @rule(plan=st.one_of(st.none(), plans), of=mostly_healthy)
    def reload(self, plan: Plan | None, of: Habits) -> None:
        self.world.plan = plan or self.world.plan
        self.world.reload(of)

    @rule(by=st.sampled_from([-1, +1]))
    def scale(self, by: int) -> None:
        self.world.scale(by)

    @rule(of=st.lists(habits, min_size=1, max_size=4))
    def the_next_workers_are_odd(self, of: list[Habits]) -> None:
        self.world.next_habits.extend(of)

    @rule(times=st.integers(1, 4))
    def fork_fails(self, times: int) -> None:
        self.world.fork_failures = times

    @rule(which=st.integers(0, 9), what=st.sampled_from(Then))
    def something_befalls_a_worker(self, which: int, what: Then) -> None:
        if processes := list(self.world.processes.values()):
            self.world.befall(processes[which % len(processes)], what)

    @rule(slot=st.integers(1, 4), spawn=st.integers(1, 20), data=st.data())
    def a_fact_comes_about_a_worker_that_is_gone(self, slot: int, spawn: int, data: st.DataObject) -> None:
        id_ = WorkerId(slot, spawn)
        gone: list[facts.Fact] = [facts.SaidReady(id_), facts.HungUp(id_), facts.Overdue(id_, "nothing"), facts.Exited(id_, 0)]
        if id_ not in self.world.fleet.workers:
            self.world.hear(data.draw(st.sampled_from(gone)))

    @rule()
    def the_operator_wants_a_rest(self) -> None:
        self.world.hear(facts.Rest())

    @rule(which=st.integers(0, 9), size=st.sampled_from([50 << 20, 150 << 20, 250 << 20]), is_short=st.booleans())
    def memory_is_looked_at(self, which: int, size: int, is_short: bool) -> None:
        if ids := list(self.world.processes):
            self.world.hear(facts.Weighed(ids[which % len(ids)], size))
        if is_short:
            self.world.hear(facts.MemoryShort(0.95))

    @rule(busy=st.sampled_from([0.0, 1.0, 4.0]), waited=st.sampled_from([0.0, 0.5]), times=st.sampled_from([1, 20]))
    def load_comes_and_goes(self, busy: float, waited: float, times: int) -> None:
        for _ in range(times):
            self.world.load(busy, waited)

    @rule(which=st.integers(0, 9))
    def a_request_is_slow(self, which: int) -> None:
        if ids := list(self.world.processes):
            self.world.hear(facts.Slow(ids[which % len(ids)], "GET /slow for 5 s"))

    @rule(
        fact=st.sampled_from(
            [
                facts.UpgradeAsked(),
                facts.UpgradeAsked("this is process 1"),
                facts.SuccessorReady(),
                facts.SuccessorGone("exited with status 3"),
                facts.SuccessorGone("exited with status 0", was_asked=True),
            ]
        )
    )
    def an_upgrade_goes_on(self, fact: facts.SuccessorFact) -> None:
        self.world.hear(fact)

    @precondition(lambda self: self.world.now > 1008)
    @rule(ask=st.sampled_from(Ask))
    def the_operator_ends_it(self, ask: Ask) -> None:
        self.world.ask(ask)

    def teardown(self) -> None:
        if not hasattr(self, "world") or self.world.is_broken:
            return
        world = self.world
        world.fork_failures = 0
        world.next_habits.clear()
        world.habits = dict.fromkeys(world.habits, HEALTHY)
        world.hear(facts.SuccessorGone("exited with status 3"))
        if world.fleet.resting:
            world.scale(+1)
        if any(plan.max_lifetime for plan in world.auditor.plans.values()):
            world.reload(max_lifetime=0.0)  # else some worker is always being replaced
        world.run(SETTLING)
        if world.auditor.stage:
            assert world.code is not None, "it was to end, and did not"
            return
        check_settled(world)
        for process in world.processes.values():
            process.habits = replace(process.habits, is_deaf=True)
        world.ask(Ask.STOP)
        patience = max(world.auditor.plans[number].graceful_timeout or 1.0 for number in world.generations)
        patience += world.auditor.ruling.drain_delay
        world.run(patience)
        assert world.code is not None or all(worker.phase.name == "KILLED" for worker in world.fleet.workers.values())
        world.run(5.0)
        assert world.code == Exit.OK


def check_settled(world: World) -> None:
    """All is as it is to be: `count` ready workers of the newest generation that was not refused, and nothing else."""
    adopted, newest = world.auditor.current, max(set(world.habits) - world.auditor.ignored)
    refused = [told.words["refused"] for told in world.told(News.REFUSED)]
    assert adopted == newest or newest in refused, "the newest generation was neither adopted nor refused"
    assert world.generations == [adopted] * world.fleet.count, "not all workers are ready and current"
    assert [worker.phase.is_active for worker in world.fleet.workers.values()] == [True] * world.fleet.count
    assert world.fleet.candidate is None
    assert world.auditor.forgotten == set(world.habits) - {adopted}, "generations that nobody needs are remembered"


TestFleet = FleetMachine.TestCase
TestFleet.settings = settings(max_examples=150, stateful_step_count=30)


a_change = st.one_of(
    st.tuples(st.just("reload"), st.integers(1, 4)),
    st.tuples(st.just("spent"), st.integers(0, 9)),
    st.tuples(st.just("more"), st.just(1)),
)


@given(plan=plans, changes=st.lists(st.tuples(a_change, durations), max_size=12))
def test_without_faults_no_change_costs_capacity(plan: Plan, changes: list[tuple[tuple[str, int], float]]) -> None:
    """However reloads, replacements and TTIN overlap: never fewer ready workers than the least that was wanted."""
    world = World(replace(plan, max_lifetime=0.0))  # else some worker is always being replaced, and nothing ever settles
    world.run(5.0)
    wanted = world.least_serving = len(world.serving)
    assert wanted == world.fleet.count

    for (what, number), seconds in changes:
        if what == "reload":
            world.reload(count=number)
        elif what == "spent":
            serving = world.serving
            world.befall(world.processes[serving[number % len(serving)]], Then.SPENT)
        else:
            world.scale(+1)
        world.run(seconds)
        wanted = min(wanted, world.fleet.count, *([world.plan.count] if not plan.max_workers else []))

    world.run(SETTLING)
    check_settled(world)
    assert world.least_serving >= wanted


sick = st.one_of(
    st.builds(Habits, boot=st.sampled_from([Boot.FAILS, Boot.DIES, Boot.HANGS, Boot.HANGS_UP]), is_deaf=st.booleans()),
    st.builds(
        Habits,
        then=st.sampled_from([Then.EXITS, Then.CRASHES, Then.RETIRES, Then.HANGS_UP, Then.STUCK]),
        after=st.floats(0.0, 0.99),
        closes_early=st.sampled_from([0.0, 0.5, 3.0]),
        is_deaf=st.booleans(),
    ),
)


@given(sick=sick, count=st.integers(1, 4))
def test_a_sick_generation_is_never_adopted_and_touches_nobody(sick: Habits, count: int) -> None:
    world = World(replace(PLAN, count=count))
    world.run(5.0)
    before = world.least_serving = len(world.serving)
    workers = world.serving

    world.reload(sick)
    world.run(60.0)

    assert world.serving == workers
    assert world.least_serving == before == count
    assert world.fleet.current
    assert world.fleet.current.number == 1
    assert [told.words["refused"] for told in world.told(News.REFUSED)] == [2]
    assert list(world.processes) == workers


@given(plan=plans, asks=st.lists(st.tuples(st.sampled_from(Ask), durations), min_size=1, max_size=4), lives=st.booleans())
def test_a_deaf_world_ends_in_time(plan: Plan, asks: list[tuple[Ask, float]], lives: bool) -> None:
    """Nobody listens, perhaps SIGKILL itself does not help: the end comes within both drains and the grace of SIGKILL."""
    world = World(plan, Habits(is_deaf=True, is_unkillable=not lives))
    world.run(5.0)
    began = world.now

    for ask, seconds in asks:
        world.ask(ask)
        world.run(seconds)
    world.run(max(0.0, began + plan.drain_delay + (plan.graceful_timeout or 1.0) + 5.0 - world.now))

    assert world.code == Exit.OK
