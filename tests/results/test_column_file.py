"""The value file of a launch: columns are appended and read; a file that does not hold them is one clear line."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from handoff_mpi.arrays.columns import pack, unpack
from handoff_mpi.arrays.filed_columns import FILED, FiledColumn
from handoff_mpi.errors import ValueDamaged
from handoff_mpi.results.column_file import ColumnFile, ColumnFiles, column_file_in, temporary_column_file
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.secure_files import open_directory

ROWS = [np.full(100, index) for index in range(10)]
WORDS = [f"text {index}" for index in range(200)]


@pytest.fixture
def run_dir(tmp_path):
    with open_directory(tmp_path) as directory:
        yield directory


def rows_of(column):
    return [row.tolist() for row in unpack(column.load())]


def written(run_dir, *lists, epoch=1):
    """The plain forms of columns that a launch has written."""
    file = column_file_in(run_dir, epoch)
    columns = [file.append(pack(values)) for values in lists]
    file.close()
    return [column.plain for column in columns]


def test_columns_are_read_while_the_file_grows_and_after_it_is_closed(run_dir):
    file = column_file_in(run_dir, 1)
    rows = file.append(pack(ROWS))
    assert rows_of(rows) == [row.tolist() for row in ROWS]
    words = file.append(pack(WORDS))
    assert unpack(words.load()) == WORDS
    more = file.append(pack(ROWS))
    file.close()
    assert rows_of(more) == rows_of(rows)
    assert unpack(words.load()) == WORDS


def test_a_launch_without_large_columns_has_no_file(run_dir):
    file = column_file_in(run_dir, 1)
    assert file.append(pack([1, 2])) == pack([1, 2])
    file.close()
    assert run_dir.status(VALUES) is None


def test_another_process_reads_what_the_journal_tells(run_dir):
    plain, words = written(run_dir, ROWS, WORDS)
    assert plain[0] == FILED
    files = ColumnFiles(run_dir.path / VALUES)
    assert rows_of(files.column(1, plain)) == [row.tolist() for row in ROWS]
    assert unpack(files.intact_column(1, words).load()) == WORDS
    assert files.column(1, pack([1])) == pack([1])
    assert not files.note


def cut_short(path):
    os.truncate(path, path.stat().st_size - 10)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = {
    "is cut short": cut_short,
    "is damaged, or another run's": flip,
    "or another run's: the checksum of the values at byte 0 ": zero,
    "is not there": os.unlink,
    "cut short: it ends before byte 6": lambda path: path.write_bytes(b""),
    "can be written to by": lambda path: path.chmod(0o666),
    "belongs to": lambda path: os.chown(path, 4321, -1),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_file_that_does_not_hold_the_values_is_one_line(run_dir, words):
    first, last = written(run_dir, WORDS, ROWS)
    path = run_dir.path / VALUES / "000001.columns"
    if words == "belongs to" and os.geteuid():
        pytest.skip("only root can give a file to another user")
    DAMAGES[words](path)
    files = ColumnFiles(path.parent)
    assert files.intact_column(1, last) is None
    assert files.intact_column(1, last) is None
    assert files.lost == len(ROWS)
    assert files.note.startswith("10 values of elements that an earlier launch wrote are lost, and are made again: ")
    assert words in files.note
    assert str(path) in files.note
    with pytest.raises(ValueDamaged, match=words):
        files.column(1, last).load()
    if words in ("is cut short", "is damaged, or another run's"):
        assert unpack(files.intact_column(1, first).load()) == WORDS


def test_a_file_that_is_cut_short_while_a_process_reads_it_ends_nobody(run_dir):
    first, last = written(run_dir, WORDS, ROWS)
    files = ColumnFiles(run_dir.path / VALUES)
    assert rows_of(files.column(1, last)) == [row.tolist() for row in ROWS]
    os.truncate(run_dir.path / VALUES / "000001.columns", 10)
    with pytest.raises(ValueDamaged, match="is cut short"):
        files.column(1, first).load()


def test_a_read_that_gives_fewer_bytes_is_continued(run_dir, monkeypatch):
    (plain,) = written(run_dir, ROWS)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, nbytes, offset: pread(fd, min(nbytes, 1000), offset))
    assert rows_of(ColumnFiles(run_dir.path / VALUES).column(1, plain)) == [row.tolist() for row in ROWS]


def test_the_file_of_another_run_is_not_taken_for_this_ones(tmp_path):
    for name, values in (("one", ROWS), ("other", [row + 1 for row in ROWS])):
        (tmp_path / name).mkdir()
        with open_directory(tmp_path / name) as run_dir:
            written(run_dir, values)
    with open_directory(tmp_path / "one") as run_dir:
        (plain,) = written(run_dir, ROWS, epoch=2)
    (tmp_path / "other" / VALUES / "000001.columns").replace(tmp_path / "one" / VALUES / "000002.columns")
    assert ColumnFiles(tmp_path / "one" / VALUES).intact_column(2, plain) is None


def test_after_a_full_disk_the_next_column_is_written_where_the_failed_one_was(run_dir):
    fails = []

    def pwrite(fd, data, offset):
        if fails:
            os.pwrite(fd, data[:100], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(fd, data, offset)

    file = ColumnFile(lambda: run_dir.create("file"), "file", pwrite=pwrite)
    file.append(pack(WORDS))
    fails.append(True)
    with pytest.raises(OSError, match="No space"):
        file.append(pack(ROWS))
    fails.clear()
    assert rows_of(file.append(pack(ROWS))) == [row.tolist() for row in ROWS]
    file.close()


def test_a_temporary_file_bears_no_name(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("handoff_mpi.results.column_file.is_in_memory", lambda path: False)
    file = temporary_column_file()
    column = file.append(pack(ROWS))
    assert isinstance(column, FiledColumn)
    assert [*tmp_path.iterdir()] == []
    file.close()
    assert rows_of(column) == [row.tolist() for row in ROWS]


def test_a_temporary_file_in_memory_relieves_nobody(monkeypatch):
    monkeypatch.setattr("handoff_mpi.results.column_file.is_in_memory", lambda path: True)
    with pytest.raises(OSError, match="stays in memory"):
        temporary_column_file().append(pack(ROWS))
