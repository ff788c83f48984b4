"""Cores: affinity and the CPU quota of control groups, in every arrangement that containers have."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbiter.config.cores import Cores, usable_cores, usable_cores_here

V2 = "/sys/fs/cgroup"
V1 = "/sys/fs/cgroup/cpu"


def v1(directory: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{directory}/cpu.cfs_quota_us": f"{quota}\n", f"{directory}/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("affinity", "files", "expected"),
    [
        pytest.param(4, {}, Cores(4, "affinity"), id="no cgroups at all"),
        pytest.param(0, {}, Cores(1, "affinity"), id="a kernel that tells nothing"),
        pytest.param(
            64,
            {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"},
            Cores(2, "cgroup quota of 1.5 CPUs"),
            id="v2, container with its own namespace, rounded up",
        ),
        pytest.param(
            64,
            {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "10000 100000\n"},
            Cores(1, "cgroup quota of 0.1 CPUs"),
            id="v2, less than one CPU",
        ),
        pytest.param(
            4, {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, Cores(4, "affinity"), id="v2, no quota"
        ),
        pytest.param(
            2,
            {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "800000 100000\n"},
            Cores(2, "affinity"),
            id="v2, quota above the affinity",
        ),
        pytest.param(
            2,
            {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"},
            Cores(2, "affinity"),
            id="v2, quota that takes nothing away",
        ),
        pytest.param(
            64,
            {
                "/proc/self/cgroup": "0::/system.slice/shop.service\n",
                f"{V2}/system.slice/shop.service/cpu.max": "max 100000\n",
                f"{V2}/system.slice/cpu.max": "300000 100000\n",
            },
            Cores(3, "cgroup quota of 3 CPUs"),
            id="v2, quota on a parent",
        ),
        pytest.param(
            64,
            {
                "/proc/self/cgroup": "0::/a/b\n",
                f"{V2}/a/b/cpu.max": "400000 100000\n",
                f"{V2}/a/cpu.max": "200000 100000\n",
                f"{V2}/cpu.max": "600000 100000\n",
            },
            Cores(2, "cgroup quota of 2 CPUs"),
            id="v2, nested, the smallest wins",
        ),
        pytest.param(
            64,
            {"/proc/self/cgroup": "0::/../../other\n", f"{V2}/cpu.max": "200000 100000\n"},
            Cores(2, "cgroup quota of 2 CPUs"),
            id="v2, seen from outside its namespace",
        ),
        pytest.param(
            64,
            {"/proc/self/cgroup": "5:cpu,cpuacct:/shop\n", **v1("/sys/fs/cgroup/cpu,cpuacct/shop", 250_000)},
            Cores(3, "cgroup quota of 2.5 CPUs"),
            id="v1, joint controllers",
        ),
        pytest.param(
            64,
            {"/proc/self/cgroup": "3:cpuset:/x\n5:cpuacct,cpu:/shop\n", **v1(f"{V1}/shop", 50_000, 25_000)},
            Cores(2, "cgroup quota of 2 CPUs"),
            id="v1, through the link, period of its own",
        ),
        pytest.param(
            64,
            {"/proc/self/cgroup": "1:cpu:/docker/abc\n0::/\n", **v1(V1, 200_000)},
            Cores(2, "cgroup quota of 2 CPUs"),
            id="v1, container that sees the host's path",
        ),
        pytest.param(4, {"/proc/self/cgroup": "1:cpu:/\n", **v1(V1, -1)}, Cores(4, "affinity"), id="v1, no quota"),
        pytest.param(4, {"/proc/self/cgroup": "1:cpu:/\n", **v1(V1, 100_000, 0)}, Cores(4, "affinity"), id="v1, period of 0"),
        pytest.param(
            4,
            {"/proc/self/cgroup": "1:cpuset:/\n2:cpuacct:/\n", **v1(V1, 100_000)},
            Cores(4, "affinity"),
            id="v1, other controllers only",
        ),
        pytest.param(4, {"/proc/self/cgroup": "rubbish\n\n0::/\n", f"{V2}/cpu.max": "?"}, Cores(4, "affinity"), id="rubbish"),
    ],
)
def test_the_smallest_limit_counts(affinity: int, files: dict[str, str], expected: Cores) -> None:
    assert expected == usable_cores(affinity, files.get)


@given(st.integers(0, 512), st.text(), st.text())
def test_no_content_of_the_files_breaks_it_or_gives_no_core(affinity: int, groups: str, quota: str) -> None:
    def read(path: str) -> str | None:
        return groups if path == "/proc/self/cgroup" else quota

    assert 1 <= usable_cores(affinity, read).number <= max(1, affinity)


@given(st.integers(1, 512), st.integers(1, 10**7), st.integers(1000, 10**6))
def test_a_quota_is_never_rounded_down_and_never_beats_the_affinity(affinity: int, quota: int, period: int) -> None:
    files = {"/proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": f"{quota} {period}\n"}
    number = usable_cores(affinity, files.get).number

    assert number == affinity or number >= quota / period
    assert number <= affinity


def test_this_machine_has_a_core_and_no_more_than_its_affinity() -> None:
    assert 1 <= usable_cores_here().number <= len(os.sched_getaffinity(0))
