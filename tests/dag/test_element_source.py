"""The iterables of a windowed array begin again in each run, unless they are iterators."""

from __future__ import annotations

import pytest

from handoff_mpi.dag.element_source import ElementSource
from handoff_mpi.errors import DAGError


def test_iterables_begin_again():
    source = ElementSource([range(3)])
    assert [*source.begin()] == [*source.begin()] == [0, 1, 2]


def test_several_are_zipped_and_end_together():
    assert [*ElementSource([range(2), "ab"]).begin()] == [(0, "a"), (1, "b")]
    with pytest.raises(ValueError, match="shorter"):
        [*ElementSource([range(2), "a"]).begin()]


@pytest.mark.parametrize("others", [[], [range(3)]])
def test_an_iterator_is_used_up_by_the_first_run(others):
    source = ElementSource([iter(range(3)), *others])
    assert len([*source.begin()]) == 3
    with pytest.raises(DAGError, match="used up by an earlier run; declare the array again"):
        source.begin()
