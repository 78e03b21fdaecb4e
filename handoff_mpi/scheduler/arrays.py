"""Arrays: many like calls as one entry of the task table, of which ranks lease elements.

An array has one number. While elements of it wait, that number is in its ready queue like any other task; each time it
is placed, a *lease* takes its place: an entry of the task table for the elements that one slot computes next. A lease
is dispatched, retracted, lost, retried and blamed as any task is. It ends when its elements have, and its number is
used again. So nothing here takes a step for each element, unless something happened to that element.

Elements that failed alike become a lease of their own as soon as their rank reports them, and that lease is judged as
a task that failed. So nothing is pending when a lease breaks off. A death or a time-out is charged to the element that
was running: the others wait to be leased again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport, Interval, LeaseReport
from handoff_mpi.scheduler.events import Failure
from handoff_mpi.scheduler.lifecycle import READY, WAITING
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.tasks import TaskTable

#: A lease should take about this long: less wastes messages, more delays results and makes the tail uneven.
LEASE_S = 0.01
#: But rank 0 should have to handle no more than one lease in this many seconds, so that it has time for other work. The
#: figure is a guess: ``python -m tests.benchmarks.leases`` measures what a lease costs the scheduler.
LEASE_INTERVAL_S = 100e-6
#: The kind of failure of an array whose elements were skipped, as an input was lost that cannot be made again.
SKIPPED_ELEMENTS = "skipped-elements"
#: At most so many leases are at a slot: one that runs, and one behind it.
MAX_LEASES = 2
#: The weight of a new lease in the moving mean of the seconds of an element.
_WEIGHT = 0.2


@dataclass(slots=True)
class Array:
    """Where the elements of one array stand.

    Attributes:
        spec: how many there are, and the user's limits.
        lease_spec: what the scheduler must know of its leases.
        todo: the elements that wait to be leased.
        done: how many have values.
        failures: the elements that failed for good, and why.
        failed: how many these are.
        skipped: how many will not be computed, since too many failed or the array did.
        leases: the numbers of its leases.
        element_s: seconds that an element is expected to take; None while that is unknown.
        free: numbers of leases that ended, which may be used again.
        in_flight: its leases at ranks that may have elements to give back, and since when they are there; the oldest
            first.
    """

    spec: ArraySpec
    lease_spec: TaskSpec
    todo: IntervalSet
    done: int = 0
    failures: list[tuple[tuple[Interval, ...], Failure]] = field(default_factory=list)
    failed: int = 0
    skipped: int = 0
    leases: set[int] = field(default_factory=set)
    element_s: float | None = None
    free: list[int] = field(default_factory=list)
    in_flight: dict[int, float] = field(default_factory=dict)

    @property
    def has_too_many_failures(self) -> bool:
        """Whether nothing more of it may begin."""
        return self.spec.max_failures is not None and self.failed > self.spec.max_failures

    def learn(self, count: int, seconds: float) -> None:
        """Take in that ``count`` elements took so long."""
        mean = seconds / count
        self.element_s = mean if self.element_s is None else self.element_s + _WEIGHT * (mean - self.element_s)

    def lease_count(self, slots: int) -> int:
        """Return how many elements the next lease has, while ``slots`` compute the array.

        The first one has a single element, whose duration nobody knows. Later ones take some time, which grows with the
        slots, as rank 0 handles the leases of all of them. But none takes more than half of an even share of what is
        left, so that all slots end together (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on
        Computers C-36, 1987).
        """
        if self.element_s is None:
            return 1
        count = int(max(LEASE_S, slots * LEASE_INTERVAL_S) / max(self.element_s, 1e-9))
        count = min(count, -(-len(self.todo) // (2 * max(1, slots))))
        return max(1, count if self.spec.chunk is None else min(count, self.spec.chunk))


@dataclass(slots=True)
class Lease:
    """Elements of an array that a rank computes, or is to compute.

    Attributes:
        array: the number of the array.
        intervals: the elements that have not ended, as far as is known.
        incidents: how often something happened to its elements, so that they must run again.
        messages: those of its elements that failed together when it was dispatched last.
        has_ended: whether its number may be used again, after this turn.
    """

    array: int
    intervals: IntervalSet
    incidents: int = 0
    messages: list[tuple[tuple[Interval, ...], str]] = field(default_factory=list)
    has_ended: bool = False


class Arrays:
    """The arrays of a run, and their leases.

    Args:
        tasks, ready: the scheduler's tables.

    Attributes:
        of: array number to its elements.
        leases: lease number to its elements; those that ended in this turn are still there.
        ending: the arrays of which no element waits, while some are leased.
    """

    def __init__(self, tasks: TaskTable, ready: ReadyTasks) -> None:
        self.of: dict[int, Array] = {}
        self.leases: dict[int, Lease] = {}
        self.ending: dict[int, None] = {}
        self._tasks = tasks
        self._ready = ready
        self._ended: list[int] = []
        self._to_check: dict[int, None] = {}

    def submit(self, first: int, specs: Sequence[TaskSpec], done: Mapping[int, IntervalSet]) -> None:
        """Take in the arrays among new tasks, whose numbers begin with ``first``.

        Args:
            done: array number to the elements that an earlier launch computed.
        """
        for number, spec in enumerate(specs, first):
            if spec.array is None:
                continue
            todo = IntervalSet([(0, spec.array.count)] if spec.array.count else [])
            for interval in done.get(number, ()):
                todo.discard(*interval)
            array = Array(spec.array, replace(spec, array=None, keep=False), todo)
            array.done = spec.array.count - len(todo)
            self.of[number] = array
            if not todo:
                self._close(number)

    # -- leases ----------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """The log of the turn before was read: the numbers of leases that ended may be used again."""
        for number in self._ended:
            lease = self.leases.pop(number)
            self._tasks.lease_failures.pop(number, None)
            self.of[lease.array].free.append(number)
        self._ended.clear()

    def lease(self, number: int, slots: int) -> int:
        """Lease elements of an array that was taken from its queue; return the number of the lease, which is READY.

        Args:
            number: the array's.
            slots: how many slots compute it.
        """
        array = self.of[number]
        lease = self._make(number, array.todo.take(array.lease_count(slots)))
        self._tasks.attempts[number] = 1
        if array.todo:
            self._ready.put(number, first=True)
        else:
            self._ready.exhausted.add(number)
            self.ending[number] = None
        return lease

    def _make(self, number: int, intervals: Sequence[Interval]) -> int:
        array = self.of[number]
        lease = self._tasks.add_lease(array.lease_spec, array.free)
        array.leases.add(lease)
        self.leases[lease] = Lease(number, IntervalSet(intervals))
        return lease

    def sent(self, number: int, now: float) -> None:
        """A lease was sent to a rank."""
        self.of[self.leases[number].array].in_flight[number] = now

    def landed(self, number: int) -> None:
        """A lease is at no rank any more, or has no elements that could be asked for."""
        self.of[self.leases[number].array].in_flight.pop(number, None)

    def attempt(self, number: int) -> int:
        """Return the attempt of a task, or of the elements of a lease: another lease alone is no other attempt."""
        lease = self.leases.get(number)
        return self._tasks.attempts[number] if lease is None else lease.incidents + 1

    def progress(self, number: int, report: LeaseReport) -> list[tuple[int, ErrorReport]]:
        """A part of a lease has ended; return its elements that failed, as leases that are dispatched, and why."""
        lease = self.leases[number]
        array = self.of[lease.array]
        count = 0
        for start, stop in report.ended:
            lease.intervals.discard(start, stop)
            count += stop - start
        array.done += count
        tried = count + sum(stop - start for intervals, _ in report.failures for start, stop in intervals)
        if tried:
            array.learn(tried, report.busy_s)
        return self._split_failures(number, report) if report.failures else []

    def _split_failures(self, number: int, report: LeaseReport) -> list[tuple[int, ErrorReport]]:
        """Take the elements that failed out of a lease; those that failed alike are a new one."""
        groups: dict[tuple[str, str], tuple[list[Interval], ErrorReport]] = {}
        messages: dict[tuple[str, str], list[tuple[tuple[Interval, ...], str]]] = {}
        for intervals, error in report.failures:
            error = ErrorReport(*error)
            groups.setdefault((error.kind, error.place), ([], error))[0].extend(intervals)
            messages.setdefault((error.kind, error.place), []).append((intervals, error.message))
            for interval in intervals:
                self.leases[number].intervals.discard(*interval)
        failed: list[tuple[int, ErrorReport]] = []
        for group, (elements, error) in groups.items():
            each = self._split(number, elements)
            self.leases[each].messages = messages[group]
            failed.append((each, error))
        return failed

    def _split(self, number: int, intervals: Sequence[Interval]) -> int:
        """Return a new lease, dispatched as ``number`` was, with these elements."""
        lease = self._make(self.leases[number].array, intervals)
        self._tasks.set_dispatched(lease)
        self.leases[lease].incidents = self.leases[number].incidents
        return lease

    def give_back(self, number: int, intervals: Sequence[Interval]) -> int:
        """Elements of a lease, which have not begun, wait to be leased again.

        Returns:
            A new lease of them, which is dispatched, if something happened to them before; else -1.
        """
        lease = self.leases[number]
        back = IntervalSet(part for interval in intervals for part in lease.intervals.within(*interval))
        for interval in back:
            lease.intervals.discard(*interval)
        if back and lease.incidents and not self.is_dropped(number):
            return self._split(number, back.intervals())
        self._give_back(lease.array, back)
        return -1

    def split_begun(self, number: int, element: int) -> int:
        """The process of a lease died in ``element``: those before it had begun, and their values died with it.

        Returns:
            A new lease of them, which is dispatched; -1 if there are none.
        """
        lease = self.leases[number]
        begun = lease.intervals.within(0, element)
        lease.intervals.discard(0, element)
        if not begun:
            return -1
        each = self._split(number, begun)
        self.leases[each].incidents += 1
        return each

    def _give_back(self, number: int, intervals: IntervalSet) -> None:
        """Elements of an array wait to be leased again."""
        array = self.of[number]
        if array.has_too_many_failures:
            array.skipped += len(intervals)
            return
        was_exhausted = not array.todo
        array.todo.update(intervals)
        if was_exhausted and array.todo:
            self._ready.exhausted.discard(number)
            self.ending.pop(number, None)
            if self._tasks.state[number] == READY:
                self._ready.put(number, first=True)

    # -- ends --------------------------------------------------------------------------------------------

    def end(self, number: int) -> None:
        """A lease has ended, in the task table too."""
        lease = self.leases[number]
        lease.has_ended = True
        self._ended.append(number)
        self.of[lease.array].leases.discard(number)
        self.landed(number)
        self._close(lease.array)

    def fail(self, number: int) -> bool:
        """A lease has failed for good, in the task table too: so have its elements.

        Returns:
            Whether these are more than may fail, which nobody knew before: nothing more of the array begins.
        """
        lease = self.leases[number]
        failure = self._tasks.lease_failures[number]
        failure.attempts = lease.incidents
        array = self.of[lease.array]
        array.failures += self.failures_of(number)
        was_dropped = array.has_too_many_failures
        array.failed += len(lease.intervals)
        is_dropped = array.has_too_many_failures and not was_dropped
        if is_dropped:
            self.drop(lease.array)
        self.end(number)
        return is_dropped

    def skip(self, number: int) -> None:
        """A lease was skipped, in the task table too: so are its elements."""
        self.of[self.leases[number].array].skipped += len(self.leases[number].intervals)
        self.end(number)

    def drop(self, number: int) -> None:
        """Nothing more of an array begins."""
        array = self.of[number]
        array.skipped += len(array.todo)
        array.todo = IntervalSet()
        if self._tasks.state[number] == READY and number not in self._ready.exhausted:
            self._ready.remove(number)
        self._ready.exhausted.add(number)
        if array.leases:
            self.ending[number] = None

    def _close(self, number: int) -> None:
        """An array may have ended."""
        array = self.of[number]
        if not array.todo:
            self._ready.exhausted.add(number)
            if not array.leases:
                self.ending.pop(number, None)
                self._to_check[number] = None

    def settle(self, fail: Callable[[int, ErrorReport], None]) -> None:
        """End the arrays whose elements have all ended.

        Args:
            fail: called with an array that failed, and why.
        """
        while self._to_check:
            number, _ = self._to_check.popitem()
            array = self.of[number]
            if array.todo or array.leases or self._tasks.state[number] not in (READY, WAITING):
                continue
            if array.failed or array.skipped:
                fail(number, self._why_failed(array))
            else:
                self._tasks.complete(number)

    def _why_failed(self, array: Array) -> ErrorReport:
        """Return why an array failed: the first failure of its elements stands for all."""
        if not array.failures:
            return ErrorReport(SKIPPED_ELEMENTS, f"{array.skipped:,} of {array.spec.count:,} elements were skipped")
        intervals, first = min(array.failures, key=lambda each: min(each[0]))
        start, _ = min(intervals)
        count = f"{array.failed:,} of {array.spec.count:,} elements failed"
        limit = f" (max_failures is {array.spec.max_failures:,})" if array.has_too_many_failures else ""
        message = f"{count}{limit}, the first one at index {start}: {first.kind}: {first.message}"
        return ErrorReport(first.kind, message, first.traceback, (), first.place, -1, first.output, start)

    def has_work(self, number: int) -> bool:
        """Whether a number that is in flight stands for anything whose end is not known: a lease may have no more."""
        lease = self.leases.get(number)
        return lease is None or bool(lease.intervals)

    def is_dropped(self, lease: int) -> bool:
        """Whether a number is that of a lease whose array begins nothing more."""
        return lease in self.leases and self.of[self.leases[lease].array].has_too_many_failures

    def waiting_leases(self, number: int) -> list[int]:
        """Return the leases of an array that are at no rank: they are to be tried again."""
        return [lease for lease in self.of[number].leases if self._tasks.state[lease] in (READY, WAITING)]

    def explain(self, number: int, facts: dict[str, object]) -> dict[str, object]:
        """Return ``facts`` of an array with those of its elements; while any run, nothing else need be explained."""
        array = self.of[number]
        counts = {"count": array.spec.count, "done": array.done, "failed": array.failed, "skipped": array.skipped}
        facts["elements"] = {**counts, "leases": len(array.leases), "waiting": len(array.todo)}
        if array.leases:
            facts |= {"state": "running", "reasons": []}
        return facts

    def failures_of(self, number: int) -> list[tuple[tuple[Interval, ...], Failure]]:
        """Return which elements of a lease have failed for good, in this turn, and why.

        Those that failed alike share all of the failure but its message.
        """
        lease, failure = self.leases[number], self._tasks.lease_failures[number]
        known = IntervalSet(interval for intervals, _ in lease.messages for interval in intervals)
        if known != lease.intervals or not any(message == failure.message for _, message in lease.messages):
            # they failed in another way than before: with their rank, say
            return [(tuple(lease.intervals.intervals()), failure)]
        return [(intervals, replace(failure, message=message)) for intervals, message in lease.messages]

    def task_of(self, number: int) -> int:
        """Return the array of a lease, or else the number itself: which task of the DAG it stands for."""
        lease = self.leases.get(number)
        return number if lease is None else lease.array
