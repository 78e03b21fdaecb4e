"""Leases that follow others to their slots: those of arrays whose elements take what these compute.

Such a *chain* of leases is sent at once, while the values that the later ones take do not exist yet. The rank hands
them on where they were made: rank 0 gets them as it gets all values, and sends none back. Where a lease does not end as
a whole (an element failed, or was recalled), its rank returns those that follow it, and their elements wait again.
"""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.allocation import Ledger
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import OWN
from handoff_mpi.scheduler.array_state import LEASE_S, NO_FOLLOWERS, Followers
from handoff_mpi.scheduler.arrays import MAX_LEASES, Arrays
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.lifecycle import READY
from handoff_mpi.scheduler.memory_pressure import MemoryPressure
from handoff_mpi.scheduler.queues import ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import Slot
from handoff_mpi.scheduler.tasks import TaskTable


class ChainedLeases:
    """Makes the leases that are sent to a slot in the place of an array.

    Args:
        ledger, arrays, tasks, ready: the scheduler's tables.
        durations: how long calls take.
        memory_pressure: the ranks that are short of memory.
        window: most tasks in flight at a slot.

    Attributes:
        arrays: the arrays, by number.
    """

    def __init__(
        self,
        ledger: Ledger,
        arrays: Arrays,
        tasks: TaskTable,
        ready: ReadyTasks,
        durations: Durations,
        memory_pressure: MemoryPressure,
        window: int,
    ) -> None:
        self._feasibility = ledger.feasibility
        self._arrays = arrays
        self.arrays = self._of = arrays.of
        self._tasks = tasks
        self._ready = ready
        self._durations = durations
        self._memory_pressure = memory_pressure
        self._may_follow_at_all = window > MAX_LEASES

    def lease(self, array: int, slot: Slot) -> list[int]:
        """Lease elements of ``array``, and those that take their values; return the numbers, which are READY."""
        queue = slot.queue
        if queue is None:
            return [self._arrays.lease(array, 1)]
        followers = self._followers(array, queue) if self._may_be_followed(slot.rank) else NO_FOLLOWERS
        leases = [self._arrays.lease(array, queue.slots, followers)]
        for each in followers.arrays:
            follower = self._follow(leases[-1], each)
            if follower is None:
                break
            leases.append(follower)
        return leases

    def count(self, tasks: Sequence[int]) -> int:
        """Return how many of the ``tasks`` of a slot there are, each chain of leases as one."""
        return len(tasks) - sum([self._arrays.leader_of(task) >= 0 for task in tasks[1:]])

    def _may_be_followed(self, rank: int) -> bool:
        """Whether leases at ``rank`` may be followed: one that gets tasks although it had better have none gets one."""
        is_healthy = not (rank in self._memory_pressure.ranks or rank in self._feasibility.shunned)
        return self._may_follow_at_all and is_healthy

    def _followers(self, array: int, queue: ReadyQueue) -> Followers:
        """Return the arrays of which leases may follow one of ``array``.

        They take so little time for an element of that together that to send every lease by itself would count.
        """
        found, element_s = NO_FOLLOWERS, self._of[array].element_s
        while element_s is not None and not self._of[array].spec.is_fold:
            consumers = self._arrays.links.consumers_of(array)
            following = next((each for each in consumers if self._may_follow(each, array, queue)), None)
            if following is None:
                break
            more = found.with_another(following, self._of[following], self._of[following].spec.links[0].block)
            if element_s + more.element_s > LEASE_S:
                break
            found, array = more, following
        return found

    def _may_follow(self, array: int, source: int, queue: ReadyQueue) -> bool:
        """Whether elements of ``array`` take one or several of ``source``, and wait for nothing else."""
        state = self._of[array]
        spec = state.spec
        return (
            self._tasks.state[array] == READY
            and state.element_s is not None
            and not (spec.handles or spec.window is not None or spec.chunk is not None or state.suspects)
            and spec.links[0].source == source
            and spec.links[0].indices.step == 1
            and all(link == spec.links[0] or link.source == OWN for link in spec.links)
            and not (array in self._arrays.pauses.paused or state.has_too_many_failures)
            and self._ready.is_like(array, queue)
            and self._durations.can_finish(array)
        )

    def _follow(self, lease: int, array: int) -> int | None:
        """Lease the elements of ``array`` that take those of a lease alone; None if these are none, or do not wait."""
        link, intervals = self._of[array].spec.links[0], self._arrays.leases[lease].intervals.intervals()
        have = IntervalSet([link.positions(*interval) for interval in intervals])
        supplied = [*link.supplied(have, *link.elements)]
        if len(intervals) > 1 or not supplied or not self._arrays.links.awaited[array].take(*supplied[0]):
            return None
        follower = self._arrays.follow(lease, array, *supplied[0])
        if not self._of[array].todo:
            self._arrays.ending[array] = None
        return follower
