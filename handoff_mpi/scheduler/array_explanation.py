"""Tells where the elements of an array stand, as plain data: a part of the answer to ``explain``."""

from __future__ import annotations

from collections.abc import Callable

from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.lifecycle import DISPATCHED, State
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable

#: The answer holds at most so many groups of elements that need another attempt, and so many intervals of each.
MAX_RETRIES, MAX_INTERVALS = 200, 20
_MAX_REASON = 500

Facts = dict[str, object]


def name_of(arrays: Arrays, label: Callable[[int], str], number: int) -> str:
    """Return how a number is called, where ``label`` names the tasks; a selection tells which elements it is."""
    selection = arrays.selections.of.get(number)
    return label(arrays.task_of(number)) + ("" if selection is None else selection.text)


def element_counts(array: Array, arrays: Arrays, tasks: TaskTable) -> Facts:
    """Return how many elements of an array stand where, and how many leases of it are at ranks."""
    leases = list(array.leases)
    aside = [arrays.leases[each] for each in leases if tasks.state[each] != DISPATCHED]  # wait for functions or retries
    waiting = len(array.todo) + len(array.awaited) + sum(len(each.intervals) for each in aside if not each.incidents)
    counts: Facts = {"count": array.count, "done": array.done, "failed": array.failed, "skipped": array.skipped}
    return {**counts, "leases": len(leases) - len(aside), "waiting": waiting}


def is_at_rank(array: Array, tasks: TaskTable) -> bool:
    """Whether a rank has elements of an array."""
    return any(tasks.state[lease] == DISPATCHED for lease in list(array.leases))


def retries_of(array: Array, arrays: Arrays, tasks: TaskTable, ready: ReadyTasks, slots: SlotTable) -> Facts:
    """Return which elements of an array need another attempt, or have begun it, and why.

    The journal tells failures of elements when they are final: until then only rank 0 knows them.
    """
    found: list[tuple[int, Facts]] = []
    count = 0
    for number in list(array.leases):
        lease = arrays.leases[number]
        if not lease.incidents or not lease.intervals:
            continue
        count += len(lease.intervals)
        facts: Facts = {
            "elements": lease.intervals.intervals()[:MAX_INTERVALS],
            "attempt": lease.incidents + 1,
            "reason": lease.reason[:_MAX_REASON],
            "state": State(tasks.state[number]).name.lower(),
        }
        slot = slots.of_task.get(number)
        if slot is not None:
            facts["rank"] = slot.rank
        if number in ready.deferred:
            facts["until_s"] = ready.deferred[number]
        found.append((lease.first, facts))
    found.sort(key=lambda each: each[0])
    return {"retry_count": count, "retries": [facts for _, facts in found[:MAX_RETRIES]]}
