"""What /proc tells of a server: its processes, their titles, what they have open. Linux only, as the servers under test are."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Process(NamedTuple):
    """A line of /proc."""

    pid: int
    parent: int
    session: int
    state: str
    title: str

    @property
    def slot(self) -> int:
        """Of a worker: the number in its title; 0 for every other process."""
        found = re.match(r"arbiter: worker (\d+) ", self.title)
        return int(found[1]) if found else 0

    @property
    def is_template(self) -> bool:
        """Whether workers are forked from it (`--preload`)."""
        return self.title.startswith("arbiter: template ")

    @property
    def generation(self) -> int:
        """Of a worker or a template: the generation in its title; 0 for every other process."""
        found = re.match(r"arbiter: (?:worker \d+|template) \(gen (\d+)\)", self.title)
        return int(found[1]) if found else 0


def pids(found: Iterable[Process]) -> list[int]:
    """Who they are: the rest of a line of /proc changes all the time."""
    return [process.pid for process in found]


def everyone() -> Iterator[Process]:
    """All processes that there are."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (found := find(int(entry))):
            yield found


def find(pid: int) -> Process | None:
    """The process of this number, None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The name in parentheses may hold spaces: proc(5). Then state, ppid, pgrp, session.
            state, parent, _, session, *_ = file.read().rpartition(") ")[2].split()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(pid, int(parent), int(session), state, title)


def descriptors(pid: int) -> list[str]:
    """What the open descriptors of a process lead to."""
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(re.sub(r":\[\d+\]", "", os.readlink(f"/proc/{pid}/fd/{entry}")))
    return sorted(found)


def lowest_free_descriptor(pid: int) -> int:
    """The number that the next descriptor of a process gets; a limit of this many (RLIMIT_NOFILE) makes that fail."""
    taken = {int(entry) for entry in os.listdir(f"/proc/{pid}/fd")}
    return next(number for number in itertools.count() if number not in taken)


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime: proc(5)


def memory(pid: int) -> int:
    """The proportional share of memory (PSS) of a process, in bytes: what it shares with n others counts one nth."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def shared_memory(pid: int) -> set[str]:
    """Files in /dev/shm that a process has mapped."""
    try:
        with open(f"/proc/{pid}/maps") as maps:
            return {line.split(maxsplit=5)[5].strip() for line in maps if "/dev/shm/" in line}
    except (FileNotFoundError, ProcessLookupError):
        return set()
