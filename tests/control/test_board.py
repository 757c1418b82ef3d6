"""The memory in which workers read what is left of limits."""

from __future__ import annotations

from penstock.control.counters.board import IDLE, NO_ROW, Board


def test_whatever_is_written_raises_the_count_behind_all_rows() -> None:
    board = Board(2)
    counts = [board.cells[-1]]
    row = board.write("limit_1", 5, 1000.0, 0.0)
    counts.append(board.cells[-1])
    board.add("limit_1", -7)
    counts.append(board.cells[-1])
    board.write("limit_1", 3, 1000.5, 1.0)
    counts.append(board.cells[-1])
    assert counts == sorted(set(counts))
    assert list(board.cells[2 * row : 2 * row + 2]) == [3, 1_000_500]
    board.add("limit_2", 1)
    assert board.cells[-1] == counts[-1], "it has no row"
    board.close()


def test_a_row_that_was_not_written_for_long_goes_to_another_limit() -> None:
    board = Board(1)
    assert board.write("limit_1", 5, 1000.0, 0.0) == 0
    before = board.cells[-1]
    assert board.write("limit_2", 6, 1000.0, 1.0) == NO_ROW
    assert board.cells[-1] == before
    assert board.write("limit_2", 6, 1000.0, IDLE + 1) == 0
    assert (board.row("limit_1"), board.row("limit_2")) == (NO_ROW, 0)
    assert board.cells[-1] > before
    board.close()
