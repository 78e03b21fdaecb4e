"""Keeps the columns of arrays at rank 0: in its memory while they take a small share of it, then in a file."""

from __future__ import annotations

from handoff_mpi.arrays.columns import Packed, nbytes_of
from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.console import print_message
from handoff_mpi.errors import UntrustedFile
from handoff_mpi.results.column_file import ColumnFile

#: Columns stay in memory while all of a run take less than this share of what rank 0 has of its host's memory.
INLINE_SHARE = 0.05
#: The same in bytes, where the memory is unknown.
DEFAULT_INLINE_NBYTES = 256 * 10**6


class ColumnKeeper:
    """Decides where columns rest.

    Args:
        file: takes those that do not stay in memory.
        memory_nbytes: the memory that rank 0 has; 0 if that is unknown.
        held_nbytes: how many bytes of columns are in memory already.
    """

    def __init__(self, file: ColumnFile, memory_nbytes: int, held_nbytes: int = 0) -> None:
        self._file = file
        self._most = INLINE_SHARE * memory_nbytes if memory_nbytes else DEFAULT_INLINE_NBYTES
        self._held_nbytes = held_nbytes
        self._has_said_unwritten = False

    def keep(self, packed: Packed, is_windowed: bool = False) -> Packed | FiledColumn:
        """Return a column as it is kept. One that cannot be written stays in memory; a line says so once.

        Args:
            is_windowed: whether it is one of an array of which nobody knows how many values it has.
        """
        nbytes = nbytes_of(packed)
        if is_windowed or self._held_nbytes + nbytes > self._most:
            try:
                column = self._file.append(packed)
                if isinstance(column, FiledColumn):
                    return column
            except (OSError, UntrustedFile) as error:
                self._say_unwritten(error)
        self._held_nbytes += nbytes
        return packed

    def close(self) -> None:
        """Have the disk take what was written; say so if it does not."""
        try:
            self._file.close()
        except OSError as error:
            self._say_unwritten(error)

    def _say_unwritten(self, error: Exception) -> None:
        if not self._has_said_unwritten:
            self._has_said_unwritten = True
            why = getattr(error, "strerror", None) or str(error)
            what = f"values of elements stay in the memory of rank 0: {self._file.where} cannot be written"
            print_message(f"{what}: {why}; {self._file.remedy}")
