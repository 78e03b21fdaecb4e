"""The elements of a windowed array: those that have not ended can be sent, the others are forgotten."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_mpi.arrays.columns import ColumnError, nbytes_of
from handoff_mpi.arrays.digests import NO_DIGEST
from handoff_mpi.arrays.element_input import BLOCK
from handoff_mpi.arrays.inputs import MAX_COLUMN_NBYTES, values_of
from handoff_mpi.arrays.windows import ElementWindow, WindowedInput, block_length


def filled(elements, inputs=1, size=16, step=None):
    window = ElementWindow(inputs, size)
    place = 0
    while place < len(elements):
        count = step or len(elements)
        window.add(elements[place : place + count])
        place += count
    return window


@pytest.mark.parametrize(("size", "length"), [(1, 1), (3, 2), (16, 16), (1000, 512), (10**6, BLOCK)])
def test_a_block_fits_into_the_window(size, length):
    assert block_length(size) == length


@given(st.lists(st.integers(0, 59), max_size=60), st.integers(1, 7), st.data())
@settings(max_examples=40, deadline=None)
def test_elements_that_have_not_ended_can_be_sent(ended, step, data):
    window = filled([f"element {index}" for index in range(60)], step=step)
    elements = WindowedInput(window, 0, "argument 1")
    for index in ended:
        window.ended([(index, index + 1)])
    left = sorted(set(range(60)) - set(ended))
    for index in left:
        assert values_of(elements.piece(index, index + 1), 0, 1) == [f"element {index}"]
    if left:
        start = data.draw(st.sampled_from(left))
        stop = next(index for index in range(start, 61) if index not in left)
        piece = elements.piece(start, stop)
        assert values_of(piece, 0, stop - start) == [f"element {index}" for index in range(start, stop)]
    else:
        assert window.nbytes == 0


def test_what_has_ended_takes_no_memory():
    window = ElementWindow(1, 1000)
    for start in range(0, 100_000, 500):
        window.add([*range(start, start + 500)])
        window.ended([(start, start + 400)])
        window.ended([(start + 400, start + 500)])
        assert window.nbytes <= 8 * 1000
    assert window.nbytes == 0


def test_elements_of_several_inputs_come_together():
    window = filled([(index, str(index)) for index in range(20)], inputs=2)
    numbers, texts = (WindowedInput(window, number, "") for number in range(2))
    assert values_of(numbers.piece(7, 10), 0, 3) == [7, 8, 9]
    assert values_of(texts.piece(7, 10), 0, 3) == ["7", "8", "9"]


def test_digests_do_not_depend_on_how_elements_came():
    elements = [index / 2 for index in range(16)]
    digests = {filled(elements, step=step).digest(16, None) for step in (1, 3, 16)}
    assert len(digests) == 1
    assert filled(elements).digest(10, None) == filled(elements[:10], step=4).digest(10, None) != digests.pop()
    assert filled([*elements, 1.0, 2.0], step=5).digest(18, None) == filled([None] * 16 + [1.0, 2.0]).digest(18, None)


def test_a_digest_is_that_of_all_inputs():
    pairs = [(index, str(index)) for index in range(8)]
    others = [*pairs[:7], (7, "x")]
    assert filled(pairs, inputs=2).digest(8, None) != filled(others, inputs=2).digest(8, None)


def test_elements_of_the_users_classes_have_no_digest_of_their_own():
    class Own:
        pass

    Own.__qualname__ = "Own"
    globals()["Own"] = Own
    assert filled([1, 2, Own()]).digest(3, None) == NO_DIGEST
    assert filled([1, 2, Own()]).digest(3, lambda value: b"digest") != NO_DIGEST


def test_nothing_is_taken_in_where_an_element_cannot_be_pickled():
    window = filled([1, 2])
    with pytest.raises(ColumnError) as caught:
        window.add([[3], threading.Lock()])
    assert [*caught.value.errors] == [1]
    assert window.count == 2
    with pytest.raises(ColumnError) as caught:
        window.add(["text" * 10_000, *range(3), threading.Lock(), 5, threading.Lock()])
    assert min(caught.value.errors) == 4
    assert window.count == 2


@pytest.mark.parametrize(
    "elements",
    [
        [*range(10_000)],
        [f"element {index}" for index in range(10_000)],
        [str(index) * (index % 700) for index in range(3000)],
        [*range(2000), *(str(index) * 1000 for index in range(500)), *range(2000)],
        [[index] * (index % 100) for index in range(2000)],
    ],
)
def test_a_lease_of_few_elements_carries_no_large_column_of_others(elements):
    window = filled(elements, size=1 << 15, step=2500)
    for index in range(0, len(elements), 97):
        piece = window.piece(0, index, index + 1)
        assert values_of(piece, 0, 1) == [elements[index]]
        assert sum(map(nbytes_of, piece)) <= 2 * MAX_COLUMN_NBYTES


def test_numbers_that_come_together_lie_in_one_column():
    window = filled([*range(1, 10_001)], size=1 << 15, step=2500)
    assert len(window.piece(0, 3000, 5000)) == 1


def test_digests_of_blocks_do_not_depend_on_what_came_with_them():
    elements = [*range(40), "text", *range(20), 2.5]
    digests = {}
    for step in (1, 7, 16, 62):
        window, found = ElementWindow(1, 16), []
        for place in range(0, len(elements), step):
            count = window.count
            window.add(elements[place : place + step])
            window.ended([(count, window.count)])
            found += [window.digest(stop, None) for stop in range(count // 16 * 16 + 16, window.count + 1, 16)]
        digests[step] = *found, window.digest(len(elements), None)
    assert len(set(digests.values())) == 1 and len(digests[1]) == 4
