"""What the supervisor posts of the service for whoever asks (`scoreboard`), and how ``arbiterctl status`` tells it. Pure.

The supervisor posts what only it knows: which workers there are, in which phase, and what became of reloads. What each
worker is at stands in its rows, which the reader of the bulletin reads for itself, at that moment.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from arbiter.lifecycle import Standing
from arbiter.notices import describe
from arbiter.workers.contract import Doing, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbiter.fleet import Fleet
    from arbiter.notices import Notices
    from arbiter.workers.contract import Row, WorkerId


class Place(NamedTuple):
    """Where a worker is to be found."""

    pid: int
    row: int
    """The number of the first of its rows."""
    rows: int


NOWHERE = Place(0, 0, 0)
"""Of a worker that is not born yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A worker, as the supervisor sees it."""

    worker: int = 0
    gen: int = 0
    phase: str = ""
    born: float = 0.0
    """Monotonic seconds."""
    pid: int = 0
    row: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Bulletin:
    """The service, as the supervisor sees it."""

    pid: int
    version: str = ""
    started: float = 0.0
    """Monotonic seconds."""
    is_serving: bool = False
    """Whether there is a worker that serves, and the service is not about to end."""
    status: str = ""
    reloads: int = 0
    """How many have been asked for."""
    is_reloading: bool = False
    """Whether the last of them has not come to its end."""
    refusal: str = ""
    """Why the last that was decided was refused; empty if it was not."""
    workers: tuple[Entry, ...] = ()

    def encode(self) -> str:
        """As `decode` reads it."""
        return json.dumps(asdict(self))


def decode(text: str) -> Bulletin:
    """What `Bulletin.encode` has made, in this version or another: what is new there is passed over, what is missing is empty.

    Raises:
        ValueError: it is no bulletin; or nothing has been posted yet.
    """
    try:
        told: dict[str, Any] = json.loads(text)
        workers = tuple(Entry(**_known(Entry, entry)) for entry in told.get("workers", ()))
        return Bulletin(**{**_known(Bulletin, told), "workers": workers})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"what it shows is not understood: {error}") from error


def _known(kind: type[Bulletin | Entry], told: dict[str, Any]) -> dict[str, Any]:
    return {field.name: told[field.name] for field in fields(kind) if field.name in told}


def compose(
    fleet: Fleet, notices: Notices, place: Callable[[WorkerId], Place], *, version: str, pid: int, started: float
) -> Bulletin:
    """The bulletin of this moment."""
    return Bulletin(
        version=version,
        pid=pid,
        started=started,
        is_serving=fleet.standing in (Standing.SERVING, Standing.DRAINING) and any(worker.serves for worker in fleet.active),
        status=describe(fleet, reloading=notices.latest, refusal=notices.refusal),
        reloads=notices.reloads,
        is_reloading=notices.is_reloading(fleet),
        refusal=notices.refusal,
        workers=tuple(
            Entry(worker.id.slot, worker.generation, worker.phase.name.lower(), worker.born, *place(worker.id))
            for worker in sorted(fleet.workers.values(), key=lambda worker: worker.id)
        ),
    )


def report(bulletin: Bulletin, rows: Callable[[int, int], Sequence[Row]], now: float) -> dict[str, Any]:
    """The bulletin with what stands in the workers' rows, for programs; `now` is monotonic seconds."""
    told = asdict(bulletin)
    told["up"] = round(now - told.pop("started"), 3)
    for entry in told["workers"]:
        own = rows(entry.pop("row"), entry.pop("rows"))
        entry["up"] = round(now - entry.pop("born"), 3)
        entry["requests"] = sum(row.read().requests for row in own)
        is_idle = any(row.read().doing is Doing.IDLE for row in own)
        entry["doing"] = requests(own, now) or (["idle"] if is_idle else [])
    return told


def table(report: dict[str, Any]) -> list[str]:
    """Lines for people: the service, then a line for each worker and for each further request that it is in."""
    head = f"arbiter {report['version']}, pid {report['pid']}, up {_clock(report['up'])}: {report['status']}"
    places = ("worker", "gen", "pid", "phase", "up", "requests")
    lines: list[Sequence[str]] = [(*places, "doing")]
    for worker in report["workers"]:
        shown = {**worker, "pid": worker["pid"] or "-", "up": _clock(worker["up"])}
        first, *others = worker["doing"] or [""]
        lines.append((*(str(shown[place]) for place in places), first))
        lines += [(*("" for _ in places), other) for other in others]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [head, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
