"""The shared page: made before the first fork, rows for each living worker: its own and its threads'.

Supervisor side: allocates rows, reads deadlines, and folds a dead worker's counters into a total, so that what was counted
once stays counted. Workers write their own rows only (`contract.Row`). Rows are by living process, not by slot: while a
successor boots beside its predecessor, both write. Behind the rows is the notice: what the supervisor says of the service.

The page is a file without a name (memfd_create(2)), which whoever may trace the supervisor finds among its descriptors
(proc_pid_fd(5)): its user, and root. So ``arbiterctl`` sees what goes on, and costs the service nothing when nobody looks.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Final

from arbiter.workers.contract import BUCKETS, COUNTERS, ROW_SIZE, Row, Word, steady

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS: Final = 16 * 1024
"""As many as the threads of all workers that live at once. 16 MiB of address space; pages that nobody has used cost nothing."""
_NAME: Final = "arbiter-scoreboard"
_NOTICE: Final = ROWS * ROW_SIZE
"""Where the notice is: its sequence (`Word.SEQUENCE`), its length, its text."""
_HEAD: Final = 16
_SIZE: Final = _NOTICE + (1 << 20)
"""Room for a line of each of thousands of workers; what is not used costs nothing here either."""


class Scoreboard:
    """Allocator and reader of the rows."""

    def __init__(self) -> None:
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
        os.truncate(fd, _SIZE)
        self._page = memoryview(mmap.mmap(fd, _SIZE))
        os.close(fd)  # the mapping has a descriptor of its own, by which the page is found
        self._notice = b""
        self._used = bytearray(ROWS)
        self._taken: dict[int, tuple[Row, ...]] = {}
        self.retired = [0] * COUNTERS
        """Counters of all workers that are gone (words REQUESTS and on of a row)."""

    def take(self, count: int) -> tuple[Row, ...]:
        """So many clean rows, that lie side by side.

        Raises:
            OSError: there is no room left; that many workers alive are a fault that backs off like a failing fork.
        """
        first = self._used.find(bytes(count))  # the lowest, which keeps the touched pages few
        if first < 0:
            raise OSError(f"the scoreboard is full: it has {ROWS} rows, for workers and their threads")
        rows = self.rows(first, count)
        for row in rows:
            row.clear()
        self._used[first : first + count] = b"\x01" * count
        self._taken[first] = rows
        return rows

    def rows(self, first: int, count: int) -> tuple[Row, ...]:
        """The rows from this number on. In any process that has inherited the page."""
        return tuple(Row(self._page[number * ROW_SIZE : (number + 1) * ROW_SIZE]) for number in range(first, first + count))

    def number(self, rows: tuple[Row, ...]) -> int:
        """The number of the first of rows that are taken: what a process that has inherited the page knows them by."""
        return next(first for first, taken in self._taken.items() if taken is rows)

    def give_back(self, rows: tuple[Row, ...]) -> None:
        """Keep the rows' counters and free them; their worker is dead."""
        for row in rows:
            self.retired = row.added_to(self.retired)
        first = self.number(rows)
        del self._taken[first]
        self._used[first : first + len(rows)] = bytes(len(rows))

    def busy(self, now: float) -> float:
        """Seconds of threads that requests have taken so far, those under way included; `now` is monotonic seconds."""
        under_way = sum(now - started for row in self._all() if (started := row.started()))
        return self.totals()[Word.BUSY - Word.REQUESTS] / 1e9 + under_way

    def waits(self) -> list[int]:
        """Connections by the time that they waited to be taken (`Word.WAITS`)."""
        first = Word.WAITS - Word.REQUESTS
        return self.totals()[first : first + BUCKETS]

    def totals(self) -> list[int]:
        """Counters of all workers that live or ever lived."""
        total = self.retired
        for row in self._all():
            total = row.added_to(total)
        return total

    def post(self, text: str) -> None:
        """Put this text in place of the notice, of which only so much is kept as there is room for."""
        data = text.encode()[: _SIZE - _NOTICE - _HEAD]
        if data == self._notice:
            return
        self._notice = data
        head = self._page[_NOTICE : _NOTICE + _HEAD].cast("Q")
        head[0] += 1
        head[1] = len(data)
        self._page[_NOTICE + _HEAD : _NOTICE + _HEAD + len(data)] = data
        head[0] += 1

    def _all(self) -> Iterator[Row]:
        return chain.from_iterable(self._taken.values())


def find(pid: int) -> list[str]:
    """The paths of all pages that a process has; a supervisor has one.

    Raises:
        OSError: there is no such process, or it is not ours to look at.
    """
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with suppress(FileNotFoundError):  # closed meanwhile
            if _NAME in os.readlink(path):
                found.append(path)
    return found


class Reading:
    """The page of another process, as it is at each moment."""

    def __init__(self, path: str) -> None:
        """`path` leads to a descriptor of the page's (`find`).

        Raises:
            OSError: it has gone.
        """
        with open(path, "rb") as file:
            self._page = memoryview(mmap.mmap(file.fileno(), _SIZE, prot=mmap.PROT_READ))

    @classmethod
    def of(cls, pid: int) -> Reading:
        """The page of the supervisor with this pid.

        Raises:
            OSError: there is no such process, it has no page, or it is not ours to look at.
        """
        if not (paths := find(pid)):
            raise FileNotFoundError(errno.ENOENT, "it shows nothing: it is no supervisor of this version")
        return cls(paths[0])

    def notice(self) -> str:
        """What was posted last; empty before that."""
        head = self._page[_NOTICE : _NOTICE + _HEAD].cast("Q")
        return steady(head, lambda: bytes(self._page[_NOTICE + _HEAD : _NOTICE + _HEAD + head[1]])).decode("utf-8", "replace")

    def rows(self, first: int, count: int) -> list[Row]:
        """The rows from this number on, to be read only."""
        return [Row(self._page[number * ROW_SIZE : (number + 1) * ROW_SIZE]) for number in range(first, first + count)]
