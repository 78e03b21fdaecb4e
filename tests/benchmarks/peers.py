"""The others' sides, each as its users would write it: pools that have started, for as many runs as are asked for.

``bare`` is a loop over mpi4py's pickled send and recv that keeps one function in flight at each worker: no DAG, no
bookkeeping, the most one could hope for. It runs at the thread level that handoff_mpi asks for. The time of a run is
that of submitting all and waiting for the last; executors that know no DAG are handed level by level.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from tests.benchmarks.harness import serialized_mpi
from tests.benchmarks.workloads import Level, work

#: One run, from the first function to the end of the last; it returns its seconds where those are not its whole time.
Run: TypeAlias = Callable[[], object]
#: Levels, and the loops of each of their functions, to a run of them.
Prepare: TypeAlias = Callable[[list[Level], int], Run]


@contextmanager
def bare(workers: int) -> Iterator[Prepare | None]:
    """One function in flight at each worker, handed out in the order of the levels."""
    mpi = serialized_mpi()
    comm = mpi.COMM_WORLD
    if comm.rank:
        while (message := comm.recv(source=0)) is not None:
            work(*message)
            comm.send(None, dest=0)
        yield None
        return
    yield lambda levels, loops: lambda: _hand_out(mpi, levels, loops)
    for rank in range(1, comm.size):
        comm.send(None, dest=rank)


def _hand_out(mpi: Any, levels: list[Level], loops: int) -> None:
    comm, status = mpi.COMM_WORLD, mpi.Status()
    idle = list(range(1, comm.size))
    for level in levels:
        for _ in level:
            if not idle:
                comm.recv(source=mpi.ANY_SOURCE, status=status)
                idle.append(status.source)
            comm.send((loops,), dest=idle.pop())
        while len(idle) < comm.size - 1:
            comm.recv(source=mpi.ANY_SOURCE, status=status)
            idle.append(status.source)


def _level_by_level(submit: Callable[..., Any]) -> Prepare:
    """For an executor that knows no DAG: what a level takes is waited for before it is submitted."""

    def run(levels: list[Level], loops: int) -> None:
        done: list[Any] = []
        for level in levels:
            futures = [submit(work, loops, *[done[each] for each in inputs]) for inputs in level]
            done += [future.result() for future in futures]

    return lambda levels, loops: lambda: run(levels, loops)


def _all_at_once(submit: Callable[..., Any], wait: Callable[[list[Any]], object]) -> Prepare:
    """For those whose functions take futures: all is submitted, then waited for."""

    def run(levels: list[Level], loops: int) -> None:
        done: list[Any] = []
        for level in levels:
            done += [submit(loops, *[done[each] for each in inputs]) for inputs in level]
        wait(done)

    return lambda levels, loops: lambda: run(levels, loops)


@contextmanager
def futures(workers: int) -> Iterator[Prepare]:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        yield _level_by_level(executor.submit)


@contextmanager
def processes(workers: int) -> Iterator[Prepare]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        yield _level_by_level(executor.submit)


@contextmanager
def loky(workers: int) -> Iterator[Prepare]:
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        yield _level_by_level(executor.submit)


@contextmanager
def dask(workers: int) -> Iterator[Prepare]:
    from dask.distributed import Client, LocalCluster

    with LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield _all_at_once(lambda *words: client.submit(work, *words, pure=False), client.gather)


@contextmanager
def executorlib(workers: int) -> Iterator[Prepare]:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=workers, block_allocation=True) as executor:
        yield _level_by_level(executor.submit)


@contextmanager
def parsl(workers: int) -> Iterator[Prepare]:
    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    pool = HighThroughputExecutor(
        address="127.0.0.1",
        max_workers_per_node=workers,
        cores_per_worker=1e-3,  # as many workers as asked for, however few cores there are
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = parsl.Config(executors=[pool], run_dir="parsl", strategy="none", initialize_logging=False)
    with parsl.load(config):
        yield _all_at_once(parsl.python_app(work), lambda done: [future.result() for future in done])


@contextmanager
def ray(workers: int) -> Iterator[Prepare]:
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, _temp_dir=os.path.realpath("ray"))
    try:
        yield _all_at_once(ray.remote(work).remote, ray.get)
    finally:
        ray.shutdown()
