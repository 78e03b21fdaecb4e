"""Resume: which tasks of a run need not run again, because an earlier launch left what is needed of them.

A function is the same one if its id and its fingerprint are. From which tasks it follows that others need not run is
for :func:`~handoff_mpi.scheduler.restore` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from handoff_mpi.arrays.intervals import Interval, IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.arrays.windows import block_length
from handoff_mpi.dag import Plan
from handoff_mpi.errors import ValueDamaged
from handoff_mpi.launch.elements_taken_over import ElementsTakenOver, spread
from handoff_mpi.launch.rerun import Rerun
from handoff_mpi.launch.takers import Pairs, behind_windowed, with_consumers
from handoff_mpi.results.array_history import ArrayLaunch, EarlierElements, FindColumn, as_it_is
from handoff_mpi.results.launches import Done, History
from handoff_mpi.results.records import Incident
from handoff_mpi.results.store import DirectoryStore, Key
from handoff_mpi.scheduler import ValueLocation, restore
from handoff_mpi.serialization import Payload

_NOTHING = Rerun()


@dataclass(slots=True)
class Resumed:
    """The state that a launch takes over from earlier ones, by task number.

    Attributes:
        rest: where the values of restored tasks are.
        done: how those were done, as far as that is known.
        payloads: the small values.
        keys: of the files of the large ones.
        suspects, deaths: see :class:`~handoff_mpi.scheduler.Submitted`.
        incidents: the incidents of tasks.
        array_values: of each array, the values of elements that earlier launches computed.
        elements: the elements that these are: array to (launch, intervals).
        earlier_elements: of a windowed array, what earlier launches computed: it is compared while elements come.
        other_arguments: how many elements of an array had values, and have other arguments now.
        suspect_elements: see :class:`~handoff_mpi.scheduler.Submitted`.
        rerun: the tasks that ``rerun`` names, and all that depend on them.
        replaced: the same without elements of arrays that keep their values.
        outdated: those that are not taken over, or elements of which are not, as more of the elements whose pairs they
            were made of have values now.
        unknown: the tasks that depend on all elements of a windowed array: whether they change is known when these
            have come.
        later: what of these is taken over if none has changed; None if nothing is: see
            :mod:`handoff_mpi.launch.late_values`.
    """

    rest: dict[int, ValueLocation] = field(default_factory=dict)
    done: dict[int, Done] = field(default_factory=dict)
    payloads: dict[int, Payload] = field(default_factory=dict)
    keys: dict[int, Key] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    deaths: dict[int, int] = field(default_factory=dict)
    incidents: dict[int, list[Incident]] = field(default_factory=dict)
    array_values: dict[int, ArrayValues] = field(default_factory=dict)
    elements: dict[int, list[tuple[int, Sequence[Interval]]]] = field(default_factory=dict)
    earlier_elements: dict[int, list[EarlierElements]] = field(default_factory=dict)
    other_arguments: dict[int, int] = field(default_factory=dict)
    suspect_elements: dict[int, list[list[Interval]]] = field(default_factory=dict)
    rerun: set[int] = field(default_factory=set)
    replaced: Rerun = field(default_factory=Rerun)
    outdated: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    later: Resumed | None = None

    def keeps(self, task: int) -> bool:
        """Whether a function is taken over, or may be once all elements of windowed arrays have come."""
        return task in self.rest or (self.later is not None and task in self.later.rest)

    def elements_kept(self, array: int, window: int | None = None) -> IntervalSet:
        """Return the elements of an array that are taken over, or may be when elements of windowed arrays come.

        Args:
            window: of the array, if it has one: elements are compared in blocks, whose length depends on it.
        """
        found = IntervalSet(self.array_values[array].have)
        if self.later is not None:
            found.update(self.later.array_values[array].have)
        earlier = [self, *([] if self.later is None else [self.later])]
        for each in [one for resumed in earlier for one in resumed.earlier_elements.get(array, ())]:
            if window is None or each.block == block_length(window):
                found.update(each.values.have)
        return found

    def launches_of(self, tasks: Collection[int]) -> set[int]:
        """Return the launches that computed what is taken over of some tasks."""
        functions = {self.done[task].epoch for task in tasks if task in self.done}
        return functions | {launch for task in tasks for launch, _ in self.elements.get(task, ())}


class ValueFiles:
    """The value files that earlier launches left: which of them can be used, as far as their heads tell.

    Attributes:
        note: a line about those that are damaged; empty if none is.
    """

    def __init__(self, kept: DirectoryStore) -> None:
        self._kept = kept
        self._damaged: list[str] = []

    def is_intact(self, key: Key) -> bool:
        """Whether there is a file with that key, and it is not damaged. Its checksum waits until it is read."""
        try:
            self._kept.check(key)
        except ValueDamaged as error:
            self._damaged.append(str(error))
            return False
        except KeyError:
            return False
        return True

    @property
    def note(self) -> str:
        if not self._damaged:
            return ""
        more = f" ({len(self._damaged) - 1:,} more are, too)" if len(self._damaged) > 1 else ""
        return f"a value that an earlier launch wrote is lost, and is made again: {self._damaged[0]}{more}"


def resume(
    history: History,
    plan: Plan,
    fingerprint: Callable[[Hashable], bytes | None],
    is_intact: Callable[[Key], bool],
    rerun: Rerun = _NOTHING,
    find_column: FindColumn = as_it_is,
) -> Resumed:
    """Return what ``plan`` takes over from ``history``.

    Args:
        fingerprint: of a function, by id; None if it must run again.
        is_intact: whether the value file with that key is there, and not cut short.
        rerun: what must run again, and all that depends on it.
        find_column: finds columns of arrays.
    """
    resumed = nothing_of(plan)
    if not (history.done or history.suspects or history.incidents or history.arrays):
        return resumed
    resumed.rerun = with_consumers(plan, {*rerun.named})
    resumed.unknown = behind_windowed(plan)
    fresh, again = spread(plan, rerun)
    resumed.replaced = Rerun(fresh, again)
    known: dict[int, Done] = {}
    arrays: dict[int, Sequence[ArrayLaunch]] = {}
    for task, id in enumerate(plan.ids):
        mark = None if task in fresh else fingerprint(id)
        if mark is None:
            continue
        identity = (id, mark)
        if identity in history.arrays and task in plan.arrays:
            arrays[task] = history.arrays[identity]
        if identity in history.done:
            known[task] = history.done[identity]
        if identity in history.suspects:
            resumed.suspects.add(task)
        if identity in history.deaths:
            resumed.deaths[task] = history.deaths[identity]
        if identity in history.incidents:
            resumed.incidents[task] = history.incidents[identity]
    left = _Left(plan, known, arrays, again, resumed.unknown, is_intact, find_column)
    taken_over = left.take_over(resumed)
    if resumed.unknown & (known.keys() | arrays.keys()):
        values = nothing_of(plan).array_values
        values.update(
            (number, resumed.array_values[number]) for number in resumed.elements
        )  # no others: those may fill
        resumed.later = Resumed(array_values=values)
        left.take_over(resumed.later, taken_over)
    return resumed


@dataclass(frozen=True, slots=True)
class _Left:
    """The values and elements that earlier launches left of a plan.

    Attributes:
        plan: the run's tables.
        known: the tasks that were done with the same fingerprint.
        arrays: the launches of arrays, likewise.
        again: array number to the elements that run again in any case.
        unknown: the tasks that depend on all elements of a windowed array.
        is_intact, find_column: as of :func:`resume`.
    """

    plan: Plan
    known: Mapping[int, Done]
    arrays: Mapping[int, Sequence[ArrayLaunch]]
    again: Mapping[int, IntervalSet]
    unknown: Collection[int]
    is_intact: Callable[[Key], bool]
    find_column: FindColumn

    def take_over(self, resumed: Resumed, before: ElementsTakenOver | None = None) -> ElementsTakenOver:
        """Have ``resumed`` take over what can be; return the elements of arrays that it takes over.

        Args:
            before: what does not depend on all elements of windowed arrays, where these are taken to be what they were;
                with None, what depends on them is not taken over.
        """
        is_later = before is not None
        plan, find_column = self.plan, self.find_column
        known, arrays = dict(self.known), dict(self.arrays)
        for task in self.unknown:
            if not is_later:
                known.pop(task, None)
            if not is_later or (task in plan.arrays and plan.arrays[task].handles):
                arrays.pop(task, None)
        again = {number: elements.copy() for number, elements in self.again.items()}
        taken_over = ElementsTakenOver(plan.arrays, arrays, again, resumed.array_values, find_column, before)
        pairs = Pairs(plan, arrays, taken_over.elements)
        resumed.outdated = _leave_outdated(plan, pairs, known, arrays, again)
        if resumed.outdated:
            resumed.array_values = nothing_of(plan).array_values
            taken_over = ElementsTakenOver(plan.arrays, arrays, again, resumed.array_values, find_column)
        resumed.elements, resumed.other_arguments = taken_over.elements, taken_over.other_arguments
        resumed.suspect_elements = {} if is_later else taken_over.suspects()
        for task, launches in arrays.items():
            is_compared_before = is_later and task not in self.unknown  # they are compared once, as they come
            if plan.arrays[task].window is not None and not is_compared_before:
                like = [each for each in launches if each.has_any and each.takes_like(plan.arrays[task].elements)]
                same = [each for each in like if not pairs.are_outdated(task, each.epoch)]
                resumed.earlier_elements[task] = [EarlierElements(launch, find_column) for launch in same]
        come = plan.arrays.keys() if is_later else ()
        # Elements are results, also of an array of which all that is taken was done: those without a value run.
        _take_over(plan, known, self.is_intact, plan.arrays.keys(), resumed, come)
        return taken_over


def _leave_outdated(
    plan: Plan,
    pairs: Pairs,
    known: dict[int, Done],
    arrays: dict[int, Sequence[ArrayLaunch]],
    again: dict[int, IntervalSet],
) -> set[int]:
    """Take nothing over of what was made of the elements that had values, if others have now; nor of what follows.

    Args:
        again: gets the elements of arrays of which others are taken over.

    Returns:
        The tasks that are not taken over, and the arrays elements of which are not.
    """
    if not any(each.skips_missing for each in plan.selections.all):
        return set()
    tasks, elements = spread(plan, pairs.find_outdated(known.get))
    for task in tasks:
        known.pop(task, None)
        arrays.pop(task, None)
    for number, intervals in elements.items():
        again.setdefault(number, IntervalSet()).update(intervals)
    return tasks | elements.keys()


def nothing_of(plan: Plan) -> Resumed:
    """Return the state of a launch that takes over nothing: no element of an array has a value."""
    return Resumed(array_values={number: ArrayValues(array.count) for number, array in plan.arrays.items()})


def _take_over(
    plan: Plan,
    known: dict[int, Done],
    is_intact: Callable[[Key], bool],
    wanted: Collection[int],
    resumed: Resumed,
    come: Collection[int],
) -> None:
    """Take over functions.

    Args:
        come: the arrays whose elements have come, if they have a window; of others nobody knows.
    """

    def left(task: int) -> ValueLocation:
        if task in plan.arrays and plan.arrays[task].window is not None:  # its iterables may give more elements
            return ValueLocation.HOME if task in come else ValueLocation.NOWHERE
        if task in resumed.array_values:
            return ValueLocation.HOME if resumed.array_values[task].is_complete else ValueLocation.NOWHERE
        done = known.get(task)
        if done is None or not done.has_value:
            return ValueLocation.NOWHERE
        return ValueLocation.HOME if done.payload is not None else ValueLocation.FILE

    def has_whole_file(task: int) -> bool:
        key = known[task].key
        return key is not None and is_intact(key)

    resumed.rest = restore(plan.specs, left, has_whole_file, wanted)
    for task, rest in resumed.rest.items():
        done = known.get(task)
        if done is None:
            continue
        resumed.done[task] = done
        if rest == ValueLocation.HOME and done.payload is not None:
            resumed.payloads[task] = done.payload
        elif rest == ValueLocation.FILE and done.key is not None:
            resumed.keys[task] = done.key
