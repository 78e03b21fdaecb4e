"""Finds the tasks that need not run, because an earlier launch of the run left the values that are needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from handoff_mpi.dag import TaskSpec
from handoff_mpi.scheduler.events import ValueLocation


def restore(
    specs: Sequence[TaskSpec],
    left: Callable[[int], ValueLocation],
    is_intact: Callable[[int], bool],
    wanted: Collection[int] = (),
) -> dict[int, ValueLocation]:
    """Return where the values of the tasks rest that need not run.

    It works backwards from what is to be kept: a kept task with a valid value is restored with it; one without runs,
    and so its inputs are needed, and so on. What is not met on this way is needed by nobody any more; should it be
    after all, what was left of it is tried then, so its files are not looked at now.

    Args:
        left: where the value of a task lies as far as is known, NOWHERE if nothing is left of it.
        is_intact: whether the file of a task's value is there, and undamaged.
        wanted: tasks whose values are needed, beside those that are kept.
    """
    rest: dict[int, ValueLocation] = {}
    met = bytearray(len(specs))
    stack = [task for task, spec in enumerate(specs) if spec.keep or task in wanted]
    for task in stack:
        met[task] = 1
    while stack:
        task = stack.pop()
        found = left(task)
        if found == ValueLocation.HOME or (found == ValueLocation.FILE and is_intact(task)):
            rest[task] = found
            continue
        for each in specs[task].needs:
            if not met[each]:
                met[each] = 1
                stack.append(each)
    for task in range(len(specs)):
        if not met[task]:
            rest[task] = left(task)
    return rest
