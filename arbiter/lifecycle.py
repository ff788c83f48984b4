"""The life of a worker and of the service, as two total tables.

Forward only: no event ever takes a worker back to an earlier phase, and every (phase, event) pair has an answer, so
that a message that arrives late (READY from a worker that is being retired) is answered by the table and not by a
special case.
Pure: no clock, no system call.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(IntEnum):
    """Where a worker is in its life; the order of the numbers is the order of a life."""

    BOOTING = 1
    READY = 2
    RETIRING = 3
    """It accepts nothing new, or is about to be told so; it has a deadline."""
    KILLED = 4
    """SIGKILL was sent; only its exit is missing."""
    GONE = 5

    @property
    def is_active(self) -> bool:
        """Whether it fills its slot: it serves, or is on its way to."""
        return self <= Phase.READY


class Happening(Enum):
    """What can befall a worker."""

    SAID_READY = "said ready"
    SAID_FAILED = "said failed"
    SAID_RETIRING = "said retiring"
    TOLD_TO_RETIRE = "told to retire"
    TOLD_TO_DIE = "told to die"
    EXITED = "exited"
    NOT_FORKED = "not forked"


_B, _R, _T, _K, _G = Phase.BOOTING, Phase.READY, Phase.RETIRING, Phase.KILLED, Phase.GONE

_LIVES: Final[Mapping[Happening, tuple[Phase, Phase, Phase, Phase, Phase]]] = {
    #  when:                   BOOTING  READY  RETIRING  KILLED  GONE
    Happening.SAID_READY:      (_R,     _R,    _T,       _K,     _G),
    Happening.SAID_FAILED:     (_T,     _T,    _T,       _K,     _G),
    Happening.SAID_RETIRING:   (_T,     _T,    _T,       _K,     _G),
    Happening.TOLD_TO_RETIRE:  (_T,     _T,    _T,       _K,     _G),
    Happening.TOLD_TO_DIE:     (_K,     _K,    _K,       _K,     _G),
    Happening.EXITED:          (_G,     _G,    _G,       _G,     _G),
    Happening.NOT_FORKED:      (_G,     _G,    _G,       _G,     _G),
}  # fmt: skip

NEXT: Final[Mapping[tuple[Phase, Happening], Phase]] = {
    (phase, happening): row[phase - 1] for happening, row in _LIVES.items() for phase in Phase
}
"""The phase that follows: total over Phase x Happening."""


class Standing(IntEnum):
    """Where the service is in its life; the order of the numbers is the order of a life."""

    STARTING = 1
    """No worker has ever been ready: the only time in which a failure may end the service."""
    SERVING = 2
    DRAINING = 3
    """All is served as before, but health checks say no: whoever balances the load has `drain_delay` to turn away."""
    STOPPING = 4
    """Workers finish their requests, up to `graceful_timeout`."""
    QUITTING = 5
    """Workers are interrupted and have a moment to clean up."""
    KILLING = 6
    """SIGKILL to all."""
    ENDED = 7

    @property
    def is_leaving(self) -> bool:
        """Whether the end has been asked for: what the service is now is what it stays."""
        return self >= Standing.DRAINING

    @property
    def is_ending(self) -> bool:
        """Whether the service is on its way out: nothing may be forked any more."""
        return self >= Standing.STOPPING


class Ask(Enum):
    """What an operator can ask of the whole service about its end."""

    STOP = "stop"
    """TERM: graceful."""
    QUIT = "quit"
    """INT, QUIT: quick."""


_S = Standing
_STANDINGS: Final[Mapping[Ask, tuple[Standing, ...]]] = {
    #  when:   STARTING      SERVING       DRAINING      STOPPING      QUITTING     KILLING      ENDED
    Ask.STOP:  (_S.STOPPING, _S.DRAINING,  _S.STOPPING,  _S.QUITTING,  _S.KILLING,  _S.KILLING,  _S.ENDED),
    Ask.QUIT:  (_S.QUITTING, _S.QUITTING,  _S.QUITTING,  _S.QUITTING,  _S.KILLING,  _S.KILLING,  _S.ENDED),
}  # fmt: skip

THEN: Final[Mapping[tuple[Standing, Ask], Standing]] = {
    (standing, ask): row[standing - 1] for ask, row in _STANDINGS.items() for standing in Standing
}
"""The standing that follows: total over Standing x Ask. Asking twice escalates; a time of its own ends DRAINING too."""


class Judgement(IntEnum):
    """Where a generation (one accepted configuration and the code it loads) is in its life."""

    TRIAL = 1
    """One canary decides."""
    ROLLING = 2
    """It has proven itself: workers are forked from it, slot by slot."""
    CURRENT = 3
    """Every slot has a ready worker of it."""
    OUTGOING = 4
    """Its workers serve until their successors are ready."""
    REFUSED = 5
    """Its canary failed, or a newer candidate took its place."""
