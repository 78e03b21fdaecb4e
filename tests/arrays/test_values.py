"""The values of an array, compared with a dict of index to value."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.gathering import list_payload
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.serialization import decode, decode_input, decode_private, decode_writable, nbytes_of
from tests.arrays.test_columns import form, forms

COUNT = 40
#: Functions of the index, whose values lie in columns of each kind.
FUNCTIONS = [
    lambda index: index,
    lambda index: None if index % 3 else index / 2,
    lambda index: [index],
    lambda index: np.full(2, index),
    lambda index: np.float32(index),
    lambda index: None,
]


def intervals_of(indices):
    """Runs of neighbours among ``indices``, in the order given."""
    runs = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


@st.composite
def reports(draw):
    """Some leases of some elements of an array, in any order: indices, and what the function returned."""
    indices = draw(st.lists(st.integers(0, COUNT - 1), unique=True))
    runs = intervals_of(indices)
    leases = []
    while runs:
        size = draw(st.integers(1, len(runs)))
        taken, runs = runs[:size], runs[size:]
        function = draw(st.sampled_from(FUNCTIONS))
        leases.append((taken, [function(index) for start, stop in taken for index in range(start, stop)]))
    return leases


def filled(leases):
    values, twin = ArrayValues(COUNT), {}
    for taken, returned in leases:
        values.put(taken, pickle.loads(pickle.dumps(pack(returned))))
        indices = [index for start, stop in taken for index in range(start, stop)]
        twin.update(zip(indices, returned, strict=True))
    return values, twin


@given(reports())
@settings(max_examples=30, deadline=None)
def test_values_are_found_by_index(leases):
    values, twin = filled(leases)
    assert len(values) == len(twin)
    assert [index for index in range(COUNT) if index in values.have] == sorted(twin)
    assert values.is_complete == (len(twin) == COUNT)
    for index in range(COUNT):
        if index in twin:
            assert form(values[index]) == form(twin[index])
        else:
            with pytest.raises(KeyError, match=f"^{index}$"):
                values[index]


@given(reports(), st.slices(COUNT))
@settings(max_examples=60, deadline=None)
def test_slices_are_those_of_a_list(leases, where):
    values, twin = filled(leases)
    wanted = range(COUNT)[where]
    missing = [index for index in wanted if index not in twin]
    if missing:
        with pytest.raises(KeyError, match=f"^{missing[0]}$"):
            values.values(wanted.start, wanted.stop, wanted.step)
    else:
        found = values.values(wanted.start, wanted.stop, wanted.step)
        assert forms(found) == forms(twin[index] for index in wanted)


@given(st.permutations(range(COUNT)), st.data())
@settings(max_examples=15, deadline=None)
def test_complete_values_become_one_payload(order, data):
    values, twin = ArrayValues(COUNT), {}
    for taken in intervals_of(order):
        function = data.draw(st.sampled_from(FUNCTIONS))
        returned = [function(index) for index in range(*taken)]
        values.put([taken], pack(returned))
        twin.update(zip(range(*taken), returned, strict=True))
    payload = list_payload(values)
    expected = forms(twin[index] for index in range(COUNT))
    for how in (decode, decode_input, decode_private, decode_writable):
        assert forms(how(payload)) == expected
    assert forms(values.values(0, COUNT)) == expected


def test_an_element_keeps_the_first_of_its_values():
    values = ArrayValues(10)
    values.put([(2, 4)], pack([2, 3]))
    values.put([(0, 6)], pack([*"abcdef"]))
    assert values.values(0, 6) == ["a", "b", 2, 3, "e", "f"]
    assert values.have.intervals() == [(0, 6)]


def test_an_empty_array_is_complete():
    values = ArrayValues(0)
    assert values.is_complete
    assert decode(list_payload(values)) == values.values(0, 0) == []
    assert values.to_numpy().shape == (0,)


def test_memory_of_columns_is_not_copied_into_the_payload():
    values = ArrayValues(20_000)
    for start in (10_000, 0):
        values.put([(start, start + 10_000)], pack([*map(float, range(start, start + 10_000))]))
    assert values.nbytes == 160_000
    _, head, *buffers = list_payload(values)
    assert len(head) < 1000
    assert [memoryview(part).nbytes for part in buffers] == [80_000, 80_000]
    assert nbytes_of(list_payload(values)) < 161_000
    assert decode(list_payload(values)) == [*map(float, range(20_000))]


@pytest.mark.parametrize("size", [2, 20_000])
def test_gathered_arrays_are_as_writable_as_other_inputs(size):
    values = ArrayValues(3)
    values.put([(0, 2)], pack([np.zeros(size), np.zeros(size)]))
    values.put([(2, 3)], pack([[np.zeros(size)]]))
    payload = list_payload(values)
    found = decode_input(payload)
    for array in (found[0], found[2][0]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0
    for how in (decode_private, decode_writable):
        found = how(payload)
        found[0][0] = found[2][0][0] = 1.0
        assert found[1][0] == decode_input(payload)[0][0] == decode_input(payload)[2][0][0] == 0.0


def test_values_become_one_array_of_numpy():
    values = ArrayValues(6)
    values.put([(4, 6)], pack([2.5, 3.5]))
    values.put([(0, 3)], pack([0, 1, 2]))
    assert values.to_numpy().tolist() == [0.0, 1.0, 2.0, 2.5, 3.5]
    rows = ArrayValues(3)
    rows.put([(1, 3)], pack([np.ones(2), np.zeros(2)]))
    rows.put([(0, 1)], pack([np.zeros(2)]))
    assert rows.to_numpy().tolist() == [[0, 0], [1, 1], [0, 0]]


def test_taking_in_a_million_values_is_no_step_of_python_an_element():
    def calls(count):
        values, entered = ArrayValues(count), []
        column = pack([*range(count)])
        sys.setprofile(lambda frame, event, argument: entered.append(event))
        try:
            values.put([(0, count)], column)
            list_payload(values)
        finally:
            sys.setprofile(None)
        return len(entered)

    assert calls(1_000_000) == calls(100_000)


def test_nones_take_one_segment_however_they_come():
    order = [3, 1, 0, 9, 2, 5, 4, 8, 6, 7]
    values = ArrayValues(100)
    for place in order:
        values.put([(10 * place, 10 * place + 10)], pack([None] * 10))
    assert values.values(0, 100) == [None] * 100
    assert [len(inside) for _, inside in values._inside(range(100))] == [100]
    mixed = ArrayValues(30)
    mixed.put([(0, 10)], pack([None] * 10))
    mixed.put([(20, 30)], pack([None] * 10))
    mixed.put([(10, 20)], pack([*range(10)]))
    assert mixed.values(0, 30) == [*[None] * 10, *range(10), *[None] * 10]
