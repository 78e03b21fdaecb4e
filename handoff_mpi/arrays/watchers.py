"""Finds out which selections of an array's elements have ended, without a step for each element.

Each selection watches one of its open elements, the last one. Nothing is looked at until that element ends; then the
selection watches the last one of those that are still open. SAT solvers watch the literals of clauses in this way
(Moskewicz et al., Chaff, DAC 2001). As the elements of an array begin in their order, few selections look twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from handoff_mpi.arrays.intervals import Interval, IntervalSet

#: Watched elements are found by blocks of so many.
_BLOCK = 1024


class Watchers:
    """The selections of one array that are open.

    Args:
        open: the elements that have not ended; the set is kept, and changes.
    """

    __slots__ = ("_open", "_selections", "_watched")

    def __init__(self, open: IntervalSet) -> None:
        self._open = open
        self._selections: dict[int, range] = {}
        self._watched: dict[int, dict[int, list[int]]] = {}  # block to index to the selections that watch it

    def add(self, number: int, indices: range) -> bool:
        """Watch the ascending ``indices`` for the selection ``number``; return whether any of them is open."""
        last = self._open.last_of(indices)
        if last is None:
            return False
        self._selections[number] = indices
        self._watched.setdefault(last // _BLOCK, {}).setdefault(last, []).append(number)
        return True

    def end(self, intervals: Iterable[Interval]) -> list[int]:
        """Elements have ended; return the selections of which none is open any more."""
        found: list[int] = []
        for start, stop in intervals:
            self._open.discard(start, stop)
            found += self._take(start, stop)
        return [number for number in found if not self.add(number, self._selections.pop(number))]

    def _take(self, start: int, stop: int) -> Iterator[int]:
        """Remove and yield the selections that watch an element of ``range(start, stop)``."""
        for block in _common(range(start // _BLOCK, -(-stop // _BLOCK)), self._watched):
            watched = self._watched[block]
            for index in _common(range(max(start, block * _BLOCK), min(stop, (block + 1) * _BLOCK)), watched):
                yield from watched.pop(index)
            if not watched:
                del self._watched[block]


def _common(indices: range, keys: Mapping[int, object]) -> list[int]:
    """Return those of ``indices`` that are among ``keys``, in order, by the shorter way."""
    if len(indices) > len(keys):
        return sorted(key for key in keys if key in indices)
    return [index for index in indices if index in keys]
