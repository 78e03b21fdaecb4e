"""Payloads of values of an array: of all, of one element, of a slice, or of those that have values with their indices.

Rank 0 makes a payload once. It refers to the memory of the columns, and each consumer decodes fresh objects of its own.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, TypeAlias

from handoff_mpi.arrays.columns import PICKLES, Packed, unpack
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.serialization import PICKLED, Payload, decode_input, decoder_of_parts, encode

#: A column, the index of its first value, and the distance of the values that are taken of it.
_Part: TypeAlias = "tuple[Packed, int, int]"


def element_payload(values: ArrayValues, index: int) -> Payload:
    """Return a payload that decodes to the value of one element.

    Raises:
        KeyError: it has none.
    """
    column = values.column(index)
    if column[0] == PICKLES:
        return (PICKLED, column[2][0])
    return encode(unpack(column, decode_input)[0])


def list_payload(values: ArrayValues) -> Payload:
    """Return a payload that decodes to the list of all values; each element has one."""
    assert values.is_complete, "each element has a value"
    return slice_payload(values, range(values.count))


def slice_payload(values: ArrayValues, elements: range) -> Payload:
    """Return a payload that decodes to the list of the values of ``elements``, all of which have one."""
    parts = values.parts(_ascending(elements))
    return encode(_Calls(listed, parts, elements.step < 0))


def pairs_payload(values: ArrayValues, elements: range) -> Payload:
    """Return a payload that decodes to the list of pairs (index, value) of those of ``elements`` that have values."""
    parts = values.parts(_ascending(elements))
    return encode(_Calls(paired, parts, elements.step < 0))


def listed(parts: tuple[_Part, ...], is_reversed: bool) -> list[Any]:
    """Return the values of ``parts`` as one list; pickles of slices name this function."""
    decode = decoder_of_parts()
    found: list[Any] = []
    for column, _, step in parts:
        found += unpack(column, decode)[::step]
    return found[::-1] if is_reversed else found


def paired(parts: tuple[_Part, ...], is_reversed: bool) -> list[tuple[int, Any]]:
    """Return the values of ``parts`` with their indices; pickles name this function."""
    decode = decoder_of_parts()
    found: list[tuple[int, Any]] = []
    for column, first, step in parts:
        values = unpack(column, decode)[::step]
        found += zip(range(first, first + step * len(values), step), values, strict=True)
    return found[::-1] if is_reversed else found


class _Calls:
    """Pickled, as often as one likes, it becomes what one of the functions above returns."""

    def __init__(self, function: Any, parts: Iterable[_Part], is_reversed: bool) -> None:
        self._function = function
        self._parts = [*parts]
        self._is_reversed = is_reversed

    def __reduce__(self) -> tuple[Any, ...]:
        parts = tuple([(_out_of_band(column), first, step) for column, first, step in self._parts])
        return self._function, (parts, self._is_reversed)


def _out_of_band(column: Packed) -> Packed:
    """Return a column whose memory need not be copied into a pickle."""
    return tuple(pickle.PickleBuffer(part) if isinstance(part, (bytes, bytearray)) else part for part in column)


def _ascending(elements: range) -> range:
    return elements if elements.step > 0 else elements[::-1]
