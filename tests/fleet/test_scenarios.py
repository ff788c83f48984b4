"""Stories of single lives and reloads, each told with its exact times. What holds in every story is in `test_properties.py`.

The world begins at 1000 s; unless said otherwise a worker boots in 0.5 s and leaves 0.25 s after it was told to.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from world import HEALTHY, PLAN, Boot, Habits, Then, World

from arbiter import facts
from arbiter.books import GOLDEN
from arbiter.lifecycle import Ask, Judgement, Phase, Standing
from arbiter.news import News
from arbiter.workers.contract import Exit, WorkerId

CRASHING = Habits(then=Then.CRASHES, after=0.5)
DEAF = Habits(is_deaf=True)
IMMORTAL = Habits(is_deaf=True, is_unkillable=True)


def serving_world(count: int = 3, habits: Habits = HEALTHY, **plan: float) -> World:
    world = World(replace(PLAN, count=count, **plan), habits)  # type: ignore[arg-type]  # names are checked at run time
    world.run(10.0)
    assert len(world.serving) == count
    return world


def jittered(delay: float, spawn: int) -> float:
    return delay * (1 - 0.25 * (spawn * GOLDEN % 1))


# Start ----------------------------------------------------------------------------------------------------------------


def test_one_worker_boots_alone_and_the_others_follow_when_it_is_ready() -> None:
    """1. One worker is forked. 2. It is ready after 0.5 s: the service is up. 3. Two more are forked at once. Result: all ready."""
    world = World()
    world.run(3.0)

    assert world.forks() == [1000.0, 1000.5, 1000.5]
    assert [(at, type(effect)) for at, effect in world.effects if isinstance(effect, facts.Serving)] == [
        (1000.5, facts.Serving)
    ]
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 2), WorkerId(3, 3)]
    assert len(world.told(News.ALL_READY)) == 1
    assert world.told(News.RELOADED) == []
    assert world.fleet.current
    assert world.fleet.current.judgement is Judgement.CURRENT
    assert world.fleet.wake_at() == inf


@pytest.mark.parametrize(
    ("habits", "code", "why"),
    [
        (Habits(boot=Boot.FAILS, code=Exit.NOT_FOUND), Exit.NOT_FOUND, "failed while importing shop.wsgi: ImportError: nope."),
        (Habits(boot=Boot.FAILS, code=Exit.BOOT), Exit.BOOT, "failed while importing shop.wsgi: ImportError: nope."),
        (Habits(boot=Boot.FAILS, code=Exit.OK), Exit.BOOT, "failed while importing shop.wsgi: ImportError: nope."),
        (Habits(boot=Boot.FAILS, code=77), Exit.BOOT, "failed while importing shop.wsgi: ImportError: nope."),
        (Habits(boot=Boot.DIES), Exit.BOOT, "was killed by SIGSEGV while booting."),
        (Habits(boot=Boot.HANGS), Exit.BOOT, "was not ready within boot_timeout (10 s)."),
        (Habits(boot=Boot.HANGS_UP), Exit.BOOT, "closed its channel."),
    ],
)
def test_a_first_worker_that_does_not_boot_ends_the_service(habits: Habits, code: Exit, why: str) -> None:
    """Nobody has ever served, so there is nothing to keep: the service ends with the status that says why."""
    world = World(habits=habits)
    world.run(20.0)

    assert world.code == code
    assert [told.words["why"] for told in world.told(News.NEVER_SERVED)] == [why]
    assert len(world.forks()) == 1


def test_the_traceback_of_a_failed_boot_is_told_once() -> None:
    world = World(habits=Habits(boot=Boot.FAILS))
    world.run(20.0)

    assert [at for at, effect in world.effects if "Traceback" in repr(effect)] == [1000.5]
    assert world.told(News.NEVER_SERVED)[0].words["traceback"] == "\nTraceback ..."


def test_a_first_worker_that_dies_once_ready_is_replaced() -> None:
    """Said ready is said ready: the service is up, and from then on no death ends it."""
    world = World(habits=CRASHING)
    world.run(30.0)

    assert world.code is None
    assert len(world.told(News.SERVING)) == 1


def test_a_failed_boot_that_does_not_exit_is_killed_after_two_seconds() -> None:
    world = World(habits=Habits(boot=Boot.FAILS, is_deaf=True))
    world.run(20.0)

    assert world.signals(WorkerId(1, 1)) == [(1002.5, "SIGKILL")]
    assert world.told(News.DRAIN_TIMEOUT) == []
    assert world.code == Exit.BOOT


def test_a_stop_before_the_first_worker_is_ready_is_no_failure() -> None:
    """TERM at 0.25 s: the worker that boots is told by a signal, because it does not read its channel yet. Result: status 0."""
    world = World()
    world.run(0.25)
    world.ask(Ask.STOP)
    world.run(1.0)

    assert world.signals(WorkerId(1, 1)) == [(1000.25, "SIGTERM")]
    assert world.code == Exit.OK
    assert len(world.forks()) == 1


def test_a_reload_before_the_first_worker_is_ready_takes_its_place() -> None:
    """1. The first generation hangs. 2. HUP: the next is tried at once. Result: it serves, and the first is forgotten."""
    world = World(habits=Habits(boot=Boot.HANGS))
    world.run(1.0)
    world.scale(-1)
    world.reload(count=2)
    world.run(5.0)

    assert world.generations == [2, 2]
    assert world.signals(WorkerId(1, 1)) == [(1001.0, "SIGTERM")]
    assert world.fleet.delta == 0
    assert [effect.generation for _, effect in world.effects if isinstance(effect, facts.Forget)] == [1]


def test_a_reload_before_anything_was_forked_takes_its_place() -> None:
    """``fork()`` fails at first, so there is no canary to be retired; the number by TTIN is kept, as the settings' is the same."""
    world = World(fork_failures=2)
    world.scale(+1)
    world.reload()
    world.run(30.0)

    assert world.generations == [2] * 4


# Reload ---------------------------------------------------------------------------------------------------------------


