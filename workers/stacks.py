"""Stacks and tracebacks for the log: the application's part of an exception, and where a task is."""

from __future__ import annotations

import importlib
import os
import traceback
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from types import FrameType, TracebackType

_OURS: Final = os.path.join(os.path.dirname(__file__), "")
_DEEPEST: Final = 200
"""Frames after which a chain of awaits is not followed any more."""


def stack_of(task: asyncio.Task[Any] | None) -> str:
    """The frames of a suspended task, from its beginning to where it waits, as lines of a traceback."""
    at: Any = task.get_coro() if task is not None else None
    lines: list[str] = []
    for _ in range(_DEEPEST):
        if at is None:
            break
        frame: FrameType | None = (
            getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None) or getattr(at, "ag_frame", None)
        )
        if frame is None:
            break
        lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None) or getattr(at, "ag_await", None)
    return "".join(lines).rstrip() or "it has not begun, or is running"


def one_line(error: BaseException) -> str:
    """What a traceback ends with: ``ModuleNotFoundError: No module named 'redis'``."""
    return traceback.format_exception_only(type(error), error)[-1].strip()


def application_traceback(error: BaseException | None) -> str:
    """A traceback that begins in the application; whole when that is nowhere, empty for None."""
    if error is None:
        return ""
    return "".join(traceback.format_exception(type(error), error, _without_ours(error.__traceback__)))


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    at = trace
    while at and at.tb_frame.f_code.co_filename.startswith((_OURS, "<frozen importlib", importlib.__file__)):
        at = at.tb_next
    return at
