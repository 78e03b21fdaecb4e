"""The elements that a user maps a function over: rank 0 cuts them into pieces, a rank makes values of a piece.

:func:`freeze_elements` takes them as they are, so that declaring an array takes no time. :meth:`ElementInput.encode`
packs them into columns, when the array becomes part of a run: later changes of a list do not count. Ranges stay three
numbers. Arrays of numpy are cut along axis 0, and their elements are those that iterating gives, rows read-only.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from handoff_mpi.arrays.columns import (
    BLOCKS,
    MARSHALLED,
    ColumnError,
    Decode,
    Packed,
    count_of,
    cut,
    dtype_text,
    nbytes_of,
    pack,
    packed_memory,
    packed_range,
    packed_rows,
    unpack,
)
from handoff_mpi.arrays.digests import DigestObject, hashed, header_of
from handoff_mpi.arrays.element_input import (
    BLOCK,
    Digests,
    ElementInput,
    Piece,
    digest_of_integers,
    value_digests_of,
)
from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.imported_modules import imported_module
from handoff_mpi.serialization import decode_input, reason_of

if TYPE_CHECKING:
    import numpy

#: A column of a list is shorter where it would be larger than this: some kinds travel whole.
MAX_COLUMN_NBYTES = 16 * 1024
#: The first column of a list has at most so many elements: a power of two.
_FIRST_LENGTH = 16
#: So many elements are read of an iterator.
MAX_READ = 10_000_000
#: At most so many bytes of an array of numpy are hashed at a time.
_MAX_HASHED_NBYTES = 1 << 20


def freeze_elements(values: Any, name: str, most: int = MAX_READ) -> ElementInput:
    """Return the input of an array that maps over ``values``.

    Args:
        values: any iterable. One that is not a sequence is read here.
        name: of the input, for messages.
        most: so many elements are read of an iterator.

    Raises:
        DAGError: it is not iterable, it has no first axis, it raised, or it has more elements than ``most``.
    """
    kind = type(values)
    if kind is range:
        if not values[sys.maxsize :]:
            return RangeInput(values, name)
        raise DAGError(f"{name} is {show(values)}, which is longer than a list can be; map over a part of it")
    if kind is array and values.typecode not in "uw":
        return MemoryInput(values, name)
    if _is_array(values):
        return _of_rows(values.view(imported_module("numpy").ndarray), name)
    return ListInput(values if isinstance(values, Sequence) else _read(values, name, most), name)


def values_of(piece: Piece, start: int, stop: int, decode: Decode = decode_input) -> list[Any]:
    """Return the elements of ``piece`` from position ``start`` up to ``stop``, fresh objects.

    Args:
        decode: how pickled elements are decoded; with the default, arrays are read-only.

    Raises:
        EncodingError: an element cannot be decoded on this rank.
    """
    return [*iterate(piece, start, stop, decode)]


def iterate(piece: Piece, start: int, stop: int, decode: Decode = decode_input) -> Iterable[Any]:
    """As :func:`values_of`, but a block exists only once it is asked for: many lists together leave the caches."""
    if piece and piece[0][0] == BLOCKS:
        return _blocks_of(piece[0], piece[1:], start, stop, decode)
    return _plain_values_of(piece, start, stop, decode)


def _plain_values_of(piece: Piece, start: int, stop: int, decode: Decode) -> list[Any]:
    found: list[Any] = []
    first = 0
    for packed in piece:
        low, high = max(start - first, 0), min(stop - first, count_of(packed))
        if low < high:
            values = unpack(cut(packed, low, high), decode)
            if high - low == stop - start:
                return values
            found += values
        first += count_of(packed)
    return found


def _blocks_of(header: Packed, columns: Piece, start: int, stop: int, decode: Decode) -> Iterable[Any]:
    """Return an iterator over elements that are lists of the values in columns; these are decoded at once."""
    bounds = [0]
    for count, length in header[2]:
        bounds += range(bounds[-1] + length, bounds[-1] + count * length + 1, length)
    first = bounds[start]
    values = _plain_values_of(columns, first, bounds[stop], decode)
    return (values[low - first : high - first] for low, high in itertools.pairwise(bounds[start : stop + 1]))


class RangeInput(ElementInput):
    """The integers of a range."""

    def __init__(self, values: range, name: str) -> None:
        super().__init__(len(values), name)
        self._values = values

    def __getitem__(self, index: int) -> int:
        return self._values[index]

    @property
    def nbytes(self) -> int:
        return 0

    def encode(self) -> None:
        pass  # a range does not change

    def types(self) -> set[type]:
        return {int} if self._count else set()

    def piece(self, start: int, stop: int) -> Piece:
        return (packed_range(self._values[start:stop]),)

    def digests(self, digest_object: DigestObject | None = None) -> Digests:
        return "range", self._count, self._values.start, self._values.step

    def value_digests(self, digest_object: DigestObject | None = None) -> Digests:
        return value_digests_of(self._values)

    def same_prefix(self, earlier: Digests, digest_object: DigestObject | None = None) -> IntervalSet:
        if earlier[0] != "range":
            return super().same_prefix(earlier, digest_object)
        _, count, start, step = earlier
        common = min(count, self._count) if start == self._values.start else 0
        return IntervalSet([(0, common if step == self._values.step else min(common, 1))])

    def _digest(self, start: int, stop: int, digest_object: DigestObject | None) -> bytes:
        return digest_of_integers(self._values[start:stop])


class MemoryInput(ElementInput):
    """The numbers of an :class:`array.array`."""

    def __init__(self, values: array[Any], name: str) -> None:
        super().__init__(len(values), name)
        self._values = values
        self._is_encoded = False

    def __getitem__(self, index: int) -> Any:
        return self._values[index]

    @property
    def nbytes(self) -> int:
        return len(self._values) * self._values.itemsize

    def encode(self) -> None:
        if not self._is_encoded:
            _check_count(self, len(self._values))
            self._is_encoded = True
            self._values = self._values[:]

    def types(self) -> set[type]:
        return {type(self._values[0])} if self._count else set()

    def piece(self, start: int, stop: int) -> Piece:
        assert self._is_encoded, "what may still change is not sent"
        return (packed_memory(self._values[start:stop]),)


class RowsInput(ElementInput):
    """The elements of an array of numpy along axis 0. An array that is read-only is not copied."""

    def __init__(self, values: numpy.ndarray[Any, Any], name: str) -> None:
        super().__init__(len(values), name)
        self._values = values
        self._is_encoded = False

    def __getitem__(self, index: int) -> Any:
        return self._values[index]

    @property
    def nbytes(self) -> int:
        return int(self._values.nbytes)

    def encode(self) -> None:
        if not self._is_encoded:
            _check_count(self, len(self._values))
            self._is_encoded = True
            if self._values.flags.writeable:
                self._values = self._values.copy()

    def types(self) -> set[type]:
        return {type(self._values[0])} if self._count else set()

    def piece(self, start: int, stop: int) -> Piece:
        assert self._is_encoded, "what may still change is not sent"
        return (packed_rows(self._values[start:stop]),)

    def _digest(self, start: int, stop: int, digest_object: DigestObject | None) -> bytes:
        count = max(1, _MAX_HASHED_NBYTES // max(1, self._values[:1].nbytes))
        rows = (self._values[low : min(low + count, stop)].tobytes() for low in range(start, stop, count))
        return hashed(itertools.chain([header_of(packed_rows(self._values[:0]))], rows))


class ListInput(ElementInput):
    """The elements of any sequence, in columns of blocks."""

    def __init__(self, values: Sequence[Any], name: str) -> None:
        super().__init__(len(values), name)
        self._values: Sequence[Any] | None = values
        self._columns: list[Packed] = []
        self._starts: list[int] = []
        self._digests: dict[Interval, bytes] = {}

    def __getitem__(self, index: int) -> Any:
        return values_of(self.piece(index, index + 1), 0, 1)[0] if self._values is None else self._values[index]

    @property
    def nbytes(self) -> int:
        return sum(map(nbytes_of, self._columns))

    def encode(self) -> None:
        if self._values is None:
            return
        elements, encoded = iter(self._values), 0
        problems: list[str] = []
        length = _FIRST_LENGTH  # of a column, until it is known how large elements are
        while chunk := [*itertools.islice(elements, min(length, BLOCK - encoded % BLOCK))]:
            try:
                packed = pack(chunk)
            except ColumnError as error:
                problems += self._problems(encoded, error)
            else:
                length = self._append(encoded, packed, chunk)
            encoded += len(chunk)
        if problems:
            raise DAGError(problems)
        _check_count(self, encoded)
        self._values = None

    def types(self) -> set[type]:
        if self._values is not None:
            return set(map(type, self._values))
        return {kind for packed in self._columns for kind in set(map(type, unpack(packed)))}

    def piece(self, start: int, stop: int) -> Piece:
        assert self._values is None, "what may still change is not sent"
        if start >= stop:
            return ()
        first, last = bisect_right(self._starts, start) - 1, bisect_right(self._starts, stop - 1)
        columns = self._columns[first:last]
        before = start - self._starts[first]
        columns[0] = cut(columns[0], before, min(count_of(columns[0]), before + stop - start))
        if last - first > 1:
            columns[-1] = cut(columns[-1], 0, stop - self._starts[last - 1])
        return tuple(columns)

    def _digest(self, start: int, stop: int, digest_object: DigestObject | None) -> bytes:
        """As elsewhere; one that depends on no class of users is kept, as each earlier launch is compared with it."""
        found = self._digests.get((start, stop))
        if found is None:
            asked: list[Any] = []

            def noting(value: Any) -> bytes | None:
                asked.append(None)
                return None if digest_object is None else digest_object(value)

            found = super()._digest(start, stop, noting)
            if not asked:
                self._digests[start, stop] = found
        return found

    def _append(self, start: int, packed: Packed, elements: list[Any]) -> int:
        """Keep the column of ``elements``, in parts where it is large; return how many elements such parts have."""
        count, length = count_of(packed), next_length(packed)
        if count <= (2 * length if packed[0] == MARSHALLED else length):
            self._starts.append(start)
            self._columns.append(packed)
            return length
        for low in range(0, count, length):
            high = min(low + length, count)
            self._starts.append(start + low)
            # Each part of marshalled elements would have all of them.
            self._columns.append(pack(elements[low:high]) if packed[0] == MARSHALLED else cut(packed, low, high))
        return length

    def _problems(self, start: int, error: ColumnError) -> Iterator[str]:
        for position, each in error.errors.items():
            yield f"element {start + position:,} of {self.name} cannot be sent to a rank: {reason_of(each)}"


def next_length(packed: Packed) -> int:
    """Return how many elements like those of ``packed`` make a column of no more than the size that is wanted.

    It is a power of two, so that columns begin at multiples of their length.
    """
    fitting = MAX_COLUMN_NBYTES * count_of(packed) // max(1, nbytes_of(packed))
    return 1 << min(max(fitting, 1), BLOCK).bit_length() - 1


def _check_count(elements: ElementInput, count: int) -> None:
    if count != len(elements):
        raise DAGError(
            f"{elements.name} had {len(elements):,} elements when it was mapped over, and has {count:,} now; "
            "change it before, or map over a copy"
        )


def _of_rows(values: numpy.ndarray[Any, Any], name: str) -> ElementInput:
    if values.ndim == 0:
        raise DAGError(f"{name} is an array without axes; map over one with an axis")
    return ListInput([*values], name) if dtype_text(values.dtype) is None else RowsInput(values, name)


def _read(values: Any, name: str, most: int) -> list[Any]:
    """Return the elements of an iterable."""
    try:
        found = [*itertools.islice(values, most + 1)]
    except Exception as error:
        if not (hasattr(type(values), "__iter__") or hasattr(type(values), "__getitem__")):
            raise DAGError(f"{name} is {show(values)}, which is not iterable; map over a sequence") from None
        raise DAGError(f"reading the elements of {name} has failed: {show(error)}") from error
    if len(found) > most:
        raise DAGError(f"{name} is an iterator of more than {most:,} elements; map over a list or a range of them")
    return found


def _is_array(values: Any) -> bool:
    """Whether ``values`` is an array of numpy, in memory or in a file; other subclasses have elements of their own."""
    numpy = imported_module("numpy")
    return numpy is not None and type(values) in (numpy.ndarray, numpy.memmap)