def test_a_reload_is_proven_by_one_canary_and_then_rolls_one_by_one() -> None:
    """HUP at 1010: from 3 workers of generation 1 to 3 of generation 2.

    1. One worker above the count boots. 2. Ready at 1010.5, it proves itself for 1 s. 3. At 1011.5 its neighbour retires and
    the next successor boots; one each 0.5 s. Result: never fewer than 3 ready, never more than 4 active.
    """
    world = serving_world()
    world.least_serving = 3
    world.reload()
    world.run(1.49)
    assert world.generations == [1, 2, 1, 1]
    assert world.forks()[3:] == [1010.0]

    world.run(5.0)
    assert world.forks()[3:] == [1010.0, 1011.5, 1012.0]
    assert [world.signals(WorkerId(slot, slot)) for slot in (1, 2, 3)] == [
        [(1011.5, "retire")],
        [(1012.0, "retire")],
        [(1012.5, "retire")],
    ]
    assert world.generations == [2, 2, 2]
    assert world.least_serving == 3
    assert len(world.told(News.RELOADED)) == 1
    assert [told.words["why"] for told in world.told(News.LEFT)] == ["its successor is ready"] * 3
    assert [effect for _, effect in world.effects if isinstance(effect, facts.Forget)] == [facts.Forget(1)]


def test_a_wider_surge_rolls_as_many_at_once() -> None:
    world = serving_world(surge=2)
    world.reload()
    world.run(8.0)

    assert world.forks()[3:] == [1010.0, 1011.5, 1011.5]
    assert world.generations == [2, 2, 2]


@pytest.mark.parametrize(
    ("habits", "why"),
    [
        (Habits(boot=Boot.FAILS), "failed while importing shop.wsgi: ImportError: nope."),
        (Habits(boot=Boot.DIES), "was killed by SIGSEGV while booting."),
        (Habits(boot=Boot.HANGS), "was not ready within boot_timeout (10 s)."),
        (Habits(boot=Boot.HANGS_UP), "closed its channel."),
        (Habits(then=Then.EXITS, after=0.9), "exited with status 1."),
        (Habits(then=Then.CRASHES, after=0.9), "was killed by SIGSEGV."),
        (Habits(then=Then.RETIRES, after=0.9), "retired by itself: it has had enough."),
        (Habits(then=Then.HANGS_UP, after=0.9), "closed its channel."),
        (Habits(then=Then.STUCK, after=0.9), "was stuck: GET /slow for 31 s."),
    ],
)
def test_a_refused_canary_leaves_all_as_it_was(habits: Habits, why: str) -> None:
    """The new generation's one worker fails: the reload is refused, saying why, and nobody else notices."""
    world = serving_world()
    before = world.serving
    world.reload(habits)
    world.run(30.0)

    assert world.serving == before
    (refused,) = world.told(News.REFUSED)
    assert refused.words["why"] == why
    assert refused.words["keeps"] == "gen=1 keeps serving (3 workers)."
    assert [world.signals(id_) for id_ in before] == [[], [], []]
    assert len(world.forks()) == 4
    assert world.told(News.DIED) == world.told(News.STUCK) == world.told(News.BOOT_FAILED) == []


def test_a_canary_that_retires_by_itself_after_min_uptime_is_refused_by_its_own_words() -> None:
    world = serving_world(min_uptime=0.5)
    world.reload(Habits(then=Then.RETIRES, after=0.9))
    world.run(30.0)

    assert [told.words["why"] for told in world.told(News.REFUSED)] == ["it has had enough."]


def test_a_canary_that_has_hung_up_is_not_adopted_while_its_exit_is_awaited() -> None:
    """It closes its channel 0.2 s before the trial ends and exits after it: the trial does not end well in between."""
    world = serving_world()
    world.reload(Habits(then=Then.EXITS, after=0.8, closes_early=0.7))
    world.run(30.0)

    assert [told.words["why"] for told in world.told(News.REFUSED)] == ["exited with status 1."]


def test_a_canary_that_has_served_its_share_within_the_trial_is_no_failure() -> None:
    """max_requests is reached before `prove` is over: the generation has proven itself, and the worker is replaced after."""
    world = serving_world()
    world.reload(Habits(then=Then.SPENT, after=0.9))
    world.habits[2] = HEALTHY
    world.next_habits.append(Habits(then=Then.SPENT, after=0.9))
    world.run(30.0)

    assert world.generations == [2, 2, 2]
    assert world.told(News.REFUSED) == []
    assert world.signals(WorkerId(1, 4)) != []


def test_a_second_reload_replaces_the_candidate() -> None:
    """1. The first reload hangs at its import. 2. The second, 1 s later, does not wait for it. Result: the second serves."""
    world = serving_world()
    world.reload(Habits(boot=Boot.HANGS))
    world.run(1.0)
    world.reload()
    world.run(10.0)

    assert world.generations == [3, 3, 3]
    assert world.signals(WorkerId(1, 4)) == [(1011.0, "SIGTERM")]
    assert len(world.told(News.SUPERSEDED)) == 1
    assert world.told(News.REFUSED) == []


def test_a_second_reload_retires_a_canary_that_is_ready() -> None:
    world = serving_world(prove=5.0)
    world.reload()
    world.run(1.0)
    world.reload()
    world.run(20.0)

    assert world.generations == [3, 3, 3]
    assert world.signals(WorkerId(1, 4)) == [(1011.0, "retire")]


def test_a_second_reload_in_the_turn_in_which_the_canary_fails_leaves_it_alone() -> None:
    world = serving_world()
    world.reload(Habits(boot=Boot.FAILS))
    world.run(0.1)
    world.hear(facts.SaidFailed(WorkerId(1, 4), "importing shop.wsgi", "ImportError: nope", "", Exit.BOOT))
    world.reload()
    world.run(10.0)

    assert world.signals(WorkerId(1, 4)) == []
    assert world.generations == [3, 3, 3]


