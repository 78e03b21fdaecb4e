"""The slots of a rank: what runs in each, what is queued behind it, and in which order that runs. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from handoff_mpi.messages import KEEP_REMOTE
from handoff_mpi.serialization import Payload
from handoff_mpi.worker.events import QueuedCall


class Slots:
    """The calls of each slot.

    Args:
        count: how many slots there are at first.

    Attributes:
        running: the call that runs in each slot, or None.
        queues: the calls that wait in each slot, in the order in which they came.
        claims: cores and devices that the calls of each slot run under.
        latest: the task whose value each slot sent to rank 0 last, and that value.
        here: what waits or runs, by task: the latest attempt.
        followers: calls that wait for the value of a task that runs or waits here, by that task.
    """

    def __init__(self, count: int) -> None:
        self.running: list[QueuedCall | None] = [None] * count
        self.queues: list[deque[QueuedCall]] = [deque() for _ in range(count)]
        self.claims: list[Any] = [None] * count
        self.latest: list[tuple[int, Payload] | None] = [None] * count
        self.here: dict[int, QueuedCall] = {}
        self.followers: dict[int, list[QueuedCall]] = {}

    def grow(self, count: int) -> None:
        """Have ``count`` slots from now on: rank 0 uses more than before, as the rank's resources have grown."""
        more = count - len(self.queues)
        self.running += [None] * more
        self.queues += [deque() for _ in range(more)]
        self.claims += [None] * more
        self.latest += [None] * more

    def take_next(self, slot: int) -> QueuedCall | None:
        """Return the call that runs next in a slot, and no longer waits; None if none can."""
        queue = self.queues[slot]
        for place, work in enumerate(queue):
            if work.is_ahead or not work.waiting:
                if place:
                    del queue[place]
                else:
                    queue.popleft()
                self.running[slot] = work
                return work
        return None

    def remove(self, work: QueuedCall) -> bool:
        """Take a call out of its queue, which leaves without having run; return whether it waited there."""
        try:
            self.queues[work.slot].remove(work)
        except ValueError:
            return False
        work.is_here = False
        self.leave(work)
        return True

    def leave(self, work: QueuedCall) -> None:
        """``work`` neither waits nor runs here any more."""
        if self.here.get(work.task) is work:
            del self.here[work.task]

    def prefill(self, slot: int, room: int, suits: Callable[[QueuedCall, QueuedCall], bool]) -> list[QueuedCall]:
        """Return the calls that are to be sent ahead, behind all that were: they run in that order, when those before
        have, and are not given back. Each has its inputs, or will have them by the value of the one before it.

        Args:
            slot: whose child they are sent to.
            room: how many there may be.
            suits: whether a call can be sent ahead behind another; the first that cannot ends the search.
        """
        before = self.running[slot]
        queue = self.queues[slot]
        chosen: list[QueuedCall] = []
        place = 0
        for work in tuple(queue):
            if before is None or len(chosen) == room:
                break
            if not work.is_ahead:
                if work.waiting and not self._waits_only_for(work, before):
                    continue
                if not suits(work, before):
                    break
                work.is_ahead = True
                chosen.append(work)
                if queue[place] is not work:
                    queue.remove(work)
                    queue.insert(place, work)
            before = work
            place += 1
        return chosen

    def _waits_only_for(self, work: QueuedCall, maker: QueuedCall) -> bool:
        return work.waiting == 1 and not maker.flags & KEEP_REMOTE and work in self.followers.get(maker.task, ())
