"""The offer to a strategy in a turn: the ready queues in order, each one found when it is asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import overload

from handoff_mpi.allocation import Ledger
from handoff_mpi.scheduler.queues import Family, Kind, ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks

#: A turn offers this many kinds of a family that find no room, oldest first; then the smallest while it finds some.
MAX_MISSES = 16
#: All families together, this many.
MAX_ASIDE = 64
#: Of queues that a strategy asks for in a list, skips are counted of this many, the oldest.
MAX_SEEN = 64
#: Of those, this many may start although something is kept for a younger one.
MAX_UNBOUND = 8


class Offers(Sequence[ReadyQueue]):
    """The ready queues in the order in which they should be served.

    The first iteration is lazy and ends when no slot is idle; if a queue finds no room, it leaves out other queues of
    that class. A strategy that indexes, counts or iterates again gets a list of all queues.

    Args:
        ready: the queues.
        ledger: says what has room.
        can_finish: whether a task would end in the time that is left.
        only: whether a queue may be offered; all may if None.

    Attributes:
        seen: the queues that were offered; some may no longer hold a task.
        led_by: the head of each of them to its queue.
        holds_back: whether a queue was left out because its next task would not end in time.
    """

    def __init__(
        self,
        ready: ReadyTasks,
        ledger: Ledger,
        can_finish: Callable[[int], bool],
        only: Callable[[ReadyQueue], bool] | None = None,
    ) -> None:
        self.seen: list[ReadyQueue] = []
        self.led_by: dict[int, ReadyQueue] = {}
        self.holds_back = False
        self._ready = ready
        self._ledger = ledger
        self._can_finish = can_finish
        self._only = only
        self._lazy: Generator[ReadyQueue, None, None] | None = None
        self._first: ReadyQueue | None = None
        self._listed: list[ReadyQueue] | None = None
        self._misses: dict[Family, int] = {}
        self._aside: list[ReadyQueue | Kind] = []

    def has_any(self) -> bool:
        """Whether any queue is offered."""
        if self._only is not None:
            return bool(self._all())
        self._lazy = self._in_order()
        self._first = next(self._lazy, None)
        return self._first is not None

    def __iter__(self) -> Iterator[ReadyQueue]:
        if self._first is None:
            return iter(self._all())
        first, self._first = self._first, None
        return self._from(first)

    def _from(self, first: ReadyQueue) -> Iterator[ReadyQueue]:
        assert self._lazy is not None
        yield first
        yield from self._lazy

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, index: int) -> ReadyQueue: ...
    @overload
    def __getitem__(self, index: slice) -> list[ReadyQueue]: ...
    def __getitem__(self, index: int | slice) -> ReadyQueue | list[ReadyQueue]:
        return self._all()[index]

    def _all(self) -> list[ReadyQueue]:
        if self._listed is None:
            if self._first is not None and self._lazy is not None:
                self._lazy.close()
                self._first = None
            queues = [queue for queue in self._ready.all_queues() if self._only is None or self._only(queue)]
            self._unbind(queues[:MAX_UNBOUND])
            self._listed = [queue for queue in queues if self._can_finish(queue.tasks[0])]
            self.holds_back |= len(self._listed) < len(queues)
            self.seen = self._listed[:MAX_SEEN]
            self.led_by = {queue.tasks[0]: queue for queue in self._listed}
        return self._listed

    def take(self, task: int) -> ReadyQueue | None:
        """Return the queue that ``task`` is the head of, whether or not it was asked for; None if there is none."""
        queue = self.led_by.pop(task, None)
        if queue is None and self._listed is None:
            self._all()
            queue = self.led_by.pop(task, None)
        return queue if queue is not None and queue.tasks and queue.tasks[0] == task else None

    def _unbind(self, queues: Sequence[ReadyQueue]) -> None:
        """Drop the reservations that keep an older queue from starting: in a list nobody knows whose turn it is."""
        reservations = self._ledger.reservations
        for queue in queues:
            younger = reservations.after(queue.order_with_tasks())
            if younger and self._ready.has_room(queue) and self._ledger.best(queue.cost) is None:
                for reservation in younger:
                    reservations.drop(reservation)

    def older_than(self, queue: ReadyQueue, task: int, host: str) -> list[ReadyQueue]:
        """Return the queues that hold older tasks than ``task`` of ``queue``, offered or local to ``host``."""
        if len(self.seen) < 2 and not self._ready.has_local:
            return []
        order = (-queue.priority, task)
        older = [each for each in self.seen if each.tasks and each is not queue and each.order_with_tasks() < order]
        if self._ready.has_local:
            older += [each for each in self._ready.older_local(queue, task, host) if each not in older]
        return older

    def close(self) -> None:
        """Put back what was set aside: the turn is over."""
        if self._lazy is not None:
            self._lazy.close()
        for item in self._aside:
            item.come_forward()
        self._aside.clear()

    # -- in order -----------------------------------------------------------------------------------

    def _in_order(self) -> Generator[ReadyQueue, None, None]:
        ledger, reservations = self._ledger, self._ledger.reservations
        heap = [(-queue.priority, queue.tasks[0], queue) for queue in self._ready.firsts()]
        heapq.heapify(heap)
        while heap and ledger.idle_slots:
            queue: ReadyQueue | None = heapq.heappop(heap)[2]
            assert queue is not None
            if self._can_finish(queue.tasks[0]):
                self.seen.append(queue)
                self.led_by[queue.tasks[0]] = queue
                if reservations.all:
                    yield from self._beside_younger(queue)
                else:
                    yield queue
                if queue.kind is None or queue.kind.family.sole is queue:
                    continue
                if queue.tasks:
                    self._pass_over(queue.kind, queue)
            else:
                self.holds_back = True
                if queue.kind is None or queue.kind.family.sole is queue:
                    continue
                self._pass_over_queue(queue.kind, queue)
            queue = self._next_of(queue.kind.family)
            if queue is not None:
                heapq.heappush(heap, (-queue.priority, queue.tasks[0], queue))

    def _beside_younger(self, queue: ReadyQueue) -> Iterator[ReadyQueue]:
        """Offer ``queue``; what is kept for younger ones does not bind it."""
        reservations = self._ledger.reservations
        younger = reservations.after(queue.order_with_tasks())
        if not younger or self._ledger.best(queue.cost) is not None:
            yield queue
            return
        reservations.lift(younger, True)
        try:
            yield queue
        finally:
            reservations.lift(younger, False)

    def _pass_over(self, kind: Kind, queue: ReadyQueue) -> None:
        """``queue`` was not served to its end: its class finds no room, or the strategy does not want to."""
        if self._ledger.best(queue.cost) is not None:
            self._pass_over_queue(kind, queue)
            return
        self._leave_out(kind)
        plain = kind.family.kind_of(kind.cost.plain) if kind.cost.plain is not None and queue.outweighs_plain else None
        if plain is not None:
            self._leave_out(plain)
        self._misses[kind.family] = self._misses.get(kind.family, 0) + 1

    def _leave_out(self, kind: Kind) -> None:
        self._aside.append(kind)
        kind.family.leave(kind)

    def _pass_over_queue(self, kind: Kind, queue: ReadyQueue) -> None:
        self._aside.append(queue)
        kind.queues.leave(queue)

    def _next_of(self, family: Family) -> ReadyQueue | None:
        """Return the queue of ``family`` to be offered next; None if no kind of it, or too few, would find room."""
        misses = self._misses.get(family, 0)
        if not misses:
            return family.first()
        if self._ledger.best(family.least) is None:
            return None
        in_order = misses < MAX_MISSES and len(self._aside) < MAX_ASIDE
        return family.first() if in_order else family.smallest()
