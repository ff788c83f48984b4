"""The books of the policy: what it remembers of a worker, a slot and a generation, and how long it lets a slot wait.

Plain records; every rule about them is in `fleet`. Pure, like it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter.lifecycle import Judgement, Phase

if TYPE_CHECKING:
    from arbiter.facts import Plan, SaidFailed
    from arbiter.workers.contract import WorkerId

FIRST_DELAY: Final = 0.25
BOOT_DELAY: Final = 30.0
"""Longest back-off, in seconds, of a slot whose workers fail to boot: the cause (a broken file, a database that is down) is
outside, and each try costs a whole import."""
SERVED_DELAY: Final = 2.0
"""Longest back-off of a slot whose workers die after having been ready. Short, because the cause may be one client's
request: a long one would let that client switch the service off."""
GOLDEN: Final = 0.6180339887498949
"""Fraction of the golden ratio: its multiples modulo 1 are spread evenly, which is what a jitter between slots is for. No
random source is needed, and the policy stays a function of its inputs."""


@dataclass(slots=True)
class Worker:
    """What the books say of one worker."""

    id: WorkerId
    generation: int
    born: float
    phase: Phase = Phase.BOOTING
    since: float = 0.0
    """When it entered its phase."""
    deadline: float = inf
    """When its phase must be over."""
    dump_at: float = inf
    """When its stacks are to be shown, because its deadline is near."""
    ready_at: float = inf
    spent: str = ""
    """Why it is to be replaced, while it serves on."""
    why: str = ""
    """Why it is leaving; empty for one that leaves without having been asked."""
    fault: str = ""
    """What it did wrong, as the rest of a sentence; empty for one that only obeys."""
    hung_up: bool = False
    condemned: bool = False
    """Whether it is to be killed as soon as its stacks have been shown."""
    failure: SaidFailed | None = None
    size: int = 0
    """Bytes of memory, when it was last weighed."""

    @property
    def serves(self) -> bool:
        """Whether it can be relied on: ready, and not known to be on its way out."""
        return self.phase is Phase.READY and not self.hung_up

    @property
    def jitter(self) -> float:
        """A number in 0..1 that is its own: spread evenly over the workers."""
        return self.id.spawn * GOLDEN % 1


@dataclass(slots=True)
class Slot:
    """What is remembered of a place when its worker has gone."""

    failures: int = 0
    retry_at: float = -inf


@dataclass(slots=True)
class Generation:
    """One accepted configuration, as far as the policy is concerned."""

    number: int
    plan: Plan
    judgement: Judgement = Judgement.TRIAL
    canary: Worker | None = None


def delay(failures: int, longest: float, worker: Worker) -> float:
    """Back-off before the next try, in seconds: 0, 0.25, 0.5, ... `longest`, shortened by up to a quarter."""
    if failures <= 1:
        return 0.0
    return min(longest, FIRST_DELAY * 2.0 ** min(failures - 2, 16)) * (1 - 0.25 * worker.jitter)
