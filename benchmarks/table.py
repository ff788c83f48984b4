"""The figures of a workload as a table, for the terminal and for docs/performance.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import Metric, ratio
from benchmarks.servers import BY_NAME as SERVERS
from benchmarks.workloads import BY_NAME as WORKLOADS

if TYPE_CHECKING:
    from benchmarks.figures import Run, Summary


def metric_of(workload: str) -> Metric:
    """What a workload is compared by; also of one that exists in an old result only."""
    return WORKLOADS[workload].metric if workload in WORKLOADS else Metric.CPU


def title_of(workload: str) -> str:
    """A workload's title."""
    return WORKLOADS[workload].title if workload in WORKLOADS else workload


def ours(servers: list[str]) -> list[str]:
    """Those of these servers that are Arbiter, and that others are compared to: not those with an access log."""
    return [name for name in servers if name in SERVERS and SERVERS[name].ours and not name.endswith("-log")]


def lines(run: Run, workload: str) -> list[list[str]]:
    """The head, and a line for each server, the best first."""
    metric = metric_of(workload)
    found = run.summaries(workload, metric)
    bases = ours([server for name, server in run.cells if name == workload])
    head = ["server", "CPU us", "±", *[f"/ {base.removeprefix('arbiter-')}" for base in bases]]
    head += ["requests/s", "p50 ms", "p99 ms", "PSS MB", "core", "errors"]
    return [
        head,
        *(
            [
                server,
                cpu(summary),
                "-" if summary.spread is None else f"{summary.spread:.0%}",
                *[_ratio(ratio(summary, found[base])) for base in bases],
                f"{summary.rps:.0f}",
                f"{summary.p50_us / 1e3:.2f}",
                f"{summary.p99_us / 1e3:.2f}",
                f"{summary.pss_bytes / 1e6:.0f}",
                f"{summary.busy:.0%}",
                str(summary.errors),
            ]
            for server, summary in found.items()
        ),
    ]


def cpu(summary: Summary) -> str:
    """Microseconds, with three digits that mean something."""
    return f"{summary.cpu_us:.{1 if summary.cpu_us < 100 else 0}f}"


def text(rows: list[list[str]]) -> str:
    """For a terminal: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not index else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown(rows: list[list[str]]) -> str:
    """For a page."""
    rule = ["---", *["--:"] * (len(rows[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
