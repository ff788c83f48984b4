"""How much memory workers use and how much is left: /proc and the control groups' counters.

Supervisor side, thin: each function reads small files and gives numbers, or None where the kernel has no answer. Sources:
proc(5) (smaps_rollup, statm), the kernel's cgroup-v2.rst (memory.current, memory.max, memory.events) and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from arbiter.config.cgroups import directories, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
RESERVE: Final = 0.1
"""The part of a memory limit that is not planned with: other processes of the group, and peaks, live in it."""
UNLIMITED: Final = 1 << 60
"""Version 1 writes "no limit" as the largest page-aligned number; anything of this size is none."""


def weigh(pid: int, read: Callable[[str], str | None] = read_file) -> int | None:
    """The memory of a process in bytes: PSS, which shares what is shared, or RSS where PSS may not be read."""
    for line in (read(f"/proc/{pid}/smaps_rollup") or "").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    fields = (read(f"/proc/{pid}/statm") or "").split()
    return int(fields[1]) * PAGE if len(fields) > 1 else None


def pressure(read: Callable[[str], str | None] = read_file) -> float | None:
    """How full the fullest memory limit above this process is, 0..1; None where nothing limits it.

    The page cache is not counted (the kernel gives it back first): what counts is what only killing would free.
    """
    found = [used / limit for used, limit in _usage(read)]
    return max(found, default=None)


def left(read: Callable[[str], str | None] = read_file) -> float | None:
    """Bytes up to the nearest memory limit above this process, with the reserve of `RESERVE`; None where nothing limits it."""
    return min((limit * (1 - RESERVE) - used for used, limit in _usage(read)), default=None)


def oom_kills(read: Callable[[str], str | None] = read_file) -> int | None:
    """How many processes the kernel has killed for memory in this process's own control group; None where it does not count."""
    for version, directory in directories("memory", read):
        text = read(f"{directory}/memory.events") if version == 2 else read(f"{directory}/memory.oom_control")
        for line in (text or "").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return None


def _usage(read: Callable[[str], str | None]) -> Iterator[tuple[int, int]]:
    for version, directory in directories("memory", read):
        names = ("memory.current", "memory.max") if version == 2 else ("memory.usage_in_bytes", "memory.limit_in_bytes")
        used, limit = (_number(read(f"{directory}/{name}")) for name in names)
        if used is None or limit is None or not 0 < limit < UNLIMITED:
            continue
        cache = 0
        below = "" if version == 2 else "total_"  # version 1 counts apart what is the group's own and what is below it too
        for line in (read(f"{directory}/memory.stat") or "").splitlines():
            name, _, number = line.partition(" ")
            if name in (f"{below}inactive_file", f"{below}active_file"):
                cache += int(number)
        yield max(0, used - cache), limit


def _number(text: str | None) -> int | None:
    text = (text or "").strip()
    return int(text) if text.isdigit() else None
