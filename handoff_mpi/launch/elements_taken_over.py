"""Which elements of arrays need not run again, because an earlier launch computed them from the same.

An element is the same if its arguments are, and if each element of another array that it takes is the same, has a
value, and has not been computed again since.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.links import OWN, Link
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import ObjectDigests
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.launch.takers import is_of_any, single_elements, takes_any
from handoff_mpi.results.array_history import ArrayLaunch, FindColumn, as_it_is, suspects_of, take_over

_NONE = IntervalSet()


class ElementsTakenOver:
    """Takes over elements of the arrays of a plan.

    Args:
        arrays: the arrays, by number.
        launches: those of them that earlier launches had, with the same code and shared arguments.
        again: array number to the elements that run again in any case.
        values: takes the values of what is taken over.
        find_column: finds columns of these.
        before: what was taken over of some of the arrays; these are not looked through again.

    Attributes:
        elements: what was taken over: array number to (launch, intervals).
        other_arguments: array number to how many of the elements that had values have other arguments now.
    """

    def __init__(
        self,
        arrays: Mapping[int, FrozenArray],
        launches: Mapping[int, Sequence[ArrayLaunch]],
        again: Mapping[int, IntervalSet],
        values: Mapping[int, ArrayValues],
        find_column: FindColumn = as_it_is,
        before: ElementsTakenOver | None = None,
    ) -> None:
        self.elements: dict[int, list[tuple[int, Sequence[Interval]]]] = {} if before is None else {**before.elements}
        self.other_arguments: dict[int, int] = {}
        self._arrays = arrays
        self._launches = launches
        self._again = again
        self._values = values
        self._find_column = find_column
        # By array and number of a launch.
        self._same: dict[tuple[int, int], IntervalSet] = {} if before is None else {**before._same}
        known = () if before is None else before._launches.keys()
        for number in _sources_first(arrays):
            if number in launches and number not in known:
                self._take_over(number)

    def suspects(self) -> dict[int, list[list[Interval]]]:
        """Return groups of elements one of which may have ended an earlier launch, by array."""
        found = {}
        for number in self._launches.keys() & self._arrays.keys():
            have, is_same = self._values[number].have, functools.partial(self._same_arguments, number)
            groups = suspects_of(self._launches[number], have, is_same)
            if groups:
                found[number] = groups
        return found

    def _take_over(self, number: int) -> None:
        array, launches = self._arrays[number], self._launches[number]
        arguments = {launch.epoch: self._same_arguments(number, launch) for launch in launches}
        self._same.update(((number, launch.epoch), IntervalSet()) for launch in launches)
        self._note_other_arguments(number, arguments)
        taken = self.elements[number] = []
        for level in [(0, array.count)] if array.tree is None else array.tree.levels:
            of_level: dict[int, IntervalSet] = {}
            for epoch, same in arguments.items():
                of_level[epoch] = self._same_sources(number, epoch, IntervalSet(same.within(*level)))
                self._same[number, epoch].update(of_level[epoch])
            is_same = functools.partial(_of_launch, of_level)
            taken += take_over(launches, self._values[number], is_same, self._find_column)
        if not taken:
            del self.elements[number]

    def _note_other_arguments(self, number: int, arguments: Mapping[int, IntervalSet]) -> None:
        newest = self._launches[number][-1]
        other = IntervalSet(newest.have.within(0, self._arrays[number].count))
        for same in (arguments[newest.epoch], self._again.get(number, _NONE)):
            for interval in same:
                other.discard(*interval)
        self.other_arguments[number] = len(other)

    def _same_arguments(self, number: int, launch: ArrayLaunch) -> IntervalSet:
        """Return the elements whose arguments are those of a launch; of links, their indices are arguments."""
        array = self._arrays[number]
        if len(launch.digests) != len(array.elements):
            return IntervalSet()
        same = self._again.get(number, _NONE).missing(array.count)
        for each, digests in zip(array.elements, launch.digests, strict=True):
            for interval in each.same_prefix(digests, ObjectDigests()).missing(array.count):
                same.discard(*interval)
        for interval in launch.replaced:
            same.discard(*interval)
        return same

    def _same_sources(self, number: int, epoch: int, same: IntervalSet) -> IntervalSet:
        """Return those of ``same`` that take what they took in a launch."""
        for link in self._arrays[number].links:
            source = number if link.source == OWN else link.source
            there = IntervalSet(link.positions(*interval) for interval in self._unchanged(source, epoch))
            left = IntervalSet()
            for interval in same:
                left.update(_without(link, interval))
                left.update(link.supplied(there, *interval))
            same = left
        return same

    def _unchanged(self, source: int, epoch: int) -> IntervalSet:
        """Return the elements of an array that are what they were in a launch, and are there now."""
        same, found = self._same.get((source, epoch), _NONE), IntervalSet()
        for launch, intervals in self.elements.get(source, ()):
            if launch <= epoch:
                for interval in intervals:
                    found.update(same.within(*interval))
        return found


def _of_launch(elements: Mapping[int, IntervalSet], launch: ArrayLaunch) -> IntervalSet:
    return elements[launch.epoch]


def _without(link: Link, interval: Interval) -> list[Interval]:
    """Return those elements of an interval that a link is not about."""
    others = IntervalSet([interval])
    others.discard(*link.elements)
    return others.intervals()


def _sources_first(arrays: Mapping[int, FrozenArray]) -> list[int]:
    """Return the numbers of the arrays, each behind those whose elements it takes."""
    found: dict[int, None] = {}
    for number in arrays:
        stack = [number]
        while stack:
            each = stack[-1]
            open_ = [link.source for link in arrays[each].links if link.source != OWN and link.source not in found]
            if open_:
                stack += open_
            else:
                found[stack.pop()] = None
    return [*found]


def spread(plan: Plan, rerun: Rerun) -> tuple[set[int], dict[int, IntervalSet]]:
    """Return what runs again with what a user names: tasks, and elements of other arrays."""
    consumers: dict[int, list[int]] = {}
    links: dict[int, list[tuple[int, Link]]] = {}
    handles = single_elements(plan)
    for task, spec in enumerate(plan.specs):
        for each in spec.inputs:
            consumers.setdefault(each, []).append(task)
        for link in () if spec.array is None else spec.array.links:
            links.setdefault(task if link.source == OWN else link.source, []).append((task, link))
    tasks = set(rerun.tasks)
    again = {number: elements.copy() for number, elements in rerun.elements.items()}
    stack = [*tasks, *again]
    while stack:
        task = stack.pop()
        new = {
            child
            for child in consumers.get(task, ())
            if child not in tasks and (task in tasks or takes_any(plan, child, task, again[task]))
        }
        for array, index, source in handles.get(task, ()):
            is_taken = task in tasks or is_of_any(plan, source, again[task])
            if is_taken and array not in tasks and index not in again.setdefault(array, IntervalSet()):
                again[array].add(index, index + 1)
                stack.append(array)
        for array, link in links.get(task, ()):
            if array in tasks:
                continue
            if task in tasks:
                new.add(array)
            elif _add(again.setdefault(array, IntervalSet()), link, again[task]):
                stack.append(array)
        tasks |= new
        stack += new
    return tasks, {number: elements for number, elements in again.items() if number not in tasks}


def _add(again: IntervalSet, link: Link, sources: IntervalSet) -> bool:
    """Add the elements that take any of ``sources``; return whether any was not there."""
    before = len(again)
    again.update([link.touched(*interval) for interval in sources])
    return len(again) > before
