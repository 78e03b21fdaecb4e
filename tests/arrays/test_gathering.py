"""Payloads of elements, of slices and of pairs: each consumer decodes fresh objects of its own."""

from __future__ import annotations

import itertools
import random

import numpy
import pytest

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.gathering import element_payload, pairs_payload, slice_payload
from handoff_mpi.arrays.values import MAX_SENT_STEP, ArrayValues
from handoff_mpi.serialization import EncodingError, decode_writable, nbytes_of

KINDS = {
    "integers": lambda index: index * 3,
    "mixed": lambda index: [None, "x", index, 1.5][index % 4],
    "tuples": lambda index: (index, "x"),
    "lists": lambda index: [index],
    "none": lambda index: None,
    "scalars": lambda index: numpy.float32(index),
    "rows": lambda index: numpy.arange(3) + index,
}

ELEMENTS = [range(10), range(3, 7), range(0, 10, 3), range(9, -1, -1), range(8, 2, -2), range(2, 2)]


def values_of(make, count, intervals):
    values = ArrayValues(count)
    for low, high in intervals:
        values.put([(low, high)], pack([make(index) for index in range(low, high)]))
    return values


def same(one, other):
    return repr(one) == repr(other)


@pytest.mark.parametrize("kind", KINDS)
def test_an_element_is_what_the_function_returned(kind):
    make = KINDS[kind]
    values = values_of(make, 10, [(0, 4), (4, 10)])
    for index in (0, 3, 4, 9):
        assert same(decode_writable(element_payload(values, index)), make(index))
        assert type(decode_writable(element_payload(values, index))) is type(make(index))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("elements", ELEMENTS)
def test_a_slice_is_a_list_in_its_own_order(kind, elements):
    make = KINDS[kind]
    values = values_of(make, 10, [(0, 4), (6, 10), (4, 6)])
    payload = slice_payload(values, elements)
    found = decode_writable(payload)
    assert same(found, [make(index) for index in elements])
    assert decode_writable(payload) is not found


def test_of_distant_elements_nothing_is_sent_that_lies_between_them():
    values = values_of(float, 100_000, [(0, 100_000)])
    payload = slice_payload(values, range(0, 100_000, 1000))
    assert decode_writable(payload) == [float(index) for index in range(0, 100_000, 1000)]
    assert nbytes_of(payload) < 20_000
    near = slice_payload(values, range(0, 10_000, MAX_SENT_STEP))
    assert decode_writable(near) == [float(index) for index in range(0, 10_000, MAX_SENT_STEP)]


def test_values_between_those_of_a_slice_need_not_be_there():
    values = values_of(float, 10, [(0, 1), (3, 4), (6, 7)])
    assert decode_writable(slice_payload(values, range(0, 9, 3))) == [0.0, 3.0, 6.0]


def test_pairs_are_those_of_elements_with_values():
    values = values_of(str, 10, [(0, 3), (5, 7), (9, 10)])
    there = [(index, str(index)) for index in (0, 1, 2, 5, 6, 9)]
    assert decode_writable(pairs_payload(values, range(10))) == there
    assert decode_writable(pairs_payload(values, range(9, -1, -1))) == there[::-1]
    assert decode_writable(pairs_payload(values, range(1, 10, 2))) == [(1, "1"), (5, "5"), (9, "9")]
    assert decode_writable(pairs_payload(values, range(3, 5))) == []


@pytest.mark.parametrize("seed", range(20))
def test_any_slice_of_any_columns(seed):
    rng = random.Random(seed)
    count = rng.randrange(1, 200)
    bounds = sorted({0, count, *rng.choices(range(count), k=rng.randrange(8))})
    make = KINDS[rng.choice([*KINDS])]
    values = values_of(make, count, [*itertools.pairwise(bounds)])
    low, high = rng.randrange(-count, count), rng.randrange(-count, count)
    elements = range(count)[slice(low, high, rng.choice([1, 2, 9, -1, -13]))]
    assert same(decode_writable(slice_payload(values, elements)), [make(index) for index in elements])
    pairs = [(index, make(index)) for index in elements]
    assert same(decode_writable(pairs_payload(values, elements)), pairs)


def refuses():
    raise ValueError("it does not load")


class Refuses:
    def __reduce__(self):
        return refuses, ()


def test_a_value_that_cannot_be_decoded_is_no_empty_list():
    values = values_of(lambda index: Refuses(), 3, [(0, 3)])
    for payload in (slice_payload(values, range(1, 3)), pairs_payload(values, range(3)), element_payload(values, 0)):
        with pytest.raises(EncodingError, match="it does not load"):
            decode_writable(payload)


def test_an_element_without_a_value_is_named():
    with pytest.raises(KeyError):
        element_payload(values_of(float, 10, [(0, 3)]), 5)
