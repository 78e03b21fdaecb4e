"""Columns whose memory lies in a file: they give the values that were packed, or say that the file lacks them."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

from handoff_mpi.arrays.columns import MARSHALLED, NONES, count_of, cut, pack, packed_range, unpack
from handoff_mpi.arrays.filed_columns import MIN_FILED_NBYTES, FiledColumn, digest_of, nbytes_of_any, parted, plain_form
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.errors import ValueDamaged
from tests.arrays.test_columns import forms

COLUMNS = {
    "numbers": [*range(100)],
    "floats": [index / 3 for index in range(100)],
    "bools": [index % 3 == 0 for index in range(1000)],
    "rows": [np.full(3, index) for index in range(40)],
    "scalars": [np.float32(index) for index in range(100)],
    "marshalled": [f"text {index}" for index in range(100)],
    "pickles": [[index, f"text {index}"] for index in range(100)],
}


class Source:
    """Something like a file."""

    def __init__(self, content):
        self.content = content

    def read(self, offset, nbytes, digest):
        found = bytes(self.content[offset : offset + nbytes])
        if digest_of(found) != digest:
            raise ValueDamaged(f"damaged at {offset}")
        return found


def filed(values, memory=None):
    """The column of ``values``, whose memory lies at offset 64."""
    stub, its_memory = parted(pack(values))
    content = bytes(64) + bytes(its_memory if memory is None else memory) + b"the next column"
    return FiledColumn(plain_form(stub, its_memory, 64), Source(content))


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_in_a_file_gives_the_values_that_were_packed(kind):
    values = COLUMNS[kind]
    column = filed(values)
    assert count_of(column.plain) == len(values)
    assert forms(unpack(column.load())) == forms(values)
    assert forms(unpack(cut(column.load(), 3, 7))) == forms(values[3:7])
    assert column.nbytes == nbytes_of_any(column) > MIN_FILED_NBYTES


def test_what_the_journal_keeps_of_a_column_is_small():
    column = filed([[index, "x" * 100] for index in range(10_000)])
    assert len(pickle.dumps(column.plain)) < 200


def test_a_part_of_marshalled_values_is_filed_with_its_place_in_them():
    packed = cut(pack([f"text {index}" for index in range(100)]), 40, 60)
    assert packed[0] == MARSHALLED
    stub, memory = parted(packed)
    column = FiledColumn(plain_form(stub, memory, 0), Source(memory))
    assert unpack(column.load()) == [f"text {index}" for index in range(40, 60)]


@pytest.mark.parametrize("packed", [packed_range(range(10**6)), pack([None] * 1000), pack([1, 2, 3])])
def test_a_column_with_next_to_no_memory_is_not_filed(packed):
    assert packed[0] == NONES or packed[1] in (3, 10**6)
    assert parted(packed) is None


def test_other_bytes_are_not_taken_for_a_column():
    column = filed([*range(100)], memory=bytes(800))
    with pytest.raises(ValueDamaged, match="damaged at 64"):
        column.load()
    values = ArrayValues(100)
    values.put([(0, 100)], column)
    for take in (values.column, values.values, lambda index: values.columns(range(index, 3))):
        with pytest.raises(ValueDamaged, match="damaged at 64"):
            take(0, 1) if take == values.values else take(0)


def test_values_in_a_file_are_found_as_others_are():
    values = ArrayValues(1000)
    expected = {}
    for start, kind in zip(range(0, 1000, 100), [*COLUMNS, *COLUMNS], strict=False):
        items = COLUMNS[kind][:40]
        values.put(
            [(start, start + 30), (start + 50, start + 60)], filed(COLUMNS[kind]) if start % 200 else pack(items)
        )
        expected |= dict(zip([*range(start, start + 30), *range(start + 50, start + 60)], items, strict=True))
    assert len(values) == len(expected)
    for found in (values, pickle.loads(pickle.dumps(values))):
        for index, value in expected.items():
            assert forms([found[index]]) == forms([value])
    assert [unpack(column) for column in values.columns(range(100, 130, 10))] == [[0.0, 10 / 3, 20 / 3]]
    assert [unpack(column) for column in values.columns(range(129, 99, -10))] == [[29 / 3, 19 / 3, 3.0]]
    assert [(unpack(column), first) for column, first, _ in values.parts(range(500, 503))] == [
        ([f"text {index}" for index in range(3)], 500)
    ]


def test_parts_of_a_column_in_a_file_are_taken_over_where_they_are_wanted():
    values, column = ArrayValues(200), filed(COLUMNS["numbers"])
    values.put([(20, 25)], pack([7] * 5))
    wanted = IntervalSet([(10, 30), (110, 200)])
    assert values.fill([(0, 50), (100, 150)], column, wanted) == [(10, 20), (25, 30), (110, 150)]
    assert values.values(10, 30) == [*range(10, 20), *[7] * 5, *range(25, 30)]
    assert values.values(110, 150) == [*range(60, 100)]
    assert values.inline_nbytes() == 40
    assert values.nbytes == 40 + 55 * 8


def test_ten_thousand_segments_in_a_file_take_little_memory():
    values, source = ArrayValues(10_000_000), Source(b"")
    sizes = []
    tracemalloc.start()
    for start in range(0, 10_000_000, 1000):
        plain = plain_form(("numbers", 1000, "q"), bytes(8000), start * 8)
        values.put([(start, start + 1000)], FiledColumn(plain, source))
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert (sizes[-1] - sizes[1000]) / 9000 < 300
