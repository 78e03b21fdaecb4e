"""Inputs that take values of arrays: pieces compared with lists of values, in columns of all kinds."""

import random

import numpy as np

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.inputs import freeze_elements, values_of
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.linked_inputs import FoldedInput, LinkedInput, tree_of
from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.arrays.values import ArrayValues

MAKE = {
    "numbers": lambda index: index,
    "floats": lambda index: index / 7,
    "bools": lambda index: index % 3 == 0,
    "nothing": lambda index: None,
    "strings": lambda index: str(index),
    "tuples": lambda index: (index, "x"),
    "lists": lambda index: [index],
    "rows": lambda index: np.array([index, 2 * index]),
    "scalars": lambda index: np.float32(index),
    "mixed": lambda index: index if index % 5 else {index},
}


def filled(rng, values):
    """The values of an array, as leases of some length have brought them, each of several intervals."""
    array, place, order = ArrayValues(len(values)), 0, []
    while place < len(values):
        order.append((place, min(place + rng.randint(1, 9), len(values))))
        place = order[-1][1]
    rng.shuffle(order)
    while order:
        intervals = sorted(order.pop() for _ in range(min(len(order), rng.randint(1, 3))))
        array.put(intervals, pack([values[index] for low, high in intervals for index in range(low, high)]))
    return array


def same(found, wanted):
    assert [*map(type, found)] == [*map(type, wanted)]
    return all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_pieces_are_the_values_of_the_elements_in_their_order():
    rng = random.Random(1)
    for kind, make in MAKE.items():
        for _ in range(20):
            values = [make(index) for index in range(rng.randint(1, 40))]
            array = filled(rng, values)
            step = rng.choice([1, 1, 2, 7, -1, -3])
            indices = range(len(values))[::step]
            linked = LinkedInput("xs", len(values), indices, "argument 1")
            start = rng.randrange(len(indices))
            stop = rng.randint(start + 1, len(indices))
            piece = linked.piece_of(start, stop, {"xs": array}.get)
            assert same(values_of(piece, 0, stop - start), [values[each] for each in indices[start:stop]]), kind
            assert same(values_of(piece, stop - start - 1, stop - start), [values[indices[stop - 1]]])


def test_a_link_says_which_elements_it_takes_and_those_of_other_indices_are_others():
    linked = LinkedInput("xs", 10, range(2, 10, 2), "argument 1")
    assert (len(linked), linked.array_ids, linked.links({"xs": 7})) == (4, ("xs",), [Link(7, range(2, 10, 2))])
    assert linked.same_prefix(LinkedInput("xs", 8, range(2, 8, 2), "").digests()) == IntervalSet([(0, 3)])
    for other in (range(0, 10, 2), range(2, 10, 3)):
        assert not linked.same_prefix(LinkedInput("xs", 10, other, "").digests())
    assert not linked.same_prefix(freeze_elements(range(4), "").digests())


def test_pieces_of_a_fold_are_the_blocks_of_each_level():
    rng = random.Random(2)
    for inputs in ("values", "an array"):
        for count, fan_in in ((1, 2), (5, 2), (10, 3), (30, 4)):
            values = [(index, "x") for index in range(count)]
            own = [[index] for index in range(40)]
            source = freeze_elements(values, "") if inputs == "values" else LinkedInput("xs", count, range(count), "")
            fold = FoldedInput(source, fan_in, "total", "argument 2")
            fold.encode()
            arrays = {"xs": filled(rng, values), "total": filled(rng, own)}
            start = rng.randrange(len(fold))
            stop = rng.randint(start + 1, len(fold))
            wanted = [
                (values if block < fold.tree.firsts[1] else own)[slice(*fold.tree.taken(block))]
                for block in range(start, stop)
            ]
            piece = fold.piece_of(start, stop, arrays.get)
            assert values_of(piece, 0, stop - start) == wanted
            assert values_of(piece, stop - start - 1, stop - start) == wanted[-1:]


def test_a_fold_links_levels_and_keeps_whole_blocks_of_the_same_values():
    fold = FoldedInput(LinkedInput("xs", 10, range(10), ""), 3, "total", "")
    assert fold.links({"xs": 5}) == [Link(5, range(10), 3), Link(OWN, range(4), 3, 4), Link(OWN, range(4, 6), 3, 6)]
    assert tree_of([fold]) is fold.tree and tree_of([fold.input]) is None and tree_of([]) is None
    plain = FoldedInput(freeze_elements([*range(10)], ""), 3, "total", "")
    plain.encode()
    assert plain.links({}) == fold.links({"xs": 5})[1:]
    assert plain.same_prefix(plain.digests()) == IntervalSet([(0, 7)])
    longer = FoldedInput(freeze_elements([*range(11)], ""), 3, "total", "")
    longer.encode()
    assert longer.same_prefix(plain.digests()).intervals() == [(0, 3)]
    assert fold.same_prefix(FoldedInput(LinkedInput("xs", 8, range(8), ""), 3, "total", "").digests()).intervals() == [
        (0, 2)
    ]
    assert not plain.same_prefix(FoldedInput(freeze_elements(range(10), ""), 4, "total", "").digests())
    assert not plain.same_prefix(freeze_elements(range(7), "").digests())
