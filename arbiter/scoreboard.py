"""The shared page: one anonymous mapping made before the first fork, rows for each living worker: its own and its threads'.

Supervisor side: allocates rows, reads deadlines, and folds a dead worker's counters into a total, so that what was counted
once stays counted. Workers write their own rows only (`contract.Row`). Rows are by living process, not by slot: while a
successor boots beside its predecessor, both write.
"""

from __future__ import annotations

import mmap
from itertools import chain
from typing import TYPE_CHECKING, Final

from arbiter.workers.contract import BUCKETS, COUNTERS, ROW_SIZE, Row, Word

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS: Final = 16 * 1024
"""As many as the threads of all workers that live at once. 16 MiB of address space; pages that nobody has used cost nothing."""


class Scoreboard:
    """Allocator and reader of the rows."""

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, ROWS * ROW_SIZE))
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

    def _all(self) -> Iterator[Row]:
        return chain.from_iterable(self._taken.values())
