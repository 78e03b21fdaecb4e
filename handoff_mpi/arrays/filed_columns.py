"""Columns whose memory lies in a file: rank 0 and the journal keep only what such a column is, and where it lies.

The plain form of one, as it stands in the journal, is ``(FILED, count, stub, offset, nbytes, digest)``. The stub is the
column without its memory; the digest, the XXH3-128 of the memory, says whether the file holds what was written there.
"""

from __future__ import annotations

import marshal
from collections.abc import Callable
from typing import Any, Protocol

from xxhash import xxh3_128

from handoff_mpi.arrays.columns import (
    ARRAYS,
    MARSHAL_VERSION,
    MARSHALLED,
    NUMBERS,
    PICKLES,
    Packed,
    count_of,
    nbytes_of,
)

FILED = "filed"
#: A column of fewer bytes takes less room than what says where it lies.
MIN_FILED_NBYTES = 256


class ColumnSource(Protocol):
    """A file of columns."""

    def read(self, offset: int, nbytes: int, digest: bytes, /) -> bytes:
        """Return so many bytes from an offset on; raise ValueDamaged if these do not have that digest."""
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
        """Return the column, with its memory.

        Raises:
            ValueDamaged: the file does not hold it.
        """
        _, _, stub, offset, nbytes, digest = self.plain
        return _joined(stub, self.source.read(offset, nbytes, digest))


def loaded(column: Packed | FiledColumn) -> Packed:
    """Return a column with its memory, wherever that lies.

    Raises:
        ValueDamaged: the file does not hold it.
    """
    return column.load() if isinstance(column, FiledColumn) else column


def nbytes_of_any(column: Packed | FiledColumn) -> int:
    """Return how many bytes a column takes, in memory or in its file."""
    return column.nbytes if isinstance(column, FiledColumn) else nbytes_of(column)


def count_of_any(column: Packed | FiledColumn) -> int:
    """Return the number of values of a column."""
    return count_of(column.plain if isinstance(column, FiledColumn) else column)


def parted(packed: Packed) -> tuple[Packed, Any] | None:
    """Return a column as its stub and its memory; None where it has no memory to speak of."""
    kind = packed[0]
    if kind not in _PARTED or nbytes_of(packed) < MIN_FILED_NBYTES:
        return None
    return _PARTED[kind](packed)


def plain_form(stub: Packed, memory: Any, offset: int) -> Packed:
    """Return the plain form of a column whose memory was written at ``offset``."""
    return FILED, stub[1], stub, offset, memoryview(memory).nbytes, digest_of(memory)


def digest_of(memory: Any) -> bytes:
    """Return the digest of the memory of a column."""
    return xxh3_128(memory).digest()


def _joined(stub: Packed, memory: bytes) -> Packed:
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
