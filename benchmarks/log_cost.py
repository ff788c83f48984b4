"""What a line of the access log costs: a server with it and one without, under load in turns.

Two figures from two moments can't show 3 us of 50: what the machine does meanwhile is more. Here both servers run at once and
have the load by turns, a second each, and each pair of neighbouring seconds gives one difference.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from benchmarks import procfs
from benchmarks.load import generate, warm_up
from benchmarks.measure import WARM, CannotMeasureError, check, running
from benchmarks.servers import BY_NAME, Server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.workloads import Workload

SUFFIX: Final = "-log"
SECONDS: Final = 1
"""Of load for either server, in turns: the shortest that wrk knows."""
TURNS: Final = 3
"""For each round of the other measurements."""


def pairs(cells: Iterable[tuple[Server, Workload]]) -> list[tuple[Server, Server, Workload]]:
    """Those of Arbiter's servers that are to be measured both without and with an access log, and under what load."""
    chosen = {(server.name, workload.name) for server, workload in cells}
    return [
        (server, BY_NAME[server.name + SUFFIX], workload)
        for server, workload in cells
        if server.ours and (server.name + SUFFIX, workload.name) in chosen
    ]


def differences(plain: Server, logging: Server, workload: Workload, core: int, turns: int) -> list[float]:
    """Microseconds of processor time per request that the second server needs more than the first, once for each turn.

    Raises:
        CannotMeasureError: one of them did not start, or does not answer as it must.
    """
    with ExitStack() as stack:
        found = []
        for server in (plain, logging):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arbiter-bench-"))
            pid, port = stack.enter_context(running(server, workload, folder, core))
            check(workload, port)
            found.append((pid, port))
        try:
            for _, port in found:
                warm_up(workload, port, WARM, 0)
            costs = []
            for turn in range(turns):
                order = (0, 1) if turn % 2 else (1, 0)
                spent = {which: _spent(workload, *found[which]) for which in order}
                costs.append(spent[1] - spent[0])
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise CannotMeasureError(f"the load failed: {error}") from error
    return costs


def _spent(workload: Workload, pid: int, port: int) -> float:
    before = procfs.exact_seconds(pid)
    load = generate(workload, port, SECONDS, 0)
    if not load.requests:
        raise RuntimeError("no request was answered")
    return (procfs.exact_seconds(pid) - before) * 1e6 / load.requests


def lines(costs: dict[str, list[float]]) -> list[list[str]]:
    """The head of a table, and a line for each pair: the median, and between what half of all differences are."""
    rows = [["server / workload", "us", "half of them", "turns"]]
    for name, values in costs.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        rows.append([name, f"{statistics.median(values):+.1f}", f"{low:+.1f} to {high:+.1f}", str(len(values))])
    return rows
