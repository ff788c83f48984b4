"""The tables of a life: total, forward only, and with the answers that they are meant to give."""

from __future__ import annotations

from itertools import product

import pytest

from arbiter.lifecycle import NEXT, THEN, Ask, Happening, Judgement, Phase, Standing

B, R, T, K, G = Phase


def test_the_lives_of_workers_are_a_total_table() -> None:
    assert set(NEXT) == set(product(Phase, Happening))


def test_the_end_of_the_service_is_a_total_table() -> None:
    assert set(THEN) == set(product(Standing, Ask))


@pytest.mark.parametrize(("phase", "happening"), list(product(Phase, Happening)))
def test_a_life_only_goes_forward(phase: Phase, happening: Happening) -> None:
    assert NEXT[phase, happening] >= phase


@pytest.mark.parametrize(("standing", "ask"), list(product(Standing, Ask)))
def test_the_service_never_comes_back_from_its_end(standing: Standing, ask: Ask) -> None:
    assert THEN[standing, ask] >= standing
    assert THEN[standing, ask].is_leaving


@pytest.mark.parametrize(
    ("happening", "row"),
    [
        (Happening.SAID_READY, (R, R, T, K, G)),
        (Happening.SAID_FAILED, (T, T, T, K, G)),
        (Happening.SAID_RETIRING, (T, T, T, K, G)),
        (Happening.TOLD_TO_RETIRE, (T, T, T, K, G)),
        (Happening.TOLD_TO_DIE, (K, K, K, K, G)),
        (Happening.EXITED, (G, G, G, G, G)),
        (Happening.NOT_FORKED, (G, G, G, G, G)),
    ],
)
def test_each_happening_leads_where_it_must(happening: Happening, row: tuple[Phase, ...]) -> None:
    assert tuple(NEXT[phase, happening] for phase in Phase) == row


def test_a_late_ready_raises_nobody_from_retirement() -> None:
    assert [NEXT[phase, Happening.SAID_READY] for phase in (T, K, G)] == [T, K, G]


def test_only_booting_and_ready_workers_fill_a_slot() -> None:
    assert [phase for phase in Phase if phase.is_active] == [B, R]


@pytest.mark.parametrize(
    ("ask", "path"),
    [
        (Ask.STOP, [Standing.STOPPING, Standing.QUITTING, Standing.KILLING, Standing.KILLING]),
        (Ask.QUIT, [Standing.QUITTING, Standing.KILLING, Standing.KILLING]),
    ],
)
@pytest.mark.parametrize("start", [Standing.STARTING, Standing.DRAINING])
def test_asking_again_escalates(start: Standing, ask: Ask, path: list[Standing]) -> None:
    standing = start
    for expected in path:
        standing = THEN[standing, ask]
        assert standing is expected


def test_a_service_that_serves_drains_before_it_stops_and_is_never_kept_from_quitting() -> None:
    assert THEN[Standing.SERVING, Ask.STOP] is Standing.DRAINING
    assert THEN[Standing.SERVING, Ask.QUIT] is Standing.QUITTING


def test_quit_hurries_a_stop() -> None:
    assert THEN[Standing.STOPPING, Ask.QUIT] is Standing.QUITTING


def test_what_has_ended_stays_ended() -> None:
    assert {THEN[Standing.ENDED, ask] for ask in Ask} == {Standing.ENDED}


def test_ending_begins_with_stopping() -> None:
    ending = [standing for standing in Standing if standing.is_ending]

    assert ending == [Standing.STOPPING, Standing.QUITTING, Standing.KILLING, Standing.ENDED]
    assert [standing for standing in Standing if standing.is_leaving] == [Standing.DRAINING, *ending]


def test_generations_are_judged_in_the_order_of_their_lives() -> None:
    assert list(Judgement) == sorted(Judgement)
    assert [judgement.name for judgement in Judgement] == ["TRIAL", "ROLLING", "CURRENT", "OUTGOING", "REFUSED"]
