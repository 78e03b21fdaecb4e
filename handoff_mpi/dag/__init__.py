"""Declarations of users: functions, their inputs, costs and constraints, gathered in a DAG."""

from handoff_mpi.dag.arrays import ArrayFunction, Fixed
from handoff_mpi.dag.call_template import build_call, build_element_calls
from handoff_mpi.dag.codec import Deserializer, Serializer
from handoff_mpi.dag.frozen_array import FrozenArray
from handoff_mpi.dag.function import Argument, Collocated, Function, collocated
from handoff_mpi.dag.graph import DAG
from handoff_mpi.dag.handle import ArrayHandle, Handle, WindowedHandle
from handoff_mpi.dag.plan import Plan
from handoff_mpi.dag.task import Task, task
from handoff_mpi.dag.task_spec import ArraySpec, TaskSpec

__all__ = [
    "DAG",
    "Argument",
    "ArrayFunction",
    "ArrayHandle",
    "ArraySpec",
    "Collocated",
    "Deserializer",
    "Fixed",
    "FrozenArray",
    "Function",
    "Handle",
    "Plan",
    "Serializer",
    "Task",
    "TaskSpec",
    "WindowedHandle",
    "build_call",
    "build_element_calls",
    "collocated",
    "task",
]
