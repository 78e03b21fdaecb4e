"""Columns: many values as one plain tuple, for messages, the journal and the memory of rank 0.

Unpacking gives values that are equal to those that were packed, each of exactly its type: 1, 1.0 and True stay apart. A
column is ``(kind, count, ...)``, and its kind says what follows:

==============  ======================================================================================================
NONES           nothing: each value is None
NUMBERS         a typecode of :mod:`array` (``?`` for bools) and the memory: int within 64 bits, float, or bool, exactly
ARRAYS          the dtype's text, the shape of one value (None: a numpy scalar), and the memory
RANGE           start and step
MARSHALLED      marshalled immutable built-ins, and how many of them lie before the first value of this column
PICKLES         one pickle a value
BLOCKS          runs (number of blocks, values in each): the head of columns in which the values of blocks lie
TAKEN           a lease and a position: its values from there on, which do not exist yet; see :func:`filled`
HELD            the list of the values, which are immutable: it never leaves its process
==============  ======================================================================================================

Code in C packs and unpacks all of them but the last one, which takes a step a value: each is a fresh object when it is
unpacked, that shares no part with another. Values whose owner may still change them are packed from a snapshot
(:func:`snapshot`).
"""

from __future__ import annotations

import marshal
import math
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from handoff_mpi.imported_modules import imported_module
from handoff_mpi.serialization import PICKLED, EncodingError, Payload, decode_input, dumps

if TYPE_CHECKING:
    import numpy

#: See above; the first item is the kind, the second one the number of values.
Packed: TypeAlias = "tuple[Any, ...]"
#: How pickled values, and arrays, are decoded: one of the functions ``decode…`` of the serialization.
Decode: TypeAlias = "Callable[[Payload], Any]"

NONES, NUMBERS, ARRAYS = "nones", "numbers", "arrays"
RANGE, MARSHALLED, PICKLES = "range", "marshalled", "pickles"
BLOCKS = "blocks"
TAKEN, HELD = "taken", "held"
#: The kinds of columns whose values can never change.
IMMUTABLE_KINDS = frozenset({NONES, NUMBERS, MARSHALLED})

#: Built-in types whose objects never change.
IMMUTABLE: frozenset[type] = frozenset({type(None), bool, int, float, complex, str, bytes})
#: Types whose objects :func:`snapshot` returns: scalars of numpy too, once it has seen one.
SETTLED: set[type] = {*IMMUTABLE}
_TYPECODES: dict[type, str] = {bool: "?", int: "q", float: "d"}
#: Kinds of dtypes whose memory is all of a value, and those of scalars whose type is all of the dtype.
_DTYPE_KINDS, _SCALAR_KINDS = "biufcmMSU", "biufc"
#: The last version whose bytes do not depend on which of the objects are one object.
MARSHAL_VERSION = 2
#: A snapshot of a larger array is a pickle, which is one copy less.
_MAX_COPIED_NBYTES = 16 * 1024


class ColumnError(EncodingError):
    """Some values cannot be pickled.

    Attributes:
        errors: the position of each such value, with the reason.
    """

    def __init__(self, errors: dict[int, EncodingError]) -> None:
        super().__init__("; ".join(map(str, errors.values())))
        self.errors = errors


class Pickled:
    """A value that has been pickled, in the place of the value."""

    __slots__ = ("head",)

    def __init__(self, value: Any) -> None:
        self.head = dumps(value, {})


def snapshot(value: Any) -> Any:
    """Return ``value`` as it is now, for :func:`pack`: nothing that happens to the value later changes it.

    Values of the types :data:`SETTLED` need none.

    Raises:
        EncodingError: the value cannot be pickled.
    """
    kind = type(value)
    if kind in SETTLED or (kind is tuple and IMMUTABLE.issuperset(map(type, value))):
        return value
    numpy = imported_module("numpy")
    if numpy is not None and kind is numpy.ndarray:
        if value.nbytes <= _MAX_COPIED_NBYTES and value.dtype.kind in _DTYPE_KINDS:
            return value.copy("F" if value.flags.fnc else "C")  # as pickle does
    elif numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in _SCALAR_KINDS:
        SETTLED.add(kind)
        return value
    return Pickled(value)


def pack(values: list[Any]) -> Packed:
    """Return a column of ``values``, or of snapshots of them.

    Raises:
        ColumnError: some cannot be pickled.
    """
    alike = pack_alike(values)
    if alike is not None:
        return alike
    if are_immutable(values):
        try:
            return MARSHALLED, len(values), marshal.dumps(values, MARSHAL_VERSION), 0
        except ValueError:
            pass  # marshal has no form for a string of 2 GiB
    return PICKLES, len(values), _pickles(values)


def pack_alike(values: list[Any]) -> Packed | None:
    """Return the column of values that are all alike: None, numbers, or arrays of one shape; None for others."""
    kinds = _kinds_of(values)
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind in _TYPECODES:
        try:
            return NUMBERS, len(values), _TYPECODES[kind], struct.pack(f"{len(values)}{_TYPECODES[kind]}", *values)
        except struct.error:
            return None  # an integer of more than 64 bits
    if kind is type(None):
        return NONES, len(values)
    numpy = imported_module("numpy")
    if numpy is None:
        return None
    if kind is numpy.ndarray:
        return _pack_arrays(values)
    return _pack_scalars(values) if issubclass(kind, numpy.generic) else None


