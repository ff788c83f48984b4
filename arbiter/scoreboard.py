"""The shared page: one anonymous mapping made before the first fork, a row for each living worker.

Supervisor side: allocates rows, reads deadlines, and folds a dead worker's counters into a total, so that what was counted
once stays counted. Workers write their own rows only (`contract.Row`). Rows are by living process, not by slot: while a
successor boots beside its predecessor, both write.
"""

from __future__ import annotations

import mmap
from heapq import heappop, heappush
from typing import Final

from arbiter.workers.contract import COUNTERS, ROW_SIZE, Row

ROWS: Final = 4096
"""As many as workers can live at once. 2 MiB of address space; pages that nobody has written cost nothing."""


class Scoreboard:
    """Allocator and reader of the rows."""

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, ROWS * ROW_SIZE))
        self._free = list(range(ROWS))  # sorted, hence a heap: the lowest first keeps the touched pages few
        self._taken: dict[Row, int] = {}
        self.retired = [0] * COUNTERS
        """Counters of all workers that are gone (words REQUESTS and on of a row)."""

    def take(self) -> Row:
        """A clean row.

        Raises:
            OSError: none is left; with 4096 workers alive that is a fault that backs off like a failing fork.
        """
        if not self._free:
            raise OSError(f"the scoreboard is full: {ROWS} workers are alive")
        number = heappop(self._free)
        row = Row(self._page[number * ROW_SIZE : (number + 1) * ROW_SIZE])
        row.clear()
        self._taken[row] = number
        return row

    def give_back(self, row: Row) -> None:
        """Keep the row's counters and free it; its worker is dead."""
        self.retired = row.added_to(self.retired)
        heappush(self._free, self._taken.pop(row))

    def totals(self) -> list[int]:
        """Counters of all workers that live or ever lived."""
        total = self.retired
        for row in self._taken:
            total = row.added_to(total)
        return total
