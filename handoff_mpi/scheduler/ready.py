"""Ready tasks: where the strategy finds them, by cost class and priority.

Tasks that may run on one rank or one host alone wait apart, by host, and are offered when there may be room for them
there: a task that waits for a busy rank keeps nobody waiting elsewhere, and a turn does not go through a queue a rank.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from handoff_mpi.allocation import Ledger, RequestClass
from handoff_mpi.dag import TaskSpec
from handoff_mpi.resources import Amounts
from handoff_mpi.scheduler.avoidance import Avoidance
from handoff_mpi.scheduler.groups import CollocatedGroups
from handoff_mpi.scheduler.queues import HoldKey, ReadyQueue, ServingOrder, hold_key

#: Whether a queue is the most urgent one is found by comparing it with at most this many others.
MAX_COMPARED = 16


class ReadyTasks:
    """All ready tasks: queued by class, parked until their group has a rank, or deferred for a while.

    Args:
        ledger: makes the cost classes.
        specs: the table of tasks, which grows during a run.

    Attributes:
        avoid: where tasks failed: each is offered other hosts first.
        groups: the collocated groups.
        free: the queues whose tasks may run on any host.
        has_several_queues: whether tasks of one queue may be skipped by those of another.
        held: tasks that wait for the tracker; see :mod:`handoff_mpi.scheduler.refusals`.
        deferred: tasks that are not offered before a time, in seconds.
        undecided: tasks whose failure is not final yet; see :mod:`handoff_mpi.scheduler.undecided`.
        offered: tasks that are offered although what they ask for is held.
        passed_on: arrays that were offered to the leases of their elements that are offered in their place.
        exhausted: arrays of which no element waits to be leased: they are in no queue.
    """

    def __init__(self, ledger: Ledger, specs: list[TaskSpec]) -> None:
        self.avoid = Avoidance(ledger.rank_states)
        self._failed_on = self.avoid.failed_on
        self.groups = CollocatedGroups(ledger.rank_states, specs)
        self.held: dict[HoldKey, deque[int]] = {}
        self.undecided: dict[int, Any] = {}
        self.offered: set[int] = set()
        self.passed_on: dict[int, int] = {}
        self.exhausted: set[int] = set()
        self._ledger = ledger
        self._specs = specs
        self.free = ServingOrder(ledger)
        self._queues: dict[object, ReadyQueue] = {}
        self.has_several_queues = False
        self._simple: dict[tuple[int, int], ReadyQueue] = {}
        # host to the queues for it alone that hold tasks, and some that no longer hold any
        self._local: dict[str, dict[ReadyQueue, None]] = {}
        self._of_job: dict[ReadyQueue, None] = {}  # those of them that need a resource of the whole job
        self._retries: dict[ReadyQueue, None] = {}  # those for tasks that failed somewhere
        self._priority: int | None = None  # of the first queue
        self._has_one_priority = True
        self._awake: dict[str, None] = {}  # hosts where there may be room for what is local there
        self._seen = -1
        self.deferred: dict[int, float] = {}
        self._due: list[tuple[float, int]] = []  # a heap of the deferred, and of some that were taken out

    # -- in and out ---------------------------------------------------------------------------------

    def put(self, task: int, first: bool = False) -> None:
        """Put a task where the strategy finds it, at the end of its queue or at its head."""
        if self.exhausted and task in self.exhausted:
            return
        spec = self._specs[task]
        if self.held and task not in self.offered and self._put_held(task, first):
            return
        if spec.pin is None and spec.group is None and task not in self._failed_on:
            key = (id(spec.cost), spec.priority)
            queue = self._simple.get(key)
            if queue is None:
                queue = self._simple[key] = self._queue(self._ledger.request_class(spec.cost), spec.priority)
        else:
            found = self._queue_of_bound(task, spec)
            if found is None:
                return
            queue = found
            if queue.cost.plain is not None:
                self._retries[queue] = None
        if first:
            queue.tasks.appendleft(task)
            self._fill(queue)
        else:
            queue.tasks.append(task)
            if len(queue.tasks) == 1:
                self._fill(queue)

    def _put_held(self, task: int, first: bool) -> bool:
        held = self.held.get(hold_key(self._specs[task]))
        if held is None:
            return False
        if first:
            held.appendleft(task)
        else:
            held.append(task)
        self._stop_leading(task)
        return True

    def _stop_leading(self, task: int) -> None:
        """``task`` no longer leads its group, if it did: another member that is offered does."""
        self.put_all(self.groups.release_from(task))

    def is_like(self, task: int, queue: ReadyQueue) -> bool:
        """Whether ``task`` would be put into ``queue``; False if it has wishes as to where it runs."""
        spec = self._specs[task]
        if spec.pin is not None or spec.group is not None or task in self._failed_on:
            return False
        return self._simple.get((id(spec.cost), spec.priority)) is queue

    def _fill(self, queue: ReadyQueue) -> None:
        if queue.host is None:
            queue.come_forward()
        else:
            self._local.setdefault(queue.host, {})[queue] = None
            if queue.cost.job:
                self._of_job[queue] = None
            self._awake[queue.host] = None

    def remove(self, task: int) -> None:
        """Take a task out of wherever it waits; rare, so it may search."""
        self._dequeue(task)
        for parked in (*self.groups.parked.values(), *self.held.values()):
            if task in parked:
                parked.remove(task)
        self.offered.discard(task)
        self.undecided.pop(task, None)
        self.deferred.pop(task, None)
        self._stop_leading(task)

    def _dequeue(self, task: int) -> None:
        queue = next((queue for queue in self.all_queues() if task in queue.tasks), None)
        if queue is not None:
            queue.tasks.remove(task)
            if queue.tasks:
                queue.come_forward()

    def all_queues(self) -> list[ReadyQueue]:
        """Return all queues that hold tasks, in the order in which they should be served."""
        return sorted((queue for queue in self._queues.values() if queue.tasks), key=ReadyQueue.order_with_tasks)

    def holds_any(self, classes: Mapping[int, RequestClass]) -> bool:
        """Whether a task of any of these classes, by their numbers, is in a queue; it sorts nothing."""
        feasibility = self._ledger.feasibility
        hosts = {feasibility.only_host(cost) for cost in classes.values()}
        local = (queue for host in hosts if host is not None for queue in self._local.get(host, ()))
        queues = chain(local, self._queues.values()) if None in hosts else local
        return any(queue.tasks and queue.cost.number in classes for queue in queues)

    def every_queue(self) -> Iterable[ReadyQueue]:
        """Return all queues, those that hold no tasks too, in no order."""
        return self._queues.values()

    def firsts(self) -> list[ReadyQueue]:
        """Return the first queue of each family, and the queues that are local to a host and have room there."""
        return [*self.free.firsts(), *self._awake_with_room()] if self._local else self.free.firsts()

    def _awake_with_room(self) -> Iterator[ReadyQueue]:
        """Yield the queues that are local to a host and have room there."""
        ledger = self._ledger
        self._seen, changed = ledger.changes.since(self._seen)
        hosts = self._local if changed is None else (ledger.groups[number].host for number in changed)
        self._awake.update((host, None) for host in hosts if host in self._local)
        for host in list(self._awake):
            queues = _with_tasks(self._local[host])
            if not queues:
                del self._local[host]
            is_awake = False
            for queue in queues:
                if self.has_room(queue):
                    is_awake = True
                    yield queue
                elif queue.cost.job:  # what is given back anywhere may make room for it
                    is_awake = True
            if not is_awake:
                del self._awake[host]

    def has_room(self, queue: ReadyQueue) -> bool:
        """Whether there is room for the queue's next task if the amounts reserved for younger ones are ignored."""
        ledger = self._ledger
        if ledger.best(queue.cost) is not None:
            return True
        younger = ledger.reservations.after(queue.order_with_tasks())
        if not younger:
            return False
        ledger.reservations.lift(younger, True)
        try:
            return ledger.best(queue.cost) is not None
        finally:
            ledger.reservations.lift(younger, False)

    def older_than(self, queue: ReadyQueue, task: int, host: str) -> list[ReadyQueue]:
        """Return queues that should be served before ``task``, the head of ``queue``, which is or was on ``host``.

        Of each family the first one, and those that are bound to the host.
        """
        older = self.free.older_than(queue, task)
        return older + self.older_local(queue, task, host) if self._local else older

    def older_local(self, queue: ReadyQueue, task: int, host: str) -> list[ReadyQueue]:
        """Return the queues bound to a host that should be served before ``task`` and may want what it takes."""
        order = (-queue.priority, task)
        local: dict[ReadyQueue, None] = dict(self._local.get(host, ()))
        if queue.cost.job and self._of_job:
            local.update(dict.fromkeys(_with_tasks(self._of_job)))
        return [each for each in local if each.tasks and each is not queue and each.order_with_tasks() < order]

    def is_age_all(self, queue: ReadyQueue) -> bool:
        """Whether queues that should be served before ``queue`` are certainly older, and have no other right.

        They have one if they are more urgent, bound to a host, or hold tasks that failed elsewhere.
        """
        if self._local or (self._retries and _with_tasks(self._retries)):
            return False
        if self._has_one_priority:
            return True
        if len(self._queues) > MAX_COMPARED:
            return False
        priority = queue.priority
        return not [each for each in self._queues.values() if each.priority > priority and each.tasks]

    @property
    def has_local(self) -> bool:
        """Whether tasks may wait for one host alone."""
        return bool(self._local)

    def is_queued(self) -> bool:
        """Whether any task is in a queue."""
        if not self.free.is_empty():
            return True
        while self._local:
            host, queues = next(iter(self._local.items()))
            if _with_tasks(queues):
                return True
            del self._local[host]
            self._awake.pop(host, None)
        return False

    def everywhere(self) -> Iterator[int]:
        """Yield all ready tasks, wherever they wait; for tests."""
        for queue in self._queues.values():
            yield from queue.tasks
        for parked in (*self.groups.parked.values(), *self.held.values()):
            yield from parked
        yield from self.deferred
        yield from self.undecided

    # -- later --------------------------------------------------------------------------------------

    def defer(self, task: int, until: float) -> None:
        """Offer ``task`` again at ``until``, not before."""
        self.deferred[task] = until
        heapq.heappush(self._due, (until, task))

    def due(self, now: float) -> Iterator[int]:
        """Take out and yield the deferred tasks whose time has come."""
        while self.deferred and self._due[0][0] <= now:
            until, task = heapq.heappop(self._due)
            if self.deferred.get(task) == until:  # else it was taken out before
                del self.deferred[task]
                yield task

    def is_set_aside(self, task: int) -> bool:
        """Whether a READY task is not offered yet: its failure is undecided, or its time has not come."""
        return task in self.undecided or task in self.deferred

    @property
    def next_due(self) -> float | None:
        """When the next deferred task is due, None if there is none."""
        while self._due and self.deferred.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)  # it was taken out before
        return self._due[0][0] if self._due else None

    # -- held for the tracker -------------------------------------------------------------------------

    def hold(self, key: HoldKey) -> None:
        """Hold all tasks of ``key``: those in queues, and those that become ready until :meth:`end_hold`."""
        held = self.held[key] = deque()
        for queue in self.all_queues():
            if tuple(queue.cost.amounts.items()) == key[0]:
                held.extend(task for task in queue.tasks if hold_key(self._specs[task]) == key)
                kept = [task for task in queue.tasks if hold_key(self._specs[task]) != key]
                queue.tasks.clear()
                queue.tasks.extend(kept)
                if kept:
                    queue.come_forward()
        for task in list(held):
            self._stop_leading(task)

    def offer(self, task: int, rank: int | None) -> None:
        """Offer a task that is no longer held: on ``rank`` alone, if one is named."""
        self.offered.add(task)
        if rank is None:
            self.put(task)
            return
        spec = self._specs[task]
        queue = self._queue(self._ledger.request_class(spec.cost, rank), spec.priority)
        queue.tasks.append(task)
        if len(queue.tasks) == 1:
            self._fill(queue)

    def pass_on_offer(self, array: int, lease: int) -> None:
        """A lease is offered in the place of its array, of which further elements wait for the tracker's answer."""
        if array in self.offered:
            self.offered.discard(array)
            self.offered.add(lease)
            self.passed_on[array] = lease

    def take_in_again(self, task: int) -> None:
        """Hold a READY task that the tracker has refused, as the next of its hold to be offered."""
        self.offered.discard(task)
        self._put_held(task, True)

    def end_hold(self, key: HoldKey) -> None:
        """Nothing of ``key`` is held now."""
        for task in self.held.pop(key):
            self.put(task)

    # -- collocated groups ----------------------------------------------------------------------------

    def requeue_outgrown(self) -> None:
        """Put the leaders of groups that have grown where the groups' needs and pins of today say."""
        for group in self.groups.take_outgrown():
            leader = self.groups.leaders[group]
            self._dequeue(leader)
            self.put(leader, first=True)
            if group in self.groups.bound:
                self.put_all(self.groups.release(group))

    def bind(self, task: int, rank: int) -> bool:
        """The first task of a collocated group to be placed binds the others to its rank; return whether it does."""
        waiting = self.groups.bind(task, rank)
        if waiting is None:
            return False
        self.put_all(waiting)
        return True

    def unbind(self, rank: int) -> None:
        """Let groups bound to a lost rank be bound again; queue their ready tasks again."""
        self.groups.unbind(rank)
        self._requeue_all([queue for queue in self.all_queues() if queue.cost.rank == rank])

    def leave(self, rank: int) -> None:
        """Groups bound to a rank on probation, but not pinned to it, may be bound to another one."""
        self.groups.leave(rank)
        self._requeue_all([queue for queue in self.all_queues() if queue.cost.rank == rank])

    def rebind(self, task: int) -> None:
        """``task`` failed, and no other member of its group has run: the rank where it runs next is the group's."""
        rank = self.groups.rebind(task)
        if rank is not None:
            self._requeue_all([queue for queue in self.all_queues() if queue.cost.rank == rank])

    # -- once more ------------------------------------------------------------------------------------

    def relent(self) -> bool:
        """Let tasks run where they failed after all, as they are placed nowhere else; return whether any may."""
        queues = [queue for queue in self.all_queues() if queue.cost.plain is not None]
        self.avoid.relented.update(task for queue in queues for task in queue.tasks)
        self._requeue_all(queues)
        return bool(queues)

    def reconsider(self) -> None:
        """The cluster has changed: what avoids a rank or hosts, or is offered on a rank, may have nothing else left."""
        fits = self._ledger.feasibility.could_fit
        self._requeue_all([q for q in self.all_queues() if q.cost.plain or not (q.cost.rank is None or fits(q.cost))])

    def _requeue_all(self, queues: list[ReadyQueue]) -> None:
        for queue in queues:
            tasks = list(queue.tasks)
            queue.tasks.clear()
            for task in tasks:
                self.put(task)

    def put_all(self, tasks: Iterable[int]) -> None:
        """Put tasks at the ends of their queues; neighbours mostly share their specification, and so their queue."""
        like, queue = None, None
        for task in tasks:
            spec = self._specs[task]
            if queue is not None and spec is like and task not in self._failed_on:
                queue.tasks.append(task)
                continue
            self.put(task)
            like, queue = spec, None if self.held else self._simple.get((id(spec.cost), spec.priority))
            if queue is not None and not self.is_like(task, queue):
                queue = None

    def _queue(self, cost: RequestClass, priority: int) -> ReadyQueue:
        key = (cost.number, priority)
        if key not in self._queues:
            host = self._ledger.feasibility.only_host(cost)
            queue = self._queues[key] = ReadyQueue(cost, priority, host, self._ledger.feasibility.ranks_on(host))
            if self._priority is None:
                self._priority = priority
            self._has_one_priority &= priority == self._priority
            self.has_several_queues = len(self._queues) > 1
            if host is None:
                self.free.add(queue)
        return self._queues[key]

    def _queue_of_bound(self, task: int, spec: TaskSpec) -> ReadyQueue | None:
        """Return the queue of a task with wishes; None while its group waits for its first placement."""
        rank = spec.pin if isinstance(spec.pin, int) else None
        host = spec.pin if isinstance(spec.pin, str) else None
        need = None
        if spec.group is not None:
            groups = self.groups
            rank = groups.bound.get(spec.group) if rank is None else rank
            if rank is None:
                if groups.must_wait(task, spec.group):
                    return None
                host, need = groups.hosts.get(spec.group, host), groups.need[spec.group]
        if rank is not None or task not in self._failed_on:
            cost = self._ledger.request_class(spec.cost, rank, host, need=need)
        else:
            cost = self.class_elsewhere(task, host, need)
        return self._queue(cost, spec.priority)

    def class_elsewhere(self, task: int, host: str | None = None, need: Amounts | None = None) -> RequestClass:
        """Return the class of a task that failed: its best wish that something left in the cluster could grant.

        What is on probation grants nothing, unless nothing else could run the task.
        """
        ledger, cost = self._ledger, self._specs[task].cost
        feasibility, plain = ledger.feasibility, ledger.request_class(cost, None, host, need=need)
        grants = feasibility.is_left if feasibility.is_left(plain) else feasibility.could_fit
        wishes = self.avoid.wishes(task)
        classes = (ledger.request_class(cost, None, host, *wish, need=need) for wish in wishes)
        known = next((each for each in classes if each.plain is None or grants(each)), None)
        assert known is not None
        return known


def _with_tasks(queues: dict[ReadyQueue, None]) -> list[ReadyQueue]:
    """Drop the queues that no longer hold tasks, and return the others."""
    for queue in [queue for queue in queues if not queue.tasks]:
        del queues[queue]
    return [*queues]
