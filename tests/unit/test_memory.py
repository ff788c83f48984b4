"""Memory of processes and control groups: what the files of both versions of control groups say, without any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from arbiter import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIB = 1 << 20
V1, V2 = "/sys/fs/cgroup/memory/docker/abc", "/sys/fs/cgroup/shop.slice/shop.service"


def files(found: Mapping[str, str]) -> Callable[[str], str | None]:
    """What `memory` reads with, where these files are all that there is."""
    return found.get


UNIFIED = {
    "/proc/self/cgroup": "0::/shop.slice/shop.service\n",
    f"{V2}/memory.current": f"{300 * MIB}\n",
    f"{V2}/memory.max": f"{400 * MIB}\n",
    f"{V2}/memory.stat": f"anon {200 * MIB}\nfile {100 * MIB}\ninactive_file {60 * MIB}\nactive_file {40 * MIB}\n",
    f"{V2}/memory.events": "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n",
}
"""Version 2, as on any system of today: half of the limit is used, without the page cache."""

LEGACY = {
    "/proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n",
    f"{V1}/memory.usage_in_bytes": f"{300 * MIB}\n",
    f"{V1}/memory.limit_in_bytes": f"{400 * MIB}\n",
    f"{V1}/memory.stat": f"inactive_file 1\ntotal_inactive_file {60 * MIB}\ntotal_active_file {40 * MIB}\n",
    f"{V1}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
"""Version 1: the same."""


@pytest.mark.parametrize("found", [UNIFIED, LEGACY], ids=["version 2", "version 1"])
def test_pressure_room_and_deaths_are_the_same_in_both_versions(found: Mapping[str, str]) -> None:
    assert memory.pressure(files(found)) == 0.5
    assert memory.left(files(found)) == pytest.approx((0.9 * 400 - 200) * MIB)
    assert memory.oom_kills(files(found)) == 2


def test_of_several_limits_the_fullest_presses_and_the_nearest_is_what_is_left() -> None:
    """The slice above the service has a lower limit than the service itself, and is fuller."""
    above = "/sys/fs/cgroup/shop.slice"
    found = UNIFIED | {f"{above}/memory.current": f"{240 * MIB}\n", f"{above}/memory.max": f"{300 * MIB}\n"}

    assert memory.pressure(files(found)) == 0.8
    assert memory.left(files(found)) == pytest.approx(30 * MIB)


@pytest.mark.parametrize(
    "limit", ["max\n", "9223372036854771712\n", "0\n", "", "nonsense\n"], ids=["max", "of version 1", "0", "empty", "nonsense"]
)
@pytest.mark.parametrize(("found", "name"), [(UNIFIED, f"{V2}/memory.max"), (LEGACY, f"{V1}/memory.limit_in_bytes")])
def test_what_is_no_limit_limits_nothing(found: Mapping[str, str], name: str, limit: str) -> None:
    assert memory.pressure(files({**found, name: limit})) is None
    assert memory.left(files({**found, name: limit})) is None


def test_without_control_groups_nothing_is_known() -> None:
    assert memory.pressure(files({})) is None
    assert memory.left(files({})) is None
    assert memory.oom_kills(files({})) is None


def test_a_process_weighs_what_it_shares_in_shares_or_else_what_is_resident() -> None:
    shared = {"/proc/7/smaps_rollup": "00400000-7fff r-xp 0 00:00 0 [rollup]\nRss:  9000 kB\nPss:  5000 kB\nPss_Dirty: 1 kB\n"}
    resident = {"/proc/7/statm": "9000 100 50 1 0 60 0\n"}

    assert memory.weigh(7, files(shared | resident)) == 5000 * 1024
    assert memory.weigh(7, files(resident)) == 100 * memory.PAGE
    assert memory.weigh(7, files({})) is None