def are_immutable(values: list[Any]) -> bool:
    """Whether all of ``values`` are immutable built-ins, or tuples of such."""
    kinds = _kinds_of(values)
    if tuple not in kinds:
        return IMMUTABLE.issuperset(kinds)
    tuples = values if kinds == {tuple} else [value for value in values if type(value) is tuple]
    return IMMUTABLE.issuperset(kinds - {tuple}) and IMMUTABLE.issuperset(_kinds_of(chain.from_iterable(tuples)))


def _kinds_of(values: Iterable[Any]) -> set[type]:
    """Return the exact types of values; ``{object}`` if one has no hash, so that nothing can pickle its values."""
    try:
        return set(map(type, values))  # operator.countOf takes half as long, but calls what metaclasses have for __eq__
    except TypeError:
        return {object}


def packed_range(values: range) -> Packed:
    """Return a column of the integers of a range."""
    return RANGE, len(values), values.start, values.step


def packed_memory(items: array[Any]) -> Packed:
    """Return a column of the items of an array of numbers."""
    return NUMBERS, len(items), items.typecode, items.tobytes()


def packed_rows(rows: numpy.ndarray[Any, Any]) -> Packed:
    """Return a column of the values that iterating over ``rows`` gives; its dtype has a text."""
    return ARRAYS, len(rows), dtype_text(rows.dtype), rows.shape[1:] if rows.ndim > 1 else None, rows.tobytes()


def held(values: list[Any]) -> Packed:
    """Return a column of the very objects, which cannot change, for this process alone."""
    return HELD, len(values), values


def lease_to_take_from(piece: Sequence[Packed]) -> int:
    """Return the lease whose values columns of ``piece`` stand for; -1 if there is none."""
    return piece[-1][2] if piece and piece[-1][0] == TAKEN else -1


def filled(piece: tuple[Packed, ...], columns: Sequence[Packed]) -> tuple[Packed, ...]:
    """Return ``piece`` with the values that its columns stand for; those of the lease lie in ``columns``."""
    found: list[Packed] = []
    for packed in piece:
        if packed[0] != TAKEN:
            found.append(packed)
            continue
        _, count, _, first = packed
        for column in columns:
            low, high = max(first, 0), min(first + count, column[1])
            if low < high:
                found.append(cut(column, low, high))
            first -= column[1]
    return tuple(found)


def unpack(packed: Packed, decode: Decode = decode_input) -> list[Any]:
    """Return the values of a column.

    Args:
        decode: for pickled values. With its default arrays are read-only, and may be views of the column's memory.

    Raises:
        EncodingError: a pickled value cannot be decoded here.
    """
    return _UNPACK[packed[0]](packed, decode)


def cut(packed: Packed, start: int, stop: int) -> Packed:
    """Return the column of the values from position ``start`` up to ``stop``, which lie inside of it."""
    return packed if stop - start == packed[1] else _CUT[packed[0]](packed, start, stop)


def select(packed: Packed, positions: range) -> Packed:
    """Return the column of the values at ``positions``, which lie inside of it, in their order.

    Where few values of marshalled ones are asked for, the column has no others.
    """
    count, step = len(positions), positions.step
    kind = packed[0]
    if not count:
        return NONES, 0
    if step == 1 and (kind != MARSHALLED or 2 * count > packed[1]):
        return cut(packed, positions.start, positions.stop)
    if kind == NONES:
        return NONES, count
    if kind == RANGE:
        return RANGE, count, packed[2] + positions.start * packed[3], step * packed[3]
    stop = positions[-1] + step
    chosen = slice(positions.start, None if stop < 0 else stop, step)
    if kind == NUMBERS:
        memory = memoryview(packed[3]).cast("B").cast(packed[2])
        return NUMBERS, count, packed[2], memory[chosen].tobytes()
    if kind == ARRAYS:
        return ARRAYS, count, packed[2], packed[3], _matrix(packed)[chosen].tobytes()
    if kind == PICKLES:
        return PICKLES, count, packed[2][chosen]
    return MARSHALLED, count, marshal.dumps(_unpack_marshalled(packed, decode_input)[chosen], MARSHAL_VERSION), 0


def count_of(packed: Packed) -> int:
    """Return the number of values of a column."""
    return packed[1]  # type: ignore[no-any-return]


def nbytes_of(packed: Packed) -> int:
    """Return how many bytes of memory a column takes, near enough."""
    if packed[0] == PICKLES:
        return sum(map(len, packed[2]))
    return sum(memoryview(part).nbytes for part in packed[2:] if isinstance(part, (bytes, bytearray, memoryview)))


