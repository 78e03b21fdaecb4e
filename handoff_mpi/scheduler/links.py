"""Elements of arrays that wait for elements of other arrays, or of their own.

An element may run once all that it takes have values, and is skipped if one of those will have none. Each end of a
lease moves intervals: nothing here takes a step for each element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.scheduler.array_state import Lease
from handoff_mpi.scheduler.lifecycle import FAILED, READY, SKIPPED, WAITING
from handoff_mpi.scheduler.tasks import TaskTable


class AwaitedElements:
    """The elements of one array that wait for others.

    Args:
        links: which others each takes.
        elements: those that have no values yet; the set is kept, and changes.
    """

    __slots__ = ("_have", "elements", "links")

    def __init__(self, links: Sequence[Link], elements: IntervalSet) -> None:
        self.links = links
        self.elements = elements
        self._have = [IntervalSet() for _ in links]

    @property
    def has_any(self) -> bool:
        """Whether anything is there of what the first link takes."""
        return bool(self._have[0])

    def supply(self, number: int, start: int, stop: int) -> list[Interval]:
        """Elements of the source of link ``number`` have values: take out and return those that may run."""
        link, have = self.links[number], self._have[number]
        have.add(*link.positions(start, stop))
        found = [
            part
            for interval in link.supplied(have, *link.touched(start, stop))
            for part in self.elements.within(*interval)
        ]
        for other, others in zip(self.links, self._have, strict=True):
            if other is not link:
                found = [part for interval in found for part in _supplied(other, others, *interval)]
        return self._take_out(found)

    def lose(self, number: int, start: int, stop: int) -> list[Interval]:
        """Elements of the source of link ``number`` will have no values: take out and return those that take any."""
        return self._take_out(self.elements.within(*self.links[number].touched(start, stop)))

    def take(self, start: int, stop: int) -> bool:
        """Take out ``range(start, stop)``, which need not wait; return False, and leave them, if not all of them do."""
        if self.elements.within(start, stop) != [(start, stop)]:
            return False
        self.elements.discard(start, stop)
        return True

    def put_back(self, intervals: Sequence[Interval]) -> list[Interval]:
        """Put in elements that were taken out; return those that may run, which are left out."""
        self.elements.update(intervals)
        found = [*intervals]
        for link, have in zip(self.links, self._have, strict=True):
            found = [part for interval in found for part in _supplied(link, have, *interval)]
        return self._take_out(found)

    def close(self, links: Sequence[Link]) -> list[Interval]:
        """The number of elements is known, and so are all links: take out and return those elements that may run."""
        self._have += [IntervalSet() for _ in links[len(self.links) :]]
        self.links = links
        return self.put_back(self.elements.intervals())

    def _take_out(self, intervals: list[Interval]) -> list[Interval]:
        for interval in intervals:
            self.elements.discard(*interval)
        return intervals


def _supplied(link: Link, have: IntervalSet, start: int, stop: int) -> Iterator[Interval]:
    """Yield those of ``range(start, stop)`` that ``link`` is not about, or supplies."""
    first, last = link.elements
    if start < first:
        yield start, min(stop, first)
    if max(start, first) < min(stop, last):
        yield from link.supplied(have, start, stop)
    if stop > last:
        yield max(start, last), stop


class Links:
    """The links between the arrays of a run.

    Args:
        tasks: the scheduler's table.
        supplied: called with an array, and elements of it that wait for nothing more.
        bereft: called with an array, and elements of it that take some which will have no values.
        lost: returns the elements of an array that will have no values; of those in an interval, if that is given.

    Attributes:
        awaited: array number to its elements that wait for others; of arrays with links alone.
    """

    def __init__(
        self,
        tasks: TaskTable,
        supplied: Callable[[int, Sequence[Interval]], None],
        bereft: Callable[[int, Sequence[Interval]], None],
        lost: Callable[..., Sequence[Interval]],
    ) -> None:
        self.awaited: dict[int, AwaitedElements] = {}
        self._tasks = tasks
        self._supplied = supplied
        self._bereft = bereft
        self._lost = lost
        self._consumers: dict[int, list[tuple[int, int]]] = {}
        self._trees: dict[int, Link] = {}  # of arrays that fold elements of another one
        self._seen = 0, 0  # how many tasks had failed, and were skipped

    def add(self, array: int, spec: ArraySpec, elements: IntervalSet) -> IntervalSet:
        """Take in an array whose ``elements`` have no values yet; take out and return those that wait for nothing."""
        free = elements.copy()
        for link in spec.links:
            free.discard(*link.elements)
        for interval in free:
            elements.discard(*interval)
        self.awaited[array] = AwaitedElements(spec.links, elements)
        self._note(array, spec, 0)
        return free

    def close_array(self, array: int, spec: ArraySpec) -> list[Interval]:
        """The number of elements of an array is known; take out and return those that wait for nothing more.

        Args:
            spec: with all links.
        """
        awaited = self.awaited[array]
        known = len(awaited.links)
        found = awaited.close(spec.links)
        self._note(array, spec, known)
        if array in self._trees:  # it had no blocks yet when those that it takes were lost
            source = self._trees[array].source
            self.lose(source, self._lost(source))
        return found

    def _note(self, array: int, spec: ArraySpec, first: int) -> None:
        """Note which arrays take elements of which, by the links from number ``first`` on."""
        for number, source in enumerate(self.sources_of(array)[first:], first):
            self._consumers.setdefault(source, []).append((array, number))
        if spec.tree is not None and spec.links and spec.links[0].source != OWN:
            self._trees[array] = spec.links[0]

    def close(self) -> None:
        """Break the reference cycles; nothing can be supplied or lost afterwards."""
        del self._supplied, self._bereft, self._lost

    def consumers_of(self, source: int) -> list[int]:
        """Return the arrays that take elements of ``source``."""
        return [array for array, _ in self._consumers.get(source, ()) if array != source]

    def sources_of(self, array: int) -> list[int]:
        """Return the arrays whose elements those of ``array`` take."""
        links = self.awaited[array].links if array in self.awaited else ()
        return [array if link.source == OWN else link.source for link in links]

    def supply(self, source: int, intervals: Sequence[Interval]) -> None:
        """Elements of ``source`` have values."""
        for array, number in self._consumers.get(source, ()):
            awaited = self.awaited[array]
            found = [part for interval in intervals for part in awaited.supply(number, *interval)]
            if found:
                self._supplied(array, found)

    def lose(self, source: int, intervals: Sequence[Interval]) -> None:
        """Elements of ``source`` will have no values, nor will those that take them, and so on."""
        stack = [(source, intervals)]
        for source, intervals in stack:
            for array, number in self._consumers.get(source, ()):
                awaited = self.awaited[array]
                found = [part for interval in intervals for part in awaited.lose(number, *interval)]
                if found:
                    self._bereft(array, found)
                    stack.append((array, found))

    def await_again(self, lease: Lease) -> None:
        """A lease came back that followed another one: its elements wait again, but for those that take values."""
        awaited, elements = self.awaited[lease.array], lease.intervals.intervals()
        lease.intervals = IntervalSet(awaited.put_back(elements))
        lease.follows = -1
        for link, source in zip(awaited.links, self.sources_of(lease.array), strict=True):
            for start, stop in elements:
                if taken := link.taken_between(start, stop):
                    self.lose(source, self._lost(source, min(taken[0], taken[-1]), max(taken[0], taken[-1]) + 1))

    def lose_with_sources(self) -> list[int] | None:
        """Arrays may have failed or been skipped, as other tasks did; return those that take elements of theirs.

        None stands for no task that has failed or been skipped since the last time.
        """
        seen = len(self._tasks.failures), self._tasks.skips
        if seen == self._seen:
            return None
        self._seen = seen
        ended = [each for each in self._consumers if self._tasks.state[each] in (FAILED, SKIPPED)]
        for source in ended:
            self.lose(source, self._lost(source))
        return [array for source in ended for array in self.consumers_of(source)]

    def skip(self, array: int) -> None:
        """All elements of an array have ended, some of them bereft: it is skipped, and so is what takes its value."""
        self._tasks.skip([array])

    def may_fold(self, array: int) -> bool:
        """Whether an array that folds has no value to fold yet, while some may still come."""
        link = self._trees.get(array)
        return (
            link is not None and self.has_nothing_to_fold(array) and self._tasks.state[link.source] in (WAITING, READY)
        )

    def has_nothing_to_fold(self, array: int) -> bool:
        """Whether an array folds elements of another one, none of which has a value."""
        return array in self._trees and not self.awaited[array].has_any
