"""handoff_mpi: an MPI-based HPC batch runner. See the README, and ``python -m handoff_mpi --help``.

Importing this package never initialises MPI.
"""

from handoff_mpi import telemetry, visualization
from handoff_mpi.api import (
    Cluster,
    discover_nodes,
    execute,
    execute_distributed,
    execute_local,
    register_local_node,
    start,
    update_node_resources,
)
from handoff_mpi.dag import DAG, Argument, Function, Handle, collocated, task
from handoff_mpi.errors import (
    AllocationError,
    DAGError,
    DAGFailed,
    FitsNowhere,
    HandoffError,
    JoinError,
    TaskError,
    UsageError,
    ValueUnavailable,
)
from handoff_mpi.results import Results
from handoff_mpi.results.loading import load
from handoff_mpi.worker.context import current_task

__all__ = [
    "DAG",
    "AllocationError",
    "Argument",
    "Cluster",
    "DAGError",
    "DAGFailed",
    "FitsNowhere",
    "Function",
    "Handle",
    "HandoffError",
    "JoinError",
    "Results",
    "TaskError",
    "UsageError",
    "ValueUnavailable",
    "collocated",
    "current_task",
    "discover_nodes",
    "execute",
    "execute_distributed",
    "execute_local",
    "load",
    "register_local_node",
    "start",
    "task",
    "telemetry",
    "update_node_resources",
    "visualization",
]
