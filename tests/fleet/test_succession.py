"""An upgrade step by step: nothing changes before the new supervisor is ready, and what was handed over can come back.

The random walks of test_properties go through upgrades as well; here is what an operator would tell of them.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import PLAN, Boot, Habits, World

from arbiter import facts
from arbiter.facts import Force, StopSuccessor
from arbiter.lifecycle import Ask, Standing
from arbiter.news import News
from arbiter.succession import Heir, Succession
from arbiter.workers.contract import Exit

KEEP = replace(PLAN, upgrade_keep=60.0)
ASKED, READY = facts.UpgradeAsked(), facts.SuccessorReady()
DIED = facts.SuccessorGone("was killed by SIGKILL")
STOPPED = facts.SuccessorGone("exited with status 0", was_asked=True)


def serving(plan: facts.Plan = PLAN) -> World:
    world = World(plan)
    world.run(5.0)
    return world


def hear(world: World, *several: facts.Fact) -> None:
    for fact in several:
        world.hear(fact)
        world.run(0.0)


def reigning(plan: facts.Plan = KEEP) -> World:
    """The new one serves, and the workers of this one have gone."""
    world = serving(plan)
    hear(world, ASKED, READY)
    world.run(1.0)
    return world


def of(world: World, *kinds: type[facts.Effect]) -> list[facts.Effect]:
    return [effect for _, effect in world.effects if isinstance(effect, kinds)]


def whys(world: World, news: News) -> list[object]:
    return [next(iter(told.words.values())) for told in world.told(news)]


# Before the new one is ready ------------------------------------------------------------------------------------------


def test_until_the_new_one_is_ready_nothing_changes() -> None:
    world = serving()
    before = world.serving
    hear(world, ASKED)
    world.run(20.0)

    assert of(world, facts.Launch) == [facts.Launch()]
    assert world.serving == before
    assert of(world, facts.HandOver, facts.Retire, facts.Kill) == []


def test_complete_is_said_once_when_every_slot_has_its_worker() -> None:
    world = World(PLAN)
    world.run(0.9)
    early = of(world, facts.Complete)
    world.run(5.0)
    world.reload()
    world.run(20.0)

    assert early == []
    assert of(world, facts.Complete) == [facts.Complete()]


@pytest.mark.parametrize("how", ["exited with status 3", "could not be started: Resource temporarily unavailable"])
def test_a_new_one_that_fails_leaves_all_as_it_was_and_may_be_tried_again(how: str) -> None:
    world = serving()
    before = world.serving
    hear(world, ASKED, facts.SuccessorGone(how), ASKED)

    assert whys(world, News.UPGRADE_FAILED) == [how]
    assert of(world, facts.Launch) == [facts.Launch()] * 2
    assert world.serving == before


def test_a_new_one_that_hangs_is_asked_to_stop_and_then_killed() -> None:
    """Two boots of 10 s and 10 s of grace; 8 s of drain and 10 s of grace; 5 s for SIGKILL. Then nobody waits for it any more."""
    world = serving()
    hear(world, ASKED)
    began = world.now
    world.run(100.0)
    hear(world, ASKED)

    assert [(at - began, effect) for at, effect in world.effects if isinstance(effect, StopSuccessor)] == [
        (30.0, StopSuccessor(Force.ASK)),
        (48.0, StopSuccessor(Force.END)),
    ]
    assert whys(world, News.UPGRADE_FAILED) == ["did not have all its workers ready within 30 s"]
    assert of(world, facts.Launch) == [facts.Launch()] * 2


def test_without_a_boot_timeout_a_new_one_has_all_the_time_there_is() -> None:
    world = serving(replace(PLAN, boot_timeout=0.0))
    hear(world, ASKED)
    world.run(1e5)

    assert of(world, StopSuccessor) == []


def test_a_new_one_that_was_given_up_is_not_believed() -> None:
    world = serving()
    hear(world, ASKED)
    world.run(31.0)
    hear(world, READY, ASKED)

    assert of(world, facts.HandOver) == []
    assert whys(world, News.UPGRADE_IGNORED) == ["the new supervisor of the last one has not ended yet"]
    hear(world, STOPPED, ASKED)
    assert of(world, facts.Launch) == [facts.Launch()] * 2


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        ("starting", "the service is starting or ending"),
        ("a reload", "a reload is under way"),
        ("an upgrade", "one is under way"),
        ("handed over", "the new supervisor has taken over; send it to that one"),
        ("ending", "the service is starting or ending"),
        ("an obstacle", "this is process 1"),
    ],
)
def test_an_upgrade_at_the_wrong_moment_is_ignored_with_the_reason(standing: str, why: str) -> None:
    world = World(KEEP) if standing == "starting" else serving(KEEP)
    match standing:
        case "a reload":
            world.reload(Habits(boots_in=3.0))
        case "an upgrade":
            hear(world, ASKED)
        case "handed over":
            hear(world, ASKED, READY)
        case "ending":
            world.ask(Ask.STOP)
    launched = len(of(world, facts.Launch))
    hear(world, facts.UpgradeAsked("this is process 1" if standing == "an obstacle" else ""))

    assert whys(world, News.UPGRADE_IGNORED) == [why]
    assert len(of(world, facts.Launch)) == launched


def test_a_reload_during_an_upgrade_is_ignored() -> None:
    world = serving()
    before = world.serving
    hear(world, ASKED)
    number = world.reload(count=1)
    world.run(20.0)

    assert len(world.told(News.UPGRADING)) == 1
    assert world.serving == before
    assert number in world.auditor.forgotten


def test_a_supervisor_that_slept_does_not_hold_it_against_the_new_one() -> None:
    world = serving()
    hear(world, ASKED)
    world.sleep(100.0)
    world.run(29.0)

    assert of(world, StopSuccessor) == []


# The end, in the middle of it -----------------------------------------------------------------------------------------


def test_the_end_of_the_service_ends_a_new_one_that_starts_and_waits_for_it() -> None:
    world = serving()
    hear(world, ASKED)
    world.ask(Ask.STOP)
    world.run(2.0)
    waited = world.code
    hear(world, DIED)

    assert of(world, StopSuccessor) == [StopSuccessor(Force.ASK)]
    assert waited is None
    assert world.code == Exit.OK


def test_killing_at_once_kills_the_new_one_too_and_gives_it_up_after_5_seconds() -> None:
    world = serving()
    hear(world, ASKED)
    for _ in range(3):
        world.ask(Ask.STOP)
    world.run(4.9)
    waited = world.code
    world.run(0.2)

    assert of(world, StopSuccessor) == [StopSuccessor(Force.ASK), StopSuccessor(Force.END)]
    assert waited is None
    assert world.code == Exit.OK


@pytest.mark.parametrize("gone", [DIED, STOPPED])
def test_an_old_one_that_ends_takes_back_names_but_no_service(gone: facts.SuccessorGone) -> None:
    """TERM to the old one while a request is in its worker; then the new one ends too."""
    world = World(KEEP, Habits(leaves_in=3.0))
    world.run(5.0)
    hear(world, ASKED, READY)
    world.ask(Ask.STOP)
    hear(world, gone)
    forks = len(world.forks())
    world.run(10.0)

    assert of(world, facts.TakeBack) == [facts.TakeBack()]
    assert len(world.told(News.ENDED_TOO)) == 1
    assert len(world.forks()) == forks
    assert world.code == Exit.OK


def test_an_old_one_that_has_handed_over_shuts_no_doors_and_leaves_the_backlog() -> None:
    world = serving()
    hear(world, ASKED, READY)
    world.run(1.0)

    assert of(world, facts.ShutDoors, facts.EndDoors, StopSuccessor) == []
    assert [effect.last for effect in of(world, facts.Retire) if isinstance(effect, facts.Retire)] == [False] * PLAN.count
    assert world.code == Exit.OK


# Handed over ----------------------------------------------------------------------------------------------------------


def test_the_old_one_leaves_when_its_workers_have_and_its_keep_is_over() -> None:
    kept, busy = serving(KEEP), World(PLAN, Habits(leaves_in=3.0))
    busy.run(5.0)
    for world in (kept, busy):
        hear(world, ASKED, READY)
    kept.run(59.9)
    busy.run(2.9)
    early = (kept.code, busy.code)
    kept.run(0.2)
    busy.run(0.2)

    assert early == (None, None)
    assert (kept.code, busy.code) == (Exit.OK, Exit.OK)
    assert [len(world.told(News.SUCCEEDED)) for world in (kept, busy)] == [1, 1]


@pytest.mark.parametrize("gone", [DIED, STOPPED])
def test_within_the_keep_whatever_ends_the_new_one_brings_the_service_back(gone: facts.SuccessorGone) -> None:
    world = reigning()
    nobody = world.serving
    hear(world, gone)
    world.run(100.0)

    assert nobody == []
    assert of(world, facts.TakeBack) == [facts.TakeBack()]
    assert len(world.serving) == PLAN.count
    assert whys(world, News.TAKEN_BACK) == [gone.how]
    assert world.code is None


def test_after_the_keep_a_new_one_that_dies_still_brings_the_service_back() -> None:
    """A long request has kept the old one here."""
    world = World(PLAN, Habits(leaves_in=3.0))
    world.run(5.0)
    hear(world, ASKED, READY)
    world.run(1.0)
    hear(world, DIED)
    world.run(20.0)

    assert len(world.serving) == PLAN.count


def test_after_the_keep_a_new_one_that_was_stopped_ends_the_service() -> None:
    world = World(PLAN, Habits(leaves_in=3.0))
    world.run(5.0)
    hear(world, ASKED, READY)
    world.run(1.0)
    hear(world, STOPPED)
    world.run(20.0)

    assert world.fleet.standing is Standing.ENDED
    assert len(world.told(News.ENDED_TOO)) == 1
    assert of(world, facts.ShutDoors) == [facts.ShutDoors()]
    assert world.code == Exit.OK


def test_hup_takes_the_service_back_only_once_all_workers_are_ready() -> None:
    world = reigning()
    hear(world, facts.Scaled(+1))
    refused = world.serving
    world.reload(Habits(boots_in=2.0))
    world.run(4.0)
    early = of(world, facts.TakeBack, StopSuccessor)
    world.run(10.0)
    late = of(world, facts.TakeBack, StopSuccessor)
    hear(world, STOPPED)
    world.run(100.0)

    assert refused == []
    assert len(world.told(News.HANDED_ALREADY)) == 1
    assert early == []
    assert late == [facts.TakeBack(), StopSuccessor(Force.ASK)]
    assert len(world.serving) == PLAN.count
    assert world.told(News.TAKEN_BACK) == world.told(News.ENDED_TOO) == []


def test_hup_with_code_that_is_no_good_takes_nothing_back() -> None:
    world = reigning()
    world.reload(Habits(boot=Boot.FAILS))
    world.run(5.0)

    assert of(world, facts.TakeBack, StopSuccessor) == []
    assert len(world.told(News.REFUSED)) == 1
    world.run(60.0)
    assert world.code == Exit.OK


def test_a_trial_that_outlasts_the_keep_is_waited_for() -> None:
    world = reigning()
    world.run(58.0)
    world.reload(Habits(boots_in=5.0))
    world.run(30.0)

    assert world.code is None
    assert len(world.serving) == PLAN.count


# In general -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([ASKED, facts.UpgradeAsked("this is process 1"), READY, DIED, STOPPED, "time", "end", "reclaim"])),
    st.sampled_from([PLAN, KEEP, replace(PLAN, boot_timeout=0.0)]),
)
def test_whatever_happens_each_launch_has_its_own_life(steps: list[facts.SuccessorFact | str], plan: facts.Plan) -> None:
    """Launch, then perhaps HandOver, then perhaps TakeBack; a stop only of one that lives; nothing after the end of one."""
    succession, now, alive, story = Succession(), 0.0, False, ""
    for step in steps:
        now += 0.5
        match step:
            case "time":
                now = max(now, succession.deadline) if succession.deadline < inf else now + 100.0
                succession.enforce(now, plan, 1)
            case "end":
                succession.end(now, plan, at_once=True)
            case "reclaim":
                succession.reclaim(now, plan, 1)
            case facts.SuccessorGone() if not alive:
                continue
            case facts.UpgradeAsked() | facts.SuccessorReady() | facts.SuccessorGone():
                alive = alive and not isinstance(step, facts.SuccessorGone)
                succession.observe(step, now, plan, 1, "")
        for effect in succession.effects:
            match effect:
                case facts.Launch():
                    assert not alive, "a second one"
                    alive, story = True, "L"
                case facts.HandOver():
                    assert story == "L"
                    story += "H"
                case facts.TakeBack():
                    assert story == "LH"
                    story += "T"
                case StopSuccessor(force):
                    assert alive or succession.heir is not Heir.NONE
                    assert ("a" in story, "e" in story) == (force is Force.END, False)
                    story = story.replace("a", "") + ("a" if force is Force.ASK else "ae")
                case facts.Tell(news, _, _, words):
                    assert news.sentence.format(**words)
        if succession.heir is Heir.NONE and not succession.effects:
            alive = False  # given up: it hangs in the kernel
        succession.effects.clear()
        assert succession.leave_at == inf or succession.heir is Heir.REIGNING
        assert (succession.heir is Heir.NONE) <= (succession.deadline == inf)
