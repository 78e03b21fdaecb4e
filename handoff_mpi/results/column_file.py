"""The value file of a launch: the memory of those columns of arrays that do not fit into the memory of rank 0.

It lies among the values of the run-dir, as ``NNNNNN.columns`` with the number of the launch. It begins with ``HMPC1``
and a newline; columns follow, each at a multiple of 64 bytes. Where a column lies, what it is and its checksum stand in
the journal, so that a reader takes no other bytes for it: those of a file that is torn, cut short, or another run's. A
run without a run-dir has a temporary file that bears no name, and ends with the process.
"""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from handoff_mpi.arrays.columns import Packed, count_of
from handoff_mpi.arrays.filed_columns import FILED, FiledColumn, parted, plain_form
from handoff_mpi.errors import UntrustedFile, ValueDamaged
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.secure_files import Directory, open_directory
from handoff_mpi.results.spilling import is_in_memory

_MAGIC = b"HMPC1\n"
_ALIGNMENT = 64


def column_file_name(epoch: int) -> str:
    """Return the name of the value file of a launch."""
    return f"{epoch:06}.columns"


class MappedFile:
    """Reads parts of a file of columns as views of a memory map, which is renewed when the file has grown.

    Args:
        open_file: returns a descriptor that this object may close; it raises OSError or UntrustedFile.
        where: names the file in messages.

    Attributes:
        intact: the offsets whose memory is known to be what was written.
    """

    def __init__(self, open_file: Callable[[], int], where: str) -> None:
        self.intact: set[int] = set()
        self._open_file = open_file
        self._where = where
        self._map: mmap.mmap | None = None

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return a view of some bytes.

        Raises:
            ValueDamaged: the file is not there, is not a file of columns, or is cut short.
        """
        end = offset + nbytes
        if self._map is None or len(self._map) < end:
            self._map = self._mapped()
        if len(self._map) < end or self._map.size() < end:  # it may have been cut since
            raise ValueDamaged(f"{self._where} is cut short: it has {self._map.size()} bytes instead of {end}")
        return memoryview(self._map)[offset:end]

    def refuse(self, offset: int) -> NoReturn:
        """Say that the bytes at ``offset`` are not those that were written.

        Raises:
            ValueDamaged: always.
        """
        raise ValueDamaged(f"{self._where} is damaged, or another run's: the checksum at byte {offset} does not match")

    def _mapped(self) -> mmap.mmap:
        try:
            fd = self._open_file()
            try:
                found = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
            finally:
                os.close(fd)
        except FileNotFoundError:
            raise ValueDamaged(f"{self._where} is not there") from None
        except UntrustedFile as error:
            raise ValueDamaged(str(error)) from error
        except (OSError, ValueError) as error:  # ValueError: it is empty
            raise ValueDamaged(f"{self._where} cannot be read: {error}") from error
        if found[: len(_MAGIC)] != _MAGIC:
            raise ValueDamaged(f"{self._where} is damaged, or not a file of columns")
        return found


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
        self._mapped = MappedFile(lambda: os.dup(self._fd), where)

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
        if self._fd < 0:
            self._fd = self._make()
            self._write(_MAGIC, 0)
            self._size = len(_MAGIC)
        offset = self._size + -self._size % _ALIGNMENT
        self._write(memory, offset)
        plain = plain_form(stub, memory, offset)
        self._size = offset + plain[4]
        return FiledColumn(plain, self._mapped)

    def close(self) -> None:
        """Have the disk take what was written; columns can still be read by this process.

        Raises:
            OSError: the disk does not take it.
        """
        if self._fd < 0:
            return
        try:
            self._mapped.view(0, self._size)
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
            self._fd = -1

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
        lost: how many elements they do not hold any more, though the journal says so.
        note: a line about those; empty if there are none.
    """

    def __init__(self, directory: Path) -> None:
        self.lost = 0
        self.note = ""
        self._directory = directory
        self._files: dict[int, MappedFile] = {}

    def column(self, epoch: int, packed: Packed) -> Packed | FiledColumn:
        """Return a column of the journal of a launch; one in a file is looked at when it is loaded."""
        if packed[0] != FILED:
            return packed
        if epoch not in self._files:
            where = str(self._directory / column_file_name(epoch))
            self._files[epoch] = MappedFile(lambda: self._open(epoch), where)
        return FiledColumn(packed, self._files[epoch])

    def intact_column(self, epoch: int, packed: Packed) -> Packed | FiledColumn | None:
        """Return a column as :meth:`column` does; None if the file does not hold it, which is counted."""
        column = self.column(epoch, packed)
        try:
            if isinstance(column, FiledColumn):
                column.load()
        except ValueDamaged as error:
            self.lost += count_of(packed)
            what = f"{self.lost:,} values of elements that an earlier launch wrote are lost, and are made again"
            self.note = f"{what}: {error}"
            return None
        return column

    def _open(self, epoch: int) -> int:
        with open_directory(self._directory.absolute()) as directory:
            return directory.open(column_file_name(epoch))
