"""What goes up to the policy (facts) and what comes down from it (effects).

Facts are past or indicative, effects imperative. Both are plain values: nothing here has an opinion, and nothing here can
touch the operating system. Times are never in a fact: `Fleet.observe` is given the clock with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbiter.autoscale import Sample
    from arbiter.lifecycle import Ask
    from arbiter.news import News
    from arbiter.workers.contract import WorkerId


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy needs of a generation's settings. Times in seconds; a timeout of 0 means never."""

    count: int
    surge: int
    """How many workers above `count` a reload or a replacement may use."""
    boot_timeout: float
    prove: float
    """How long a canary must stay ready before its generation is trusted."""
    graceful_timeout: float
    min_uptime: float
    """A worker that dies younger than this is part of a crash loop."""
    max_lifetime: float = 0.0
    """A worker that has been ready for so long is replaced."""
    max_lifetime_jitter: float = 0.0
    """Up to so much later."""
    max_worker_memory: int = 0
    """Bytes; a worker above it is replaced. 0: no limit."""
    max_worker_memory_hard: int = 0
    """Bytes; a worker above it is killed. 0: no limit."""
    give_up_after: float = 0.0
    """The service ends with an error when it had no ready worker for so long."""
    min_workers: int = 1
    """With `max_workers`: the fewest that the load may leave."""
    max_workers: int = 0
    """The most that the load may call for. 0: the count is fixed."""
    drain_delay: float = 0.0
    """How long a stop goes on serving while health checks already say no."""
    abort_grace: float = 0.0
    """How long a stuck worker may live on after it was told to abort; 0.0: it is not told."""
    upgrade_keep: float = 0.0
    """How long an old supervisor stays, without workers, once a new version has taken over."""


# Facts ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SaidReady:
    """The worker has loaded its application and accepts requests."""

    id: WorkerId
    serves: str = ""
    """What it has become by itself, and why; empty: what it was told."""


@dataclass(frozen=True, slots=True)
class SaidFailed:
    """The worker's boot failed; it exits by itself."""

    id: WorkerId
    during: str
    """What it was doing, for a sentence: ``importing shop.wsgi``."""
    error: str
    traceback: str
    code: int
    """The exit status that it asks for (`contract.Exit`)."""


@dataclass(frozen=True, slots=True)
class SaidSpent:
    """The worker asks to be replaced and serves on until then."""

    id: WorkerId
    why: str


@dataclass(frozen=True, slots=True)
class SaidRetiring:
    """The worker has stopped accepting on its own account."""

    id: WorkerId
    why: str


@dataclass(frozen=True, slots=True)
class HungUp:
    """The worker's channel is at its end: it is exiting, or can't be talked to any more."""

    id: WorkerId


@dataclass(frozen=True, slots=True)
class Overdue:
    """The worker has let the deadline pass that it had granted itself: it is stuck."""

    id: WorkerId
    doing: str
    """What the scoreboard says it was at, for a sentence: ``GET /report from 10.0.0.7:4711 for 3.2 s (in the application)``."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker has been reaped."""

    id: WorkerId
    code: int | None
    """Its exit status, or None when a signal ended it."""
    signal: str = ""
    """The name of that signal."""
    out_of_memory: bool = False
    """The kernel killed it because its control group's memory was used up; by the group's own counter."""
    doing: str = ""
    """The requests that it was in, for a sentence."""


@dataclass(frozen=True, slots=True)
class Slow:
    """The worker's request takes longer than `slow_request_time`; no harm is meant."""

    id: WorkerId
    doing: str


@dataclass(frozen=True, slots=True)
class Dumped:
    """What the worker's threads are at, as it was asked for by `Dump`."""

    id: WorkerId
    stacks: str
    """Its requests, and the stacks of its threads. Those are missing when it did not answer: stopped, or hung in the kernel."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """The worker uses so much memory."""

    id: WorkerId
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class NotForked:
    """``fork()`` failed: the worker never lived."""

    id: WorkerId
    error: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """New settings were resolved for a new generation; it wants a trial."""

    generation: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Scaled:
    """The operator wants this many workers more (or fewer)."""

    by: int


@dataclass(frozen=True, slots=True)
class Rest:
    """The operator wants no workers until further notice (WINCH)."""


@dataclass(frozen=True, slots=True)
class MemoryShort:
    """The memory that the service may use is nearly used up."""

    used: float
    """Of the limit, 0..1."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the workers did since the last such fact."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class DoorsEnded:
    """Nobody waits behind the shut doors any more, and the sockets are closed."""


