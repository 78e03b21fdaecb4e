"""Arrays that grow while the run continues, as the elements come that they take of others.

The first of them is a windowed array. How many elements the others have follows from the number of its: it is known
when no more of them come. Until then, their elements wait for as many as nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.arrays.trees import Tree
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport
from handoff_mpi.scheduler.array_failures import NOTHING_TO_FOLD
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.scheduler.lifecycle import FAILED, SKIPPED
from handoff_mpi.scheduler.links import Links
from handoff_mpi.scheduler.tasks import TaskTable


def elements_to_await(spec: ArraySpec) -> int:
    """Return how many elements of an array may wait when it is submitted, if none of them has a value."""
    is_growing = spec.window is not None and spec.links and spec.fan_in is None
    return min(map(len, spec.links)) if is_growing else spec.count


class GrowingArrays:
    """The arrays of a run whose elements come while it runs.

    Args:
        of: array number to its elements.
        links: the elements that wait for others.
        tasks: the scheduler's table.
        supplied: called with an array, and elements of it that wait for nothing more.
        closed: called with an array of which no more elements come.
    """

    def __init__(
        self,
        of: Mapping[int, Array],
        links: Links,
        tasks: TaskTable,
        supplied: Callable[[int, Sequence[Interval]], None],
        closed: Callable[[int], None],
    ) -> None:
        self._of = of
        self._links = links
        self._tasks = tasks
        self._supplied = supplied
        self._closed = closed
        self._open: dict[int, None] = {}  # and some of which no more elements come

    def add(self, number: int) -> None:
        """An array was taken in; its elements may come while the run continues."""
        if self._of[number].is_open:
            self._open[number] = None

    def close(self) -> None:
        """Break the reference cycles; no array can grow afterwards."""
        del self._supplied, self._closed

    def grow(self, number: int) -> None:
        """Elements of an array have come, or no more do: so it is with the arrays that take them.

        Each of these is looked at when all that it takes has been, as its elements are counted for the last time when
        no more come of one of its sources. Sources have lower numbers.
        """
        waiting = {*self._links.consumers_of(number)}
        while waiting:
            each = min(waiting)
            waiting.remove(each)
            array = self._of[each]
            if array.is_open:
                taken = _follow(array, [self._of[one] for one in self._links.sources_of(each)])
                if not array.is_open:
                    _close(array, taken)
                    self._supplied(each, self._links.close_array(each, array.spec))
                    self._closed(each)
                waiting.update(self._links.consumers_of(each))

    def end_with_tasks(self) -> None:
        """Arrays may have failed or been skipped, as other tasks did: no more of their elements come."""
        for number in [*self._open]:
            if not self._of[number].is_open:
                del self._open[number]
            elif self._tasks.state[number] in (FAILED, SKIPPED):
                self._of[number].cut()
                self.grow(number)


def _follow(array: Array, sources: list[Array]) -> int:
    """Take in how many elements the sources of an array have; return that number."""
    taken = min(each.count for each in sources)
    is_cut = any(each.is_cut for each in sources)
    if array.spec.fan_in is None:
        whole, more = divmod(taken, array.spec.links[0].block)
        # Where more elements were meant, nobody takes the value of a block that lacks some of them; it may be skipped.
        array.count = whole + (more > 0 and not (is_cut and whole in array.awaited))
    if is_cut:
        array.cut()
    else:
        array.is_open = any(each.is_open for each in sources)
    return taken


def _close(array: Array, taken: int) -> None:
    """No more elements of an array come, which takes elements of others that have ``taken``."""
    spec = array.spec
    links = [link.cut(taken) for link in spec.links]
    if spec.fan_in is None or array.is_cut:
        array.awaited.discard(array.count, UNKNOWN_COUNT)
        array.spec = replace(spec, links=links)
    elif not taken:
        array.input_error = ErrorReport(NOTHING_TO_FOLD, "the array whose values it folds has no elements")
    else:
        tree = Tree(taken, spec.fan_in)
        array.count = len(tree)
        array.awaited.update(array.have.missing(array.count))
        array.spec = replace(spec, tree=tree, links=[*links, *tree.links()])
