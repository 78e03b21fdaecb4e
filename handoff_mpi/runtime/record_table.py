"""The records of all tasks at the end of a run, from the tables of the scheduler and the columns of the recorder."""

from __future__ import annotations

from array import array
from typing import TypeAlias

from handoff_mpi.dag import Plan
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.results.records import Incident, RecordTable
from handoff_mpi.scheduler import State
from handoff_mpi.scheduler.tasks import TaskTable

#: Of each task, by number: the rank of its last call, when that started, how long it took, the size of its value.
Columns: TypeAlias = "tuple[array[int], array[float], array[float], array[int]]"

_NAMES = {State.DONE: "done", State.FAILED: "failed", State.SKIPPED: "skipped"}
_STATES = [_NAMES.get(state, "waiting") for state in State]


def make_table(
    plan: Plan, tasks: TaskTable, columns: Columns, incidents: dict[int, list[Incident]], hosts: dict[int, str]
) -> RecordTable:
    """Return the records of all tasks of ``plan``; leases of arrays have none.

    Args:
        plan: the run's tables.
        tasks: the scheduler's.
        columns: where and when calls ran.
        incidents: of tasks.
        hosts: rank to host name.
    """
    specs, count = plan.specs, len(plan)
    shown: dict[int, dict[str, int | float]] = {}
    for spec in specs:  # equal costs share one mapping
        if id(spec.cost) not in shown:
            shown[id(spec.cost)] = {name: plain_number(amount) for name, amount in spec.cost.items()}
    ranks, started, durations, nbytes = columns
    return RecordTable(
        ids=list(plan.ids),
        names=[plan.code_names[spec.code] for spec in specs],
        inputs=[spec.needs for spec in specs],
        costs=[shown[id(spec.cost)] for spec in specs],
        states=[_STATES[state] for state in tasks.state[:count]],
        attempts=tasks.attempts[:count],
        ranks=ranks,
        started=started,
        durations=durations,
        nbytes=nbytes,
        errors={task: failure.message.split("\n")[0] for task, failure in tasks.failures.items()},
        incidents=incidents,
        hosts=hosts,
        arrays=frozenset(plan.arrays),
    )