def test_a_reload_during_a_roll_ends_in_the_newest_generation() -> None:
    world = serving_world(count=4)
    world.reload()
    world.run(2.2)
    assert set(world.generations) == {1, 2}

    world.reload()
    world.run(20.0)
    assert world.generations == [3, 3, 3, 3]
    assert sorted(effect.generation for _, effect in world.effects if isinstance(effect, facts.Forget)) == [1, 2]


def test_a_reload_mends_a_crash_loop_without_waiting_for_its_back_off() -> None:
    """All workers die once, and the code on disk is broken: the next try is many seconds away. HUP with mended code is not."""
    world = serving_world()
    world.habits[1] = Habits(boot=Boot.FAILS)
    for process in list(world.processes.values()):
        world.befall(process, Then.CRASHES)
    world.run(35.0)
    assert world.serving == []
    wake_at = world.fleet.wake_at()
    assert wake_at > world.now + 5.0

    world.reload()
    world.run(2.0)
    assert world.generations == [2, 2, 2]


def test_a_worker_that_boots_for_an_outgoing_generation_is_not_waited_for() -> None:
    """TTIN during the trial, the new worker takes 3 s to boot: when the generation is adopted, it is told to go at once."""
    world = serving_world()
    world.reload()
    world.run(0.75)
    world.next_habits.append(Habits(boots_in=3.0))
    world.scale(+1)
    world.run(20.0)

    assert world.signals(WorkerId(4, 5)) == [(1011.5, "SIGTERM")]
    assert world.generations == [2, 2, 2, 2]


def test_two_stale_workers_in_one_slot_do_not_block_the_roll() -> None:
    """The successor of a spent worker becomes ready in the very turn in which a new generation is adopted."""
    world = serving_world(count=2, surge=2)
    world.reload()
    world.run(1.0)
    world.befall(world.processes[WorkerId(2, 2)], Then.SPENT)
    world.run(20.0)

    assert world.generations == [2, 2]


# End ------------------------------------------------------------------------------------------------------------------


def test_term_wins_at_once_in_the_middle_of_a_trial() -> None:
    """1. HUP, the canary boots. 2. TERM: the canary is interrupted, the others finish what they have. Result: status 0."""
    world = serving_world()
    world.reload()
    world.run(0.25)
    world.ask(Ask.STOP)
    world.run(0.25)

    assert world.code == Exit.OK
    assert world.signals(WorkerId(1, 4)) == [(1010.25, "SIGTERM")]
    assert world.signals(WorkerId(2, 2)) == [(1010.25, "retire")]
    assert world.told(News.REFUSED) == world.told(News.DIED) == []


def test_a_stop_waits_for_the_drain_and_then_kills() -> None:
    """Workers that do not leave are killed at graceful_timeout to the moment, and the log names how long it took."""
    world = serving_world(habits=DEAF)
    world.ask(Ask.STOP)
    world.run(20.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1018.0, "SIGKILL")]
    assert [(told.words["limit"], told.words["why"]) for told in world.told(News.DRAIN_TIMEOUT)] == [
        (8.0, "the service stops")
    ] * 3
    assert world.told(News.STOPPING)[0].words == {"limit": 8.0}
    assert world.code == Exit.OK


def test_without_graceful_timeout_a_stop_is_as_quick_as_quit() -> None:
    world = serving_world(habits=DEAF, graceful_timeout=0.0)
    world.ask(Ask.STOP)
    world.run(20.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1011.0, "SIGKILL")]


def test_asking_twice_interrupts_and_thrice_kills() -> None:
    world = serving_world(habits=DEAF)
    for _ in range(3):
        world.ask(Ask.STOP)
        world.run(0.5)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1010.5, "SIGQUIT"), (1011.0, "SIGKILL")]
    assert [len(world.told(news)) for news in (News.STOPPING, News.QUITTING, News.KILLING)] == [1, 1, 1]
    assert world.code == Exit.OK


def test_asking_a_fourth_time_changes_nothing() -> None:
    world = serving_world(habits=IMMORTAL)
    for _ in range(4):
        world.ask(Ask.STOP)
    world.run(4.9)
    assert world.fleet.standing is Standing.KILLING
    assert len(world.told(News.KILLING)) == 1

    world.run(0.2)
    assert world.code == Exit.OK


def test_a_hurry_never_gives_more_time() -> None:
    """QUIT comes 0.1 s before the end of the drain: the end of the drain stands."""
    world = serving_world(habits=DEAF)
    world.ask(Ask.STOP)
    world.run(7.9)
    world.ask(Ask.QUIT)
    world.run(5.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1017.9, "SIGQUIT"), (1018.0, "SIGKILL")]


@pytest.mark.parametrize("asks", [[Ask.QUIT], [Ask.QUIT, Ask.QUIT]])
def test_a_worker_whose_exit_comes_with_the_order_to_kill_is_not_signalled(asks: list[Ask]) -> None:
    """Its pid may be another's already."""
    world = serving_world()
    for ask in asks:
        world.ask(ask)
    del world.processes[WorkerId(1, 1)]
    world.hear(facts.Exited(WorkerId(1, 1), 0))
    world.run(5.0)

    assert world.signals(WorkerId(1, 1)) == []
    assert world.signals(WorkerId(2, 2)) != []


def test_quit_interrupts_and_kills_after_a_second() -> None:
    world = serving_world(habits=DEAF)
    world.ask(Ask.QUIT)
    world.run(3.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "SIGQUIT"), (1011.0, "SIGKILL")]
    assert world.told(News.LEFT)[0].words["why"] == "quick stop"
    assert world.code == Exit.OK


@pytest.mark.parametrize("asks", [[Ask.QUIT], [Ask.STOP, Ask.QUIT]])
def test_a_worker_that_boots_is_never_interrupted_with_sigquit(asks: list[Ask]) -> None:
    """By default SIGQUIT dumps core: only a worker that has booted handles it. It makes no odds that it was told before."""
    world = World(habits=Habits(boot=Boot.HANGS, is_deaf=True))
    for ask in asks:
        world.ask(ask)
        world.run(0.1)
    world.run(10.0)

    assert {name for _, name in world.signals(WorkerId(1, 1))} == {"SIGTERM", "SIGKILL"}
    assert world.code == Exit.OK


