"""The iterables of a windowed array, which nobody reads before the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from handoff_mpi.errors import DAGError


class ElementSource:
    """The iterables of a windowed array.

    Args:
        iterables: those whose items are elements; several are zipped.
    """

    def __init__(self, iterables: Sequence[Iterable[Any]]) -> None:
        self._iterables = iterables
        self._is_used = False

    def __len__(self) -> int:
        return len(self._iterables)

    def begin(self) -> Iterator[Any]:
        """Return an iterator of the elements, or of tuples with an element of each iterable where there are several.

        It raises ValueError where one ends before another.

        Raises:
            DAGError: an earlier run has used up an iterator among them.
        """
        iterators = [iter(each) for each in self._iterables]
        is_passing = any(one is other for one, other in zip(iterators, self._iterables, strict=True))
        if is_passing and self._is_used:
            raise DAGError("its iterator was used up by an earlier run; declare the array again, or map over a list")
        self._is_used = True
        return iterators[0] if len(iterators) == 1 else zip(*iterators, strict=True)
