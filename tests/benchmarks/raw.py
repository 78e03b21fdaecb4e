"""The physical limits: what the same messages cost without anything around them.

    mpirun -n 2 python -m tests.benchmarks.raw round_trip COUNT
    mpirun -n 3 python -m tests.benchmarks.raw transfer NBYTES REPEATS     # from rank 1 to rank 2
    python -m tests.benchmarks.raw pipe COUNT WORKERS                      # bare child processes behind pipes
    mpirun -n N python -m tests.benchmarks.raw imports                     # what any MPI program with numpy does
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.benchmarks.harness import report, touch_memory


def round_trip(count: str) -> None:
    """A small tuple, pickled, there and back."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
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


def transfer(nbytes: str, repeats: str) -> None:
    """An array into fresh memory: what arrived before is kept, as a rank keeps it, so that no page comes again."""
    import numpy as np
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    touch_memory(6 * int(nbytes))
    whole = np.ones(int(nbytes), np.uint8)
    took, kept = [], []
    for _ in range(int(repeats)):
        comm.Barrier()
        begun = time.perf_counter()
        if comm.rank == 1:
            comm.recv(source=2)
            comm.Send(whole, 2)
        elif comm.rank == 2:
            comm.send(None, 1)
            kept.append(np.empty(int(nbytes), np.uint8))
            comm.Recv(kept[-1], 1)
            took.append(time.perf_counter() - begun)
    if comm.rank == 2:
        report(seconds=sorted(took)[len(took) // 2])


def pipe(count: str, workers: str) -> None:
    """One no-op in flight at each of some child processes."""
    from multiprocessing import get_context
    from multiprocessing.connection import wait

    context = get_context("spawn")
    ends = []
    for _ in range(int(workers)):
        mine, theirs = context.Pipe()
        context.Process(target=_answer, args=(theirs,), daemon=True).start()
        mine.send(0)
        mine.recv()
        ends.append(mine)
    begun = time.perf_counter()
    left = int(count)
    for end in ends:
        end.send(0)
    while left > 0:
        for end in wait(ends):
            end.recv()  # type: ignore[union-attr]
            end.send(0)  # type: ignore[union-attr]
            left -= 1
    report(seconds=time.perf_counter() - begun, tasks=int(count))


def _answer(end: Any) -> None:
    while True:
        end.send(end.recv())


def imports() -> None:
    import numpy
    from mpi4py import MPI

    if MPI.COMM_WORLD.rank == 0:
        report(version=numpy.__version__)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
