"""A script that ends in one of the ways there are, for :mod:`tests.faults.endings`.

python ends.py HOW WAY OTHERS DIRECTORY

HOW is how rank 0 ends (or, where it says so, rank 1). WAY is "script" (``execute``) or "cluster". OTHERS is what the
other ranks do after the run: "end", wait in a "barrier" or a "recv" for rank 0, or "work" for a while and then write a
file.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import handoff_mpi as handoff
from handoff_mpi import DAG, Function

#: How long the other ranks work after the run.
WORK_S = 12.0


class Odd(BaseException):
    """A BaseException that is not an Exception."""


def fail() -> None:
    raise ValueError("the script fails")


def exit_with_text() -> None:
    sys.exit("the script fails")


def raise_system_exit() -> None:
    raise SystemExit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_a_rank_and_die() -> None:
    os.kill(int(Path("pid1").read_text()), signal.SIGSTOP)
    kill()


def in_thread(code):
    def start() -> None:
        thread = threading.Thread(target=code)
        thread.start()
        thread.join()

    return start


#: What rank 0 does after the run, and with which status that must end the job.
AFTER = {
    "normal": (lambda: None, 0),
    "exit(0)": (lambda: sys.exit(0), 0),
    "exit(3)": (lambda: sys.exit(3), 3),
    "exit(text)": (exit_with_text, 1),
    "SystemExit(3)": (raise_system_exit, 3),
    "raise": (fail, 1),
    "interrupt": (interrupt, 130),
    "thread raises": (in_thread(fail), 0),
    "thread exits": (in_thread(raise_system_exit), 0),
    "_exit(3)": (lambda: os._exit(3), 3),
    "SIGKILL": (kill, None),
    "SIGSEGV": (lambda: os.kill(os.getpid(), signal.SIGSEGV), None),
    "STOP 1, SIGKILL": (stop_a_rank_and_die, None),
}
#: What ends the job elsewhere, and with which status: None for any but 0.
ELSEWHERE = {
    "before: raise": 1,
    "within: DAGFailed": 1,
    "within: handler exits": None,
    "rank 1 raises": 1,
    "rank 1 exits": 3,
}
HOWS = {**{how: status for how, (_, status) in AFTER.items()}, **ELSEWHERE}


def make_dag(how: str) -> DAG:
    dag = DAG("ends")
    for number in range(4):
        dag.add_function(Function(number, (), time.sleep, [0.01]))
    if how == "within: DAGFailed":
        dag.add_function(Function("fails", (), fail, max_retries=0))
    return dag


def run(how: str, way: str) -> bool:
    """Return whether this is rank 0."""
    if way == "script":
        return handoff.execute(make_dag(how), run_dir="run") is not None
    with handoff.Cluster() as cluster:
        if cluster:
            cluster.execute(make_dag(how), run_dir="run")
        return bool(cluster)


def exit_in_handler(*_: object) -> None:
    sys.exit(5)


def be_another(others: str, directory: Path) -> None:
    from mpi4py import MPI

    rank = MPI.COMM_WORLD.Get_rank()
    if others == "barrier":
        MPI.COMM_WORLD.Barrier()
    elif others == "recv":
        MPI.COMM_WORLD.recv(source=0)
    elif others == "work":
        time.sleep(WORK_S)
        (directory / f"worked{rank}").touch()


def be_impatient() -> None:
    """Wait less than usual, for tests."""
    if "ENDS_PATIENCE_S" in os.environ:
        from handoff_mpi.launch import script_end

        script_end.PATIENCE_S = script_end.FAILED_PATIENCE_S = float(os.environ["ENDS_PATIENCE_S"])


def main(how: str, way: str, others: str, directory: str) -> None:
    be_impatient()
    own_rank = os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK"))
    Path(f"pid{own_rank}").write_text(str(os.getpid()))
    if how == "before: raise" and own_rank == "0":
        fail()
    if how == "within: handler exits":
        handoff.telemetry.attach("ends", ("handoff", "execution", "dag", "start"), exit_in_handler, None)
    if run(how, way):
        if how in AFTER:
            Path("ending").touch()
            AFTER[how][0]()
    elif own_rank == "1" and how == "rank 1 raises":
        fail()
    elif own_rank == "1" and how == "rank 1 exits":
        sys.exit(3)
    else:
        be_another(others, Path(directory))


if __name__ == "__main__":
    main(*sys.argv[1:])
