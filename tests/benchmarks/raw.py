"""The physical limits: what the same messages cost without anything around them.

    mpirun -n 2 python -m tests.benchmarks.raw round_trip COUNT
    mpirun -n 3 python -m tests.benchmarks.raw transfer NBYTES...          # from rank 1 to rank 2
    mpirun -n 3 python -m tests.benchmarks.raw relay COUNT                 # calls by turns on ranks 1 and 2
    python -m tests.benchmarks.raw pipe COUNT WORKERS                      # bare child processes behind pipes
    python -m tests.benchmarks.raw peak PROCESSES LOOPS [CALLS]            # the work that processes do, in CALLS

MPI runs at the thread level that handoff_mpi asks for.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.benchmarks.harness import arrays_of, report, serialized_mpi, touch_memory
from tests.benchmarks.workloads import work


def round_trip(count: str) -> None:
    """A small tuple, pickled, there and back."""
    comm = serialized_mpi().COMM_WORLD
    comm.Barrier()
    begun = time.perf_counter()
    for number in range(int(count)):
        if comm.rank == 0:
            comm.send((number, None), 1)
            comm.recv(source=1)
        elif comm.rank == 1:
            comm.send(comm.recv(source=0), 0)
    if comm.rank == 0:
        report(seconds=(time.perf_counter() - begun) / int(count))


def relay(count: str) -> None:
    """Calls of 20 ms by turns on ranks 1 and 2, sent by rank 0, each once the one before has come back."""
    from tests.benchmarks.handover import nap

    comm = serialized_mpi().COMM_WORLD
    comm.Barrier()
    begun = time.perf_counter()
    if comm.rank == 0:
        for number in range(int(count)):
            comm.send((number, None), 1 + number % 2)
            comm.recv(source=1 + number % 2)
        report(seconds=time.perf_counter() - begun)
    else:
        for _ in range(comm.rank - 1, int(count), 2):
            nap(comm.recv(source=0))
            comm.send(None, 0)


def transfer(*sizes: str) -> None:
    """Arrays into fresh memory: what arrived before is kept, as a rank keeps it, so that no page comes again."""
    medians = {nbytes: _transfer(int(nbytes), arrays_of(int(nbytes))) for nbytes in sizes}
    if medians[sizes[0]]:
        report(**medians)


def _transfer(nbytes: int, arrays: int) -> float:
    """Return the median seconds on the rank that receives; 0 on the others."""
    import numpy as np

    comm = serialized_mpi().COMM_WORLD
    if comm.rank:
        touch_memory((arrays + 1) * nbytes)
    whole = np.ones(nbytes, np.uint8)
    took, kept = [], []
    for _ in range(arrays):
        comm.Barrier()
        begun = time.perf_counter()
        if comm.rank == 1:
            comm.recv(source=2)
            comm.Send(whole, 2)
        elif comm.rank == 2:
            comm.send(None, 1)
            kept.append(np.empty(nbytes, np.uint8))
            comm.Recv(kept[-1], 1)
            took.append(time.perf_counter() - begun)
    return sorted(took)[len(took) // 2] if took else 0.0


def pipe(count: str, workers: str) -> None:
    """No-ops, one in flight at each of some child processes; then a chain of them, through one."""
    from multiprocessing import get_context

    context = get_context("spawn")
    ends = []
    for _ in range(int(workers)):
        mine, theirs = context.Pipe()
        context.Process(target=_answer, args=(theirs,), daemon=True).start()
        ends.append(mine)
    report(independent=_rate(ends, int(count)), chain=_rate(ends[:1], int(count)))


def _rate(ends: list[Any], count: int) -> float:
    """Return no-ops a second; a few of them warm it."""
    from multiprocessing.connection import wait

    for end in ends:
        end.send(0)
        end.recv()
    begun = time.perf_counter()
    for end in ends:
        end.send(0)
    left = count - len(ends)
    while left > 0:
        for end in wait(ends):
            end.recv()
            end.send(0)
            left -= 1
    for end in ends:
        end.recv()
    return (count - left) / (time.perf_counter() - begun)


def _answer(end: Any) -> None:
    while True:
        end.send(end.recv())


def peak(processes: str, loops: str, calls: str = "1") -> None:
    """So many processes that do nothing but work, all at the same time.

    Many calls of few loops take some percent longer than one call of them all, in any process.
    """
    from multiprocessing import get_context

    context = get_context("spawn")
    ready = context.Barrier(int(processes))
    took = context.Queue()
    for _ in range(int(processes)):
        context.Process(target=_work, args=(ready, took, int(loops), int(calls)), daemon=True).start()
    seconds = [took.get(timeout=60) for _ in range(int(processes))]
    report(loops_per_s=int(loops) * len(seconds) / sum(seconds))


def _work(ready: Any, took: Any, loops: int, calls: int) -> None:
    ready.wait(60)
    begun = time.perf_counter()
    for _ in range(calls):
        work(loops // calls)
    took.put(time.perf_counter() - begun)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
