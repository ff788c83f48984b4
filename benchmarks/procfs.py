"""The processor time and the memory of a server: all processes of its session, as /proc has them (proc(5)).

A server is started as the leader of a session, so whatever it forks is found, orphans included.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds in one unit of the kernel's times: 10 ms, and so 1 % of a second."""


class Process(NamedTuple):
    """What a line of /proc/PID/stat says."""

    pid: int
    session: int
    ticks: int
    """User and system time of it."""
    reaped: int
    """And of the children that it has waited for: one that ends meanwhile is counted once."""


def parse(stat: str) -> Process:
    """The process of this line."""
    pid, _, rest = stat.partition(" (")
    fields = rest.rpartition(") ")[2].split()  # the name may hold parentheses and spaces; `fields` begins with its field 3
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return Process(int(pid), int(fields[3]), utime + stime, cutime + cstime)


def members(session: int) -> list[Process]:
    """The processes of a session, the dead that nobody has waited for included."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (text := _read(f"/proc/{entry}/stat")):
            process = parse(text)
            if process.session == session:
                found.append(process)
    return found


def cpu_seconds(session: int) -> float:
    """User and system time that the session's processes have used since they began."""
    return sum(map(_seconds, members(session)))


def _seconds(process: Process) -> float:
    """Its clock (clock_getcpuclockid(3)) has no ticks; what its children have left has."""
    try:
        own = time.clock_gettime((~process.pid << 3) | 2)
    except OSError:  # it has just ended
        own = process.ticks * TICK
    return own + process.reaped * TICK


def pss_bytes(session: int) -> int:
    """The memory of the session's processes; of what several share, each has its part."""
    return sum(
        int(line.split()[1]) * 1024
        for process in members(session)
        for line in _read(f"/proc/{process.pid}/smaps_rollup").splitlines()
        if line.startswith("Pss:")
    )


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it has just ended
