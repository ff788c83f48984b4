"""The policy of an upgrade: one supervisor after another on the same sockets. Pure, like `fleet`, of which it is a part.

A new supervisor is started beside this one and serves beside it; only when its first worker is ready does it take over. If
it fails before, nothing has changed. If it fails while the old one is still kept (`upgrade_keep`), the old one takes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING

from arbiter import facts
from arbiter.facts import HandOver, Launch, StopSuccessor, TakeBack, Tell
from arbiter.news import News

if TYPE_CHECKING:
    from arbiter.facts import Effect, SuccessorFact


class Heir(IntEnum):
    """Where the successor is in its life."""

    NONE = 1
    STARTING = 2
    REIGNING = 3
    """It has taken over; this supervisor has no workers, and waits for the end of its keep."""


@dataclass(slots=True)
class Succession:
    """At most one successor at a time. `generation` is for the log."""

    heir: Heir = Heir.NONE
    leave_at: float = inf
    """When this supervisor's keep ends."""
    effects: list[Effect] = field(default_factory=list)

    def observe(self, fact: SuccessorFact, now: float, keep: float, generation: int, refusal: str) -> None:
        """Enter a fact; `refusal` is why no upgrade may start now, or empty."""
        match fact, self.heir:
            case facts.UpgradeAsked(), Heir.NONE if not refusal:
                self.heir = Heir.STARTING
                self.effects += [Launch(), Tell(News.UPGRADE, generation)]
            case facts.UpgradeAsked(), _:
                why = refusal or "one is under way"
                self.effects.append(Tell(News.UPGRADE_IGNORED, generation, words={"why": why}))
            case facts.SuccessorReady(), Heir.STARTING:
                self.heir = Heir.REIGNING
                self.leave_at = now + keep
                then = f"stays for {keep:g} s in case that one fails" if keep else "leaves"
                self.effects += [HandOver(), Tell(News.HANDED_OVER, generation, words={"then": then})]
            case facts.SuccessorGone(how), Heir.STARTING:
                self.heir = Heir.NONE
                self.effects.append(Tell(News.UPGRADE_FAILED, generation, words={"how": how}))
            case facts.SuccessorGone(how), Heir.REIGNING:
                self.heir, self.leave_at = Heir.NONE, inf
                self.effects += [TakeBack(), Tell(News.TAKEN_BACK, generation, words={"how": how})]

    def end(self) -> None:
        """The service is to end: so is a successor that does not serve yet."""
        if self.heir is Heir.STARTING:
            self.effects.append(StopSuccessor())
