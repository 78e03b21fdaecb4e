"""Arrays: many like calls as one entry of the task table, of which ranks lease elements.

An array has one number. While elements of it wait, that is in its ready queue like any other task; each time it is
placed, a *lease* takes its place: an entry of the task table for the elements that one slot computes next, which ends
when they have. So nothing here takes a step for each element, unless something happened to that element.

Elements that failed alike become a lease of their own as soon as their rank reports them, and that lease is judged as
a task that failed. So nothing is pending when a lease breaks off. A death or a time-out is charged to the element that
was running: the others wait to be leased again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import ErrorReport, Interval, LeaseReport
from handoff_mpi.scheduler.array_failures import group_failures, why_failed
from handoff_mpi.scheduler.array_state import NO_FOLLOWERS, Array, Followers
from handoff_mpi.scheduler.events import ElementsPulled, Restored
from handoff_mpi.scheduler.growing import GrowingArrays, elements_to_await
from handoff_mpi.scheduler.lease_table import LeaseTable
from handoff_mpi.scheduler.lifecycle import FAILED, READY, SKIPPED, WAITING, Cause
from handoff_mpi.scheduler.links import Links
from handoff_mpi.scheduler.pauses import Pauses
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.selections import Selections
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.waiting_elements import WaitingElements

#: At most so many leases are at a slot: one that runs, and one behind it.
MAX_LEASES = 2


class Arrays(LeaseTable):
    """The arrays of a run, and their leases.

    Args:
        tasks, ready: the scheduler's tables.
        suspects: the tasks that must run in a child process.

    Attributes:
        links, waiting: the elements that wait for others, and for functions.
        selections: the elements that functions wait for.
        ending: the arrays of which no element waits, while some are leased.
        pauses: the arrays that are paused, as too many elements may fail.
        given_up: leases that have failed for good in this turn, as their array begins nothing more.
    """

    def __init__(self, tasks: TaskTable, ready: ReadyTasks, suspects: set[int]) -> None:
        super().__init__(tasks)
        self.ending: dict[int, None] = {}
        self.links = Links(tasks, self._supplied, self._skip_bereft, self._lost)
        self._growing = GrowingArrays(self.of, self.links, tasks, self._supplied, self._close)
        self._ready, self._suspects = ready, suspects
        self.selections = Selections(tasks)
        self.waiting = WaitingElements(tasks, self._begin_waiting)
        self.pauses = Pauses(tasks, ready, self.of, self.leases, self._put)
        self.given_up: list[int] = []
        self._withheld: dict[int, list[int]] = {}
        self._to_check: dict[int, None] = {}

    def submit(
        self,
        first: int,
        specs: Sequence[TaskSpec],
        done: Mapping[int, IntervalSet],
        suspects: Mapping[int, Sequence[Sequence[Interval]]],
    ) -> None:
        """Take in the arrays among new tasks, whose numbers begin with ``first``.

        Args:
            done: array number to the elements that an earlier launch computed.
            suspects: array number to groups of elements one of which may have ended an earlier launch.
        """
        new = {number: spec.array for number, spec in enumerate(specs, first) if spec.array is not None}
        for number, each in new.items():
            have = done.get(number, IntervalSet()).copy()
            todo = have.missing(elements_to_await(each))
            spec = specs[number - first]
            array = Array(each, spec.with_array(None, spec.code, keep=False), todo)
            array.have = have
            array.element_s = each.element_s
            array.suspects += suspects.get(number, ())
            self.of[number] = array
            self._growing.add(number)
            if each.links:
                array.awaited = array.todo
                array.todo = self.links.add(number, each, array.awaited)
        for source in {source for number in new for source in self.links.sources_of(number)}:
            self.links.supply(source, self.of[source].have.intervals())
            self.links.lose(source, self._lost(source))
        for number in new:
            self._withheld[number] = self.waiting.withhold(number, new[number], self.of[number].todo)
            if not self.of[number].todo:
                self._close(number)

    def close(self) -> None:
        """Let go of what refers back to this, so that the end of a run leaves nothing to the garbage collector."""
        self.links.close()
        self._growing.close()
        self.waiting.close()
        self.pauses.close()

    def begin_waiting(self) -> None:
        """The task table holds the tasks that were taken in: elements may wait for them."""
        for number, indices in self._withheld.items():
            self.waiting.begin(number, self.of[number], indices)
        self._withheld.clear()

    def pulled(self, event: ElementsPulled) -> None:
        """Elements of a windowed array have come, or no more do."""
        self._give_back(event.array, self.of[event.array].pulled(event))
        self._supply(event.array, event.done)
        self._growing.grow(event.array)
        self._close(event.array)

    def restored(self, event: Restored) -> None:
        """Elements and tasks that depend on those of windowed arrays have values of an earlier launch."""
        for number, intervals in event.elements.items():
            self.of[number].restored(intervals)
            if not self.of[number].todo and self._tasks.state[number] == READY and number not in self._ready.exhausted:
                self._ready.remove(number)  # it has begun
        waiting = [task for task in sorted(event.tasks) if self.has_not_begun(task)]
        for task in waiting:
            self._tasks.restore(task, event.tasks[task])
        for number, intervals in event.elements.items():  # arrays that are restored, too, have nothing to begin by now
            self._supply(number, intervals)
            self._close(number)
        for task in waiting:
            self._tasks.supply(task)

    def has_not_begun(self, task: int) -> bool:
        """Whether a task waits, or is an array all elements of which do so, or have ended."""
        if task in self.of and self._tasks.state[task] == READY:
            return task in self._ready.exhausted and not self.of[task].leases
        return self._tasks.state[task] == WAITING

    # -- leases ----------------------------------------------------------------------------------------

    def lease(self, number: int, slots: int, followers: Followers = NO_FOLLOWERS) -> int:
        """Lease elements of an array that was taken from its queue; return the number of the lease, which is READY.

        Args:
            number: the array's.
            slots: how many slots compute it.
            followers: what is computed with them.
        """
        array = self.of[number]
        array.slots = slots
        suspects = array.take_suspects()
        lease = self._tasks.add_lease(array.lease_spec, array.free)
        self._begin(number, lease, suspects or array.todo.take(array.lease_count(slots, followers)))
        if suspects:
            self._suspects.add(lease)
        self._ready.pass_on_offer(number, lease)
        self._tasks.attempts[number] = 1
        array.leads = not array.awaited or array.is_worth_a_lease
        if array.todo:
            self._ready.put(number, first=array.leads)
        else:
            self._ready.exhausted.add(number)
            self.ending[number] = None
        return lease

    def _begin_waiting(self, number: int, lease: int, intervals: Sequence[Interval]) -> None:
        """Note a lease that waits for functions."""
        self._begin(number, lease, intervals)
        self.pauses.begin_waiting(number, lease)

    def progress(self, number: int, report: LeaseReport) -> list[tuple[int, ErrorReport]]:
        """A part of a lease has ended; return its elements that failed, as leases that are dispatched, and why."""
        lease = self.leases[number]
        array = self.of[lease.array]
        count = 0
        for start, stop in report.ended:
            lease.intervals.discard(start, stop)
            array.have.add(start, stop)
            count += stop - start
        self._supply(lease.array, report.ended)
        tried = count + sum(stop - start for intervals, _ in report.failures for start, stop in intervals)
        if tried:
            array.learn(tried, report.busy_s)
            self.pauses.recount(number)
        return self._split_failures(number, report) if report.failures else []

    def _split_failures(self, number: int, report: LeaseReport) -> list[tuple[int, ErrorReport]]:
        """Take the elements that failed out of a lease; those that failed alike are a new one."""
        failed: list[tuple[int, ErrorReport]] = []
        for messages, error in group_failures(report):
            elements = [interval for intervals, _ in messages for interval in intervals]
            for interval in elements:
                self.leases[number].intervals.discard(*interval)
            each = self._split(number, elements)
            self.leases[each].messages = messages
            failed.append((each, error))
        return failed

    def _split(self, number: int, intervals: Sequence[Interval]) -> int:
        """Return a new lease, dispatched as ``number`` was, with these elements."""
        own, spec = self.leases[number], self._tasks.specs[number]
        array = self.of[own.array]
        lease = self._tasks.add_lease(spec, array.free if spec is array.lease_spec else [])
        self._begin(own.array, lease, intervals)
        self._tasks.set_dispatched(lease)
        self.leases[lease].incidents, self.leases[lease].failure = own.incidents, own.failure
        self.pauses.copy(number, lease)
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
        if back and lease.incidents:
            return self._split(number, back.intervals())
        self._give_back(lease.array, back)
        return -1

    def split_begun(self, number: int, element: int) -> int:
        """The process of a lease died in ``element``; return those before it, which had begun, as :meth:`_split` does.

        Their values died with the process. -1 stands for none.
        """
        lease = self.leases[number]
        begun = lease.intervals.within(0, element)
        lease.intervals.discard(0, element)
        each = self._split(number, begun) if begun else -1
        if begun:
            self.leases[each].incidents += 1
        return each

    def _give_back(self, number: int, intervals: IntervalSet) -> None:
        """Elements of an array wait to be leased again."""
        array = self.of[number]
        if array.has_too_many_failures:
            array.skipped += len(intervals)
            self._lose(number, intervals.intervals())
            return
        self._withhold(number, intervals)
        was_exhausted = not array.todo
        array.todo.update(intervals)
        if was_exhausted and array.todo:
            self._put(number, True)

    def _put(self, number: int, first: bool) -> None:
        """Elements of an array that had none to lease wait to be leased."""
        self.ending.pop(number, None)
        if number in self.pauses.paused:
            return
        self._ready.exhausted.discard(number)
        if self._is_ready(number):
            self.of[number].leads = first
            self._ready.put(number, first)

    def _is_ready(self, number: int) -> bool:
        """Whether an array is READY; while it is submitted, the table of tasks does not know it."""
        return number < len(self._tasks.state) and self._tasks.state[number] == READY

    # -- elements that wait for others --------------------------------------------------------------------

    def _withhold(self, number: int, intervals: IntervalSet) -> None:
        """Take those that wait for functions out of elements that could be leased."""
        array = self.of[number]
        if array.spec.handles:
            self.waiting.lease(number, array, self.waiting.withhold(number, array.spec, intervals))

    def _supply(self, number: int, intervals: Sequence[Interval]) -> None:
        """Elements have values."""
        self.links.supply(number, intervals)
        self.selections.ended(number, intervals)

    def _lose(self, number: int, intervals: Sequence[Interval]) -> None:
        """Elements will have no values: they failed, or do not begin."""
        self.links.lose(number, intervals)
        self.selections.lost(number, intervals)

    def _supplied(self, number: int, found: Sequence[Interval]) -> None:
        """Elements that waited for others may be leased now.

        Among linked arrays the one that is furthest from the sources goes first, so that few values wait to be taken;
        but not for less than a lease, while its sources have more to do.
        """
        array = self.of[number]
        if array.has_too_many_failures:
            self._skip_bereft(number, found)
            self.links.lose(number, found)
            return
        was_exhausted = not array.todo
        array.todo.update(found)
        if number < len(self._tasks.state):
            self._withhold(number, array.todo)
        if not array.todo:
            return
        if was_exhausted:
            self._put(number, array.is_worth_a_lease)
        elif not array.leads and array.is_worth_a_lease and self._is_ready(number):
            self._ready.remove(number)
            self._put(number, True)

    def _skip_bereft(self, number: int, intervals: Sequence[Interval]) -> None:
        """Elements take others that will have no values."""
        array, count = self.of[number], sum(stop - start for start, stop in intervals)
        array.skipped += count
        array.bereft += count
        self.waiting.let_go(number, array.spec, intervals)
        self.selections.lost(number, intervals)
        self._close(number)

    def _lost(self, number: int, start: int = 0, stop: int = UNKNOWN_COUNT) -> list[Interval]:
        """Return the elements of an array, of ``range(start, stop)``, that will have no values."""
        array = self.of[number]
        stop = min(stop, array.count)
        lost = IntervalSet([(start, stop)])
        for interval in array.have.within(start, stop):
            lost.discard(*interval)
        if number < len(self._tasks.state) and self._tasks.state[number] in (FAILED, SKIPPED):
            return lost.intervals()
        for elements in (array.todo, array.awaited, *(self.leases[lease].intervals for lease in array.leases)):
            for interval in elements.within(start, stop):
                lost.discard(*interval)
        return lost.intervals()

    # -- ends --------------------------------------------------------------------------------------------

    def end(self, number: int) -> None:
        """A lease has ended, in the task table too."""
        lease = self.leases[number]
        lease.has_ended = True
        self._ended.append(number)
        self.of[lease.array].leases.discard(number)
        self._ready.exhausted.discard(number)
        self.pauses.trust(number)
        self.landed(number)
        self._close(lease.array)

    def fail(self, number: int) -> bool:
        """A lease has failed for good, in the task table too: so have its elements.

        Returns:
            Whether these are more than may fail, which nobody knew before: nothing more of the array begins.
        """
        lease = self.leases[number]
        failure = self._tasks.lease_failures[number]
        failure.attempts = len(failure.ranks)
        array = self.of[lease.array]
        array.failures += self.failures_of(number)
        was_dropped = array.has_too_many_failures
        array.failed += len(lease.intervals)
        self._lose(lease.array, lease.intervals.intervals())
        is_dropped = array.has_too_many_failures and not was_dropped
        if is_dropped:
            self.drop(lease.array)
        self.end(number)
        return is_dropped

    def skip(self, number: int) -> None:
        """A lease was skipped, in the task table too: so are its elements."""
        lease = self.leases[number]
        array = self.of[lease.array]
        array.skipped += len(lease.intervals)
        if self._tasks.specs[number] is not array.lease_spec:  # what it takes has failed, or was skipped
            array.bereft += len(lease.intervals)
        self._lose(lease.array, lease.intervals.intervals())
        self.end(number)

    def end_waiting(self, leases: Sequence[int]) -> None:
        """End leases that are at no rank, of which nothing more begins: those that failed have failed for good."""
        for lease in leases:
            failure = self.leases[lease].failure
            if failure is None or not self.is_dropped(lease):
                self._tasks.skip([lease])
            elif self._tasks.state[lease] in (READY, WAITING):  # it may have failed with its rank just now
                is_undecided = lease in self._ready.undecided
                self._ready.remove(lease)
                self._tasks.fail(lease, Cause.ERROR if is_undecided else Cause.DROPPED, *failure)
                self.given_up.append(lease)

    def drop(self, number: int) -> None:
        """Nothing more of an array begins."""
        array = self.of[number]
        if array.is_open:
            array.cut()
        dropped = array.todo.intervals() + array.awaited.intervals()
        array.skipped += sum(stop - start for start, stop in dropped)
        array.todo = IntervalSet()
        array.awaited.take(len(array.awaited))
        array.suspects.clear()
        if self._tasks.state[number] == READY and number not in self._ready.exhausted:
            self._ready.remove(number)  # before anything of it ends, which takes it for exhausted
        self._ready.exhausted.add(number)
        self.waiting.let_go(number, array.spec, dropped)
        self._lose(number, dropped)
        for lease in self.waiting.have_not_begun(array.spec, array.lease_spec, array.leases):
            self._tasks.drop(lease)
            self.skip(lease)
        if array.leases:
            self.ending[number] = None
        self._growing.grow(number)

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
        self._lose_with_sources()
        while self._to_check:
            number, _ = self._to_check.popitem()
            array = self.of[number]
            is_open = array.todo or array.awaited or array.leases or array.is_open
            if is_open or self._tasks.state[number] not in (READY, WAITING) or self.links.may_fold(number):
                continue
            if array.has_failed or self.links.has_nothing_to_fold(number):
                fail(number, why_failed(array))
            elif array.bereft or array.is_cut:
                self.links.skip(number)
            else:
                self._tasks.complete(number)
            self._to_check.update(dict.fromkeys(self.links.consumers_of(number)))
            self._lose_with_sources()

    def _lose_with_sources(self) -> None:
        """Arrays may have failed or been skipped, as other tasks did: what takes their elements loses them."""
        while (bereft := self.links.lose_with_sources()) is not None:
            self._to_check.update(dict.fromkeys(bereft))
            self._growing.end_with_tasks()

    def task_of(self, number: int) -> int:
        """Return the array of a lease or a selection, or else the number itself: which task it stands for."""
        found = self.leases.get(number) or self.selections.of.get(number)
        return number if found is None else found.array