def test_a_worker_that_sigkill_does_not_end_is_given_up() -> None:
    """It sleeps in the kernel. The service leaves without it after 5 s, and says so."""
    world = serving_world(count=1, habits=IMMORTAL)
    world.ask(Ask.QUIT)
    world.run(7.0)

    assert world.code == Exit.OK
    assert [told.words["limit"] for told in world.told(News.UNKILLABLE)] == [5.0]


def test_a_reload_that_comes_too_late_is_ignored_and_forgotten() -> None:
    world = serving_world(habits=DEAF)
    world.ask(Ask.STOP)
    world.run(1.0)
    world.reload()
    world.run(1.0)

    assert len(world.told(News.TOO_LATE)) == 1
    assert len(world.forks()) == 3
    assert [effect for _, effect in world.effects if isinstance(effect, facts.Forget)] == [facts.Forget(2)]


def test_what_dies_while_all_is_ending_is_no_news() -> None:
    world = serving_world()
    world.ask(Ask.STOP)
    world.hear(facts.Exited(WorkerId(1, 1), 1))
    del world.processes[WorkerId(1, 1)]
    world.run(1.0)

    assert world.told(News.DIED) == []
    assert len(world.told(News.LEFT)) == 2
    assert world.code == Exit.OK


# Crashes --------------------------------------------------------------------------------------------------------------


def test_a_boot_that_fails_backs_off_up_to_half_a_minute() -> None:
    """Tries follow each other after 0, 0.25, 0.5 ... 30 s, each shortened by its own jitter of up to a quarter."""
    world = serving_world(count=2)
    world.next_habits.extend([Habits(boot=Boot.DIES, boots_in=0.1)] * 12)
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(300.0)

    tries = world.forks(slot=1)[1:14]
    gaps = [later - earlier - 0.1 for earlier, later in pairwise(tries)]
    nominal = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0, 30.0]
    assert tries[0] == 1010.0
    assert gaps == pytest.approx([jittered(delay, spawn) for spawn, delay in enumerate(nominal, 3)])


def test_a_worker_that_dies_after_it_served_waits_two_seconds_at_most() -> None:
    """The cause may be one client's request, and must not switch the service off."""
    world = serving_world(count=1)
    world.next_habits.extend([Habits(boots_in=0.1, then=Then.CRASHES, after=0.1)] * 8)
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(60.0)

    tries = world.forks(slot=1)[1:10]
    gaps = [later - earlier - 0.2 for earlier, later in pairwise(tries)]
    assert gaps == pytest.approx(
        [jittered(delay, spawn) for spawn, delay in enumerate([0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0], 2)]
    )


def test_a_worker_that_lived_for_min_uptime_ends_the_crash_loop() -> None:
    world = serving_world(count=1)
    world.next_habits.extend([Habits(then=Then.CRASHES, after=0.1)] * 3)
    world.next_habits.append(Habits(then=Then.CRASHES, after=5.0))
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(60.0)

    *_, last_crash, after = world.forks(slot=1)
    assert after == pytest.approx(last_crash + 0.5 + 5.0)


def test_a_crash_loop_is_told_the_1st_2nd_4th_and_8th_time() -> None:
    world = serving_world(count=1)
    world.next_habits.extend([Habits(boot=Boot.DIES)] * 9)
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(300.0)

    died = [told.words["count"] for told in world.told(News.DIED) if "booting" in str(told.words["how"])]
    assert died == ["", " (2 times so far)", " (4 times so far)", " (8 times so far)"]
    assert world.told(News.DIED)[0].words["when"] == "now"
    assert str(world.told(News.DIED)[1].words["when"]).startswith("in 0.2")


def test_deaths_that_are_no_loop_are_all_told() -> None:
    """A worker that served an hour dies, five times in a row: five lines."""
    world = serving_world(count=1, habits=Habits(then=Then.CRASHES, after=3600.0))
    world.run(5 * 3602.0)

    assert [told.words["count"] for told in world.told(News.DIED)] == [""] * 5


def test_causes_are_told_apart() -> None:
    world = serving_world(count=1)
    for boot, then in [
        (Boot.FAILS, Then.SERVES),
        (Boot.HANGS, Then.SERVES),
        (Boot.READY, Then.EXITS),
        (Boot.READY, Then.STUCK),
    ]:
        world.next_habits.append(Habits(boot=boot, then=then, after=1.0))
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(60.0)

    assert [told.words["how"] for told in world.told(News.DIED)] == ["was killed by SIGSEGV", "exited with status 1"]
    assert [told.words["error"] for told in world.told(News.BOOT_FAILED)] == ["ImportError: nope"]
    assert [told.words["limit"] for told in world.told(News.BOOT_TIMEOUT)] == [10.0]
    assert [told.words["doing"] for told in world.told(News.STUCK)] == ["GET /slow for 31 s"]
    assert world.told(News.LEFT) == []


def test_a_crashing_worker_never_costs_the_others_their_place() -> None:
    world = serving_world()
    world.next_habits.extend([Habits(boot=Boot.FAILS)] * 20)
    world.befall(world.processes[WorkerId(2, 2)], Then.CRASHES)
    world.least_serving = 3
    world.run(100.0)

    assert world.least_serving == 2
    assert [world.signals(WorkerId(slot, slot)) for slot in (1, 3)] == [[], []]


def test_a_slot_that_empties_is_filled_even_when_a_canary_and_a_successor_wait() -> None:
    """Surge is 1 and a spent worker's successor has it; a worker dies, and HUP comes. The empty slot comes first."""
    world = serving_world()
    world.next_habits.append(Habits(boots_in=5.0))
    world.befall(world.processes[WorkerId(1, 1)], Then.SPENT)
    world.run(1.0)
    world.befall(world.processes[WorkerId(3, 3)], Then.CRASHES)
    world.reload()
    world.run(0.6)

    assert world.serving == [WorkerId(1, 1), WorkerId(2, 2), WorkerId(3, 5)]
    world.run(20.0)
    assert world.generations == [2, 2, 2]


