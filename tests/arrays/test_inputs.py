"""Inputs of arrays, compared with the list of what iterating over them gives."""

from __future__ import annotations

import pickle
import subprocess
import sys
from array import array
from collections import deque
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays import element_input, inputs
from handoff_mpi.arrays.element_input import BLOCK, MAX_DIGESTS
from handoff_mpi.arrays.inputs import MAX_COLUMN_NBYTES, freeze_elements, values_of
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.errors import DAGError
from handoff_mpi.serialization import decode_private
from tests.arrays.test_columns import forms


class Point:
    """A class of the user."""

    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return self.x == other.x


class Numbers(deque):
    """A sequence that cannot be sliced."""


def frozen(values, name="xs"):
    elements = freeze_elements(values, name)
    elements.encode()
    return elements


#: Makers of the first ``n`` elements of something to map over.
MAKERS = {
    "range": lambda n: range(5, 5 + 3 * n, 3),
    "integers": lambda n: [*range(n)],
    "floats in a tuple": lambda n: tuple(map(float, range(n))),
    "strings": lambda n: [f"case {number}" for number in range(n)],
    "mixed": lambda n: [number if number % 3 else None for number in range(n)],
    "pairs": lambda n: [(number, "ab") for number in range(n)],
    "lists": lambda n: [[number] for number in range(n)],
    "dates": lambda n: [date.fromordinal(number + 1) for number in range(n)],
    "growing": lambda n: ["x" * (number % 60) ** 2 for number in range(n)],
    "vector": lambda n: np.arange(n) / 7,
    "matrix": lambda n: np.arange(3.0 * n).reshape(n, 3),
    "columns first": lambda n: np.asfortranarray(np.arange(3.0 * n).reshape(n, 3)),
    "times": lambda n: np.arange(n).astype("M8[s]"),
    "objects": lambda n: np.array([*range(n), None], object)[:n],
    "records": lambda n: np.zeros(n, [("a", "f8"), ("b", "i4")]),
    "array": lambda n: array("h", range(n)),
    "characters": lambda n: array("u", "a" * n),
    "letters": lambda n: ("abc" * n)[:n],
    "bytes": lambda n: bytes(n),
    "no slices": lambda n: Numbers(range(n)),
    "iterator": lambda n: (number * number for number in range(n)),
    "set": lambda n: {*range(n)},
    "dict": lambda n: dict.fromkeys(range(n)),
    "view": lambda n: dict.fromkeys(range(n)).items(),
}
COUNTS = st.one_of(st.integers(0, 20), st.integers(BLOCK - 2, BLOCK + 2), st.integers(2 * BLOCK, 2 * BLOCK + 99))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@given(COUNTS, st.data())
@settings(max_examples=12, deadline=None)
def test_pieces_hold_the_elements_that_iterating_gives(make, count, data):
    expected = [*make(count)]
    elements = frozen(make(count))
    assert len(elements) == len(expected) == count
    assert elements.types() == set(map(type, expected))
    for _ in range(3):
        start = data.draw(st.integers(0, count))
        stop = data.draw(st.integers(start, count))
        piece = pickle.loads(pickle.dumps(elements.piece(start, stop)))
        low = data.draw(st.integers(0, stop - start))
        high = data.draw(st.integers(low, stop - start))
        assert forms(values_of(piece, low, high)) == forms(expected[start + low : start + high])
    if count:
        assert forms([elements[count - 1], freeze_elements(make(count), "xs")[0]]) == forms([expected[-1], expected[0]])


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@given(COUNTS, COUNTS)
@settings(max_examples=6, deadline=None)
def test_elements_that_both_launches_have_are_the_same(make, before, now):
    digests = pickle.loads(pickle.dumps(frozen(make(before)).digests()))
    same = frozen(make(now)).same_prefix(digests)
    if before <= now or make is MAKERS["range"]:
        assert [*same] == [(0, min(before, now))] * (min(before, now) > 0)
    else:  # the last block of a list that has become shorter is another one
        length = digests[3]
        assert [*same] == [(0, now // length * length)] * (now >= length)


@given(st.lists(st.sampled_from([0, 1, 2.5, None, "a", True, (1, 2)]), min_size=1, max_size=40), st.data())
@settings(max_examples=60, deadline=None)
def test_an_element_that_has_changed_is_not_the_same(values, data):
    values = values * data.draw(st.sampled_from([1, 60, 500]))
    index = data.draw(st.integers(0, len(values) - 1))
    changed = [*values]
    changed[index] = data.draw(st.sampled_from([7, 1.0, False, "b", None, [1], np.float64(1)]))
    same = frozen(changed).same_prefix(frozen(values).digests())
    if type(changed[index]) is type(values[index]) and changed[index] == values[index]:
        assert [*same] == [(0, len(values))]
    else:
        length = 1
        while len(values) > MAX_DIGESTS * length:
            length *= 2
        block = index // length * length
        expected = IntervalSet([(0, len(values))])
        expected.discard(block, block + length)
        assert same == expected


def test_the_same_numbers_are_the_same_in_a_list_a_tuple_and_an_iterator():
    digests = frozen([*range(3000)]).digests()
    for other in (tuple(range(3000)), iter(range(3000)), array("q", range(3000)), range(3000)):
        assert [*frozen(other).same_prefix(digests)] == [(0, 3000)]
    for others in ([*map(float, range(3000))], np.arange(3000)):
        for before in (digests, frozen(range(3000)).digests()):
            assert not frozen(others).same_prefix(before)


@pytest.mark.parametrize("of", [range(3000), range(7, 15000, 3), range(9, -9000, -1), range(0)], ids=str)
@pytest.mark.parametrize("make", [list, tuple, lambda of: array("q", of)], ids=["list", "tuple", "array"])
def test_a_range_and_its_integers_are_the_same_in_both_directions(make, of):
    common = [(0, len(of))] if of else []
    digests = pickle.loads(pickle.dumps(frozen(of).digests()))
    assert [*frozen(make(of)).same_prefix(digests)] == [*frozen(of).same_prefix(frozen(make(of)).digests())] == common
    assert frozen(make(of)).value_digests() == frozen(of).value_digests()
    if of:
        longer = range(of.start, of.stop + 50 * of.step, of.step)
        assert [*frozen(make(of)).same_prefix(frozen(longer).digests())] == common
        assert [*frozen(make(longer)).same_prefix(digests)] == common
        assert frozen(make(longer)).value_digests() != frozen(of).value_digests()


def test_integers_beside_others_are_those_of_a_range_one_by_one():
    digests = frozen(range(4)).digests()
    for other, same in (([0, 1, 5, 3], [(0, 2), (3, 4)]), ([False, 1, 2.0, 3], [(1, 2), (3, 4)]), (["0"], [])):
        assert [*frozen(other).same_prefix(digests)] == same
    alike = [[], [3], [3, 5], [3, 5, 7], [3, 3], [3, 5, 8], [3, True], [3.0, 5], [True], [0, 1, 3, 3, 4]]
    forms = [frozen(each).value_digests() for each in alike]
    assert [each[0] for each in forms] == ["range"] * 4 + ["blocks"] * 6
    assert len(set(forms)) == len(forms)
    assert forms[:2] == [frozen(range(5, 5, 2)).value_digests(), frozen(range(3, 9, 9)).value_digests()]


class Own:
    """A class of a user."""


def test_each_block_is_hashed_once_unless_it_depends_on_classes_of_users(monkeypatch):
    hashed = []
    digest_of = element_input.digest_of
    monkeypatch.setattr(element_input, "digest_of", lambda *each: hashed.append(each) or digest_of(*each))
    elements = frozen([{"x": [x]} for x in range(50)] + [Own()])
    digests = elements.digests(lambda value: b"one")
    assert len(hashed) == 51
    assert elements.same_prefix(digests, lambda value: b"one").intervals() == [(0, 51)]
    assert elements.same_prefix(digests, lambda value: b"other").intervals() == [(0, 50)]
    assert elements.same_prefix(digests).intervals() == [(0, 50)]
    assert len(hashed) == 54


@pytest.mark.parametrize(("count", "length"), [(1, 1), (MAX_DIGESTS, 1), (MAX_DIGESTS + 1, 2), (10**7, BLOCK)])
def test_few_elements_have_a_digest_each_and_many_one_a_block(monkeypatch, count, length):
    rows = np.broadcast_to(np.int8(1), (count,))
    monkeypatch.setattr(inputs.RowsInput, "_digest", lambda *_: b"")
    assert frozen(rows).digests() == ("blocks", count, b"", length)


def test_ranges_are_compared_by_arithmetic():
    digests = frozen(range(10**12)).digests()
    assert frozen(range(10**13)).same_prefix(digests).intervals() == [(0, 10**12)]
    assert frozen(range(10**11)).same_prefix(digests).intervals() == [(0, 10**11)]
    assert frozen(range(0, 10**11, 2)).same_prefix(digests).intervals() == [(0, 1)]
    assert not frozen(range(1, 10**11)).same_prefix(digests)


def test_objects_of_the_users_classes_are_compared_where_they_have_digests():
    points = [Point(number) for number in range(5)]
    assert not frozen(points).same_prefix(frozen(points).digests())

    def digest(point):
        return b"%d" % point.x

    digests = frozen(points).digests(digest)
    assert [*frozen(points).same_prefix(digests, digest)] == [(0, 5)]
    points[3].x = 9
    assert [*frozen(points).same_prefix(digests, digest)] == [(0, 3), (4, 5)]


def test_digests_do_not_depend_on_the_process_or_on_which_parts_are_one_object():
    code = "from handoff_mpi.arrays.inputs import freeze_elements\n"
    code += (
        "elements = freeze_elements([[text, text] for text in ['ab' + str(n) for n in range(9)]] + ['x', 1], 'xs')\n"
    )
    code += "elements.encode(); print(elements.digests())"
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    here = frozen([["ab" + str(n), "".join(["a", "b", str(n)])] for n in range(9)] + ["x", 1])
    assert found.stdout.strip() == str(here.digests())


def test_later_changes_of_a_list_or_an_array_do_not_count():
    numbers, vector, memory = [[1], [2]], np.zeros(2), array("d", [1.0, 2.0])
    elements = [frozen(each) for each in (numbers, vector, memory)]
    numbers[0][0], vector[:], memory[0] = 7, 8.0, 9.0
    assert [values_of(each.piece(0, 2), 0, 2) for each in elements] == [[[1], [2]], [0.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize("grow", [lambda values: values.append(1), lambda values: values.pop()])
@pytest.mark.parametrize("values", [[1, 2], array("q", [1, 2])], ids=["list", "array"])
def test_a_sequence_that_changes_its_length_before_it_is_encoded_is_refused(values, grow):
    values = values[:]
    elements = freeze_elements(values, "input 0 of 'sweep'")
    grow(values)
    with pytest.raises(DAGError, match=r"input 0 of 'sweep' had 2 elements when it was mapped over, and has \d now"):
        elements.encode()


def test_an_element_that_cannot_be_pickled_is_named_by_its_index():
    elements = freeze_elements([*range(2000), open, (each for each in "a"), 3, (each for each in "b")], "'xs'")
    with pytest.raises(DAGError) as caught:
        elements.encode()
    assert [problem.partition(" cannot")[0] for problem in caught.value.problems] == [
        "element 2,001 of 'xs'",
        "element 2,003 of 'xs'",
    ]
    assert "generator" in caught.value.problems[0]


def test_an_iterator_is_read_up_to_a_limit():
    assert len(freeze_elements(iter(range(5)), "xs", most=5)) == 5
    with pytest.raises(DAGError, match="xs is an iterator of more than 5 elements; map over a list or a range"):
        freeze_elements(iter(range(10**9)), "xs", most=5)


def failing():
    yield 1
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (5, "xs is 5, which is not iterable"),
        (np.array(5), "xs is an array without axes"),
        (failing(), "reading the elements of xs has failed: OSError\\('the disk is full'\\)"),
    ],
    ids=["number", "no axes", "raises"],
)
def test_what_has_no_elements_is_refused(values, problem):
    with pytest.raises(DAGError, match=problem):
        freeze_elements(values, "xs")


def test_arrays_among_the_elements_are_read_only_unless_they_are_wanted_writable():
    for values in (np.zeros((2, 3)), [np.zeros(3), np.zeros(3)], [np.zeros(3), [np.zeros(2)]]):
        piece = frozen(values).piece(0, 2)
        with pytest.raises(ValueError, match="read-only"):
            values_of(piece, 0, 1)[0][0] = 1.0
        values_of(piece, 0, 1, decode_private)[0][0] = 1.0
        assert values_of(piece, 0, 1)[0][0] == 0.0


def test_a_read_only_array_is_not_copied(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(6.0).reshape(3, 2))
    stored = np.load(tmp_path / "m.npy", mmap_mode="r")
    elements = frozen(stored)
    assert np.shares_memory(elements._values, stored)
    assert forms(values_of(elements.piece(1, 3), 0, 2)) == forms(np.arange(6.0).reshape(3, 2)[1:])
    assert elements.types() == {np.ndarray}


def test_large_elements_are_encoded_one_by_one_and_small_ones_together():
    large = frozen([np.zeros(n) for n in range(10_000, 10_020)])
    assert [len(each.piece(0, 20)) for each in (large, frozen([*range(20)]))] == [20, 2]
    strings = frozen(["x" * 100] * 5000)
    for index in (0, 1, 700, 4999):
        (column,) = strings.piece(index, index + 1)
        assert len(pickle.dumps(column)) < 2 * MAX_COLUMN_NBYTES
    long = frozen(["x" * 100_000] * 20)
    assert max(len(pickle.dumps(long.piece(index, index + 1))) for index in range(20)) < 110_000
    pickled = frozen([[0] * 1000] * 50)
    assert len(pickle.dumps(pickled.piece(7, 8))) < 2 * len(pickle.dumps([0] * 1000))


def test_no_step_of_python_an_element_cuts_numbers():
    """Cutting and sending a million elements enters as many functions as a thousand."""
    for make in (range, np.arange, lambda n: array("q", range(n))):
        few, many = frozen(make(1000)), frozen(make(1_000_000))
        assert type(few) is not inputs.ListInput
        assert calls_of(lambda few=few: few.piece(0, 1000)) == calls_of(lambda many=many: many.piece(0, 1_000_000))


def calls_of(function):
    """How many functions ``function`` calls."""
    entered = []
    sys.setprofile(lambda frame, event, argument: entered.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
    return len(entered)


def test_what_cannot_be_read_says_why():
    class Rows:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            if index == 10:
                raise OSError("row 10 is damaged")
            return index

    with pytest.raises(DAGError, match=r"reading the elements of argument 1 has failed: OSError.*row 10 is damaged"):
        freeze_elements(Rows(), "argument 1")
    with pytest.raises(DAGError, match="is 7, which is not iterable"):
        freeze_elements(7, "argument 1")
    with pytest.raises(DAGError, match="which is longer than a list can be"):
        freeze_elements(range(10**30), "argument 1")
    assert len(freeze_elements(range(10**15), "argument 1")) == 10**15
