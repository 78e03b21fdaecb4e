"""Pauses arrays of which more elements than may fail have failed, or may be about to fail for good.

A failure is not final at once: its elements are tried again, or it is undecided whether their rank is to blame. Until
then they are *in doubt*. While the elements in doubt and those that failed are more than may fail (``max_failures``),
the array is paused: no further lease of it is made, while those that were made before continue, retries too.

A pause ends by itself. Elements are in doubt for no longer than a failure may be held, counted from their last one: a
retry that must wait longer keeps no rank idle, and a verdict that needs further calls gets them. Only those that are
tried elsewhere, as their rank is suspect, are in doubt until that has ended.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from handoff_mpi.scheduler.array_state import Array, Lease
from handoff_mpi.scheduler.lifecycle import READY, WAITING
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.tasks import TaskTable

_NEVER = float("inf")


class Pauses:
    """The elements in doubt, and the arrays that are paused because of them.

    Args:
        tasks, ready: the scheduler's tables.
        of: array number to its elements.
        leases: lease number to its elements.
        put: puts an array that has elements to lease into its queue.

    Attributes:
        paused: the arrays that are paused.
    """

    def __init__(
        self,
        tasks: TaskTable,
        ready: ReadyTasks,
        of: Mapping[int, Array],
        leases: Mapping[int, Lease],
        put: Callable[[int, bool], None],
    ) -> None:
        self.paused: set[int] = set()
        self._tasks, self._ready = tasks, ready
        self._of, self._leases = of, leases
        self._put = put
        self._counts: dict[int, int] = {}
        self._until: dict[int, float] = {}
        self._due: list[tuple[float, int]] = []  # a heap of the leases in doubt, and of some that no longer are
        self._changed: dict[int, None] = {}

    def close(self) -> None:
        """Break the reference cycle; no pause ends afterwards."""
        del self._put

    # -- elements in doubt ----------------------------------------------------------------------------

    def doubt(self, task: int, until: float = _NEVER) -> None:
        """The elements of ``task`` have failed, and not for good: they are in doubt, until that time at the latest."""
        lease = self._leases.get(task)
        if lease is None or self._of[lease.array].spec.max_failures is None:
            return
        self._counts.setdefault(task, 0)
        self._until[task] = until
        if until < _NEVER:
            heapq.heappush(self._due, (until, task))
        self.recount(task)

    def recount(self, task: int) -> None:
        """Some elements of a lease have ended, or are those of another one now."""
        if task in self._counts:
            self._set(task, len(self._leases[task].intervals))

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``: its elements are in doubt for as long."""
        if task in self._until:
            self.doubt(other, self._until[task])
            self.recount(task)

    def trust(self, task: int) -> None:
        """The elements of ``task``, if it is a lease, are not in doubt, or no longer: it has ended, say."""
        if task in self._counts:
            self._set(task, 0)
            del self._counts[task], self._until[task]
        elif task in self._leases and self._of[self._leases[task].array].doubted:
            # its elements may have failed: those in doubt may be too many
            self._changed[self._leases[task].array] = None

    def _set(self, task: int, count: int) -> None:
        number = self._leases[task].array
        self._of[number].doubted += count - self._counts[task]
        self._counts[task] = count
        self._changed[number] = None

    def leases_in_doubt(self) -> list[int]:
        """Return the leases whose elements are in doubt."""
        return [*self._counts]

    # -- pauses ---------------------------------------------------------------------------------------

    @property
    def next_due(self) -> float:
        """When :meth:`review` has something to do, if nothing happens until then."""
        if self._changed:
            return 0.0
        return self._due[0][0] if self._due else _NEVER

    def review(self, now: float) -> None:
        """Pause and resume arrays by what is known by now."""
        while self._due and self._due[0][0] <= now:
            until, task = heapq.heappop(self._due)
            if self._until.get(task) == until:
                self.trust(task)
        if self._changed:
            changed, self._changed = self._changed, {}
            for number in changed:
                must_pause = self._of[number].must_pause
                if must_pause and number not in self.paused:
                    self._pause(number)
                elif not must_pause and number in self.paused:
                    self._resume(number)

    def _pause(self, number: int) -> None:
        self.paused.add(number)
        for each in (number, *self._not_begun(number)):
            if self._tasks.state[each] == READY and each not in self._ready.exhausted:
                self._ready.remove(each)
            self._ready.exhausted.add(each)

    def _resume(self, number: int) -> None:
        self.paused.discard(number)
        for lease in self._not_begun(number):
            if lease in self._ready.exhausted:
                self._ready.exhausted.discard(lease)
                if self._tasks.state[lease] == READY:
                    self._ready.put(lease)
        if self._of[number].todo:
            self._put(number, True)

    def _not_begun(self, number: int) -> list[int]:
        """Return the leases of an array that wait, or waited, for functions, and were never placed."""
        array, tasks = self._of[number], self._tasks
        if not array.spec.handles:
            return []
        return [each for each in array.leases if not tasks.attempts[each] and tasks.state[each] in (WAITING, READY)]

    def begin_waiting(self, number: int, lease: int) -> None:
        """An element that waits for functions is a lease from now on."""
        if number in self.paused:
            self._ready.exhausted.add(lease)
