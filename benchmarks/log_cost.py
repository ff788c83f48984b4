"""What a line of the access log costs: a server that switches its log off and on by itself, under load.

Of two servers with the same command line one may be slower than the other for as long as they live, and what else a machine
does changes from second to second: neither shows 3 us of 50. So `apps/logged.py` compares slices of 15 ms of one process, in
groups of four: off, on, on, off. Each group gives one difference, and a second of load a dozen or more of them.
The server is started several times, for what is particular to one process may be so to its log, too.
"""

from __future__ import annotations

import http.client
import json
import math
import statistics
import subprocess
import tempfile
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from benchmarks.load import GRACE, generate
from benchmarks.measure import CannotMeasureError, check, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.servers import Server
    from benchmarks.workloads import Workload

SUFFIX: Final = "-log"
SECONDS: Final = 2
"""Of load for each start."""
TURNS: Final = 2
"""Starts for each round of the other measurements."""
_TRIES: Final = 5
"""Times that it is loaded until there is a difference: on a machine that does ten other things two seconds may be too short."""
_WARM: Final = 8
"""Slices at the beginning that are not counted: 2,400 requests."""
_GROUP: Final = 4
"""Slices that make one difference."""
_SURE: Final = 1.96
"""Standard deviations of a normal distribution between which 95 % of it are."""


def logging(cells: Iterable[tuple[Server, Workload]]) -> list[tuple[Server, Workload]]:
    """Those of Arbiter's servers that log, and under what load."""
    return [(server, workload) for server, workload in cells if server.ours and server.name.endswith(SUFFIX)]


def measure(server: Server, workload: Workload, core: int) -> list[float]:
    """Microseconds of processor time per request that the server needs more when it logs, once for each group of slices.

    Raises:
        CannotMeasureError: it did not start, or does not answer as it must.
    """
    workload = replace(workload, app="logged")
    with (
        tempfile.TemporaryDirectory(prefix="arbiter-bench-") as folder,
        running(server, workload, folder, core) as (_, port),
    ):
        check(workload, port)
        try:
            for _ in range(_TRIES):
                generate(workload, port, SECONDS, 0)
                if costs := differences(**_slices(port)):
                    return costs
        except (OSError, http.client.HTTPException, RuntimeError, subprocess.SubprocessError) as error:
            raise CannotMeasureError(f"the load failed: {error}") from error
    raise CannotMeasureError(f"it has not answered enough requests in {_TRIES * SECONDS} s")


def _slices(port: int) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=GRACE)) as connection:
        connection.request("GET", "/slices")
        found: dict[str, Any] = json.load(connection.getresponse())
        return found


def differences(slices: Sequence[int], requests: int) -> list[float]:
    """Microseconds per request that a log costs, of each whole group: of slices in nanoseconds, off, on, on, off, off, on..."""
    return [
        (on + on_still - off - off_again) / 2e3 / requests
        for off, on, on_still, off_again in (
            slices[start : start + _GROUP] for start in range(_WARM, len(slices) - _GROUP + 1, _GROUP)
        )
    ]


class Cost(NamedTuple):
    """What many differences say."""

    median: float
    low: float
    high: float
    """Between these is the median of all that could be measured so, in 95 of 100 cases."""


def cost(values: Sequence[float]) -> Cost:
    """Of differences, of which there is at least one. The interval is by ranks, which ask nothing of how they are spread."""
    ordered = sorted(values)
    count = len(ordered)
    reach = _SURE * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return Cost(statistics.median(ordered), ordered[low], ordered[high])


def lines(costs: dict[str, list[float]]) -> list[list[str]]:
    """The head of a table, and a line for each server and workload."""
    rows = [["server / workload", "us", "95 % sure", "differences"]]
    for name, values in costs.items():
        median, low, high = cost(values)
        rows.append([name, f"{median:+.1f}", f"{low:+.1f} to {high:+.1f}", str(len(values))])
    return rows
