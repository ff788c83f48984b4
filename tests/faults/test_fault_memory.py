"""Memory that runs out, in a real control group made for the test: the kernel kills, and the log says who did it and why.

The group is made below the one that we are in, so every limit that holds for us holds in it as well. Only the server is in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from harness import app
from procfs import pids
from waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Arbiter, Server

pytestmark = [pytest.mark.process, pytest.mark.slow]

MIB = 2**20
LIMIT = 400 * MIB
"""Room for a supervisor and its workers (about 60 MiB), a glutton, and the successor of one."""

GREEDY = """
import subprocess, sys
_modest, _hoard = application, []

def application(environ, start_response):
    if environ["PATH_INFO"] == "/hoard":
        _hoard.append(b"x" * int(environ["QUERY_STRING"]) * 2**20)
    elif environ["PATH_INFO"] == "/program":  # the kernel kills the largest, which is this
        subprocess.run([sys.executable, "-c", "b'x' * 2**30"])
    elif environ["PATH_INFO"] == "/stuck":
        while True:
            time.sleep(0.05)
    return _modest(environ, start_response)
"""
"""To be added to `harness.APP`: ``/hoard?20`` has the worker use 20 MiB more for ever."""


class Group(NamedTuple):
    """A control group with a limit of memory."""

    path: Path
    version: int

    @property
    def prefix(self) -> tuple[str, ...]:
        """Runs a program in it."""
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.path / "cgroup.procs"))

    def used(self) -> int:
        """Bytes, without the page cache, which the kernel takes back first."""
        total = int((self.path / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")).read_text())
        prefix = "" if self.version == 2 else "total_"
        stat = (self.path / "memory.stat").read_text()
        cache = sum(int(number) for number in re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", stat, re.MULTILINE))
        return total - cache

    def kills(self) -> int:
        """How many the kernel has killed in it."""
        text = (self.path / ("memory.events" if self.version == 2 else "memory.oom_control")).read_text()
        found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
        assert found
        return int(found[1])


def own_groups() -> Iterator[tuple[Path, int]]:
    """The control group that we are in, by version."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield Path(f"/sys/fs/cgroup/memory{path}"), 1
        elif hierarchy == "0":
            yield Path(f"/sys/fs/cgroup{path}"), 2


@pytest.fixture
def group() -> Iterator[Group]:
    """A control group of our own with `LIMIT`; skips where this machine lets us have none."""
    reasons = []
    for parent, version in own_groups():
        made = parent / f"arbiter-test-{os.getpid()}"
        try:
            if version == 2 and "memory" not in (parent / "cgroup.subtree_control").read_text().split():
                (parent / "cgroup.subtree_control").write_text("+memory")
            made.mkdir()
        except OSError as error:
            reasons.append(f"{made}: {error.strerror}")
            continue
        try:
            (made / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(LIMIT))
            with contextlib.suppress(OSError):  # there need not be any swap
                (made / ("memory.swap.max" if version == 2 else "memory.swappiness")).write_text("0")
            yield Group(made, version)
        finally:
            until(lambda made=made: is_removed(made), f"the end of {made}")  # type: ignore[misc]  # a default
        return
    pytest.skip(f"no control group for memory can be made here: {reasons or 'there are none'}")


def is_removed(made: Path) -> bool:
    """Remove an empty control group; it is busy as long as a process in it dies."""
    try:
        made.rmdir()
    except OSError:
        return not made.exists()
    return True


def serve(arbiter: Arbiter, group: Group, *arguments: str, workers: int = 2) -> Server:
    """A server in the group."""
    arbiter.write("live.py", app("one", at_import=GREEDY))
    return arbiter.serve(*arguments, workers=workers, prefix=group.prefix)


def test_a_worker_that_the_kernel_kills_for_memory_is_called_so_and_costs_only_its_own_request(
    group: Group, arbiter: Arbiter
) -> None:
    """1. A request takes more memory than there is. 2. Another. Result: each time the log says so; the sibling serves on."""
    server = serve(arbiter, group)

    with server.client() as client:
        for times in (1, 2):
            lost = server.ask("/hoard?600")
            server.wait_log(
                r"was killed by SIGKILL by the kernel, out of memory after .* Its slot gets a new worker", times=times
            )
            assert isinstance(lost.outcome(), Exception)
            server.wait_workers(2)
        client.more(10)

    assert client.failures == []
    assert group.kills() == 2


def test_who_was_killed_by_us_or_by_hand_is_not_called_out_of_memory_though_the_kernel_kills_others(
    group: Group, arbiter: Arbiter
) -> None:
    """1. The kernel kills a program that a worker has started. 2. A stuck worker is killed. 3. Later, one by hand."""
    server = serve(arbiter, group, "--timeout", "9")  # a loaded machine takes seconds to start a program and to end it
    assert server.get("/program").status == 200
    assert group.kills() == 1
    began = time.monotonic()

    with server.client() as client:
        lost = server.ask("/stuck")
        server.wait_log("stuck: GET /stuck")
        assert isinstance(lost.outcome(), Exception)
        until(lambda: time.monotonic() - began > 13, "two looks at memory, 5 s apart")
        (first, _) = server.wait_workers(2)
        os.kill(first.pid, signal.SIGKILL)
        server.wait_log(rf"pid={first.pid} was killed by SIGKILL after")
        server.wait_workers(2)
        client.more(10)

    assert len(client.failures) <= 1
    assert server.count("out of memory") == 0


def test_the_largest_worker_is_replaced_before_the_memory_is_used_up(group: Group, arbiter: Arbiter) -> None:
    """1. A worker takes what brings the group to 94 %. Result: it is replaced, alone; nobody is killed, nobody notices."""
    server = serve(arbiter, group, workers=3)
    before = server.wait_workers(3)

    with server.client() as client:
        room = int(LIMIT * 0.94) - group.used()
        largest = int(server.get(f"/hoard?{room // MIB}").text.split()[1])
        told = server.wait_log(
            rf"pid={largest} to be replaced: (\d\d)% of the memory is used, and with (\d+) MiB it is the largest"
        )
        server.wait_log(rf"pid={largest} left after")
        after = server.wait_workers(3)
        client.more(10)

    assert client.failures == []
    assert set(pids(before)) - set(pids(after)) == {largest}
    assert 92 <= int(told[1]) <= 97
    assert int(told[2]) >= room // MIB
    assert group.kills() == 0