# fork() ---------------------------------------------------------------------------------------------------------------


def test_fork_that_fails_is_tried_again_and_costs_nobody_anything() -> None:
    """1. The first worker is ready. 2. ``fork()`` fails for both others in one turn: one failure. 3. 0.25 s later it works."""
    world = World()
    world.fork_failures = 0
    world.run(0.4)
    world.fork_failures = 2
    world.run(5.0)

    assert world.forks() == [1000.0, 1000.5, 1000.5, 1000.75, 1000.75]
    assert [told.words["when"] for told in world.told(News.FORK_FAILED)] == ["in 0.25 s"]
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 4), WorkerId(3, 5)]
    assert world.told(News.DIED) == []


def test_fork_that_goes_on_failing_backs_off_and_is_told_less_and_less() -> None:
    world = serving_world(count=1)
    world.fork_failures = 9
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(200.0)

    tries = world.forks(slot=1)[1:]
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    nominal = [0.25, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]
    assert gaps == pytest.approx([max(0.25, jittered(delay, spawn)) for spawn, delay in enumerate(nominal, 2)])
    assert len(world.told(News.FORK_FAILED)) == 4
    assert len(world.serving) == 1


def test_fork_failures_are_a_new_story_once_a_fork_came_to_something() -> None:
    world = serving_world(count=1)
    for spawn in (1, 3, 5):
        world.fork_failures = 1
        world.befall(world.processes[WorkerId(1, spawn)], Then.CRASHES)
        world.run(20.0)

    assert [told.words["when"] for told in world.told(News.FORK_FAILED)] == ["in 0.25 s"] * 3


def test_a_canary_that_could_not_be_forked_is_not_to_blame() -> None:
    world = serving_world()
    world.fork_failures = 1
    world.reload()
    world.run(20.0)

    assert world.forks()[3:5] == [1010.0, 1010.25]
    assert world.generations == [2, 2, 2]
    assert world.told(News.REFUSED) == []


# Numbers --------------------------------------------------------------------------------------------------------------


def test_one_more_and_one_less_are_remembered_across_a_reload() -> None:
    world = serving_world()
    world.scale(+1)
    world.scale(+1)
    world.scale(-1)
    world.run(5.0)
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 2), WorkerId(3, 3), WorkerId(4, 4)]

    world.reload()
    world.run(20.0)
    assert world.generations == [2] * 4
    assert [(told.words["count"], told.words["delta"]) for told in world.told(News.SCALED)] == [(4, 1), (5, 2), (4, 1)]


def test_one_more_and_one_less_are_forgotten_when_the_settings_say_another_number() -> None:
    world = serving_world()
    world.scale(+1)
    world.run(5.0)
    world.reload(count=2)
    world.run(20.0)

    assert world.generations == [2, 2]
    assert world.fleet.delta == 0


def test_a_number_that_was_refused_with_its_generation_changes_nothing() -> None:
    world = serving_world()
    world.reload(Habits(boot=Boot.FAILS), count=9)
    world.run(5.0)

    assert len(world.serving) == world.fleet.count == 3


def test_one_worker_is_the_least() -> None:
    world = serving_world(count=1)
    world.scale(-1)
    world.run(1.0)

    assert len(world.told(News.AT_MINIMUM)) == 1
    assert world.fleet.count == 1
    assert len(world.serving) == 1


def test_one_less_retires_the_last_slot() -> None:
    world = serving_world()
    world.scale(-1)
    world.run(1.0)

    assert world.serving == [WorkerId(1, 1), WorkerId(2, 2)]
    assert [told.words["why"] for told in world.told(News.LEFT)] == ["fewer workers are wanted"]


def test_scaling_below_the_canarys_slot_does_not_end_its_trial() -> None:
    """The canary's place is not that of a worker.

    1. Slots 1 and 2 had new workers, so the canary boots in slot 3. 2. TTOU takes slot 3. Result: the trial goes on, the
    generation is adopted, and its canary makes way for workers in slots 1 and 2.
    """
    world = serving_world()
    for slot in (1, 2):
        world.befall(world.processes[WorkerId(slot, slot)], Then.CRASHES)
        world.run(10.0)
    world.reload()
    world.run(0.1)
    assert world.fleet.candidate
    assert world.fleet.candidate.canary
    assert world.fleet.candidate.canary.id.slot == 3

    world.scale(-1)
    world.least_serving = 2
    world.run(20.0)
    assert world.generations == [2, 2]
    assert world.least_serving == 2


# Replacement ----------------------------------------------------------------------------------------------------------


def test_spent_workers_are_replaced_one_at_a_time() -> None:
    """All three are spent at once: each serves until its successor is ready, and the next is forked only then."""
    world = serving_world()
    world.least_serving = 3
    for process in list(world.processes.values()):
        world.befall(process, Then.SPENT)
    world.run(5.0)

    assert world.forks()[3:] == [1010.0, 1010.5, 1011.0]
    assert world.least_serving == 3
    assert [told.words["why"] for told in world.told(News.LEFT)] == ["max_requests reached"] * 3
    assert world.told(News.RELOADED) == []


def test_even_with_room_for_two_spent_workers_are_replaced_one_at_a_time() -> None:
    """What wears one out wears out its twins: two boots at once would be felt."""
    world = serving_world(surge=2)
    for process in list(world.processes.values()):
        world.befall(process, Then.SPENT)
    world.run(5.0)

    assert world.forks()[3:] == [1010.0, 1010.5, 1011.0]


def test_the_first_reason_to_be_replaced_is_the_one_that_is_told() -> None:
    world = serving_world(count=1)
    world.hear(facts.SaidSpent(WorkerId(1, 1), "max_requests reached"))
    world.hear(facts.SaidSpent(WorkerId(1, 1), "memory"))
    world.run(5.0)

    assert [told.words["why"] for told in world.told(News.LEFT)] == ["max_requests reached"]


