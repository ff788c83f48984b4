"""The autoscaler against simulated services: it settles, it is quick up and slow down, it does not flap, it keeps its bounds.

A service is simulated as a queue: each second `load` worker-seconds of work arrive, the workers do as much as they can, the
rest waits. That is all the controller can see of a real one: how busy workers were, and how long work waited.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, sin, tau
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbiter.autoscale import HIGH, LONGEST_PAUSE, LOW, PAUSE, Autoscaler, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LEAST, MOST = 2, 16
HOUR = 3600


@dataclass
class Service:
    """A queue with as many servers as the controller says; a new worker takes `boot` seconds to be of use."""

    scaler: Autoscaler = field(default_factory=lambda: Autoscaler(LEAST, MOST, LEAST))
    boot: int = 2
    waiting: float = 0.0
    counts: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def run(self, loads: Iterable[float]) -> None:
        for load in loads:
            now = float(len(self.counts))
            serving = min(self.counts[-self.boot :] or [self.scaler.count])
            done = min(self.waiting + load, serving)
            self.waiting += load - done
            wait = self.waiting / serving
            self.scaler.observe(Sample(1.0, done, wait), now)
            self.counts.append(self.scaler.count)
            self.waits.append(wait)

    @property
    def changes(self) -> int:
        return sum(a != b for a, b in pairwise(self.counts))


@given(load=st.floats(0.0, MOST * HIGH * 0.98), start=st.integers(LEAST, MOST))
@settings(deadline=None, max_examples=60)
def test_a_steady_load_settles_and_stays(load: float, start: int) -> None:
    """Result: in the second hour nothing changes, and the workers are neither short nor idle."""
    service = Service(Autoscaler(LEAST, MOST, start))

    service.run([load] * 2 * HOUR)

    settled = set(service.counts[HOUR:])
    assert len(settled) == 1
    count = settled.pop()
    assert load <= HIGH * count
    assert count == LEAST or load > LOW * (count - 1) * 0.99


@given(before=st.floats(0.0, 4.0), after=st.floats(5.0, MOST * 0.7))
@settings(deadline=None, max_examples=60)
def test_a_jump_of_the_load_is_answered_within_seconds(before: float, after: float) -> None:
    """Result: ten seconds after the jump there are enough workers, and after half a minute nothing waits."""
    service = Service()
    service.run([before] * HOUR)

    service.run([after] * 40)

    assert service.counts[HOUR + 10] >= ceil(after)
    assert service.waits[-1] == 0.0


def test_workers_go_slowly_one_at_a_time() -> None:
    service = Service()
    service.run([10.0] * 600)
    high = service.counts[-1]

    service.run([0.0] * HOUR)

    steps = [a - b for a, b in pairwise(service.counts[600:]) if a != b]
    assert set(steps) == {1}
    times = [at for at, (a, b) in enumerate(pairwise(service.counts)) if a > b]
    assert all(later - earlier >= PAUSE for earlier, later in pairwise(times))
    assert (service.counts[-1], high) == (LEAST, max(service.counts))


SHAPES: dict[str, Callable[[int], float]] = {
    "a sine of ten minutes": lambda at: 6 + 4 * sin(at / 600 * tau),
    "a sine of half a minute": lambda at: 6 + 4 * sin(at / 30 * tau),
    "bursts of five seconds each minute": lambda at: 12.0 if at % 60 < 5 else 1.0,
    "a saw tooth of three minutes": lambda at: 10 * (at % 180) / 180,
    "on and off each two minutes": lambda at: 8.0 if at // 120 % 2 else 1.0,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_load_that_comes_and_goes_does_not_make_it_flap(shape: Callable[[int], float]) -> None:
    """Result: in the fourth hour there are few changes, the fewer the quicker the load changes its mind."""
    service = Service()

    service.run(map(shape, range(3 * HOUR)))
    learnt = service.changes
    service.run(map(shape, range(3 * HOUR, 4 * HOUR)))

    assert service.changes - learnt <= 60  # ten minutes' sine asks for six ups and downs of several workers an hour


def test_each_change_of_mind_makes_it_slower_to_let_workers_go() -> None:
    """Result: under a load that returns each time, the steps down become rarer, up to the longest pause."""
    service = Service()

    service.run(SHAPES["on and off each two minutes"](at) for at in range(4 * HOUR))

    downs = [at for at, (a, b) in enumerate(pairwise(service.counts)) if a > b]
    first = sum(at < HOUR for at in downs)
    last = sum(at >= 3 * HOUR for at in downs)
    assert last < first or first <= HOUR / LONGEST_PAUSE


@given(
    loads=st.lists(st.floats(0.0, 50.0), min_size=1, max_size=300),
    least=st.integers(1, 5),
    extra=st.integers(0, 10),
    room=st.integers(0, 3),
)
@settings(deadline=None, max_examples=100)
def test_its_bounds_and_the_memory_are_kept(loads: list[float], least: int, extra: int, room: int) -> None:
    scaler = Autoscaler(least, least + extra, least)
    for at, load in enumerate(loads):
        before = scaler.count
        after = scaler.observe(Sample(1.0, min(load, before), load / 10, room=room), float(at))

        assert least <= after <= least + extra
        assert after - before <= room


def test_work_that_waits_calls_for_workers_even_when_averages_look_calm() -> None:
    scaler = Autoscaler(LEAST, MOST, 4)

    for at in range(5):
        scaler.observe(Sample(1.0, 2.8, 0.5), float(at))

    assert scaler.count > 4


def test_a_recorded_load_is_followed() -> None:
    """A record of a real run, four minutes of a rise, a fall and a burst (see the file): few changes, and work hardly waits."""
    record = json.loads((Path(__file__).parent / "recorded.json").read_text())
    service = Service()

    service.run(record["busy"])

    assert service.changes <= record["most_changes"]
    assert sum(wait > 0 for wait in service.waits) <= len(service.waits) * 0.05
