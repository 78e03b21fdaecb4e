"""Trees of blocks, compared with a fold that builds lists."""

from itertools import chain

from handoff_mpi.arrays.trees import Tree


def test_blocks_are_aligned_and_numbered_level_by_level():
    for count in (1, 2, 3, 8, 9, 10, 27, 28, 100):
        for fan_in in (2, 3, 64):
            tree, values = Tree(count, fan_in), [*range(count)]
            blocks, level, first = [], [[each] for each in values], 0
            while not blocks or len(level) > 1:
                taken = [
                    (first + place, first + min(place + fan_in, len(level))) for place in range(0, len(level), fan_in)
                ]
                level = [[*chain.from_iterable(level[low - first : high - first])] for low, high in taken]
                first = len(blocks)
                blocks += zip(taken, level, strict=True)
            assert len(tree) == len(blocks) and blocks[-1][1] == values
            for number, (taken, folded) in enumerate(blocks):
                assert tree.taken(number) == taken, (count, fan_in, number)
                assert [*range(*tree.folded(number))] == folded, (count, fan_in, number)
            assert [*tree.parts(0, len(tree))] == tree.levels


def test_parts_end_with_their_levels():
    tree = Tree(10, 2)  # 0:5, 5:8, 8:10, 10
    assert [*tree.parts(4, 9)] == [(4, 5), (5, 8), (8, 9)] and [*tree.parts(2, 2)] == []