def test_a_successor_that_dies_leaves_the_spent_worker_serving() -> None:
    world = serving_world(count=1)
    world.next_habits.extend([Habits(boot=Boot.DIES)] * 3)
    world.least_serving = 1
    world.befall(world.processes[WorkerId(1, 1)], Then.SPENT)
    world.run(20.0)

    assert world.least_serving == 1
    assert world.serving == [WorkerId(1, 5)]


def test_a_successor_that_hangs_up_at_once_does_not_relieve_the_spent_worker() -> None:
    """Ready and gone in one turn: what is known to be leaving takes nobody's place."""
    world = serving_world(count=1)
    world.next_habits.append(Habits(then=Then.HANGS_UP, after=0.0))
    world.befall(world.processes[WorkerId(1, 1)], Then.SPENT)
    world.run(1.0)
    assert world.signals(WorkerId(1, 1)) == []

    world.run(20.0)
    assert world.serving == [WorkerId(1, 3)]


def test_a_worker_that_retires_by_itself_young_is_part_of_a_loop() -> None:
    world = serving_world(count=1)
    world.next_habits.extend([Habits(then=Then.RETIRES, after=0.5)] * 2)
    world.befall(world.processes[WorkerId(1, 1)], Then.RETIRES)
    world.run(30.0)

    _, *tries = world.forks(slot=1)
    assert tries == pytest.approx([1010.0, 1011.0, 1012.0 + jittered(0.25, 3)])
    assert [told.words["why"] for told in world.told(News.RETIRING)] == ["it has had enough"] * 3
    assert len(world.told(News.LEFT)) == 1  # the one that had served; the others were faults


def test_a_stuck_worker_shows_its_stacks_is_killed_and_replaced() -> None:
    """1. Its deadline passes: it is taken out of service, and its stacks are asked for. 2. They come after 0.1 s: SIGKILL."""
    world = serving_world()
    world.befall(world.processes[WorkerId(2, 2)], Then.STUCK)
    world.run(1.0)

    assert (1010.0, facts.Dump(WorkerId(2, 2))) in world.effects
    assert [told.words["stacks"] for told in world.told(News.STACKS)] == ['File "shop.py", line 7']
    assert world.signals(WorkerId(2, 2)) == [(1010.1, "SIGKILL")]
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 4), WorkerId(3, 3)]
    assert world.told(News.DRAIN_TIMEOUT) == []


def test_a_stuck_worker_that_shows_nothing_is_killed_half_a_second_later() -> None:
    world = serving_world()
    world.processes[WorkerId(2, 2)].habits = replace(HEALTHY, shows_in=inf)
    world.befall(world.processes[WorkerId(2, 2)], Then.STUCK)
    world.run(1.0)

    assert world.signals(WorkerId(2, 2)) == [(1010.5, "SIGKILL")]
    assert world.told(News.STACKS) == []


def test_whoever_overruns_its_drain_shows_its_stacks_half_a_second_before_it_is_killed() -> None:
    world = serving_world(count=1, habits=DEAF)
    world.ask(Ask.STOP)
    world.run(20.0)

    assert [at for at, effect in world.effects if isinstance(effect, facts.Dump)] == [1017.5]
    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1018.0, "SIGKILL")]


def test_an_empty_answer_to_the_question_for_stacks_is_not_told() -> None:
    world = serving_world()
    world.hear(facts.Dumped(WorkerId(1, 1), ""))
    world.run(1.0)

    assert world.told(News.STACKS) == []


def test_slow_requests_are_told_with_their_stacks_but_not_all_of_them() -> None:
    """A slow database makes all requests slow: one report in 10 s tells why. Nobody is harmed."""
    world = serving_world()
    for slot in (1, 2):
        world.hear(facts.Slow(WorkerId(slot, slot), "GET /slow for 5 s"))
    world.run(10.0)
    assert [at for at, effect in world.effects if isinstance(effect, facts.Dump)] == [1010.0]

    world.hear(facts.Slow(WorkerId(3, 3), "GET /slow for 5 s"))
    world.run(10.0)
    assert len(world.told(News.SLOW)) == len(world.told(News.STACKS)) == 2
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 2), WorkerId(3, 3)]


# Age, size and load ---------------------------------------------------------------------------------------------------


def test_workers_are_replaced_at_their_age_each_with_its_own_jitter() -> None:
    world = serving_world(max_lifetime=3600.0, max_lifetime_jitter=600.0)
    world.least_serving = 3
    world.run(4300.0)

    assert world.least_serving == 3
    assert len(world.told(News.SPENT)) == 3
    births = {told.id: at for at, told in world.effects if isinstance(told, facts.Tell) and told.news is News.READY}
    ages = [at - births[told.id] for at, told in world.effects if isinstance(told, facts.Tell) and told.news is News.SPENT]
    assert sorted(ages) == pytest.approx(sorted(3600.0 + 600.0 * (spawn * GOLDEN % 1) for spawn in (1, 2, 3)))


def test_a_worker_above_its_memory_limit_is_replaced_and_one_above_the_hard_limit_is_killed() -> None:
    world = serving_world(max_worker_memory=100 << 20, max_worker_memory_hard=200 << 20)
    for slot, size in ((1, 100), (2, 101), (3, 201)):
        world.hear(facts.Weighed(WorkerId(slot, slot), size << 20))
    world.run(5.0)

    assert [world.signals(WorkerId(slot, slot)) for slot in (1, 2, 3)] == [[], [(1010.5, "retire")], [(1010.1, "SIGKILL")]]
    assert [told.words["why"] for told in world.told(News.SPENT)] == ["it uses 101 MiB, max_worker_memory is 100 MiB"]
    assert [(told.words["size"], told.words["limit"]) for told in world.told(News.TOO_BIG)] == [(201, 200)]


def test_without_a_limit_no_size_is_too_big() -> None:
    world = serving_world()
    world.hear(facts.Weighed(WorkerId(1, 1), 1 << 40))
    world.run(5.0)

    assert world.signals(WorkerId(1, 1)) == []