def to_numpy(packed: Packed, decode: Decode = decode_input) -> numpy.ndarray[Any, Any]:
    """Return the values of a column as an array of numpy, with the dtype and the shape that numpy gives their list."""
    found: numpy.ndarray[Any, Any]
    if packed[0] == NUMBERS:
        _, count, typecode, memory = packed
        found = _numpy().ndarray(count, typecode.replace("q", "i8"), memory).copy()
    elif packed[0] == ARRAYS:
        found = _matrix(packed).copy()
    else:
        found = _numpy().array(unpack(packed, decode))
    return found


def dtype_text(dtype: numpy.dtype[Any]) -> str | None:
    """Return the text of a dtype, of which numpy makes the dtype again; None where memory is not all of a value."""
    if dtype.kind not in _DTYPE_KINDS or not dtype.itemsize or dtype.metadata is not None:
        return None
    return dtype.str if dtype.kind in "mMSU" else dtype.byteorder + dtype.char  # longlong is another type than int64


def _pack_scalars(values: list[Any]) -> Packed | None:
    dtype = values[0].dtype
    if dtype.kind not in _SCALAR_KINDS:
        return None
    return ARRAYS, len(values), dtype_text(dtype), None, _numpy().array(values, dtype).tobytes()


def _pack_arrays(values: list[Any]) -> Packed | None:
    dtype, shape = values[0].dtype, values[0].shape
    text = dtype_text(dtype)
    dtypes = {id(each): each for each in map(attrgetter("dtype"), values)}  # mostly one object
    if (
        text is None
        or set(map(attrgetter("shape"), values)) != {shape}
        or any(dtype != each for each in dtypes.values())
    ):
        return None
    try:
        return ARRAYS, len(values), text, shape, b"".join(values)
    except TypeError:
        return None  # one of them is not contiguous, or holds times


def _pickles(values: Iterable[Any]) -> tuple[bytes, ...]:
    heads: list[bytes] = []
    errors: dict[int, EncodingError] = {}
    for position, value in enumerate(values):
        try:
            heads.append(value.head if type(value) is Pickled else dumps(value, {}))
        except EncodingError as error:
            errors[position] = error
    if errors:
        raise ColumnError(errors)
    return tuple(heads)


def _numpy() -> Any:
    import numpy  # in processes that have values of it, and no others

    return numpy


def _matrix(packed: Packed) -> numpy.ndarray[Any, Any]:
    """Return a view of the memory of ARRAYS, with one value a row."""
    _, count, text, shape, memory = packed
    matrix: numpy.ndarray[Any, Any] = _numpy().ndarray((count, *(shape or ())), text, memory)
    return matrix


def _unpack_numbers(packed: Packed, decode: Decode) -> list[Any]:
    return memoryview(packed[3]).cast("B").cast(packed[2]).tolist()


def _unpack_arrays(packed: Packed, decode: Decode) -> list[Any]:
    rows = _matrix(packed)
    if packed[3] is None:
        return [*rows]
    if decode is decode_input:
        rows.setflags(write=False)
    elif not rows.flags.writeable:
        rows = rows.copy()
    return [*rows] if packed[3] else [rows[position : position + 1].reshape(()) for position in range(packed[1])]


def _unpack_marshalled(packed: Packed, decode: Decode) -> list[Any]:
    _, count, blob, before = packed
    values: list[Any] = marshal.loads(blob)
    return values if count == len(values) else values[before : before + count]


def _unpack_pickles(packed: Packed, decode: Decode) -> list[Any]:
    return [decode((PICKLED, head)) for head in packed[2]]


def _cut_numbers(packed: Packed, start: int, stop: int) -> Packed:
    kind, _, typecode, memory = packed
    size = struct.calcsize(typecode)
    return kind, stop - start, typecode, memory[start * size : stop * size]


def _cut_arrays(packed: Packed, start: int, stop: int) -> Packed:
    kind, _, text, shape, memory = packed
    size = _numpy().dtype(text).itemsize * math.prod(shape or ())
    return kind, stop - start, text, shape, memory[start * size : stop * size]


_UNPACK: dict[str, Callable[[Packed, Decode], list[Any]]] = {
    NONES: lambda packed, decode: [None] * packed[1],
    NUMBERS: _unpack_numbers,
    ARRAYS: _unpack_arrays,
    RANGE: lambda packed, decode: [*range(packed[2], packed[2] + packed[1] * packed[3], packed[3])],
    MARSHALLED: _unpack_marshalled,
    PICKLES: _unpack_pickles,
    HELD: lambda packed, decode: [*packed[2]],
}
_CUT: dict[str, Callable[[Packed, int, int], Packed]] = {
    NONES: lambda packed, start, stop: (NONES, stop - start),
    NUMBERS: _cut_numbers,
    ARRAYS: _cut_arrays,
    RANGE: lambda packed, start, stop: (RANGE, stop - start, packed[2] + start * packed[3], packed[3]),
    MARSHALLED: lambda packed, start, stop: (MARSHALLED, stop - start, packed[2], packed[3] + start),
    PICKLES: lambda packed, start, stop: (PICKLES, stop - start, packed[2][start:stop]),
    HELD: lambda packed, start, stop: (HELD, stop - start, packed[2][start:stop]),
}
