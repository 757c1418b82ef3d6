"""What is left of each limit, in memory that workers read: two numbers a limit, written by the parent alone.

A row is what is left and, in milliseconds of the monotonic clock, when nothing of it will be taken any more. Each
number is written whole, so that a reader sees the old one or the new one. Behind all rows stands how often any of them
was written, and a reader who finds that unchanged need not look at his rows again. A row that was not written for long
goes to another limit; where there are more limits than rows, some have none, and their answers say nothing of what is
left.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict

ROWS = 32_768
IDLE = 3600.0  # seconds; no answer that reads a row takes longer to begin

NO_ROW = -1


class Board:
    """The parent's side. `descriptor` is inherited by workers; `cells`: two of each row, and the count."""

    def __init__(self, rows: int = ROWS) -> None:
        self.descriptor = os.memfd_create("penstock-limits")
        size = rows * 16 + 8
        os.ftruncate(self.descriptor, size)
        self._memory = mmap.mmap(self.descriptor, size)
        self.cells = memoryview(self._memory).cast("q")
        self._rows: OrderedDict[str, tuple[int, float]] = OrderedDict()  # by limit: its row, and when it was written
        self._unused = iter(range(rows))

    def row(self, limit: str) -> int:
        """The row that this limit has, NO_ROW if none."""
        found = self._rows.get(limit)
        return NO_ROW if found is None else found[0]

    def write(self, limit: str, left: int, whole_at: float, now: float) -> int:
        """Say what is left; the row. `whole_at` and `now` are of the monotonic clock."""
        found = self._rows.get(limit)
        row = self._take(now) if found is None else found[0]
        if row != NO_ROW:
            self._rows[limit] = row, now
            self._rows.move_to_end(limit)
            cells = self.cells
            cells[2 * row + 1] = -int(-whole_at * 1000 // 1)
            cells[2 * row] = max(left, -(1 << 62))
            cells[-1] += 1  # last: who sees it sees the row (or, where stores may overtake each other, very soon)
        return row

    def add(self, limit: str, amount: int) -> None:
        """Something was given back, or taken."""
        found = self._rows.get(limit)
        if found is not None:
            self.cells[2 * found[0]] += amount
            self.cells[-1] += 1

    def close(self) -> None:
        self.cells.release()
        self._memory.close()
        os.close(self.descriptor)

    def _take(self, now: float) -> int:
        row = next(self._unused, NO_ROW)
        if row == NO_ROW and self._rows:
            oldest, (idle, written) = next(iter(self._rows.items()))
            if now - written > IDLE:
                del self._rows[oldest]
                return idle
        return row