def test_a_worker_that_boots_is_not_judged_by_its_size() -> None:
    world = World(replace(PLAN, max_worker_memory_hard=1))
    world.hear(facts.Weighed(WorkerId(1, 1), 2))
    world.run(5.0)

    assert len(world.serving) == 3


def test_when_memory_runs_short_the_largest_worker_is_replaced_one_at_a_time() -> None:
    world = serving_world()
    for slot, size in ((1, 10), (2, 30), (3, 20)):
        world.hear(facts.Weighed(WorkerId(slot, slot), size << 20))
    world.hear(facts.MemoryShort(0.95))
    world.hear(facts.MemoryShort(0.95))
    world.run(5.0)

    assert [told.words["why"] for told in world.told(News.SPENT)] == [
        "95% of the memory is used, and with 30 MiB it is the largest worker"
    ]
    assert world.serving == [WorkerId(1, 1), WorkerId(2, 4), WorkerId(3, 3)]


def test_memory_that_runs_short_before_anybody_serves_replaces_nobody() -> None:
    world = World()
    world.hear(facts.MemoryShort(0.95))
    world.run(5.0)

    assert world.told(News.SPENT) == []


def test_a_kill_for_memory_is_called_that() -> None:
    world = serving_world(count=1)
    world.processes.clear()
    world.hear(facts.Exited(WorkerId(1, 1), None, "SIGKILL", out_of_memory=True))
    world.run(5.0)

    assert [told.words["how"] for told in world.told(News.DIED)] == ["was killed by SIGKILL by the kernel, out of memory"]


def test_the_load_decides_the_count_within_its_bounds() -> None:
    """Between 2 and 4 workers: quickly up when all are busy, and down again when nobody is, but never while a reload runs."""
    world = serving_world(count=2, min_workers=2, max_workers=4)
    world.reload(Habits(boots_in=3.0))
    world.load(busy=9.0)
    assert world.fleet.count == 2

    world.run(10.0)
    world.load(busy=9.0)
    world.run(5.0)
    assert world.generations == [2] * 4
    assert [told.words["count"] for told in world.told(News.AUTOSCALED)] == [4]

    for _ in range(300):
        world.load(busy=0.0)
        world.run(1.0)
    assert len(world.serving) == 2


def test_the_operators_wish_counts_within_the_bounds_of_the_load() -> None:
    world = serving_world(count=2, min_workers=2, max_workers=3)
    world.scale(+1)
    world.scale(+1)
    world.run(5.0)
    assert len(world.serving) == 3

    world.scale(-1)
    world.scale(-1)
    world.run(5.0)
    assert len(world.serving) == 2
    assert [told.words["bound"] for told in world.told(News.AT_BOUND)] == ["most", "fewest"]


def test_what_the_operator_wished_of_a_count_that_follows_the_load_is_not_remembered_beyond_it() -> None:
    world = serving_world(count=2, min_workers=2, max_workers=4)
    world.scale(+1)
    world.run(5.0)
    world.reload(max_workers=0)
    world.run(10.0)

    assert world.generations == [2, 2]


def test_a_sample_of_the_load_that_changes_nothing_is_not_told() -> None:
    world = serving_world(count=2, min_workers=2, max_workers=3)
    world.load(busy=1.2)

    assert world.told(News.AUTOSCALED) == []


# Rest and patience ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["TTIN", "HUP"])
def test_a_rest_retires_all_workers_until_they_are_wanted_again(how: str) -> None:
    world = serving_world()
    world.hear(facts.Rest())
    world.hear(facts.Rest())
    world.run(5.0)
    assert world.serving == []
    assert world.code is None
    assert len(world.told(News.RESTING)) == 1

    if how == "TTIN":
        world.scale(+1)
    else:
        world.reload()
    world.run(5.0)
    assert len(world.serving) == 3
    assert len(world.told(News.AWAKE)) == 1


def test_a_rest_in_the_middle_of_the_start_is_not_called_complete() -> None:
    """Nobody is wanted and nobody is there: that is not what "all workers are ready" means."""
    world = World()
    world.run(0.6)
    world.hear(facts.Rest())
    world.run(5.0)
    assert world.told(News.ALL_READY) == []

    world.scale(+1)
    world.run(5.0)
    assert [told.words["count"] for told in world.told(News.ALL_READY)] == [3]


def test_one_less_than_a_rest_is_a_rest() -> None:
    world = serving_world()
    world.hear(facts.Rest())
    world.scale(-1)
    world.run(5.0)

    assert world.serving == []
    assert world.told(News.AWAKE) == []


def test_a_rest_while_ending_is_no_news() -> None:
    world = serving_world()
    world.ask(Ask.STOP)
    world.hear(facts.Rest())
    world.run(5.0)

    assert world.told(News.RESTING) == []
    assert world.code == Exit.OK


def test_a_service_that_does_not_come_back_is_given_up_if_the_operator_wants_that() -> None:
    """1. All workers die at 1010 and none boots again. 2. At 1020, after give_up_after, the service ends with an error."""
    world = serving_world(give_up_after=10.0)
    world.habits[1] = Habits(boot=Boot.DIES)
    for process in list(world.processes.values()):
        world.befall(process, Then.CRASHES)
    world.run(9.99)
    assert world.told(News.GAVE_UP) == []

    world.run(5.0)
    assert world.code == Exit.BOOT
    assert [told.words["seconds"] for told in world.told(News.GAVE_UP)] == [10.0]


def test_a_service_that_comes_back_in_time_is_not_given_up() -> None:
    world = serving_world(count=1, give_up_after=10.0)
    world.next_habits.extend([Habits(boots_in=6.0)] * 2)
    for _ in range(2):
        world.befall(next(iter(world.processes.values())), Then.CRASHES)
        world.run(9.0)

    assert world.code is None
    assert len(world.serving) == 1


