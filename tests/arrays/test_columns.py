"""Columns, compared with the lists that they were packed from."""

from __future__ import annotations

import math
import pickle
import struct
from array import array
from collections import namedtuple
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays import columns
from handoff_mpi.arrays.columns import (
    ColumnError,
    cut,
    filled,
    held,
    lease_to_take_from,
    nbytes_of,
    pack,
    packed_range,
    snapshot,
    to_numpy,
    unpack,
)
from handoff_mpi.serialization import decode_private, decode_writable

Point = namedtuple("Point", "x y")
INTS = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(), st.booleans())
ALIKE = st.one_of(
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1)),
    st.lists(st.floats()),
    st.lists(st.booleans()),
    st.lists(st.none()),
    st.lists(st.text()),
    st.lists(st.tuples(st.integers(), st.text())),
    st.lists(st.floats(width=32).map(np.float32)),
    st.lists(st.lists(st.floats(), min_size=3, max_size=3).map(np.array)),
)
SCALARS = st.one_of(st.none(), INTS, st.floats(), st.complex_numbers(), st.text(), st.binary())
ANY = st.recursive(
    st.one_of(SCALARS, st.floats().map(np.float64), st.lists(st.integers(0, 9)).map(np.array)),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
VALUES = st.one_of(ALIKE, st.lists(SCALARS), st.lists(ANY, max_size=6))


def form(value):
    """The properties that distinguish values: their types to any depth, and the bits of numbers."""
    if isinstance(value, np.ndarray):
        return np.ndarray, value.dtype, value.shape, value.tolist() if value.dtype.hasobject else value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value), *map(form, value)
    if isinstance(value, dict):
        return dict, *((form(key), form(each)) for key, each in value.items())
    if isinstance(value, np.generic):
        return type(value), value.dtype, value.tobytes()
    if isinstance(value, (float, complex)):
        return type(value), struct.pack("dd", complex(value).real, complex(value).imag)
    return type(value), value


def forms(values):
    return [*map(form, values)]


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_a_column_gives_back_each_value_with_its_type(values):
    packed = pickle.loads(pickle.dumps(pack(values)))
    assert columns.count_of(packed) == len(values)
    assert forms(unpack(packed)) == forms(values)
    assert forms(unpack(pack([*map(snapshot, values)]))) == forms(values)


@given(VALUES, st.data())
@settings(max_examples=60, deadline=None)
def test_cutting_a_column_slices_its_list(values, data):
    packed = pack(values)
    for _ in range(2):  # a cut of a cut too
        start = data.draw(st.integers(0, len(values)))
        stop = data.draw(st.integers(start, len(values)))
        packed, values = cut(packed, start, stop), values[start:stop]
        assert forms(unpack(packed)) == forms(values)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, -(1 << 63), (1 << 63) - 1], columns.NUMBERS),
        ([1, 1 << 63], columns.MARSHALLED),
        ([1.0, math.nan, -0.0], columns.NUMBERS),
        ([True, False], columns.NUMBERS),
        ([True, 1], columns.MARSHALLED),
        ([None, None], columns.NONES),
        ([None, 1.5], columns.MARSHALLED),
        (["a", b"\xff", 1j, (1, "\ud800")], columns.MARSHALLED),
        ([Point(1, 2), Point(3, 4)], columns.PICKLES),
        ([(1, [2])], columns.PICKLES),
        ([[1], [1]], columns.PICKLES),
        ([np.float64(1), np.float64(2)], columns.ARRAYS),
        ([np.float64(1), 1.0], columns.PICKLES),
        ([np.longlong(1), np.longlong(2)], columns.ARRAYS),
        ([np.datetime64("2026-11-27", "D"), np.datetime64("2026-11-27T09", "h")], columns.PICKLES),
        ([np.str_("a"), np.str_("abc")], columns.PICKLES),
        ([np.bool_(True)], columns.ARRAYS),
        ([np.zeros((2, 3)), np.ones((2, 3))], columns.ARRAYS),
        ([np.zeros((2, 0))] * 3, columns.ARRAYS),
        ([np.array(1.5), np.array(2.5)], columns.ARRAYS),
        ([np.zeros(2, ">f8")], columns.ARRAYS),
        ([np.array(["ab", "c"]), np.array(["de", "f"])], columns.ARRAYS),
        ([np.zeros(2), np.zeros(3)], columns.PICKLES),
        ([np.zeros(2), np.zeros(2, "f4")], columns.PICKLES),
        ([np.zeros((2, 3)).T], columns.PICKLES),
        ([np.array([{}], object)], columns.PICKLES),
        ([np.zeros(2, "M8[s]")], columns.ARRAYS),
        ([np.ma.masked_array([1, 2], [0, 1])], columns.PICKLES),
        ([], columns.MARSHALLED),
    ],
    ids=repr,
)
def test_like_values_lie_in_memory_side_by_side(values, kind):
    packed = pack(values)
    assert packed[0] == kind
    assert forms(unpack(packed)) == forms(values)
    assert [type(each) for each in unpack(packed)] == [type(each) for each in values]


def test_packed_numbers_take_eight_bytes_each():
    assert nbytes_of(pack([*range(1000)])) == 8000
    assert nbytes_of(pack([None] * 1000)) == 0
    assert nbytes_of(pack([*map(np.float32, range(1000))])) == 4000


@pytest.mark.soak
def test_strings_larger_than_marshal_takes_are_packed():
    values = [bytes(1 << 31), 7]
    packed = pack(values)
    assert packed[0] == columns.PICKLES and nbytes_of(packed) > 1 << 31
    assert unpack(packed) == values


