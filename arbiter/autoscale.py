"""How many workers the load asks for: a pure controller, sampled once a second. No clock, no I/O.

Two figures, both measured without any header (`scoreboard`): how much of the workers' time requests took, and how long
requests waited before a worker took them. Quick up: work that waits is felt at once, so the short average decides, and the
step is what the load asks for, not one. Slow down: a worker that idles costs memory only, so the long average decides, one
worker a step, with a pause between. A change of mind (up soon after down) doubles the pause before the next step down, up to
a limit; a long calm halves it again. That is the penalty against flapping.

Rejected: a target for the response time (it depends on the application and on others' databases, not on our capacity), and a
PID controller (its integral winds up against `max_workers`, and nobody can predict at 3 a.m. what it does next).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, inf
from typing import Final

TARGET: Final = 0.6
"""Busy ratio to aim at when adding workers: leaves room for a burst of two thirds more."""
HIGH: Final = 0.75
"""Above this busy ratio workers are added: at 80 % and random arrivals a queue is as long as the service time (M/M/c)."""
LOW: Final = 0.5
"""Below this busy ratio, worked out for one worker fewer, a worker is taken away. Well below HIGH: else it comes back."""
WAIT: Final = 0.1
"""Seconds of queue wait from which workers are added whatever the busy ratio: a wait that people notice (Nielsen's 0.1 s)."""
QUICK: Final = 3.0
"""Seconds: time constant of the short average."""
SLOW: Final = 60.0
"""Seconds: time constant of the long average."""
PAUSE: Final = 30.0
"""Seconds between two steps down, at first."""
LONGEST_PAUSE: Final = 900.0
REGRET: Final = 300.0
"""Seconds: a step up so soon after a step down was a change of mind. Booting a worker a few times an hour is no harm."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the workers did in the last `seconds`."""

    seconds: float
    busy: float
    """Worker-seconds that requests took."""
    waited: float
    """Longest queue wait seen, in seconds."""
    room: float = inf
    """How many workers more the memory has room for."""


@dataclass(slots=True)
class Autoscaler:
    """Between `least` and `most` workers, both included."""

    least: int
    most: int
    count: int = 0
    """How many are wanted now."""
    _quick: float | None = None
    _slow: float | None = None
    _pause: float = PAUSE
    _down_at: float = -inf
    """When the last step down was."""
    _changed_at: float = -inf
    _calm_since: float = field(default=-inf)

    def __post_init__(self) -> None:
        self.count = min(max(self.count, self.least), self.most)

    def observe(self, sample: Sample, now: float) -> int:
        """The number of workers wanted after this sample."""
        if sample.seconds <= 0:
            return self.count
        load = sample.busy / sample.seconds  # in workers
        self._quick = _average(self._quick, load, sample.seconds / QUICK)
        self._slow = _average(self._slow, load, sample.seconds / SLOW)
        waits = sample.waited >= WAIT and load > LOW * self.count
        if self._quick > HIGH * self.count or waits:
            self._up(sample, now, waits=waits)
        elif now - max(self._down_at, self._changed_at) >= self._pause and max(self._quick, self._slow) <= LOW * (
            self.count - 1
        ):
            self._down(now)
        if now - self._calm_since >= LONGEST_PAUSE:
            self._calm_since, self._pause = now, max(PAUSE, self._pause / 2)
        return self.count

    def _up(self, sample: Sample, now: float, *, waits: bool) -> None:
        wanted = max(ceil((self._quick or 0.0) / TARGET), self.count + 1 if waits else 0)
        wanted = min(wanted, self.most, self.count + int(max(0.0, min(sample.room, self.most))))
        if wanted <= self.count:
            return
        if now - self._down_at < max(REGRET, 2 * self._pause):
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        self.count, self._changed_at, self._calm_since = wanted, now, now

    def _down(self, now: float) -> None:
        if self.count > self.least:
            self.count -= 1
            self._down_at = self._changed_at = now


def _average(before: float | None, value: float, weight: float) -> float:
    """Exponential moving average; `weight` is the elapsed part of its time constant."""
    return value if before is None else before + (value - before) * min(1.0, weight)