@pytest.mark.parametrize("pause", ["sleep", "rest"])
def test_patience_does_not_run_while_nobody_could_serve(pause: str) -> None:
    """Neither an hour in which the supervisor was stopped counts, nor one in which no workers were wanted."""
    world = serving_world(count=1, give_up_after=10.0)
    world.next_habits.extend([Habits(boot=Boot.DIES), Habits(boots_in=3.0)])
    world.befall(world.processes[WorkerId(1, 1)], Then.CRASHES)
    world.run(0.1)
    if pause == "sleep":
        world.sleep(3600.0)
    else:
        world.hear(facts.Rest())
        world.run(3600.0)
        world.scale(+1)
    world.run(9.0)

    assert world.code is None
    assert len(world.serving) == 1


def test_the_doors_are_looked_behind_until_nobody_waits() -> None:
    """TERM: no new connection comes in, those in the backlog are served; every 0.05 s it is seen whether any is left."""
    world = serving_world(habits=Habits(leaves_in=1.0))
    world.doors_empty_in = 0.18
    world.ask(Ask.STOP)
    world.run(2.0)

    looks = [at for at, effect in world.effects if isinstance(effect, facts.EndDoors)]
    assert looks == pytest.approx([1010.0, 1010.05, 1010.1, 1010.15, 1010.2])
    assert [at for at, effect in world.effects if isinstance(effect, facts.ShutDoors)] == [1010.0]


def test_a_retiring_worker_has_its_drain_and_is_not_called_stuck() -> None:
    world = serving_world(count=1, habits=DEAF)
    world.scale(+1)
    world.run(5.0)
    world.scale(-1)
    world.run(1.0)
    world.hear(facts.Overdue(WorkerId(2, 2), "GET /slow"))
    world.run(20.0)

    assert world.signals(WorkerId(2, 2)) == [(1015.0, "retire"), (1023.0, "SIGKILL")]
    assert world.told(News.STUCK) == []


def test_a_worker_that_hangs_up_and_lives_on_is_told_by_a_signal() -> None:
    """Perhaps the application closed all descriptors. A second is given for an exit to explain it; then SIGTERM, and the drain."""
    world = serving_world(count=1, habits=DEAF)
    world.befall(world.processes[WorkerId(1, 1)], Then.HANGS_UP)
    world.run(20.0)

    assert world.signals(WorkerId(1, 1)) == [(1011.0, "SIGTERM"), (1019.0, "SIGKILL")]
    assert len(world.told(News.HUNG_UP)) == 1
    assert len(world.serving) == 1


def test_an_exit_explains_the_hang_up_just_before_it() -> None:
    world = serving_world(count=1, habits=Habits(then=Then.CRASHES, after=20.0, closes_early=0.1))
    world.run(12.0)

    assert world.told(News.HUNG_UP) == []
    assert [told.words["how"] for told in world.told(News.DIED)] == ["was killed by SIGSEGV"]


def test_a_worker_that_has_hung_up_is_not_told_over_its_channel() -> None:
    """TERM within the second after the hang-up: a word into a closed channel would be lost. It keeps its drain."""
    world = serving_world(count=1, habits=Habits(leaves_in=3.0))
    world.befall(world.processes[WorkerId(1, 1)], Then.HANGS_UP)
    world.ask(Ask.STOP)
    world.run(5.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "SIGTERM")]
    assert world.code == Exit.OK


# Time -----------------------------------------------------------------------------------------------------------------


def test_a_supervisor_that_slept_kills_nobody_on_waking() -> None:
    """It was stopped for an hour while a worker drained and another booted: both get the time that they had left."""
    world = serving_world(count=2, habits=DEAF)
    world.scale(+1)
    world.next_habits.append(Habits(boot=Boot.HANGS))
    world.run(1.0)
    world.scale(-1)
    world.scale(-1)
    world.run(1.0)
    world.sleep(3600.0)
    assert [worker.phase for worker in world.fleet.workers.values()] == [Phase.READY, Phase.RETIRING]

    world.run(7.0)
    assert world.signals(WorkerId(2, 2)) == [(1011.0, "retire"), (4618.0 + 1.0, "SIGKILL")]
    assert [told.words["seconds"] for told in world.told(News.WOKE)] == [3600.0]


def test_a_late_ready_from_a_worker_that_was_told_to_go_changes_nothing() -> None:
    world = serving_world(count=1)
    world.next_habits.append(Habits(boots_in=1.0, leaves_in=5.0))
    world.scale(+1)
    world.run(0.5)
    world.scale(-1)
    world.run(1.0)

    assert world.serving == [WorkerId(1, 1)]
    assert len(world.told(News.READY)) == 1
    world.run(2.0)
    assert world.signals(WorkerId(2, 2)) == [(1010.5, "SIGTERM"), (1012.5, "SIGKILL")]


def test_late_words_of_a_worker_that_was_told_to_go_change_nothing() -> None:
    world = serving_world(count=1, habits=DEAF)
    world.ask(Ask.STOP)
    world.run(1.0)
    world.hear(facts.SaidRetiring(WorkerId(1, 1), "it has had enough"))
    world.hear(facts.SaidFailed(WorkerId(1, 1), "importing shop.wsgi", "ImportError: nope", "", Exit.BOOT))
    world.hear(facts.HungUp(WorkerId(1, 1)))
    world.hear(facts.Weighed(WorkerId(1, 1), 1 << 40))
    world.run(20.0)

    assert world.signals(WorkerId(1, 1)) == [(1010.0, "retire"), (1018.0, "SIGKILL")]
    assert [told.words["why"] for told in world.told(News.LEFT)] == ["the service stops"]


def test_a_fact_about_a_stranger_is_ignored() -> None:
    world = serving_world()
    before = repr(world.fleet.workers)
    world.hear(facts.Exited(WorkerId(7, 99), 1))
    world.run(1.0)

    assert repr(world.fleet.workers) == before


def test_without_boot_timeout_a_boot_may_take_for_ever() -> None:
    world = World(replace(PLAN, boot_timeout=0.0), Habits(boot=Boot.HANGS))
    world.run(1e6)

    assert world.signals(WorkerId(1, 1)) == []
    assert world.fleet.wake_at() == inf
