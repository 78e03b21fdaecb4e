"""The cost of ranks without work: processor time as a share of a core, while one rank sleeps in a call.

    python -m tests.benchmarks.idle [--ranks 3] [--repeats 5] [--json FILE]

The call itself looks at what all ranks and their child processes have used when it begins and when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, report, run, serialized_mpi, under_mpi

A_CORE = "a core"
RANK_0, CALLING, IDLE = "rank 0", "the rank in the call", "the busiest without work"
SECONDS = 3.0


def ask(setting: Setting) -> Answer:
    seconds = SECONDS / (3 if setting.quick else 1)
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def shares(name: str, *before: str) -> dict[str, float]:
            return run(under_mpi(setting.ranks, "idle", name, seconds, before=before), Path(place))["shares"]

        rows = (RANK_0, CALLING, IDLE) if setting.ranks > 2 else (RANK_0, CALLING)
        contenders = {A_CORE: lambda: dict.fromkeys(rows, 1.0), "handoff_mpi": lambda: shares("ours")}
        if setting.with_peers:
            contenders["blocking recv"] = lambda: shares("recv")
            contenders["mpi4py.futures"] = lambda: shares("futures", "-m", "mpi4py.futures")
        figures = in_turns(contenders, setting.repeats)
    return Answer("processor time while one rank sleeps in a call", A_CORE, figures, "cores", setting.ranks)


def watch(seconds: float, *pids: int) -> tuple[int, dict[int, float]]:
    """Sleep; return this process, and what each process used meanwhile, as a share of a core."""
    before, begun = {pid: used_s(pid) for pid in pids}, time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begun
    return os.getpid(), {pid: (used_s(pid) - earlier) / took for pid, earlier in before.items()}


def used_s(pid: int) -> float:
    """Return the seconds of processor time that a process and its living children have used, to the microsecond."""
    processes = [pid, *[each.pid for each in psutil.Process(pid).children(recursive=True)]]
    total = 0.0
    for each in processes:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            total += time.clock_gettime(cpu_clock(each))
    return total


def cpu_clock(pid: int) -> int:
    """Return the clock of a process's processor time, as Linux's clock_getcpuclockid(3) makes it.

    What ``/proc`` tells is cut to hundredths of a second: too coarse for what an idle rank uses.
    """
    return (~pid << 3) | 2


def tell(calling: int, shares: dict[int, float]) -> None:
    """Report what was seen; called on rank 0."""
    told = {RANK_0: shares[os.getpid()], CALLING: shares[calling]}
    idle = [share for pid, share in shares.items() if pid not in (os.getpid(), calling)]
    report(shares={**told, **({IDLE: max(idle)} if idle else {})})


def recv(seconds: float) -> None:
    """All wait in a receive for the rank that sleeps."""
    comm = serialized_mpi().COMM_WORLD
    pids = comm.allgather(os.getpid())
    if comm.rank == 1:
        seen = watch(seconds, *pids)
        for rank in range(comm.size):
            if rank != 1:
                comm.send(seen, rank)
    else:
        seen = comm.recv(source=1)
        if comm.rank == 0:
            tell(*seen)


def ours(seconds: float) -> None:
    import handoff_mpi as handoff
    from handoff_mpi import DAG, Function

    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place, handoff.Cluster() as cluster:
        if cluster:
            who = DAG("who")
            for rank in range(1, cluster.job.size):
                who.add_function(Function(rank, (), os.getpid, node=rank))
            pids = cluster.execute(who, isolation="rank", run_dir=f"{place}/who").values
            dag = DAG("idle")
            dag.add_function(Function("watch", (), watch, [seconds, os.getpid(), *pids.values()], node=1))
            tell(*cluster.execute(dag, isolation="rank", run_dir=f"{place}/idle")["watch"])


def futures(seconds: float) -> None:
    from mpi4py.futures import MPIPoolExecutor

    with MPIPoolExecutor() as executor:
        # Each worker is asked while the others are being asked, and so each answers.
        pids = {executor.submit(watch, 0.3) for _ in range(executor.num_workers)}
        workers = {future.result()[0] for future in pids}
        tell(*executor.submit(watch, seconds, os.getpid(), *workers).result())


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("recv", "ours", "futures"):
        globals()[sys.argv[1]](float(sys.argv[2]))
    else:
        arguments(__spec__.name, __doc__, ask)