@dataclass(frozen=True, slots=True)
class UpgradeAsked:
    """The operator wants a new supervisor, of what is installed now, to take over (USR2)."""

    obstacle: str = ""
    """What stands in its way on this machine, for a sentence; empty if nothing does."""


@dataclass(frozen=True, slots=True)
class SuccessorReady:
    """All workers of the new supervisor are ready."""


@dataclass(frozen=True, slots=True)
class SuccessorGone:
    """The new supervisor has ended, or could not be started."""

    how: str
    was_asked: bool = False
    """Whether it ended as one does that was asked to stop: with status 0."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The operator wants the service to end."""

    ask: Ask


@dataclass(frozen=True, slots=True)
class Slept:
    """The supervisor itself did not run for this long (stopped, suspended): time in which nobody could have been heard."""

    seconds: float


WorkerFact: TypeAlias = (
    SaidReady | SaidFailed | SaidSpent | SaidRetiring | HungUp | Overdue | Slow | Dumped | Weighed | Exited | NotForked
)
SuccessorFact: TypeAlias = UpgradeAsked | SuccessorReady | SuccessorGone
Fact: TypeAlias = WorkerFact | SuccessorFact | Proposed | Scaled | Rest | MemoryShort | Loaded | Asked | DoorsEnded | Slept


# Effects --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker of this generation under this name."""

    id: WorkerId
    generation: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask the worker over its channel to finish what it has and leave."""

    id: WorkerId
    last: bool = False
    """The whole service ends: what waits in the backlog is the worker's too."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Have all workers, also those that boot, say no to health checks, and serve on."""


class Force(Enum):
    """How hard a worker is pushed. The names of signals, so that policy needs nothing of the operating system."""

    ASK = "SIGTERM"
    INTERRUPT = "SIGQUIT"
    ABORT = "SIGABRT"
    """Only where there is a hook worker_abort: for what is stuck, together with `Dump`."""
    END = "SIGKILL"


@dataclass(frozen=True, slots=True)
class Kill:
    """Send the worker this signal."""

    id: WorkerId
    force: Force


@dataclass(frozen=True, slots=True)
class Dump:
    """Have the worker's stacks shown, whatever it does; answered by `Dumped`."""

    id: WorkerId


@dataclass(frozen=True, slots=True)
class ShutDoors:
    """Let no new connection in; those that wait stay, and are served."""


@dataclass(frozen=True, slots=True)
class EndDoors:
    """Close the shut doors if nobody waits behind them; answered by `DoorsEnded` if so."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a new supervisor on the same sockets."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """The successor is the service now: its are the pid file and the service manager's attention."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The successor is gone: ours is what was handed over."""


@dataclass(frozen=True, slots=True)
class StopSuccessor:
    """The successor is not wanted any more: send it this signal."""

    force: Force


@dataclass(frozen=True, slots=True)
class Serving:
    """The service is up: its first worker is ready. Once in a life."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Every slot has a ready worker for the first time. Once in a life, at most."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """The generation has proven itself: from now on it is the one that the service goes by."""

    generation: int


@dataclass(frozen=True, slots=True)
class Forget:
    """No worker of this generation is left, and none will be forked: let go of what it holds."""

    generation: int


@dataclass(frozen=True, slots=True)
class Finish:
    """All is over: leave with this status (`contract.Exit`)."""

    code: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Log this."""

    news: News
    generation: int
    id: WorkerId | None = None
    words: Mapping[str, object] = field(default_factory=dict)
    """What the sentence of the news is filled with."""


Effect: TypeAlias = (
    Fork
    | Retire
    | Drain
    | Kill
    | Dump
    | ShutDoors
    | EndDoors
    | Launch
    | HandOver
    | TakeBack
    | StopSuccessor
    | Serving
    | Complete
    | Adopt
    | Forget
    | Finish
    | Tell
)
