"""The value file of a launch: the memory of those columns of arrays that do not fit into the memory of rank 0.

It lies among the values of the run-dir, as ``NNNNNN.columns`` with the number of the launch. It begins with ``HMPC1``
and a newline; columns follow, each at a multiple of 64 bytes. Where a column lies, what it is and its checksum stand in
the journal, so that a reader takes no other bytes for it: those of a file that is torn, cut short, or another run's. A
run without a run-dir has a temporary file that bears no name, and ends with the process.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handoff_mpi.arrays.columns import Packed, count_of
from handoff_mpi.arrays.filed_columns import FILED, FiledColumn, digest_of, parted, plain_form
from handoff_mpi.errors import UntrustedFile, ValueDamaged
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.secure_files import Directory, open_directory
from handoff_mpi.results.spilling import is_in_memory

_MAGIC = b"HMPC1\n"
_ALIGNMENT = 64


def column_file_name(epoch: int) -> str:
    """Return the name of the value file of a launch."""
    return f"{epoch:06}.columns"


class ColumnReader:
    """Reads columns of an open file, and keeps the last one: a user may ask for its values one by one.

    A map of the file is not used: a process that touches a page of it which another one has cut off gets SIGBUS.

    Args:
        fd: the descriptor; it is closed when nobody refers to this object any more.
        where: names the file in messages.
    """

    def __init__(self, fd: int, where: str) -> None:
        self._fd = fd
        self._where = where
        self._last = (-1, -1, b"", b"")
        weakref.finalize(self, os.close, fd)

    def read(self, offset: int, nbytes: int, digest: bytes) -> bytes:
        """Return the bytes at an offset.

        Raises:
            ValueDamaged: the file cannot be read, is cut short, or holds others.
        """
        if self._last[:3] == (offset, nbytes, digest):
            return self._last[3]
        self._last = (-1, -1, b"", b"")
        try:
            found = _read(self._fd, nbytes, offset)
        except OSError as error:
            raise ValueDamaged(f"{self._where} cannot be read: {error.strerror}") from error
        if len(found) < nbytes:
            raise ValueDamaged(f"{self._where} is cut short: it ends before byte {offset + nbytes}")
        if digest_of(found) != digest:
            what = f"{self._where} is damaged, or another run's"
            raise ValueDamaged(f"{what}: the checksum of the values at byte {offset} does not match")
        self._last = offset, nbytes, digest, found
        return found


class _EarlierFile:
    """The value file that an earlier launch left; it is opened when its first column is read.

    Args:
        directory: of values, in the run-dir.
        epoch: the number of the launch.
    """

    def __init__(self, directory: Path, epoch: int) -> None:
        self._directory = directory
        self._name = column_file_name(epoch)
        self._reader: ColumnReader | None = None

    def read(self, offset: int, nbytes: int, digest: bytes) -> bytes:
        """Return the bytes at an offset.

        Raises:
            ValueDamaged: the file is not there, is not to be trusted, or does not hold these bytes.
        """
        if self._reader is None:
            self._reader = self._open()
        return self._reader.read(offset, nbytes, digest)

    def _open(self) -> ColumnReader:
        where = str(self._directory / self._name)
        try:
            with open_directory(self._directory.absolute()) as directory:
                reader = ColumnReader(directory.open(self._name), where)
        except FileNotFoundError:
            raise ValueDamaged(f"{where} is not there") from None
        except UntrustedFile as error:
            raise ValueDamaged(str(error)) from error
        except OSError as error:
            raise ValueDamaged(f"{where} cannot be read: {error.strerror}") from error
        reader.read(0, len(_MAGIC), digest_of(_MAGIC))
        return reader


class ColumnFile:
    """The value file that a launch writes; it is made with the first column.

    Args:
        make: makes the file and returns a descriptor; it raises OSError or UntrustedFile.
        where: names the file in messages.
        remedy: what a user does where it cannot be written.
        pwrite: as in :mod:`os`.

    Attributes:
        where, remedy: as given.
    """

    def __init__(
        self,
        make: Callable[[], int],
        where: str,
        remedy: str = "free space there",
        pwrite: Callable[[int, Any, int], int] = os.pwrite,
    ) -> None:
        self.where = where
        self.remedy = remedy
        self._make = make
        self._pwrite = pwrite
        self._fd = -1
        self._size = 0
        self._reader: ColumnReader | None = None

    def append(self, packed: Packed) -> Packed | FiledColumn:
        """Write the memory of a column; return the column as it is kept: itself, if it has next to no memory.

        Raises:
            OSError: it cannot be written; a later one may be.
            UntrustedFile: others can write to the directory.
        """
        parts = parted(packed)
        if parts is None:
            return packed
        stub, memory = parts
        reader = self._begun()
        offset = self._size + -self._size % _ALIGNMENT
        self._write(memory, offset)
        plain = plain_form(stub, memory, offset)
        self._size = offset + plain[4]
        return FiledColumn(plain, reader)

    def close(self) -> None:
        """Have the disk take what was written; columns can still be read by this process.

        Raises:
            OSError: the disk does not take it.
        """
        if self._reader is not None:
            os.fsync(self._fd)

    def _begun(self) -> ColumnReader:
        """Return what reads the file, which is made if it is not there."""
        if self._reader is None:
            self._fd = self._make()
            self._reader = ColumnReader(self._fd, self.where)
        if not self._size:
            self._write(_MAGIC, 0)
            self._size = len(_MAGIC)
        return self._reader

    def _write(self, memory: Any, offset: int) -> None:
        """Write at an offset: what a failed attempt left there is written over."""
        rest = memoryview(memory).cast("B")
        while rest:
            count = self._pwrite(self._fd, rest, offset)
            if not count:
                raise OSError(errno.EIO, "nothing was written", self.where)
            rest, offset = rest[count:], offset + count


def column_file_in(run_dir: Directory, epoch: int) -> ColumnFile:
    """Return the value file of a launch, which writes it into its run-dir, an open one."""

    def make() -> int:
        with run_dir.child(VALUES, makes=True) as values:
            return values.create(column_file_name(epoch))

    return ColumnFile(make, str(run_dir.path / VALUES / column_file_name(epoch)))


def temporary_column_file() -> ColumnFile:
    """Return the value file of a run without a run-dir: it bears no name, and its room is free once nobody reads it."""

    def make() -> int:
        directory = Path(tempfile.gettempdir())
        if is_in_memory(directory):
            raise OSError(errno.ENODEV, "what is written there stays in memory", str(directory))
        fd, name = tempfile.mkstemp(prefix="handoff-columns-")
        Path(name).unlink()
        return fd

    remedy = "use a run-dir, or set TMPDIR to a directory on a disk with room"
    return ColumnFile(make, f"a temporary file in {tempfile.gettempdir()}", remedy)


class ColumnFiles:
    """The value files that earlier launches left.

    Args:
        directory: of values, in their run-dir.

    Attributes:
        lost: how many values they do not hold any more, though the journal says so.
        note: a line about those; empty if there are none.
    """

    def __init__(self, directory: Path) -> None:
        self.lost = 0
        self.note = ""
        self._directory = directory
        self._files: dict[int, _EarlierFile] = {}
        self._is_intact: dict[tuple[int, int], bool] = {}

    def column(self, epoch: int, packed: Packed) -> Packed | FiledColumn:
        """Return a column of the journal of a launch; one in a file is looked at when it is loaded."""
        if packed[0] != FILED:
            return packed
        if epoch not in self._files:
            self._files[epoch] = _EarlierFile(self._directory, epoch)
        return FiledColumn(packed, self._files[epoch])

    def intact_column(self, epoch: int, packed: Packed) -> Packed | FiledColumn | None:
        """Return a column as :meth:`column` does; None if the file does not hold it, which is counted once."""
        column = self.column(epoch, packed)
        if not isinstance(column, FiledColumn):
            return column
        key = epoch, column.plain[3]
        if key not in self._is_intact:
            self._is_intact[key] = self._look_at(column)
        return column if self._is_intact[key] else None

    def _look_at(self, column: FiledColumn) -> bool:
        try:
            column.load()
        except ValueDamaged as error:
            self.lost += count_of(column.plain)
            what = f"{self.lost:,} values of elements that an earlier launch wrote are lost, and are made again"
            self.note = f"{what}: {error}"
            return False
        return True


def _read(fd: int, nbytes: int, offset: int) -> bytes:
    """Return so many bytes, fewer only where the file ends: a read may be cut short, and of 2 GiB it always is."""
    found = os.pread(fd, nbytes, offset)
    if len(found) in (0, nbytes):
        return found
    parts = [found]
    while parts[-1]:
        offset += len(parts[-1])
        parts.append(os.pread(fd, nbytes - sum(map(len, parts)), offset))
    return b"".join(parts)
