"""What a run has measured, and the arithmetic on it: medians, spreads, ratios. Pure.

Processor time per request is the figure to compare by. Requests per second depend on what else the machine does in that
moment; the time that a server's processes themselves used does so much less.
"""

from __future__ import annotations

import enum
import json
from dataclasses import astuple, dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


@dataclass(frozen=True, slots=True)
class Sample:
    """One server under one workload for a few seconds."""

    requests: int
    seconds: float
    """Wall time of the load."""
    cpu_seconds: float
    """User and system time of all the server's processes meanwhile."""
    p50_us: float
    p99_us: float
    pss_bytes: int
    """Of all the server's processes, at the end of the load."""
    errors: int
    """Failed connections, reads, writes; time-outs; statuses that are no success; idle connections that it closed."""

    @property
    def rps(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of processor time per request; infinite when none was answered."""
        return self.cpu_seconds * 1e6 / self.requests if self.requests else float("inf")

    @property
    def busy(self) -> float:
        """The share of a core that was used: below 0.9 the load generator, or a neighbour on the machine, was the limit."""
        return self.cpu_seconds / self.seconds


class Metric(enum.Enum):
    """What a workload compares servers by; less is better."""

    CPU = "CPU per request"
    P99 = "p99 of the quick"
    PSS = "memory"

    def of(self, sample: Sample) -> float:
        """The value, in microseconds or bytes."""
        return {Metric.CPU: sample.cpu_us, Metric.P99: sample.p99_us, Metric.PSS: float(sample.pss_bytes)}[self]


@dataclass(frozen=True, slots=True)
class Summary:
    """The medians of one server under one workload."""

    value: float
    """Of the workload's metric."""
    spread: float | None
    """Half of the way from the lowest to the highest value, as a share of the median: a difference below it may be noise.
    None of a single round, which can't tell."""
    cpu_us: float
    rps: float
    p50_us: float
    p99_us: float
    pss_bytes: float
    busy: float
    errors: int
    """Of all rounds."""


def summarize(samples: list[Sample], metric: Metric) -> Summary:
    """The medians of these rounds, of which there is at least one."""
    values = [metric.of(sample) for sample in samples]
    middle = median(values)

    def mid(get: Callable[[Sample], float]) -> float:
        return median(get(sample) for sample in samples)

    return Summary(
        value=middle,
        spread=(max(values) - min(values)) / 2 / middle if len(values) > 1 and 0 < middle < float("inf") else None,
        cpu_us=mid(lambda sample: sample.cpu_us),
        rps=mid(lambda sample: sample.rps),
        p50_us=mid(lambda sample: sample.p50_us),
        p99_us=mid(lambda sample: sample.p99_us),
        pss_bytes=mid(lambda sample: sample.pss_bytes),
        busy=mid(lambda sample: sample.busy),
        errors=sum(sample.errors for sample in samples),
    )


def ratio(peer: Summary, ours: Summary) -> float | None:
    """The peer's value divided by ours: above 1 we are ahead. None where there is nothing to divide by."""
    found = peer.value / ours.value if ours.value else float("inf")
    return found if found < float("inf") else None


@dataclass(slots=True)
class Run:
    """All that one run of the harness has measured, in the order in which it did."""

    about: dict[str, str] = field(default_factory=dict)
    """When, where, with which versions."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Servers, or `workload / server`, and why there are no figures of them."""
    cells: dict[tuple[str, str], list[Sample]] = field(default_factory=dict)
    """The rounds of a workload and a server."""
    log_costs: dict[str, list[float]] = field(default_factory=dict)
    """Of `server / workload`: what an access log costs, microseconds of processor time per request, turn by turn."""

    def add(self, workload: str, server: str, sample: Sample) -> None:
        self.cells.setdefault((workload, server), []).append(sample)

    def workloads(self) -> list[str]:
        """The workloads that were measured."""
        return list(dict.fromkeys(workload for workload, _ in self.cells))

    def summaries(self, workload: str, metric: Metric) -> dict[str, Summary]:
        """The servers under one workload, the best first."""
        found = {
            server: summarize(samples, metric) for (name, server), samples in self.cells.items() if name == workload and samples
        }
        return dict(sorted(found.items(), key=lambda item: item[1].value))

    def to_json(self) -> str:
        """One line per cell, so that a result can be read and compared by people too."""
        cells = ",\n".join(
            "  " + json.dumps({"workload": workload, "server": server, "samples": [_values(sample) for sample in samples]})
            for (workload, server), samples in self.cells.items()
        )
        about: dict[str, object] = {"about": self.about, "skipped": self.skipped, "sample": [*Sample.__slots__]}
        if self.log_costs:
            about["log_costs"] = {name: [round(cost, 3) for cost in costs] for name, costs in self.log_costs.items()}
        head = json.dumps(about, indent=1)
        return f'{head[:-2]},\n "cells": [\n{cells}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Run:
        """What `to_json` has written."""
        data = json.loads(text)
        run = cls(data["about"], data["skipped"], log_costs=data.get("log_costs", {}))
        for cell in data["cells"]:
            run.cells[cell["workload"], cell["server"]] = [
                Sample(**dict(zip(data["sample"], values, strict=True))) for values in cell["samples"]
            ]
        return run


def unknown(chosen: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names that nothing has."""
    return sorted(set(chosen) - set(known))


def _values(sample: Sample) -> list[float]:
    return [round(value, 6) for value in astuple(sample)]
