"""What is found out by looking rather than by being told: who is stuck, slow, too big, and whether memory runs short.

Read-only: rows of the scoreboard at every turn, /proc and the control groups every few seconds and only where a setting
wants it. What a finding means is the policy's affair.
"""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter import facts, memory
from arbiter.autoscale import Sample
from arbiter.signals import Command
from arbiter.workers.contract import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from arbiter.child import Child
    from arbiter.facts import Fact
    from arbiter.scoreboard import Scoreboard

PERIOD: Final = 1.0
"""Seconds between two samples of the load, where it decides the number of workers."""
WEIGHING: Final = 5.0
"""Seconds between two looks at memory. Reading smaps_rollup of a 100 MiB process takes about 2 ms of the kernel's time."""
SHORT: Final = 0.92
"""The part of a memory limit from which the largest worker is replaced: there must still be room for its successor."""


class Lookout:
    """Remembers only what it has reported, so that everything is reported once."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._measured_at = 0.0
        self._busy = 0.0
        self._waits = [0] * BUCKETS
        self._weigh_at = 0.0
        self._largest = 0
        self._explained = self._oom_kills = memory.oom_kills()
        """How many such deaths are accounted for, and how many there were when memory was last looked at."""
        self._watched = ""
        self._touched: int | None = None

    def forgive(self, children: Iterable[Child], slept: float) -> None:
        """Nobody ran for so long: what ran out in that time was nobody's fault."""
        for child in children:
            child.forgiven = (child.row.deadline(), slept)

    def watch(self, path: str | None) -> None:
        """Look after `touch_reload`'s file from now on."""
        self._watched = path or ""
        self._touched = self._touch()

    def look(self, children: Iterable[Child], now: float) -> Iterator[Fact | Command]:
        """What is to be said of them at this moment."""
        children = list(children)
        for child in children:
            yield from _is_stuck(child, now)
            yield from _is_slow(child, now)
        if now >= self._weigh_at:
            self._weigh_at = now + WEIGHING
            yield from self._weigh(children)
        if now >= self._measured_at + PERIOD and any(child.blueprint.settings.max_workers for child in children):
            yield self._measure(now)
        if self._watched and (touched := self._touch()) != self._touched:
            self._touched = touched
            if touched is not None:
                yield Command.RELOAD

    def was_out_of_memory(self) -> bool:
        """Whether the kernel has killed for memory in our control group of late; each such death explains one question."""
        kills = memory.oom_kills()
        if kills is None or self._explained is None or kills <= self._explained:
            return False
        self._explained += 1
        return True

    def _measure(self, now: float) -> Fact:
        """What the workers did since this was last asked."""
        seconds, self._measured_at = now - self._measured_at, now
        before, self._busy = self._busy, self._board.busy(now)
        waits, self._waits = self._waits, self._board.waits()
        slowest = max((bucket for bucket in range(BUCKETS) if self._waits[bucket] > waits[bucket]), default=0)
        left = memory.left()
        room = inf if left is None or not self._largest else max(0.0, left) // self._largest
        return facts.Loaded(Sample(seconds, max(0.0, self._busy - before), 2**slowest / 2e6 if slowest else 0.0, room))

    def _weigh(self, children: list[Child]) -> Iterator[Fact]:
        self._forget_deaths()
        used = memory.pressure()
        is_short = used is not None and used >= SHORT
        self._largest = 0
        for child in children:
            settings = child.blueprint.settings
            is_limited = settings.max_worker_memory or settings.max_worker_memory_hard
            matters = is_limited or is_short or (settings.max_workers and used is not None)
            if matters and (size := memory.weigh(child.pid)) is not None:
                self._largest = max(self._largest, size)
                yield facts.Weighed(child.id, size)
        if used is not None and is_short:
            yield facts.MemoryShort(used)

    def _forget_deaths(self) -> None:
        """Whom the kernel killed `WEIGHING` seconds ago was no worker, but a program that one had started."""
        before, self._oom_kills = self._oom_kills, memory.oom_kills()
        if before is not None and self._explained is not None:
            self._explained = max(self._explained, before)

    def _touch(self) -> int | None:
        try:
            return os.stat(self._watched).st_mtime_ns if self._watched else None
        except OSError:
            return None


def _is_stuck(child: Child, now: float) -> Iterator[Fact]:
    deadline = child.row.deadline()
    granted, slept = child.forgiven
    allowed = deadline + slept if deadline == granted else deadline
    if deadline and now > allowed and deadline != child.accused:
        child.accused = deadline
        yield facts.Overdue(child.id, next(iter(child.requests(now)), child.row.describe(now)))


def _is_slow(child: Child, now: float) -> Iterator[Fact]:
    limit = child.blueprint.settings.slow_request_time
    for thread, row in enumerate(child.rows if limit else ()):
        started = row.started()
        if started and now - started > limit and started != child.slow.get(row):
            child.slow[row] = started
            yield facts.Slow(child.id, row.describe(now, thread))
