"""Columns whose memory lies in a file: rank 0 and the journal keep only what such a column is, and where it lies.

The plain form of one, as it stands in the journal, is ``(FILED, count, stub, offset, nbytes, digest)``. The stub is the
column without its memory; the digest, the XXH3-128 of the memory, says whether the file holds what was written there.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from xxhash import xxh3_128

from handoff_mpi.arrays.columns import (
    ARRAYS,
    MARSHAL_VERSION,
    MARSHALLED,
    NUMBERS,
    PICKLES,
    Packed,
    count_of,
    cut,
    nbytes_of,
)

FILED = "filed"
#: A column of fewer bytes takes less room than what says where it lies.
MIN_FILED_NBYTES = 256


class ColumnSource(Protocol):
    """A file of columns.

    Attributes:
        intact: the offsets whose memory is known to be what was written.
    """

    intact: set[int]

    def view(self, offset: int, nbytes: int, /) -> memoryview:
        """Return a view of so many bytes from an offset on; raise ValueDamaged if the file has no such bytes."""
        ...

    def refuse(self, offset: int, /) -> NoReturn:
        """Raise ValueDamaged: the memory at an offset is not what was written."""
        ...


class FiledColumn:
    """A column whose memory lies in a file.

    Args:
        plain: its plain form.
        source: the file.
    """

    __slots__ = ("plain", "source")

    def __init__(self, plain: Packed, source: ColumnSource) -> None:
        self.plain = plain
        self.source = source

    @property
    def nbytes(self) -> int:
        """How many bytes its memory takes in the file."""
        return self.plain[4]  # type: ignore[no-any-return]

    def load(self) -> Packed:
        """Return the column; its memory is a view of the file.

        Raises:
            ValueDamaged: the file does not hold it.
        """
        _, _, stub, offset, nbytes, digest = self.plain
        memory = self.source.view(offset, nbytes)
        if offset not in self.source.intact:
            if xxh3_128(memory).digest() != digest:
                self.source.refuse(offset)
            self.source.intact.add(offset)
        return _joined(stub, memory)


def cut_any(column: Packed | FiledColumn, start: int, stop: int) -> Packed:
    """Return the column of the values from position ``start`` up to ``stop``, wherever its memory lies.

    Raises:
        ValueDamaged: the file does not hold it.
    """
    return cut(column.load() if isinstance(column, FiledColumn) else column, start, stop)


def nbytes_of_any(column: Packed | FiledColumn) -> int:
    """Return how many bytes a column takes, in memory or in its file."""
    return column.nbytes if isinstance(column, FiledColumn) else nbytes_of(column)


def count_of_any(column: Packed | FiledColumn) -> int:
    """Return the number of values of a column."""
    return count_of(column.plain if isinstance(column, FiledColumn) else column)


def in_memory(packed: Packed) -> Packed:
    """Return a column with memory of its own."""
    return tuple([bytes(part) if isinstance(part, memoryview) else part for part in packed])


def parted(packed: Packed) -> tuple[Packed, Any] | None:
    """Return a column as its stub and its memory; None where it has no memory to speak of."""
    kind = packed[0]
    if kind not in _PARTED or nbytes_of(packed) < MIN_FILED_NBYTES:
        return None
    return _PARTED[kind](packed)


def plain_form(stub: Packed, memory: Any, offset: int) -> Packed:
    """Return the plain form of a column whose memory was written at ``offset``."""
    return FILED, stub[1], stub, offset, memoryview(memory).nbytes, xxh3_128(memory).digest()


def _joined(stub: Packed, memory: memoryview) -> Packed:
    kind = stub[0]
    if kind == PICKLES:
        return (*stub, tuple(marshal.loads(memory)))
    if kind == MARSHALLED:
        return kind, stub[1], memory, stub[2]
    return (*stub, memory)


_PARTED: dict[str, Callable[[Packed], tuple[Packed, Any]]] = {
    NUMBERS: lambda packed: (packed[:-1], packed[-1]),
    ARRAYS: lambda packed: (packed[:-1], packed[-1]),
    MARSHALLED: lambda packed: ((packed[0], packed[1], packed[3]), packed[2]),
    PICKLES: lambda packed: (packed[:-1], marshal.dumps(packed[-1], MARSHAL_VERSION)),
}
