"""The board that master and workers share."""

from __future__ import annotations

import os

import pytest

from sitekeeper.board import MOST_WORKERS, PLANNED, Board, Cell, Leaving


def settle(board, pid, **cells):
    """Take a row for a worker that is booted and serves."""
    row = board.free_row()
    row[Cell.PID], row[Cell.BOOTED] = pid, 1
    for name, value in cells.items():
        row[Cell[name]] = value
    return row


def in_child(work):
    """Do something in a forked process, and wait until it is gone."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid


def test_only_rows_of_living_workers_are_listed():
    board = Board(2)
    assert list(board.rows()) == []
    settle(board, 11)
    settle(board, 12)
    assert [row[Cell.PID] for row in board.rows()] == [11, 12]


def test_rows_do_not_touch_each_other():
    board = Board(2)
    first, second = settle(board, 11), settle(board, 12)
    for cell in range(Cell.LAST_CLASS + 1):
        first[cell] = -1
    assert [second[cell] for cell in range(Cell.LAST_CLASS + 1)].count(-1) == 0
    first.clear()
    assert {first[cell] for cell in range(Cell.LAST_CLASS + 1)} == {0}
    assert second[Cell.PID] == 12


def test_what_a_worker_writes_the_master_reads():
    board = Board(1)
    row = board.free_row()

    def work():
        row[Cell.PID] = os.getpid()
        row[Cell.MEMORY] = 3 << 40
        row.count_status(200)

    pid = in_child(work)
    (seen,) = board.rows()
    assert (seen[Cell.PID], seen[Cell.MEMORY]) == (pid, 3 << 40)
    assert board.answers() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("status", "counted"), [(100, 0), (204, 1), (301, 2), (404, 3), (599, 4), (99, None), (600, None), (0, None)]
)
def test_answers_are_counted_by_class(status, counted):
    board = Board(1)
    settle(board, 11).count_status(status)
    assert board.answers() == [int(number == counted) for number in range(5)]


def test_the_sums_outlive_the_workers():
    board = Board(2)
    first, second = settle(board, 11, REQUESTS=5), settle(board, 12, REQUESTS=7)
    first.count_status(200)
    second.count_status(500)
    board.retire(first, Leaving.MEMORY)
    assert (board.requests(), board.answers()) == (12, [0, 1, 0, 0, 1])
    assert [row[Cell.PID] for row in board.rows()] == [12]
    again = settle(board, 13, REQUESTS=1)
    board.retire(again, Leaving.MEMORY)
    assert (board.requests(), board.answers()) == (13, [0, 1, 0, 0, 1])
    assert board.exits[Leaving.MEMORY] == 2
    assert sum(board.exits.values()) == 2


def test_every_reason_to_leave_has_a_counter_and_some_are_planned():
    assert set(Board(1).exits) == set(Leaving) - {Leaving.SERVING}
    assert {Leaving.MEMORY, Leaving.REQUESTS, Leaving.ORDER} == PLANNED


@pytest.mark.parametrize(
    ("change", "serve"),
    [
        pytest.param({}, True, id="all serve"),
        pytest.param({Cell.BOOTED: 0}, False, id="one still boots"),
        pytest.param({Cell.LEAVING: Leaving.MEMORY}, False, id="one leaves already"),
        pytest.param({Cell.PID: 0}, False, id="one is missing"),
    ],
)
def test_the_others_serve_when_all_of_them_are_booted_and_stay(change, serve):
    board = Board(3)
    settle(board, os.getpid())
    settle(board, 11)
    other = settle(board, 12)
    for cell, value in change.items():
        other[cell] = value
    assert board.others_serve() is serve


def test_my_own_state_is_not_asked():
    board = Board(2)
    mine = settle(board, os.getpid())
    settle(board, 11)
    mine[Cell.LEAVING] = Leaving.MEMORY
    assert board.others_serve()


def test_the_only_worker_needs_no_others():
    board = Board(1)
    settle(board, os.getpid())
    assert board.others_serve()


@pytest.mark.parametrize(("workers", "after"), [(1, 1), (16, 16), (4, MOST_WORKERS), (MOST_WORKERS, MOST_WORKERS)])
def test_a_reload_finds_rows_for_a_second_set_of_workers(workers, after):
    board = Board(workers)
    for number in range(workers + after):
        settle(board, 100 + number)
    assert len(board.serving()) == workers + after


def test_a_full_board_says_so():
    board = Board(1)
    with pytest.raises(RuntimeError, match="full"):
        for number in range(1000):
            settle(board, 100 + number)
    assert len(list(board.rows())) > 2 * MOST_WORKERS


def test_a_row_of_one_who_left_is_clean():
    board = Board(1)
    row = settle(board, 11, REQUESTS=9, OLDEST=5, EXCUSED=1)
    board.retire(row, Leaving.CRASH)
    fresh = settle(board, 12)
    assert [fresh[cell] for cell in range(Cell.LAST_CLASS + 1) if cell not in (Cell.PID, Cell.BOOTED)] == [0] * 14
