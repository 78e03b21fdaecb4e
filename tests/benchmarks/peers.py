"""The others' sides, each as its users would write it.

    python -m tests.benchmarks.peers NAME SHAPE COUNT SECONDS WORKERS

``bare`` is a loop over mpi4py's pickled send and recv that keeps one function in flight at each worker: no DAG, no
bookkeeping, the most one could hope for. It and ``futures`` (mpi4py.futures) run under mpirun.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.harness import report
from tests.benchmarks.workloads import SHAPES, Level, count_of, nothing, spin


def _work(seconds: float, *values: Any) -> None:
    if seconds:
        spin(seconds)


def bare(levels: list[Level], seconds: float, workers: int) -> None:
    """One function in flight at each worker, handed out in the order of the levels."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    if comm.rank:
        while (message := comm.recv(source=0)) is not None:
            _work(*message)
            comm.send(None, dest=0)
        return
    status = MPI.Status()
    idle = list(range(1, comm.size))
    for level in levels:
        for _ in level:
            if not idle:
                comm.recv(source=MPI.ANY_SOURCE, status=status)
                idle.append(status.source)
            comm.send((seconds,), dest=idle.pop())
        while len(idle) < comm.size - 1:
            comm.recv(source=MPI.ANY_SOURCE, status=status)
            idle.append(status.source)
    for rank in idle:
        comm.send(None, dest=rank)


def _by_levels(submit: Callable[..., Any], levels: list[Level], seconds: float) -> None:
    """Submit level by level to an executor that knows no DAG: inputs are waited for."""
    done: list[Any] = []
    for level in levels:
        futures = [submit(_work, seconds, *[done[each] for each in inputs]) for inputs in level]
        done += [future.result() for future in futures]


def futures(levels: list[Level], seconds: float, workers: int) -> None:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        executor.submit(nothing).result()
        _timed(lambda: _by_levels(executor.submit, levels, seconds), levels)


def processes(levels: list[Level], seconds: float, workers: int) -> None:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        executor.submit(nothing).result()
        _timed(lambda: _by_levels(executor.submit, levels, seconds), levels)


def loky(levels: list[Level], seconds: float, workers: int) -> None:
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        executor.submit(nothing).result()
        _timed(lambda: _by_levels(executor.submit, levels, seconds), levels)


def dask(levels: list[Level], seconds: float, workers: int) -> None:
    from dask.distributed import Client, LocalCluster

    with LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.submit(nothing, pure=False).result()

        def whole() -> None:
            done: list[Any] = []
            for level in levels:
                done += [
                    client.submit(_work, seconds, *[done[each] for each in inputs], pure=False) for inputs in level
                ]
            client.gather(done)

        _timed(whole, levels)


def executorlib(levels: list[Level], seconds: float, workers: int) -> None:
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=workers, block_allocation=True) as executor:
        executor.submit(nothing).result()
        _timed(lambda: _by_levels(executor.submit, levels, seconds), levels)


def _timed(whole: Callable[[], None], levels: list[Level]) -> None:
    begun = time.perf_counter()
    whole()
    report(seconds=time.perf_counter() - begun, tasks=count_of(levels))


def main(name: str, shape: str, count: str, seconds: str, workers: str) -> None:
    levels = SHAPES[shape](int(count))
    peer = globals()[name]
    if name != "bare":
        peer(levels, float(seconds), int(workers))
        return
    from mpi4py import MPI

    MPI.COMM_WORLD.Barrier()
    begun = time.perf_counter()
    bare(levels, float(seconds), int(workers))
    if MPI.COMM_WORLD.rank == 0:
        report(seconds=time.perf_counter() - begun, tasks=count_of(levels))


if __name__ == "__main__":
    main(*sys.argv[1:])
