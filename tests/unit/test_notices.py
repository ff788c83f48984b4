"""What the service manager is told in each state of the books: the books are real, only time is ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter import facts
from arbiter.facts import Fork, Plan
from arbiter.fleet import Fleet
from arbiter.lifecycle import Ask
from arbiter.news import News
from arbiter.notices import EXTENSION, STATUS_LENGTH, Notices, describe, is_looked_after, needs_time, one_line
from arbiter.workers.contract import Exit, WorkerId

PLAN = Plan(count=2, surge=1, boot_timeout=30.0, prove=0.0, graceful_timeout=30.0, min_uptime=5.0)


class Service:
    """A fleet whose workers do what the test says, and its notices."""

    def __init__(self, watchdog: float = 0.0, plan: Plan = PLAN) -> None:
        self.now = 100.0
        self.fleet = Fleet(plan)
        self.notices = Notices(watchdog)
        self.booting: list[WorkerId] = []
        self.turn()

    def turn(self, *observed: facts.Fact) -> None:
        for fact in observed:
            self.fleet.observe(fact, self.now)
        self.booting += [effect.id for effect in self.fleet.reconcile(self.now) if isinstance(effect, Fork)]

    def ready(self, count: int) -> None:
        """So many workers more have booted."""
        for _ in range(count):
            self.turn(facts.SaidReady(self.booting.pop(0)))

    def propose(self) -> None:
        self.notices.propose()
        self.turn(facts.Proposed(2, PLAN))

    def lines(self, busy: int = 0, *, is_responsive: bool = True) -> list[str]:
        return self.notices.turn(self.fleet, busy, is_responsive=is_responsive, now=self.now)


def serving() -> Service:
    service = Service()
    service.ready(2)
    service.lines()
    return service


def test_the_status_counts_slots_and_not_the_workers_that_are_beside_others_for_a_moment() -> None:
    service = serving()
    service.notices.reload(service.fleet, 2, 1)
    rehearsed = service.lines()
    service.propose()
    trial = describe(service.fleet, 1, reloading=2)
    on_trial = service.lines()
    service.ready(1)
    rolling = describe(service.fleet, 1, reloading=2)

    assert "READY=1" not in [*rehearsed, *on_trial, *service.lines()]
    assert trial == "2/2 ready, 1 busy, gen 1, gen 2 on trial"
    assert rolling == "2/2 ready, 1 busy, gen 2 rolling out"


def test_a_reload_that_an_upgrade_has_ignored_is_a_refused_one() -> None:
    service = serving()
    service.notices.hear(News.UPGRADING, {}, "12:01")

    assert service.notices.refusal == "last reload refused 12:01: an upgrade was under way, which loads everything anew"


def test_the_status_tells_how_the_last_reload_failed_until_one_has_succeeded() -> None:
    service = serving()
    service.notices.hear(News.REFUSED, {"why": "failed while importing shop: KeyError: 'x'."}, "12:01")
    service.now += 1
    refused = service.lines()
    service.notices.hear(News.READY, {}, "12:02")
    service.notices.hear(News.PROMOTED, {}, "12:02")
    service.now += 1
    mended = service.lines()

    assert refused == [
        "STATUS=2/2 ready, 0 busy, gen 1, last reload refused 12:01: failed while importing shop: KeyError: 'x'."
    ]
    assert mended == ["STATUS=2/2 ready, 0 busy, gen 1"]


def test_the_status_of_a_service_that_rests_says_that_it_was_told_to() -> None:
    service = serving()
    service.turn(facts.Rest())

    assert describe(service.fleet, 0) == "resting by order, 0 busy, gen 1"
    assert is_looked_after(service.fleet, is_responsive=False)


def test_a_reload_is_reported_only_by_a_service_that_has_said_that_it_is_ready() -> None:
    service = Service()
    starting = service.notices.reload(service.fleet, 2, 1)
    service.lines()
    service.ready(1)
    not_said = service.notices.reload(service.fleet, 2, 2)
    service.lines()
    ready = service.notices.reload(service.fleet, 2, 3)
    service.turn(facts.Asked(Ask.STOP))
    ending = service.notices.reload(service.fleet, 3, 4)

    assert starting == not_said == ending == []
    assert ready == ["RELOADING=1", "MONOTONIC_USEC=3"]


def test_a_reload_that_is_refused_while_the_first_workers_still_boot_is_decided_at_once() -> None:
    service = Service()
    service.ready(1)
    service.lines()
    service.notices.reload(service.fleet, 2, 1)
    undecided = service.lines()
    service.notices.refuse("no", "12:01")

    assert "READY=1" not in undecided
    assert service.lines()[0] == "READY=1"


def test_one_that_has_handed_the_service_over_is_silent() -> None:
    service = serving()
    service.turn(facts.UpgradeAsked())
    service.turn(facts.SuccessorReady())
    service.now += 60

    assert service.lines() == []
    assert service.notices.reload(service.fleet, 2, 1) == []


def test_a_start_that_fails_keeps_its_reason_as_the_last_status() -> None:
    service = Service()
    service.turn(facts.SaidFailed(service.booting[0], "importing shop", "KeyError: 'x'", "", Exit.BOOT))
    service.notices.hear(News.NEVER_SERVED, {"slot": 1, "why": "failed.", "traceback": "\nTraceback\nKeyError"}, "12:01")
    failing = service.lines()
    service.turn(facts.Exited(service.booting[0], 3))
    ended = service.lines()

    assert failing[:2] == ["STOPPING=1", "STATUS=cannot start: worker=1 failed."]
    assert ended == []


def test_a_stop_counts_down_and_ends_with_stopped() -> None:
    service = serving()
    one, two = service.fleet.workers
    service.turn(facts.Asked(Ask.STOP))
    first = service.lines(busy=1)
    service.turn(facts.Exited(one, 0))
    too_early = service.lines()
    service.turn(facts.Exited(two, 0))
    last = service.lines()

    assert first == ["STOPPING=1", "STATUS=stopping: 2 left, 1 busy", f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}"]
    assert too_early == []
    assert last == ["STATUS=stopped"]


def test_a_stop_that_first_drains_is_stopping_from_the_first_moment_and_once() -> None:
    service = Service(plan=replace(PLAN, drain_delay=5.0))
    service.ready(2)
    service.lines()
    service.turn(facts.Asked(Ask.STOP))
    first = service.lines(busy=1)
    service.now += 5
    service.turn()
    later = service.lines(busy=1)

    assert first[:2] == ["STOPPING=1", "STATUS=2/2 ready, 1 busy, gen 1, draining"]
    assert first[2].startswith("EXTEND_TIMEOUT_USEC=")
    assert later[0] == "STATUS=stopping: 2 left, 1 busy"


def test_more_time_is_asked_for_while_something_has_a_deadline_of_our_own_and_not_in_a_back_off() -> None:
    """The first fork fails: until it is tried again, nobody knows how long a start takes, and the manager's word counts."""
    service = Service()
    booting = needs_time(service.fleet, 0)
    service.turn(facts.NotForked(service.booting.pop(), "EAGAIN"))
    waiting = needs_time(service.fleet, 0)
    retry_at = service.fleet.retry_at
    service.now = retry_at
    service.turn()
    service.ready(1)
    serving_and_booting = needs_time(service.fleet, 0)
    service.ready(1)
    service.propose()
    on_trial = needs_time(service.fleet, 2)
    service.ready(1)
    rolling = needs_time(service.fleet, 2)

    assert (booting, waiting) == (True, False)
    assert 100.0 < retry_at < 101.0
    assert (serving_and_booting, on_trial, rolling) == (False, True, True)


