"""Hello, in a server whose access log goes off and on: what a line costs, found within one process.

Two servers are never equally quick, even of the same command line: where their memory lies makes 5 % of a difference, which is
as much as an access log does. So one server switches its log off and on by itself, every `SLICE` requests, and tells what
processor time each slice took. `/slices` gives what was found.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SLICE = 300
"""Requests: 15 ms, in which the machine seldom changes."""

_numbers = itertools.count(1)
_marks: list[int] = []
"""Processor time of the process, in nanoseconds, at the end of each slice; those with an odd index begin one with a log."""
_logging: list[tuple[Any, Any]] = []
"""Whatever in this process has an access log, and that."""


def count() -> None:
    """One request more; at the end of a slice, switch the log."""
    number = next(_numbers)
    if number % SLICE:
        return
    if not _logging:
        _logging.extend(_loggers())
    is_on = len(_marks) % 4 in {1, 2}  # off, on, on, off: what drifts is in both
    for each, log in _logging:  # what is not written yet will be when the log is on again
        each.access_log = log if is_on else None
    _marks.append(time.process_time_ns())


def _loggers() -> Iterator[tuple[Any, Any]]:
    """Those who log, and what with: among the callers of the application, and what these know."""
    frame = inspect.currentframe()
    while frame := frame and frame.f_back:
        caller = frame.f_locals.get("self")
        for each in [caller, *gc.get_referents(caller)]:
            if hasattr(each, "access_log"):
                yield each, each.access_log
                return


def _slices() -> bytes:
    found = json.dumps({"requests": SLICE, "slices": [after - before for before, after in itertools.pairwise(_marks)]})
    return found.encode()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/slices":
        data = _slices()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
        return [data]
    count()
    return plain.wsgi(environ, start_response)


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[dict[str, Any]], Any]) -> None:
    if scope["type"] == "http" and scope["path"] == "/slices":
        data = _slices()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(data))]})
        await send({"type": "http.response.body", "body": data})
        return
    if scope["type"] == "http":
        count()
    await plain.asgi(scope, receive, send)
