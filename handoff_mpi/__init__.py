"""An MPI-based HPC batch runner: a DAG of Python functions as one ``mpirun`` or Slurm job.

Rank 0 gathers what every rank offers (cores, memory, GPUs), sends each function to a rank where its cost fits, retries
what fails, and moves the work of ranks that die. Values go straight from rank to rank. A complete ``dag.py``::

    from handoff_mpi import DAG, task

    @task
    def load(start):
        return list(range(start, start + 1000))

    @task(cost={"cpu": 1, "memory": "100MB"}, max_retries=1, timeout=600)
    def sum_of_squares(numbers):
        return sum(number**2 for number in numbers)

    @task
    def report(sums):
        print("sum of squares:", sum(sums))
        return sum(sums)

    with DAG("squares") as dag:  # a call adds a function to the DAG, and returns a handle of its value
        report([sum_of_squares(load(start)) for start in range(0, 4000, 1000)])

Run it on 4 ranks, or on all ranks of a batch job; the same command with ``--run-dir`` resumes a run::

    handoff-mpi run -n 4 dag.py
    mpirun -n 64 python -m handoff_mpi run dag.py

A script calls ``execute(dag)`` on every rank instead. The names, by purpose:

    Declare:    DAG, task, Function, Argument, Handle, ArrayHandle, WindowedHandle, Fixed, collocated
    Run:        execute, execute_distributed, execute_local, Cluster, start, RunOptions
    Results:    Results, load
    Resources:  discover_nodes, register_local_node, update_node_resources, current_task
    Observe:    telemetry, visualization, TelemetryHandler
    Extend:     AllocationStrategy, RatedStrategy, ReadyGroup, ClusterView, ResourceTracker, ResultStore, PickleStore,
                StoreFactory, Serializer, Deserializer
    Errors:     HandoffError, DAGError, UsageError, Unsatisfiable, AllocationError, StartupError, DAGFailed, TaskError,
                ValueUnavailable

``help(handoff_mpi.execute)`` lists the options of a run, ``help(handoff_mpi.Function)`` those of a function.
``handoff-mpi --help`` lists the commands, and the manual lies in ``handoff_mpi/manual``.
"""

# Importing this package never initialises MPI, and imports nothing else: a name is imported from its room when it is
# first asked for (PEP 562). Every rank and every child process imports the package, on a file system that thousands of
# them may share, and most need few of its rooms. For the same reason modules of this package import some others inside
# functions: those that are slow to import, or that many processes do without.

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handoff_mpi import telemetry, visualization
    from handoff_mpi.allocation import AllocationStrategy, ClusterView, RatedStrategy, ReadyGroup
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
    from handoff_mpi.dag import (
        DAG,
        Argument,
        ArrayHandle,
        Deserializer,
        Fixed,
        Function,
        Handle,
        Serializer,
        WindowedHandle,
        collocated,
    )
    from handoff_mpi.dag.task import task
    from handoff_mpi.errors import (
        AllocationError,
        DAGError,
        DAGFailed,
        HandoffError,
        StartupError,
        TaskError,
        Unsatisfiable,
        UsageError,
        ValueUnavailable,
    )
    from handoff_mpi.resources import ResourceTracker
    from handoff_mpi.results import PickleStore, Results, ResultStore, StoreFactory
    from handoff_mpi.results.reader import load
    from handoff_mpi.runtime.options import RunOptions
    from handoff_mpi.telemetry import TelemetryHandler
    from handoff_mpi.worker.context import current_task

#: What launchers tell a rank; see :mod:`handoff_mpi.launch.environment`, which not every process imports.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")
exit_watch = None

if any(os.environ.get(name, "1") != "1" for name in _SIZES):  # a script may fail before it has called anything here
    from handoff_mpi.exit_status import ExitWatch

    def _finish(status: int, has_raised: bool) -> None:
        from handoff_mpi.launch import script_end

        script_end.finish(status, has_raised)

    exit_watch = ExitWatch(_finish)

__version__: str  # that of version.py, once it is asked for

__all__ = [
    "DAG",
    "AllocationError",
    "AllocationStrategy",
    "Argument",
    "ArrayHandle",
    "Cluster",
    "ClusterView",
    "DAGError",
    "DAGFailed",
    "Deserializer",
    "Fixed",
    "Function",
    "Handle",
    "HandoffError",
    "PickleStore",
    "RatedStrategy",
    "ReadyGroup",
    "ResourceTracker",
    "ResultStore",
    "Results",
    "RunOptions",
    "Serializer",
    "StartupError",
    "StoreFactory",
    "TaskError",
    "TelemetryHandler",
    "Unsatisfiable",
    "UsageError",
    "ValueUnavailable",
    "WindowedHandle",
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

#: Room to the names that come from it; "" for rooms that are themselves such names.
_ROOMS = {
    "": "telemetry visualization",
    "allocation": "AllocationStrategy ClusterView RatedStrategy ReadyGroup",
    "api": "Cluster discover_nodes execute execute_distributed execute_local register_local_node start "
    "update_node_resources",
    "dag": "DAG Argument ArrayHandle Deserializer Fixed Function Handle Serializer WindowedHandle collocated",
    "dag.task": "task",
    "errors": "AllocationError DAGError DAGFailed Unsatisfiable HandoffError StartupError TaskError UsageError "
    "ValueUnavailable",
    "resources": "ResourceTracker",
    "results": "PickleStore ResultStore Results StoreFactory",
    "results.reader": "load",
    "runtime.options": "RunOptions",
    "telemetry": "TelemetryHandler",
    "worker.context": "current_task",
}
#: Old public names, for one more release: they are served, and neither listed nor completed.
_OLD_NAMES = {"errors": "FitsNowhere JoinError"}
_ROOM_OF = {name: room for rooms in (_ROOMS, _OLD_NAMES) for room, names in rooms.items() for name in names.split()}

if not TYPE_CHECKING:  # type checkers would take any name for one of the package's

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return importlib.import_module(f"{__name__}.version").VERSION
        room = _ROOM_OF.get(name)
        if room is None:
            return _import_room(name)
        module = importlib.import_module(f"{__name__}.{room or name}")
        value = globals()[name] = getattr(module, name) if room else module
        return value

    def _import_room(name: str) -> Any:
        """Any room is an attribute of the package, in every process: also where nobody has imported it yet."""
        full_name = f"{__name__}.{name}"
        if not name.startswith("_"):
            try:
                return importlib.import_module(full_name)
            except ModuleNotFoundError as error:
                if error.name != full_name:
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__all__, "__version__"})