def test_the_watchdog_is_patted_while_any_worker_keeps_its_word_or_a_new_one_is_on_its_way() -> None:
    """1. All workers are past their own deadlines, and nothing is done about it. 2. One dies and another boots in its place.

    3. It fails and its slot waits. Result: only the first is a reason to start the whole service anew.
    """
    service = serving()
    stuck = is_looked_after(service.fleet, is_responsive=False)
    healthy = is_looked_after(service.fleet, is_responsive=True)
    service.turn(facts.Exited(next(iter(service.fleet.workers)), None, "SIGKILL"))
    booting = is_looked_after(service.fleet, is_responsive=False)
    worker = service.booting.pop()
    service.turn(facts.SaidFailed(worker, "importing", "KeyError", "", Exit.BOOT), facts.Exited(worker, 3))
    waiting = is_looked_after(service.fleet, is_responsive=False)

    assert not stuck
    assert healthy
    assert booting
    assert waiting
    assert is_looked_after(Fleet(PLAN), is_responsive=False)


def test_the_watchdog_is_patted_twice_in_its_time_and_as_soon_as_all_is_well_again() -> None:
    service = Service(watchdog=10.0)
    service.ready(2)
    first = service.lines()
    wake_at = service.notices.wake_at(service.now)
    service.now = wake_at
    stuck = service.lines(is_responsive=False)
    overdue = service.notices.wake_at(service.now)
    service.now += 0.5
    again = service.lines()

    assert first[-1] == "WATCHDOG=1"
    assert wake_at == 105.0
    assert stuck == []
    assert overdue == float("inf")
    assert again == ["WATCHDOG=1"]


def test_without_a_watchdog_there_is_nothing_to_wake_for() -> None:
    assert serving().notices.wake_at(100.0) == float("inf")


@given(st.text())
def test_a_status_is_one_line_that_fits_whatever_an_application_raises(text: str) -> None:
    line = one_line(text)

    assert len(line) <= STATUS_LENGTH
    assert line.splitlines() in ([], [line])


@pytest.mark.parametrize("text", ["x" * 1000, "a b\n" * 300])
def test_a_status_that_is_cut_says_so(text: str) -> None:
    assert one_line(text).endswith("...")
