"""The time between the wish to stop and the stop (`drain_delay`): the service is whole, and only health checks know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from world import HEALTHY, PLAN, Then, World

from arbiter import facts
from arbiter.lifecycle import Ask, Standing
from arbiter.news import News
from arbiter.workers.contract import Exit, WorkerId

DELAY = 6.0


def draining_world(**changes: float) -> World:
    """Three ready workers since 1005, and a wish to stop at 1010."""
    world = World(replace(PLAN, drain_delay=DELAY, **changes))  # type: ignore[arg-type]  # the names are checked at run time
    world.run(10.0)
    world.ask(Ask.STOP)
    return world


def at(world: World, kind: type[object]) -> list[float]:
    return [time for time, effect in world.effects if isinstance(effect, kind)]


def test_a_stop_waits_for_the_delay_with_open_doors_and_all_workers() -> None:
    world = draining_world()
    world.run(DELAY - 0.1)

    assert world.fleet.standing is Standing.DRAINING
    assert len(world.serving) == 3
    assert at(world, facts.Drain) == [1010.0]
    assert at(world, facts.ShutDoors) == []

    world.run(10.0)

    assert at(world, facts.ShutDoors) == [1016.0]
    assert world.code == Exit.OK
    assert len(world.told(News.DRAINING)) == len(world.told(News.STOPPING)) == 1


def test_a_worker_that_dies_meanwhile_is_replaced_and_its_successor_told_before_it_serves() -> None:
    world = draining_world()
    world.run(1.0)
    world.befall(world.processes[WorkerId(2, 2)], Then.CRASHES)
    world.run(1.0)

    assert len(world.serving) == 3
    assert at(world, facts.Drain) == [1010.0, 1011.0]
    assert world.forks(2)[-1] == 1011.0


@pytest.mark.parametrize(("ask", "news"), [(Ask.STOP, News.STOPPING), (Ask.QUIT, News.QUITTING)])
def test_asking_again_skips_the_rest_of_the_delay(ask: Ask, news: News) -> None:
    world = draining_world()
    world.run(1.0)
    world.ask(ask)
    world.run(1.0)

    assert world.code == Exit.OK
    assert at(world, facts.ShutDoors) == [1011.0]
    assert len(world.told(news)) == 1


def test_a_reload_is_refused_meanwhile() -> None:
    world = draining_world()
    world.reload()
    world.run(DELAY - 1)

    assert world.generations == [1, 1, 1]
    assert len(world.told(News.TOO_LATE)) == 1


def test_an_upgrade_is_called_off_by_the_wish_to_stop() -> None:
    world = World(replace(PLAN, drain_delay=DELAY))
    world.run(10.0)
    world.hear(facts.UpgradeAsked())
    world.run(1.0)
    world.ask(Ask.STOP)
    world.run(1.0)
    world.hear(facts.SuccessorReady())
    world.run(1.0)

    assert at(world, facts.StopSuccessor) == [1011.0]
    assert at(world, facts.HandOver) == []


def test_what_nobody_serves_is_not_waited_for() -> None:
    """1. The operator rests the workers. 2. STOP. Result: the end, at once."""
    world = World(replace(PLAN, drain_delay=DELAY))
    world.run(10.0)
    world.hear(facts.Rest())
    world.run(2.0)
    world.ask(Ask.STOP)
    world.run(0.3)

    assert world.code == Exit.OK
    assert world.told(News.DRAINING) == []


def test_giving_up_is_not_delayed() -> None:
    world = World(replace(PLAN, drain_delay=DELAY, give_up_after=2.0), replace(HEALTHY, then=Then.CRASHES, after=0.0))
    world.habits[1] = replace(HEALTHY, boots_in=100.0)
    world.run(30.0)

    assert world.code == Exit.BOOT
    assert world.told(News.DRAINING) == []


def test_the_delay_does_not_run_while_the_supervisor_sleeps() -> None:
    """No load balancer could have asked: it had no time to turn away."""
    world = draining_world()
    world.run(1.0)
    world.sleep(100.0)
    world.run(DELAY - 1.1)

    assert world.fleet.standing is Standing.DRAINING
    world.run(1.0)
    assert world.fleet.standing is not Standing.DRAINING
