"""Where columns rest: in memory while they take a small share of it, then in a file, or in memory if that fails."""

from __future__ import annotations

import errno
import os

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.results.column_file import ColumnFile
from handoff_mpi.runtime.column_keeper import ColumnKeeper

COLUMN = pack([*range(1000)])  # 8 kB


def test_columns_go_to_the_file_once_they_take_more_than_a_share_of_memory(tmp_path):
    path = tmp_path / "file"
    path.touch()
    keeper = ColumnKeeper(file_at(path), memory_nbytes=1_000_000, held_nbytes=30_000)  # of which 50,000 may be columns
    kept = [keeper.keep(COLUMN) for _ in range(5)]
    assert [isinstance(column, FiledColumn) for column in kept] == [False, False, True, True, True]
    assert [column.load() for column in kept[2:]] == [COLUMN] * 3
    assert keeper.keep(pack([1, 2])) == pack([1, 2])  # small ones stay
    keeper.close()


def file_at(path):
    return ColumnFile(lambda: os.open(path, os.O_RDWR), str(path))


def test_a_column_that_cannot_be_written_stays_in_memory_and_one_line_says_so(tmp_path, capfd):
    disk = [OSError(errno.ENOSPC, "No space left on device")] * 2

    def make():
        if disk:
            raise disk.pop()
        return os.open(tmp_path / "file", os.O_RDWR)

    (tmp_path / "file").touch()
    keeper = ColumnKeeper(ColumnFile(make, "r/values/000001.columns"), memory_nbytes=1)
    assert keeper.keep(COLUMN) is COLUMN
    assert keeper.keep(COLUMN) is COLUMN
    assert isinstance(keeper.keep(COLUMN), FiledColumn)  # somebody has freed space
    said = capfd.readouterr().err
    assert said.count("values of elements stay in the memory of rank 0") == 1
    assert "r/values/000001.columns cannot be written: No space left on device; free space there" in said
    keeper.close()
