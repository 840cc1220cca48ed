"""The board: a piece of memory that the master and its workers share, one row for each worker.

The master makes it before the first fork, each worker writes its own row, the master reads them all. Every cell is
eight aligned bytes, so a reader sees the old value or the new one; there is no lock that a killed worker could keep.
"""

from __future__ import annotations

import enum
import mmap
import os
import time
from collections.abc import Iterator

#: As many workers as the role allows: a reload may set a new number, and the board cannot grow.
MOST_WORKERS = 64
#: Rows beyond two sets of workers: while one drains, its successor has a row of its own.
SPARE_ROWS = 8


class Cell(enum.IntEnum):
    """The columns of a row. Moments are CLOCK_MONOTONIC, which all processes of a host share, in milliseconds."""

    PID = 0
    BORN = 1
    BOOTED = 2
    """When the app was loaded; 0 before."""
    BEAT = 3
    """When the worker's guard last looked."""
    LEAVING = 4
    """Why it stops (a `Leaving`); 0 while it serves."""
    MEMORY = 5
    """Bytes of the worker and of the processes it started."""
    SHARE = 6
    """Bytes it may use before it retires; 0 for no limit."""
    REQUESTS = 7
    IN_FLIGHT = 8
    OLDEST = 9
    """Age of its oldest request in milliseconds."""
    EXCUSED = 10
    """1 while all its threads are busy, and none of them is stuck."""
    FIRST_CLASS = 11
    """Answers with a status of 100 to 199; those of the other classes follow."""
    LAST_CLASS = 15


class Leaving(enum.IntEnum):
    """Why a worker went, for the counters. The worker itself writes all but the last three, which the master sees."""

    SERVING = 0
    MEMORY = 1
    REQUESTS = 2
    HANG = 3
    ORDER = 4
    """Asked to by the master: a stop, a reload."""
    BOOT = 5
    TIMEOUT = 6
    CRASH = 7


PLANNED = frozenset({Leaving.MEMORY, Leaving.REQUESTS, Leaving.ORDER})


def now_ms() -> int:
    """Return CLOCK_MONOTONIC in milliseconds."""
    return time.monotonic_ns() // 1_000_000


class Row:
    """One worker's row."""

    def __init__(self, cells: memoryview, start: int) -> None:
        self._cells = cells
        self._start = start

    def __getitem__(self, cell: int) -> int:
        return int(self._cells[self._start + cell])

    def __setitem__(self, cell: int, value: int) -> None:
        self._cells[self._start + cell] = value

    def clear(self) -> None:
        """Make the row free for another worker."""
        for cell in range(Cell.LAST_CLASS + 1):
            self[cell] = 0

    def count_status(self, status: int) -> None:
        """Count one answer; called by one thread of the worker at a time."""
        if 100 <= status <= 599:
            self[Cell.FIRST_CLASS + status // 100 - 1] += 1


class Board:
    """All rows, and the sums of those that are gone (kept by the master alone).

    Args:
        workers: how many workers serve at once.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._width = Cell.LAST_CLASS + 1
        # A reload starts all new workers before it stops the old ones.
        self._rows = 2 * max(workers, MOST_WORKERS) + SPARE_ROWS
        self._memory = mmap.mmap(-1, max(mmap.PAGESIZE, self._width * self._rows * 8))
        self._cells = memoryview(self._memory).cast("q")
        self.exits: dict[Leaving, int] = dict.fromkeys(list(Leaving)[1:], 0)
        self.requests_before = 0
        self.answers_before = [0] * 5

    def rows(self) -> Iterator[Row]:
        """Return the rows of living workers."""
        for row in self._all():
            if row[Cell.PID]:
                yield row

    def _all(self) -> Iterator[Row]:
        for number in range(self._rows):
            yield Row(self._cells, number * self._width)

    def free_row(self) -> Row:
        """Return a row for the next worker.

        Raises:
            RuntimeError: more workers live than were ever planned for.
        """
        for row in self._all():
            if not row[Cell.PID]:
                row.clear()
                return row
        raise RuntimeError("the board is full")

    def retire(self, row: Row, why: Leaving) -> None:
        """Count a worker that is gone and free its row."""
        self.exits[why] += 1
        self.requests_before += row[Cell.REQUESTS]
        for number in range(5):
            self.answers_before[number] += row[Cell.FIRST_CLASS + number]
        row.clear()

    def requests(self) -> int:
        """Return how many requests were taken since the master started."""
        return self.requests_before + sum(row[Cell.REQUESTS] for row in self.rows())

    def answers(self) -> list[int]:
        """Return how many answers had a status of 1xx, 2xx, 3xx, 4xx, 5xx."""
        rows = list(self.rows())
        return [
            before + sum(row[Cell.FIRST_CLASS + number] for row in rows)
            for number, before in enumerate(self.answers_before)
        ]

    def serving(self) -> list[Row]:
        """Return the rows of workers that are booted and take requests."""
        return [row for row in self.rows() if row[Cell.BOOTED] and not row[Cell.LEAVING]]

    def others_serve(self) -> bool:
        """Tell whether every other worker is booted and serves: the turn of one more to retire."""
        mine = os.getpid()
        others = [row for row in self.serving() if row[Cell.PID] != mine]
        return len(others) >= self.workers - 1
