"""The figures as an SVG: a panel for each workload, in it a bar for each server, the best first. Pure: a run in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from benchmarks.figures import Metric
from benchmarks.servers import BY_NAME as SERVERS
from benchmarks.table import cpu, metric_of, title_of

if TYPE_CHECKING:
    from benchmarks.figures import Run, Summary

COLUMNS: Final = 3
WIDTH, GAP, TOP = 330, 24, 30
"""Of a panel and between panels, in pixels; the height of a panel's title."""
ROW, BAR = 19, 13
"""The distance of two bars, and the height of one."""
NAMES, VALUES = 118, 52
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


def svg(run: Run) -> str:
    """The chart of everything that was measured; access logs are left to the tables."""
    panels = []
    for workload in run.workloads():
        found = run.summaries(workload, metric_of(workload))
        if shown := {name: summary for name, summary in found.items() if not name.endswith("-log")}:
            panels.append((workload, shown))
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    parts, y = [], GAP
    for row in rows:
        for column, (workload, summaries) in enumerate(row):
            parts += _panel(workload, summaries, GAP + column * (WIDTH + GAP), y)
        y += TOP + ROW * max(len(summaries) for _, summaries in row) + GAP
    width = GAP + COLUMNS * (WIDTH + GAP)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">'
    title = "<title>Arbiter and its peers: what a request costs (shorter is better)</title>"
    paper = f'<rect class="paper" width="{width}" height="{y}"/>'
    return "\n".join([head, title, f"<style>{STYLE}</style>", paper, *parts, "</svg>", ""])


def label(summary: Summary, metric: Metric) -> str:
    """A value with its unit."""
    if metric is Metric.P99:
        return f"{summary.p99_us / 1e3:.1f} ms"
    if metric is Metric.PSS:
        return f"{summary.pss_bytes / 1e6:.0f} MB"
    return f"{cpu(summary)} µs"


def _panel(workload: str, summaries: dict[str, Summary], x: int, y: int) -> list[str]:
    metric = metric_of(workload)
    unit = "" if metric is Metric.CPU else f" ({metric.value})"
    parts = [f'<text class="title" x="{x}" y="{y + 12}">{escape(title_of(workload) + unit)}</text>']
    most = max(summary.value for summary in summaries.values())
    room = WIDTH - NAMES - VALUES
    for index, (name, summary) in enumerate(summaries.items()):
        top = y + TOP + index * ROW
        length = max(1.0, room * summary.value / most) if most < float("inf") else room
        base = top + BAR - 2
        parts += [
            f'<text x="{x + NAMES - 6}" y="{base}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{_kind(name)}" x="{x + NAMES}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            f'<text class="value" x="{x + NAMES + length + 5:.1f}" y="{base}">{label(summary, metric)}</text>',
        ]
    return parts


def _kind(name: str) -> str:
    server = SERVERS.get(name)
    if server is None:
        return "peer"
    return "ours" if server.ours else "limit" if server.limit else "peer"
