"""Make the generated part of docs/performance.md, and its charts, of a result: python -m benchmarks.report [RESULT]."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

from benchmarks import chart, log_cost, table
from benchmarks.figures import Metric, Run
from benchmarks.servers import HERE
from benchmarks.servers import SERVERS as TABLE_OF_SERVERS

DOCS: Final = os.path.join(os.path.dirname(HERE), "docs")
FIGURES: Final = "figures"
"""The folder of the charts, in `DOCS`: nothing else is in it."""
BEGIN: Final = "<!-- made by python -m benchmarks.report: do not edit -->"
END: Final = "<!-- end of what is made -->"
LOG_COSTS: Final = (
    "CPU microseconds per request that a server needs more when it writes an access log in its default format to a file: the"
    " same process switches its log off and on every 300 requests. The median of all differences, and what it lies between for"
    " 95 % sure."
)


def main(result: str) -> None:
    """Write the page and the charts."""
    try:
        with open(result) as file:
            run = Run.from_json(file.read())
    except FileNotFoundError:
        sys.exit(f"There is no result {result} to make a page of: `make bench` makes one, in 25 minutes.")
    path = os.path.join(DOCS, "performance.md")
    with open(path) as file:
        page = file.read()
    _write(path, filled(page, section(run)))
    folder = os.path.join(DOCS, FIGURES)
    shutil.rmtree(folder, ignore_errors=True)
    os.mkdir(folder)
    for workload, picture in chart.pictures(run).items():
        _write(os.path.join(folder, f"{workload}.svg"), picture)


def filled(page: str, made: str) -> str:
    """The page with this between its two marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/performance.md has no place for the figures: put these two lines there:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def section(run: Run) -> str:
    """Everything that was measured, in Markdown."""
    parts = [
        "\n".join(f"* {name}: {value}" for name, value in run.about.items()),
        "### Charts",
        "Shorter is better; compared is what stands in brackets, else CPU time per request. Arbiter is blue, a bare loop pale.",
        "\n".join(f"![{chart.heading(workload)}]({FIGURES}/{workload}.svg)" for workload in chart.pictures(run)),
        "### CPU microseconds per request, all servers and workloads",
        table.markdown(matrix(run)),
    ]
    for workload in run.workloads():
        metric = table.metric_of(workload)
        by = "" if metric is Metric.CPU else f", compared by {metric.value}"
        parts += [f"### {table.title_of(workload)} (`{workload}`{by})", table.markdown(table.lines(run, workload))]
    if run.log_costs:
        parts += ["### What an access log costs a request", LOG_COSTS, table.markdown(log_cost.lines(run.log_costs))]
    parts += [f"* `{server.name}`: {server.note}" for server in TABLE_OF_SERVERS if server.note]
    if run.skipped:
        parts.append("### Not measured, and why")
        parts.append("\n".join(f"* {name}: {reason}" for name, reason in why(run.skipped).items()))
    return "\n\n".join(parts)


def matrix(run: Run) -> list[list[str]]:
    """A line for each server, a column for each workload; empty where there is no figure."""
    workloads = run.workloads()
    found = {workload: run.summaries(workload, Metric.CPU) for workload in workloads}
    measured = {server for _, server in run.cells}
    order = [server.name for server in TABLE_OF_SERVERS if server.name in measured]
    order += sorted(measured - set(order))
    rows = [
        [server, *[table.cpu(found[workload][server]) if server in found[workload] else "" for workload in workloads]]
        for server in order
    ]
    return [["server", *workloads], *rows]


def why(skipped: dict[str, str]) -> dict[str, str]:
    """The reasons, each of them once for all workloads of a server that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, reason in skipped.items():
        workload, _, server = name.rpartition(" / ")
        found.setdefault((server, reason), []).append(workload)
    return {
        server + (f" ({', '.join(workloads)})" if all(workloads) else ""): reason
        for (server, reason), workloads in found.items()
    }


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else f"{HERE}/results/latest.json")
