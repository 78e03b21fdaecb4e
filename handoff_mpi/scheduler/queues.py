"""Queues of ready tasks, in the order in which they should be served.

Ten thousand functions may have ten thousand priorities or costs. Levels keep a turn from looking at all of them: a
*queue* holds tasks of one class and one priority; a *kind* holds the queues of one class, so if its first queue finds
no room no other does; a *family* holds kinds that need much the same, so if the least of their amounts find no room no
kind does. There are few families: amounts count by their powers of two. Heaps keep the order in families and kinds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from handoff_mpi.allocation import Ledger, RequestClass
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources.amounts import GPU, GPU_MEMORY

if TYPE_CHECKING:
    from handoff_mpi.allocation.reservations import Reservation

#: Higher priority first (negated), then the older head.
Order: TypeAlias = "tuple[int, int]"
#: Tasks of one cost, bound to the same place: what the user's tracker is taken to answer alike.
HoldKey: TypeAlias = "tuple[tuple[tuple[str, int], ...], int | str | None, int | None]"
#: A queue may be skipped this often, and this often for each rank of the job (of its host, if it is bound to one); or
#: by as many tasks that took what it lacks, and as many for each rank where it could run.
MIN_SKIPS = 16
SKIPS_PER_RANK = 3


def hold_key(spec: TaskSpec) -> HoldKey:
    """Return what a task is held by, once the tracker has refused it."""
    return tuple(spec.cost.items()), spec.pin, spec.group


class Ordered(Protocol):
    """An item of a :class:`LazyHeap`.

    Attributes:
        entered: the order under which the heap holds it; None if the heap does not.
        entry: the number of its valid entry.
    """

    entered: Order | None
    entry: int

    def order(self) -> Order | None:
        """Return its place in the order; None if it holds no task."""
        ...


Item = TypeVar("Item", bound=Ordered)


class LazyHeap(Generic[Item]):
    """A heap of items that come later in the order as they are served: entries are checked, and moved, when met.

    An item must be entered again whenever it may come earlier than before; that costs one comparison if it does not.
    """

    __slots__ = ("_heap", "_last")

    def __init__(self) -> None:
        self._heap: list[tuple[Order, int, Item]] = []
        self._last = 0

    def enter(self, item: Item) -> None:
        """Take ``item`` in, or move it forward."""
        order = item.order()
        if order is not None and (item.entered is None or order < item.entered):
            heapq.heappush(self._heap, self._entry(item, order))

    def _entry(self, item: Item, order: Order) -> tuple[Order, int, Item]:
        self._last += 1
        item.entered, item.entry = order, self._last
        return order, self._last, item

    def first(self) -> Item | None:
        """Return the first item that holds a task, if any does."""
        heap = self._heap
        while heap:
            entered, entry, item = heap[0]
            if item.entry != entry:
                heapq.heappop(heap)
                continue
            order = item.order()
            if order == entered:
                return item
            if order is None:
                self.leave(item)
            else:
                heapq.heapreplace(heap, self._entry(item, order))
        return None

    def leave(self, item: Item) -> None:
        """Take ``item`` out until it is entered again."""
        item.entered, item.entry = None, 0


class ReadyQueue:
    """Ready tasks of one cost class and one priority, oldest first.

    Attributes:
        cost: their class.
        priority: theirs.
        host: the only host where they may run, if there is only one.
        kind: the queues of this class; None if they may run on one host alone.
        slots: how many slots hold a claim of this class for this queue now.
        max_skips: how many may be, before something is kept for it.
        skips: about how many younger tasks were sent off since the head could not be placed.
        looked: its skips when those who took what it lacks were last looked at.
        look_every: skips until they are looked at again; 0 until that is known.
        eaten: the resources the head lacks of which younger tasks took, and about how often.
        reservation: what is kept for the head, if anything is.
        next_try: skips from which on something may be reserved.
    """

    __slots__ = (
        "cost",
        "eaten",
        "entered",
        "entry",
        "host",
        "kind",
        "look_every",
        "looked",
        "max_skips",
        "next_try",
        "priority",
        "reservation",
        "skips",
        "slots",
        "tasks",
    )

    def __init__(self, cost: RequestClass, priority: int, host: str | None, ranks: int) -> None:
        self.cost = cost
        self.priority = priority
        self.host = host
        self.kind: Kind | None = None
        self.tasks: deque[int] = deque()
        self.slots = 0
        self.max_skips = MIN_SKIPS + SKIPS_PER_RANK * ranks
        self.skips = 0
        self.looked = 0
        self.look_every = 0
        self.eaten: dict[str, int] = {}
        self.reservation: Reservation | None = None
        self.next_try = 0
        self.entered: Order | None = None
        self.entry = 0

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> int:
        return self.tasks[index]

    def order(self) -> Order | None:
        """Return its place in the order of service: higher priority first, then the older head."""
        return (-self.priority, self.tasks[0]) if self.tasks else None

    def order_with_tasks(self) -> Order:
        """Return its place in the order of service; it holds tasks."""
        return (-self.priority, self.tasks[0])

    @property
    def outweighs_plain(self) -> bool:
        """Whether so many tasks wait that failed somewhere that others of their cost should not be tried there now."""
        return self.cost.plain is not None and len(self.tasks) >= self.max_skips

    def take(self) -> int:
        """Take out the head."""
        tasks = self.tasks
        task = tasks.popleft()
        if tasks and tasks[0] < task:
            self.come_forward()  # tasks queue up as they become ready, so the next may be an older one
        return task

    def take_some(self, count: int) -> list[int]:
        """Take out so many tasks, the oldest first; it holds as many."""
        tasks = self.tasks
        taken = [tasks.popleft() for _ in range(count)]
        if tasks and tasks[0] < taken[0]:
            self.come_forward()
        return taken

    def come_forward(self) -> None:
        """It holds tasks, and may come earlier in the order than before."""
        kind = self.kind
        if kind is not None and kind.family.sole is not self:
            kind.enter(self)


class Kind:
    """The queues of one cost class."""

    __slots__ = ("cost", "entered", "entry", "family", "is_sized", "queues", "size")

    def __init__(self, cost: RequestClass, family: Family) -> None:
        self.cost = cost
        self.size = sum(cost.amounts.values())
        self.is_sized = False
        self.family = family
        self.queues: LazyHeap[ReadyQueue] = LazyHeap()
        self.entered: Order | None = None
        self.entry = 0

    def order(self) -> Order | None:
        first = self.queues.first()
        return None if first is None else first.entered

    def enter(self, queue: ReadyQueue) -> None:
        """A queue of this kind holds tasks, and may come earlier in the order than before."""
        self.queues.enter(queue)
        self.come_forward()

    def come_forward(self) -> None:
        """A queue of it may come earlier in the order than before."""
        self.family.enter(self)


class Family:
    """Kinds that need much the same: the same resources, each amount within a factor of two, with the same wishes.

    Attributes:
        least: a class of the least amounts that a member may need.
        members: how many kinds it has.
        latest: the queue that was first when this was last asked; it may no longer hold tasks.
        sole: its only queue, while it has no other: there is nothing to put in order then.
    """

    __slots__ = ("_by_size", "_kinds", "latest", "least", "members", "sole")

    def __init__(self, cost: RequestClass) -> None:
        self.least = cost
        self.members = 0
        self.latest: ReadyQueue | None = None
        self.sole: ReadyQueue | None = None
        self._kinds: LazyHeap[Kind] = LazyHeap()
        self._by_size: list[tuple[int, int, Kind]] = []

    def first(self) -> ReadyQueue | None:
        """Return the queue that should be served first, if any holds tasks."""
        sole = self.sole
        if sole is not None:
            return sole if sole.tasks else None
        kind = self._kinds.first()
        self.latest = None if kind is None else kind.queues.first()
        return self.latest

    def enter(self, kind: Kind) -> None:
        """A kind of this family holds tasks, and may come earlier in the order than before."""
        self._kinds.enter(kind)
        if not kind.is_sized:
            kind.is_sized = True
            heapq.heappush(self._by_size, (kind.size, kind.cost.number, kind))

    def leave(self, kind: Kind) -> None:
        """Pass over ``kind`` until it comes forward again."""
        self._kinds.leave(kind)

    def kind_of(self, cost: RequestClass) -> Kind | None:
        """Return the kind of class ``cost`` if it is passed over by nobody and holds tasks."""
        return next((kind for _, number, kind in self._by_size if number == cost.number and kind.entered), None)

    def close(self) -> None:
        """Forget all kinds and queues."""
        self.latest = self.sole = None
        self._kinds = LazyHeap()
        self._by_size.clear()

    def smallest(self) -> ReadyQueue | None:
        """Return the first queue of the kind with the least sum of amounts; None if that is passed over."""
        heap = self._by_size
        while heap and heap[0][2].order() is None:
            heapq.heappop(heap)[2].is_sized = False
        return heap[0][2].queues.first() if heap and heap[0][2].entered is not None else None


class ServingOrder:
    """All queues that may be served on any host.

    Args:
        ledger: makes the cost classes.

    Attributes:
        families: the queues by what they need, in the order in which they were first seen.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.families: list[Family] = []
        self._ledger = ledger
        self._family_of: dict[object, Family] = {}
        self._kind_of: dict[int, Kind] = {}

    def add(self, queue: ReadyQueue) -> None:
        """Take in a new queue, which holds no tasks yet."""
        kind = self._kind_of.get(queue.cost.number)
        if kind is None:
            kind = self._kind_of[queue.cost.number] = self._new_kind(queue.cost)
            is_first = kind.family.members == 1
        else:
            is_first = False
        queue.kind, family = kind, kind.family
        if is_first:
            family.sole = queue
        elif family.sole is not None:
            sole, family.sole = family.sole, None
            sole.come_forward()

    def _new_kind(self, cost: RequestClass) -> Kind:
        key = _family_key(cost)
        family = self._family_of.get(key)
        if family is None:
            family = self._family_of[key] = Family(cost)
            self.families.append(family)
        family.members += 1
        if family.members == 2:
            family.least = self._ledger.request_class(_floor(cost.amounts), host=cost.host, need=_floor_of_need(cost))
        return Kind(cost, family)

    def firsts(self) -> list[ReadyQueue]:
        """Return the first queue of each family that holds tasks."""
        return [queue for family in self.families if (queue := family.first()) is not None]

    def older_than(self, other: ReadyQueue, task: int) -> list[ReadyQueue]:
        """Return the first queue of each family if it should be served before ``task`` of ``other``."""
        found = []
        priority = other.priority
        for family in self.families:
            queue = family.sole or family.first()
            if (
                queue is not None
                and queue.tasks
                and (queue.priority > priority or (queue.tasks[0] < task and queue.priority == priority))
                and queue is not other
            ):
                found.append(queue)
        return found

    def close(self) -> None:
        """Break the reference cycles; the queues are of no use afterwards."""
        for kind in self._kind_of.values():
            kind.queues = LazyHeap()
        for family in self.families:
            family.close()

    def is_empty(self) -> bool:
        """Whether no queue holds tasks."""
        for family in self.families:
            if (family.latest is not None and family.latest.tasks) or family.first() is not None:
                return False
        return True


def _family_key(cost: RequestClass) -> object:
    """Return what classes of one family have in common."""
    need = _floor_of_need(cost)
    return (cost.host, *sorted(_floor(cost.amounts).items()), None if need is None else tuple(sorted(need.items())))


def _floor_of_need(cost: RequestClass) -> dict[str, int] | None:
    return None if cost.need is cost.amounts else _floor(cost.need)


def _floor(amounts: Mapping[str, int]) -> dict[str, int]:
    """Return amounts that are the largest powers of two not above ``amounts``; devices stay as they are."""
    return {
        name: 1 << (amount.bit_length() - 1) if amount and name not in (GPU, GPU_MEMORY) else amount
        for name, amount in amounts.items()
    }
