"""The policy of an upgrade: one supervisor after another on the same sockets. Pure, like `fleet`, of which it is a part.

A new supervisor is started beside this one and serves beside it; only when all its workers are ready does it take over, so
capacity never falls. If it fails before, nothing has changed. While this one is still here it takes the service back from a
successor that dies, and from one that only ends too, as long as it is kept for that (`upgrade_keep`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter import facts
from arbiter.facts import Force, HandOver, Launch, StopSuccessor, TakeBack, Tell
from arbiter.news import News

if TYPE_CHECKING:
    from arbiter.facts import Effect, Plan, SuccessorFact

LAUNCH_GRACE: Final = 10.0
"""Seconds for a successor beyond the two boots in a row that it needs (its first worker, then all others at once): the start
of an interpreter and the reading of settings take less than one on a machine that is not overloaded."""
END_GRACE: Final = 10.0
"""Seconds for a successor to end beyond its `graceful_timeout`: it kills its own workers within 5."""
KILL_GRACE: Final = 5.0
"""Seconds in which SIGKILL must have worked, as in `fleet`."""


class Heir(IntEnum):
    """Where the successor is in its life. From every state it may be gone, which is NONE again."""

    NONE = 1
    STARTING = 2
    REIGNING = 3
    """It has taken over; this supervisor has no workers, and waits for them to leave and for the end of its keep."""
    LEAVING = 4
    """It is not wanted any more, and was asked to end."""
    KILLED = 5

    @property
    def is_ending(self) -> bool:
        """Whether only its exit is missing."""
        return self >= Heir.LEAVING


_BUSY: Final = {
    Heir.STARTING: "one is under way",
    Heir.REIGNING: "the new supervisor has taken over; send it to that one",
    Heir.LEAVING: "the new supervisor of the last one has not ended yet",
    Heir.KILLED: "the new supervisor of the last one has not ended yet",
}


@dataclass(slots=True)
class Succession:
    """At most one successor at a time."""

    heir: Heir = Heir.NONE
    leave_at: float = inf
    """When this supervisor's keep ends."""
    deadline: float = inf
    """When the successor must have done what its state waits for."""
    is_over: bool = False
    """Whether the service is at its end: nothing is taken back any more."""
    effects: list[Effect] = field(default_factory=list)

    def observe(self, fact: SuccessorFact, now: float, plan: Plan, generation: int, refusal: str) -> None:
        """Enter a fact. `generation` is for the log; `refusal` is why no upgrade may start now, or empty."""
        match fact, self.heir:
            case facts.UpgradeAsked(obstacle), heir:
                if why := _BUSY.get(heir) or obstacle or refusal:
                    self.effects.append(Tell(News.UPGRADE_IGNORED, generation, words={"why": why}))
                    return
                self._enter(Heir.STARTING, now + 2 * plan.boot_timeout + LAUNCH_GRACE if plan.boot_timeout else inf)
                self.effects += [Launch(), Tell(News.UPGRADE, generation)]
            case facts.SuccessorReady(), Heir.STARTING:
                self._enter(Heir.REIGNING, inf)
                keep, self.leave_at = plan.upgrade_keep, now + plan.upgrade_keep
                then = f"stays for {keep:g} s in case that one fails" if keep else "leaves"
                self.effects += [HandOver(), Tell(News.HANDED_OVER, generation, words={"then": then})]
            case facts.SuccessorGone(how), Heir.STARTING:
                self._enter(Heir.NONE, inf)
                self.effects.append(Tell(News.UPGRADE_FAILED, generation, words={"how": how}))
            case facts.SuccessorGone(how, was_asked), Heir.REIGNING:
                self._enter(Heir.NONE, inf)
                # Once nobody waits for it to fail, whoever stops it means the service.
                self.is_over = self.is_over or (was_asked and now >= self.leave_at)
                news = News.ENDED_TOO if self.is_over else News.TAKEN_BACK
                self.effects += [TakeBack(), Tell(news, generation, words={"how": how})]
                self.leave_at = inf
            case facts.SuccessorGone(), _:
                self._enter(Heir.NONE, inf)

    def enforce(self, now: float, plan: Plan, generation: int) -> None:
        """Act on the deadline, if it has passed."""
        if now < self.deadline:
            return
        match self.heir:
            case Heir.STARTING:
                how = f"did not have all its workers ready within {2 * plan.boot_timeout + LAUNCH_GRACE:g} s"
                self.effects.append(Tell(News.UPGRADE_FAILED, generation, words={"how": how}))
                self._dismiss(now, plan)
            case Heir.LEAVING:
                self._kill(now)
            case _:
                self._enter(Heir.NONE, inf)  # it hangs in the kernel: nothing more can be done, and nobody waits for it

    def reclaim(self, now: float, plan: Plan, generation: int) -> None:
        """All workers of this supervisor are ready again, by order: the service is its own again."""
        if self.heir is Heir.REIGNING:
            self.leave_at = inf
            self.effects += [TakeBack(), Tell(News.RECLAIMED, generation)]
            self._dismiss(now, plan)

    def end(self, now: float, plan: Plan, *, at_once: bool) -> None:
        """The service is to end: so is a successor that has not taken it over."""
        self.is_over = True
        if self.heir is Heir.STARTING:
            self._dismiss(now, plan)
        if self.heir is Heir.LEAVING and at_once:
            self._kill(now)

    def _enter(self, heir: Heir, deadline: float) -> None:
        self.heir, self.deadline = heir, deadline

    def _dismiss(self, now: float, plan: Plan) -> None:
        self._enter(Heir.LEAVING, now + plan.graceful_timeout + END_GRACE)
        self.effects.append(StopSuccessor(Force.ASK))

    def _kill(self, now: float) -> None:
        self._enter(Heir.KILLED, now + KILL_GRACE)
        self.effects.append(StopSuccessor(Force.END))
