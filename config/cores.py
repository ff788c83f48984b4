"""How many cores this process may really use, and why: CPU affinity, then the CPU quota of its control groups.

A container with `--cpus 1.5` on a 64-core machine still sees 64 CPUs; only its cgroup knows better. A quota holds for
everything below it, so the smallest on the way to the root wins.
Sources: the kernel's cgroup-v2.rst ("cpu.max") and sched-bwc.rst ("cpu.cfs_quota_us").
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, NamedTuple

from arbiter.config.cgroups import directories, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cores(NamedTuple):
    """A number of cores, at least 1, and what limits it."""

    number: int
    why: str


def usable_cores(affinity: int, read: Callable[[str], str | None]) -> Cores:
    """The cores a process may use, given how many CPUs it may run on.

    `read` gives a file's text, or None when there is none. A quota is rounded up: 1.5 CPUs keep two workers busy.
    """
    quota = min(_quotas(read), default=math.inf)
    if quota < affinity:
        return Cores(max(1, math.ceil(quota)), f"cgroup quota of {quota:g} CPUs")
    return Cores(max(1, affinity), "affinity")


def _quotas(read: Callable[[str], str | None]) -> Iterator[float]:
    """The quota, in CPUs, of every control group above this process that has one."""
    for version, directory in directories("cpu", read):
        if version == 2:
            quota, _, period = (read(f"{directory}/cpu.max") or "").partition(" ")
            yield from _ratio(quota, period)
        else:
            yield from _ratio(read(f"{directory}/cpu.cfs_quota_us"), read(f"{directory}/cpu.cfs_period_us"))


def _ratio(quota: str | None, period: str | None) -> Iterator[float]:
    """Quota over period, unless there is no quota: "max" in version 2, -1 in version 1."""
    try:
        numbers = int(quota or ""), int(period or "")
    except ValueError:
        return
    if min(numbers) > 0:
        yield numbers[0] / numbers[1]


def usable_cores_here() -> Cores:
    """The cores this process may use."""
    # Only Linux and FreeBSD tell the affinity.
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return usable_cores(affinity, read_file)
