"""The access log: one line per request, written together with others.

What a line says is the affair of `accessformat`. A line among others costs less than one that is made alone, and a write as
much as some lines, so requests wait for each other, for no longer than `HELD`: a worker calls `write_behind` whenever it has
nothing better to do than to wait.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from arbiter.workers.accessformat import Entry, Format, Record, covers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbiter.config.lists import Skip
    from arbiter.config.schema import Settings
    from arbiter.workers.contract import Log, Writer
    from arbiter.workers.protocols.policy import Request

MANY: Final = 128
"""Requests after which lines are made and written even under constant load, so a tail of the log stays alive: 12 KiB of lines,
a write of which is a tenth of what they cost to make, and 20 KiB of records, which stay in a core's cache."""
HELD: Final = 0.01
"""Seconds between two writes of less than `MANY`: a hundred a second are a thousandth of a core, and nobody who follows the
log sees that they are late."""


class AccessLog:
    """Writes lines in one format to one place. Of any thread."""

    __slots__ = (
        "_due",
        "_lines",
        "_records",
        "_tell",
        "_writer",
        "_writing",
        "add",
        "note",
        "wants_cpu",
        "wants_id",
        "wants_queue",
        "wants_seconds",
    )

    def __init__(self, form: Format, writer: Writer, tell: Callable[[str], None]) -> None:
        """`writer` is where lines go; `tell` logs that there is a line that can't be made, with the exception."""
        self.wants_seconds = form.wants_seconds
        self.wants_cpu = form.wants_cpu
        self.wants_id = form.wants_id
        self.wants_queue = form.wants_queue
        self._lines = form.lines
        self._writer = writer
        self._tell = tell
        self._records: list[Record] = []
        self._writing = threading.Lock()
        self._due = 0.0  # monotonic seconds: from when on lines may be written that are not of `MANY`
        self.add, self.note = form.recorders(self._records, MANY, self._write, self._fail)
        """These take a request that is over: see `Recorder`."""

    def write_behind(self, seconds: float) -> float:
        """Write what has been taken, unless there was a write a moment ago.

        For a thread that is about to wait, up to so many seconds; returns after how many of them it should be here again.
        """
        if not self._records:
            return seconds
        now = monotonic()
        if now < self._due:
            return min(seconds, self._due - now)
        self._due = now + HELD
        self._write()
        return min(seconds, HELD) if self._records else seconds  # another thread was at it, or has added to it

    def flush(self) -> None:
        """Write what has been taken. When it returns, all of it is written."""
        self._write(patient=True)

    def _write(self, *, patient: bool = False) -> None:
        """Write what has been taken; if another thread is at that, wait for it only if `patient`."""
        if not self._writing.acquire(blocking=patient):
            return  # what it doesn't take is there for the next one: lines of a thread stay in their order
        try:
            records = self._records
            taken = records[:]
            del records[: len(taken)]  # never the list itself: others add to its end meanwhile
            if lines := self._made(taken):
                self._writer.write(lines.encode())
        finally:
            self._writing.release()

    def _made(self, records: list[Record]) -> str:
        try:
            return self._lines(records)
        except Exception:  # noqa: BLE001 - an object of the application's, in its environ, whose text raises whatever it likes
            if len(records) == 1:
                self._fail()
                return ""
        return "".join(self._made([record]) for record in records)  # all others have their lines

    def _fail(self) -> None:
        self._tell("a request has no line in the access log, since that can't be made")


class HandedOn(AccessLog):
    """Entries that somebody else makes lines of, or anything: a logger of the operator's."""

    __slots__ = ("_hand_on", "_skip")

    def __init__(self, note: Callable[[Entry], None], skip: Sequence[Skip]) -> None:
        """`note` takes an entry, at once and in the thread that has it."""
        self.wants_seconds = True
        self.wants_cpu = self.wants_id = self.wants_queue = False
        self._records = []
        self._hand_on, self._skip = note, skip
        self.add, self.note = self._add, self._note

    def _add(self, *values: Any) -> None:
        entry = Entry(*values)
        if not any(covers(skip, entry.status, entry.request.path) for skip in self._skip):
            self._hand_on(entry)

    def _note(self, exchange: Any, environ: Mapping[str, Any], started: float, _cpu: int) -> None:
        remote = str(environ.get("REMOTE_ADDR", ""))
        seconds = monotonic() - started
        self._add(remote, exchange.request, exchange.status, exchange.sent, seconds, exchange.headers, environ)

    def flush(self) -> None:
        """Nothing is held back."""


def open_access_log(settings: Settings, writer: Writer, log: Log) -> AccessLog:
    """The access log that the settings ask for. For the worker, whose pid is in its lines."""
    skip = settings.access_log_skip
    if note := getattr(writer, "note", None):
        return HandedOn(note, skip)
    form = Format(settings.access_log_format, as_json=settings.access_log_json, skip=skip)
    return AccessLog(form, writer, log.exception)


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