def test_ranges_and_memory_are_columns_as_they_are():
    for values in (range(5, 100, 7), range(10, -10, -3), range(3, 3), range(1 << 70, (1 << 70) + 4)):
        packed = columns.packed_range(values)
        assert unpack(packed) == [*values]
        assert unpack(cut(packed, len(values) // 3, len(values))) == [*values][len(values) // 3 :]
    assert unpack(columns.packed_memory(array("h", [1, -2, 3]))) == [1, -2, 3]


@pytest.mark.parametrize(
    "rows",
    [np.arange(5), np.arange(12.0).reshape(4, 3), np.zeros((3, 0, 2)), np.array(["a", "bcd"]), np.zeros(2, "M8[s]")],
    ids=repr,
)
def test_rows_of_an_array_are_those_that_iterating_gives(rows):
    assert forms(unpack(columns.packed_rows(rows))) == forms(rows)
    assert columns.dtype_text(rows.astype(object).dtype) is None


def test_arrays_are_read_only_as_inputs_and_can_be_written_to_as_results():
    values = [np.arange(3.0), np.arange(3.0)]
    packed = pack(values)
    with pytest.raises(ValueError, match="read-only"):
        unpack(packed)[0][0] = 7.0
    with pytest.raises(ValueError, match="read-only"):
        unpack(pack([[values[0]]]))[0][0][0] = 7.0
    for decode in (decode_writable, decode_private):
        first, second = unpack(packed, decode)
        first += 1.0
        assert second.tolist() == unpack(packed, decode)[0].tolist() == [0.0, 1.0, 2.0]


def test_values_are_as_they_were_when_their_snapshot_was_taken():
    buffer, large, found = np.zeros(2), np.zeros(5000), []
    taken = []
    for number in range(3):
        buffer[:] = large[:] = number
        found.append(number)
        taken += [snapshot(buffer), snapshot(large), snapshot(found), snapshot((number, found))]
    values = unpack(pack(taken))
    assert [each[0] for each in values[::4]] == [0, 1, 2]
    assert [each[-1] for each in values[1::4]] == [0, 1, 2]
    assert values[2::4] == [[0], [0, 1], [0, 1, 2]]
    assert [each[1] for each in values[3::4]] == values[2::4]


def test_arrays_keep_their_order_of_memory():
    by_column = np.asfortranarray(np.ones((2, 3)))
    for values in ([by_column], [by_column, by_column.copy("C")], [np.ones((4, 6))[::2, ::2]]):
        found = unpack(pack([*map(snapshot, values)]))
        wanted = pickle.loads(pickle.dumps(values))
        assert [each.flags.f_contiguous for each in found] == [each.flags.f_contiguous for each in wanted]


def test_a_value_that_cannot_be_pickled_is_named_by_its_position():
    with pytest.raises(ColumnError) as caught:
        pack([[1], (each for each in "ab"), [2], open])
    assert [*caught.value.errors] == [1]
    assert "generator" in str(caught.value)


class LikeAnyType(type):
    """Its classes are equal to all others, and have no hash."""

    def __eq__(cls, other: object) -> bool:
        return True


class Odd(metaclass=LikeAnyType):
    pass


@pytest.mark.parametrize("values", [[Odd(), Odd()], [None, Odd()], [1, (Odd(),)]])
def test_a_value_whose_type_has_no_hash_is_refused_as_others_that_cannot_be_pickled(values):
    with pytest.raises(ColumnError) as caught:
        pack(values)
    assert [*caught.value.errors] == [position for position, each in enumerate(values) if each not in (1, None)]


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1.5, 2.5], [True, False], [np.float32(1)], [np.zeros((2, 3))] * 4, [None, 1], ["a", "b"]],
    ids=repr,
)
def test_a_column_becomes_the_array_that_numpy_makes_of_its_list(values):
    found, expected = to_numpy(pack(values)), np.array(values)
    assert found.dtype == expected.dtype
    assert type(found[0]) is type(expected[0])
    assert np.array_equal(found, expected)
    found[0] = found[-1]  # it can be written to


def test_unpacking_imports_no_numpy_where_there_is_none(tmp_path):
    import subprocess
    import sys

    code = "from handoff_mpi.arrays.columns import pack, unpack\nimport sys\n"
    code += "for values in ([1], [1.5], [None], ['a'], [[1]]): assert unpack(pack(values)) == values\n"
    code += "assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@given(VALUES, st.data())
@settings(max_examples=60, deadline=None)
def test_columns_that_stand_for_others_are_filled_with_these(values, data):
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=3))
    bounds = [0, *sorted(cuts), len(values)]
    parts = [pack(values[low:high]) for low, high in pairwise(bounds)]
    start = data.draw(st.integers(0, len(values)))
    stop = data.draw(st.integers(start, len(values)))
    piece = (packed_range(range(2)), (columns.TAKEN, stop - start, 7, start))
    assert (lease_to_take_from(piece), lease_to_take_from(piece[:1]), lease_to_take_from(())) == (7, -1, -1)
    whole = filled(piece, parts)
    found = [value for column in whole for value in unpack(column)]
    assert forms(found) == forms([0, 1, *values[start:stop]])
    assert all(map(columns.count_of, whole))


def test_objects_that_are_held_are_those_that_come_out():
    values = ["a" * 100, 1 << 70, 2.5]
    column = held(values)
    assert all(one is other for one, other in zip(unpack(cut(column, 1, 3)), values[1:], strict=True))
    unpack(column).clear()
    assert len(unpack(column)) == 3
