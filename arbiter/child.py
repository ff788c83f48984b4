"""A worker process seen from its parent: the handle that `kernel` keeps and `lookout` looks at."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

from arbiter.workers.contract import Decoder

if TYPE_CHECKING:
    import socket

    from arbiter.blueprint import Blueprint
    from arbiter.workers.contract import Row, WorkerId


@dataclass(slots=True)
class Child:
    """Known by its pid until it is reaped, and not a moment longer."""

    id: WorkerId
    pid: int
    blueprint: Blueprint
    channel: socket.socket
    stacks: int
    """Read end of the pipe into which its stacks are dumped; non-blocking."""
    row: Row
    decoder: Decoder = field(default_factory=Decoder)
    accused: float = 0.0
    """The self-granted deadline about which it has been reported."""
    forgiven: tuple[float, float] = (0.0, 0.0)
    """A self-granted deadline, and how much time it did not have because everything slept."""
    slow: float = 0.0
    """When the request began about which it has been reported as slow."""
    dump_by: float = inf
    """Until when its stacks may take to come; `inf`: they have not been asked for."""
    was_killed: bool = False
    """Whether we sent it SIGKILL: then its death needs no other explanation."""

    def read_stacks(self) -> str:
        """What has been dumped so far, without the frames that are the supervisor's own, from before the fork."""
        pieces = []
        try:
            while piece := os.read(self.stacks, 65536):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return _without_ours(b"".join(pieces).decode("utf-8", "replace"))

    def close(self) -> None:
        """Let go of the descriptors."""
        self.channel.close()
        if self.stacks >= 0:
            os.close(self.stacks)
            self.stacks = -1


def _without_ours(stacks: str) -> str:
    """The text of faulthandler, each thread's stack cut where `spawn` has forked."""
    kept, is_ours = [], False
    for line in stacks.splitlines():
        is_frame = line.startswith("  ")
        is_ours = is_frame and (is_ours or _FORK in line)
        if not is_ours:
            kept.append(line)
    return "\n".join(kept)


_FORK: Final = '/arbiter/spawn.py", line'
