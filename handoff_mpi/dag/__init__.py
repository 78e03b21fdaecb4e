"""What users mean: functions, their inputs, costs and wishes, gathered in a DAG."""

from handoff_mpi.dag.function import Argument, Collocated, Function, Handle, collocated
from handoff_mpi.dag.graph import DAG
from handoff_mpi.dag.plan import Plan, TaskSpec
from handoff_mpi.dag.recipe import Constant, Inline, Input, build_call
from handoff_mpi.dag.task import Task, task

__all__ = [
    "DAG",
    "Argument",
    "Collocated",
    "Constant",
    "Function",
    "Handle",
    "Inline",
    "Input",
    "Plan",
    "Task",
    "TaskSpec",
    "build_call",
    "collocated",
    "task",
]
