"""The access log: one line per request, written together with others.

What a line says is the affair of `accessformat`. A write costs as much as some lines, so they wait for each other, for no
longer than `HELD`: a worker calls `write_behind` whenever it has nothing better to do than to wait.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.accessformat import Entry, Format, covers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.config.lists import Skip
    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Writer
    from arbiter.workers.protocols.policy import Request

MANY: Final = 16 * 1024
"""Characters after which lines are written even under constant load: about 150 lines, so a tail of the log stays alive."""
HELD: Final = 0.01
"""Seconds between two writes of less than `MANY`: a hundred a second are a thousandth of a core, and nobody who follows the
log sees that they are late."""


class AccessLog:
    """Writes entries in one format to one place."""

    __slots__ = ("_due", "_line", "_lines", "_size", "_writer", "wants_cpu", "wants_id", "wants_queue", "wants_seconds")

    def __init__(self, form: Format, writer: Writer) -> None:
        """`writer` is where lines go."""
        self._line = form.line
        self._writer = writer
        self.wants_seconds = form.wants_seconds
        self.wants_cpu = form.wants_cpu
        self.wants_id = form.wants_id
        self.wants_queue = form.wants_queue
        self._lines: deque[str] = deque()
        self._size = 0
        self._due = 0.0  # monotonic seconds: from when on lines may be written that are not `MANY`

    def add(
        self,
        remote: str,
        request: Request,
        status: int,
        sent: int,
        seconds: float,
        headers: Sequence[tuple[str, str]] | Sequence[tuple[bytes, bytes]],
        environ: Mapping[str, Any],
        cpu: int = -1,
        /,
    ) -> None:
        """Take one line: see `Entry` for what it is made of. May be called by any thread."""
        line = self._line(remote, request, status, sent, seconds, headers, environ, cpu)
        if line:
            self._lines.append(line)
            self._size += len(line)
            if self._size >= MANY:
                self.flush()

    def write_behind(self, seconds: float) -> float:
        """Write what has been taken, unless there was a write a moment ago.

        For a thread that is about to wait, up to so many seconds; returns after how many of them it should be here again.
        """
        if not self._lines:
            return seconds
        now = monotonic()
        if now < self._due:
            return min(seconds, self._due - now)
        self._due = now + HELD
        self.flush()
        return seconds

    def flush(self) -> None:
        """Write what has been taken."""
        lines = self._lines
        if lines:
            self._size = 0
            taken = []
            try:
                while True:  # one by one: another thread may add, or flush too, and no line may be lost or come twice
                    taken.append(lines.popleft())
            except IndexError:
                self._writer.write("".join(taken).encode())


class HandedOn(AccessLog):
    """Entries that somebody else makes lines of, or anything: a logger of the operator's."""

    __slots__ = ("_note", "_skip")

    def __init__(self, note: Callable[[Entry], None], skip: Sequence[Skip]) -> None:
        """`note` takes an entry, at once and in the thread that has it."""
        self.wants_seconds = True
        self.wants_cpu = self.wants_id = self.wants_queue = False
        self._lines = deque()
        self._note, self._skip = note, skip

    def add(self, *values: Any) -> None:
        entry = Entry(*values)
        if not any(covers(skip, entry.status, entry.request.path) for skip in self._skip):
            self._note(entry)


def open_access_log(settings: Settings, writer: Writer) -> AccessLog:
    """The access log that the settings ask for. For the worker, whose pid is in its lines."""
    skip = settings.access_log_skip
    if note := getattr(writer, "note", None):
        return HandedOn(note, skip)
    return AccessLog(Format(settings.access_log_format, as_json=settings.access_log_json, skip=skip), writer)


# A request's id -------------------------------------------------------------------------------------------------------

_SOUND_ID: Final = re.compile(rb"[A-Za-z0-9._:+/=\-]{1,128}")


class Ids:
    """Names of requests, each given once by any process."""

    __slots__ = ("_count", "_start")

    def __init__(self) -> None:
        """Made in the worker, after the fork."""
        self._start = os.urandom(8).hex()
        self._count = itertools.count(1)

    def of(self, request: Request) -> str:
        """What the client, or the proxy before us, calls the request in X-Request-ID, if that is sound; else a new id."""
        for name, value in request.fields:
            if name == b"x-request-id":
                if _SOUND_ID.fullmatch(value):
                    return value.decode()
                break
        return f"{self._start}-{next(self._count):x}"
