"""What the service manager is told of the service, and when. Pure: from the books and the clock to lines of sd_notify(3).

READY, RELOADING and STOPPING follow the books: what is said is the difference between what they say and what was said
last, so nothing can be said twice or in the wrong order. Two promises are kept by repeating them, and only while they are
true: EXTEND_TIMEOUT_USEC while something goes on that has a deadline of our own, WATCHDOG while the service is looked after.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from arbiter.lifecycle import Judgement, Phase, Standing
from arbiter.news import News
from arbiter.succession import Heir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbiter.fleet import Fleet

STATUS_PERIOD: Final = 1.0
"""Seconds between two STATUS lines that tell no more than other numbers."""
STATUS_LENGTH: Final = 500
"""Characters of a STATUS line: a few lines of a terminal. The manager takes datagrams of up to 4096 bytes (PIPE_BUF)."""
EXTENSION: Final = 15.0
"""Seconds that the manager is asked to wait longer for a start, a reload or a stop, again and again: long enough for a
loaded machine, and shorter than the longest back-off (`books.BOOT_DELAY`), so that a crash loop is not extended for ever."""


class Notices:
    """Remembers what has been said."""

    def __init__(self, watchdog: float) -> None:
        """`watchdog`: how often the manager wants to hear from us, in seconds (WatchdogSec=); 0.0: never."""
        self._period = watchdog / 2  # as sd_watchdog_enabled(3) advises
        self._pat_at = -inf
        self._told = Standing.STARTING
        self._reloading = 0
        self._is_rehearsing = False
        """Whether the reload has not come to a candidate yet."""
        self.refusal = ""
        """Why the last reload that was decided was refused, and when; empty if it was not."""
        self._failure = ""
        self._status = ""
        self._status_at = -inf
        self._extended_at = -inf
        self.reloads = 0
        """How many have been asked for."""
        self.latest = 0
        """The number of the generation that the last of them was to become."""

    def reload(self, fleet: Fleet, number: int, usec: int) -> list[str]:
        """The lines for a reload that is taken up now, be it refused the next moment.

        `number` is that of the generation that is to come of it, and `usec` CLOCK_MONOTONIC in microseconds, by which the
        manager knows whether a message is the answer to its signal.
        """
        self.reloads += 1
        self.latest = number
        self._is_rehearsing = True
        is_serving = fleet.standing is self._told is Standing.SERVING
        if not is_serving or fleet.succession.heir is Heir.REIGNING:
            return []
        # A second one during the first makes one long reload: the service is ready again when the last is decided.
        self._reloading = self._reloading or number
        return ["RELOADING=1", f"MONOTONIC_USEC={usec}"]

    def propose(self) -> None:
        """The reload has come to a candidate: from now on the books know how far it is."""
        self._is_rehearsing = False

    def refuse(self, why: str, clock: str) -> None:
        """A reload has been refused at the time of day `clock`: to be seen in the status until one succeeds."""
        self._is_rehearsing = False
        self._remember(why, clock)

    def _remember(self, why: str, clock: str) -> None:
        self.refusal = f"last reload refused {clock}: {why}"

    def is_reloading(self, fleet: Fleet) -> bool:
        """Whether the last reload that was asked for has not come to its end."""
        return not fleet.standing.is_leaving and (self._is_rehearsing or _is_undecided(fleet, self.latest))

    def hear(self, news: News, words: Mapping[str, object], clock: str) -> None:
        """Remember what the status shows of what was logged."""
        match news:
            case News.REFUSED:
                self._remember(str(words["why"]), clock)
            case News.UPGRADING:  # who waits for the reload is to know that nothing has come of it
                self._remember("an upgrade was under way, which loads everything anew", clock)
            case News.PROMOTED:
                self.refusal = ""
            case News.NEVER_SERVED | News.GAVE_UP:
                self._failure = news.sentence.format(**words).partition("\n")[0]

    def turn(self, fleet: Fleet, busy: int, *, is_responsive: bool, now: float) -> list[str]:
        """The lines to send after a turn of the loop, all in one datagram.

        `busy` is how many workers are in a request, `is_responsive` whether any keeps the deadline that it grants itself.
        """
        if fleet.succession.heir is Heir.REIGNING:
            return []  # the service is our successor's, and so is the manager's ear
        if lines := self._changes(fleet):
            self._extended_at = -inf  # another of the manager's clocks runs from now on
        status = one_line(self._failure or describe(fleet, busy, self._reloading, self.refusal))
        is_due = lines or now >= self._status_at + STATUS_PERIOD or fleet.standing is Standing.ENDED
        if status != self._status and is_due:
            self._status, self._status_at = status, now
            lines.append(f"STATUS={status}")
        if now >= self._extended_at + EXTENSION / 3 and needs_time(fleet, self._reloading):
            self._extended_at = now
            lines.append(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
        if self._period and now >= self._pat_at and is_looked_after(fleet, is_responsive=is_responsive):
            self._pat_at = now + self._period
            lines.append("WATCHDOG=1")
        return lines

    def wake_at(self, now: float) -> float:
        """When something is to be said though nothing happens; `inf` for never. What is overdue waits for the next turn."""
        return self._pat_at if self._pat_at > now else inf

    def _changes(self, fleet: Fleet) -> list[str]:
        before, self._told = self._told, fleet.standing
        if fleet.standing.is_leaving:
            return [] if before.is_leaving else ["STOPPING=1"]
        if fleet.standing is Standing.STARTING:
            return []
        if before is Standing.STARTING:
            return ["READY=1"]
        if self._reloading and not self._is_rehearsing and not _is_undecided(fleet, self._reloading):
            self._reloading = 0
            return ["READY=1"]
        return []


def describe(fleet: Fleet, busy: int | None = None, reloading: int = 0, refusal: str = "") -> str:
    """The service in a line: ``4/4 ready, 1 busy, gen 7, last reload refused 12:01: ...``.

    `busy` is how many workers are in a request, None to say nothing of it; `reloading` the first generation of the reload
    that is under way, 0 for none; `refusal` is said of an earlier one.
    """
    if fleet.standing is Standing.ENDED:
        return "stopped"
    if fleet.standing.is_ending:
        return f"stopping: {len(fleet.workers)} left" + ("" if busy is None else f", {busy} busy")
    serving = {worker.id.slot for worker in fleet.active if worker.serves and worker.id.slot <= fleet.count}
    if not (current := fleet.current):
        return f"starting: {len(serving)}/{fleet.count} ready"
    said = ["resting by order" if fleet.resting else f"{len(serving)}/{fleet.count} ready"]
    if busy is not None:
        said.append(f"{busy} busy")
    said.append(f"gen {current.number}")
    if fleet.candidate:
        said.append(f"gen {fleet.candidate.number} on trial")
    elif reloading and _is_undecided(fleet, reloading):
        said[-1] += " rolling out"
    if fleet.standing is Standing.DRAINING:
        said.append("draining")
    if refusal:
        said.append(refusal)
    return ", ".join(said)


def needs_time(fleet: Fleet, reloading: int) -> bool:
    """Whether a start, a reload or a stop goes on which the fleet itself will end in time.

    It is the fleet's deadlines that count then (`boot_timeout`, `drain_delay`, `graceful_timeout`), however the unit sets its
    own: the manager's are for a supervisor that does not run.
    """
    if fleet.standing.is_leaving:
        return bool(fleet.workers)
    is_moving = any(worker.phase is not Phase.READY for worker in fleet.workers.values())
    if fleet.standing is Standing.STARTING:
        return is_moving
    return bool(reloading) and (is_moving or bool(fleet.candidate and fleet.candidate.canary))


def is_looked_after(fleet: Fleet, *, is_responsive: bool) -> bool:
    """Whether the manager has no reason to start the whole service anew.

    It has none while workers boot, or wait for their back-off: when the cause is outside (a database that is down), a new
    start fails as well, and then the service stays down, where this supervisor tries on.
    """
    return (
        is_responsive
        or fleet.standing is not Standing.SERVING
        or fleet.resting
        or fleet.candidate is not None
        or any(worker.phase is Phase.BOOTING for worker in fleet.active)
        or fleet.retry_at < inf
    )


def one_line(text: str) -> str:
    """`text` as a STATUS may have it: no line break, which would begin another message, and no more than fits."""
    line = " ".join(text.split())
    return line if len(line) <= STATUS_LENGTH else f"{line[: STATUS_LENGTH - 3]}..."


def _is_undecided(fleet: Fleet, reloading: int) -> bool:
    """Whether the reload that began with this generation goes on: in its trial, or in the roll of what has stood it."""
    if fleet.candidate:
        return True
    return bool(fleet.current and fleet.current.number >= reloading and fleet.current.judgement is Judgement.ROLLING)
