"""The library called from your own script, on every rank.

mpirun -n 4 python examples/script.py        # python examples/script.py runs it in one process
"""

import operator

import handoff_mpi as handoff
from handoff_mpi import DAG, Function

dag = DAG("script")
for number in range(100):
    dag.add_function(Function(number, code=operator.mul, extra_args=[number, number]))
dag.add_function(Function("sum", args=list(range(100)), code=sum, argument_inclusion="as_list"))


def on_exception(name, measurements, metadata, config):
    """Called on rank 0 for every call that raises."""
    print(f"{metadata['function_id']!r} on rank {metadata['node']}: {metadata['reason']}")


handoff.telemetry.attach("script", ("handoff", "execution", "function", "exception"), on_exception)
results = handoff.execute(dag, allocation_strategy="load_balanced")
if results is not None:  # rank 0; the other ranks have served and get None
    print("sum of squares:", results["sum"])
    print("ranks:", sorted(set(results.allocations.values())))
    print(results.summary())
