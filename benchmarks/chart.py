"""The figures as SVG: a picture for each workload, in it a bar for each server, the best first. Pure: a run in, text out.

A picture is as wide as a telephone shows it; on a wide screen they stand beside each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from benchmarks.figures import Metric
from benchmarks.servers import BY_NAME as SERVERS
from benchmarks.table import cpu, metric_of, title_of

if TYPE_CHECKING:
    from benchmarks.figures import Run, Summary

WIDTH, EDGE, TOP = 354, 12, 34
"""Of a picture in pixels (390 of a telephone less the page's margins), of the empty edge in it, and the height of its title."""
ROW, BAR = 19, 13
"""The distance of two bars, and the height of one."""
NAMES, VALUES = 124, 54
"""The width left of the bars for names, and right of them for values."""

STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 13px }
.value { fill: #57606a }
.paper { fill: #ffffff }
.ours { fill: #0969da } .peer { fill: #afb8c1 } .limit { fill: #d8dee4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .value { fill: #9198a1 } .paper { fill: #0d1117 }
  .ours { fill: #4493f8 } .peer { fill: #656c76 } .limit { fill: #3d444d }
}
"""


def pictures(run: Run) -> dict[str, str]:
    """A picture of each workload that was measured, by its name; access logs are left to the tables."""
    found = {}
    for workload in run.workloads():
        summaries = run.summaries(workload, metric_of(workload))
        if shown := {name: summary for name, summary in summaries.items() if not name.endswith("-log")}:
            found[workload] = _picture(workload, shown)
    return found


def heading(workload: str) -> str:
    """What a workload's picture shows, with its unit where that is not CPU time."""
    metric = metric_of(workload)
    return title_of(workload) + ("" if metric is Metric.CPU else f" ({metric.value})")


def label(summary: Summary, metric: Metric) -> str:
    """A value with its unit."""
    if metric is Metric.P99:
        return f"{summary.p99_us / 1e3:.1f} ms"
    if metric is Metric.PSS:
        return f"{summary.pss_bytes / 1e6:.0f} MB"
    return f"{cpu(summary)} µs"


def _picture(workload: str, summaries: dict[str, Summary]) -> str:
    metric = metric_of(workload)
    height = TOP + ROW * len(summaries) + EDGE
    title = escape(heading(workload))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<title>{title}: shorter is better</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="{EDGE}" y="{EDGE + 10}">{title}</text>',
    ]
    most = max(summary.value for summary in summaries.values())
    room = WIDTH - NAMES - VALUES - EDGE
    for index, (name, summary) in enumerate(summaries.items()):
        top = TOP + index * ROW
        length = max(1.0, room * summary.value / most) if most < float("inf") else room
        base = top + BAR - 2
        parts += [
            f'<text x="{NAMES - 6}" y="{base}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{_kind(name)}" x="{NAMES}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="value" x="{NAMES + length + 5:.1f}" y="{base}">{label(summary, metric)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _kind(name: str) -> str:
    server = SERVERS.get(name)
    if server is None:
        return "peer"
    return "ours" if server.ours else "limit" if server.limit else "peer"
