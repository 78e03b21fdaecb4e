"""A function that waits in a collective operation is found, and nothing else is taken for one."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from handoff_mpi import load
from handoff_mpi.comm import collectives

DAG_FILE = """
from handoff_mpi import DAG, task
from mpi4py import MPI
from mpi4py.MPI import COMM_WORLD

@task(max_retries=0)
def alone(): return MPI.COMM_WORLD.allreduce(1)

@task(max_retries=0)
def also_alone(): COMM_WORLD.Barrier()

@task
def other(): return MPI.COMM_WORLD.Get_size(), COMM_WORLD.Get_rank() > 0

with DAG("waits") as dag:
    alone(), also_alone(), other()
"""

#: A communicator that was there before the run is what it was.
SCRIPT = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from mpi4py import MPI

import sys

sys.modules["solver"] = type(sys)("solver")
sys.modules["solver"].comm = MPI.COMM_WORLD

def alone():
    import solver
    return solver.comm.Barrier()

dag = DAG("waits")
dag.add_function(Function("alone", (), alone))
handoff.execute(dag, deadline=9, grace_period=1, run_dir=False, isolation="rank", check=False)
"""


class Comm:
    """Stands for a communicator, whose operations return when the test lets them."""

    def __init__(self):
        self.goes_on = threading.Event()

    def Barrier(self, *args):
        self.goes_on.wait(20)

    allreduce = send = Barrier


@pytest.fixture
def comm(monkeypatch):
    mpi = SimpleNamespace(Comm=Comm, COMM_WORLD=Comm())
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)
    # A method of C makes no frame: what is looked at is the caller's.
    monkeypatch.setattr(collectives.sys, "_current_frames", lambda: callers())
    yield mpi
    mpi.COMM_WORLD.goes_on.set()


_real = sys._current_frames


def callers():
    """Return the innermost frames that are not of this module's communicator or of threading."""
    found = {}
    for thread, frame in _real().items():
        while frame is not None and (frame.f_code.co_name == "Barrier" or "threading" in frame.f_code.co_filename):
            frame = frame.f_back
        if frame is not None:
            found[thread] = frame
    return found


def find(function) -> str:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.05)
        found = collectives.find_collective(thread.ident)
        if found or time.monotonic() > end - 9.5:
            return found
    return ""


class Solver:
    def __init__(self, comm):
        self.comm = comm

    def step(self):
        return self.comm.allreduce(
            self.part(),
        )

    def part(self):
        return 1


def test_operations_are_found_however_the_communicator_is_reached(comm):
    world = comm.COMM_WORLD
    assert find(lambda: comm.COMM_WORLD.Barrier()).startswith("Barrier() (")
    assert "test_collectives.py, line" in find(lambda: world.allreduce())
    assert find(Solver(world).step).startswith("allreduce() (")

    def several():
        size = len([world])
        world.Barrier()
        return size

    assert find(several).startswith("Barrier() (")


@pytest.mark.long
def test_what_is_no_collective_operation_is_not_taken_for_one(comm):
    world = comm.COMM_WORLD
    gate = SimpleNamespace(Barrier=world.Barrier, gather=world.goes_on.wait)
    assert find(lambda: world.send()) == ""
    assert find(lambda: gate.Barrier()) == ""
    assert find(lambda: gate.gather(20)) == ""
    assert find(lambda: time.sleep(2)) == ""
    done = Comm()
    done.goes_on.set()

    def over():
        done.Barrier()
        time.sleep(2)

    assert find(over) == ""
    assert find(lambda: (done.Barrier(), time.sleep(2))) == ""


def test_without_mpi_nothing_is_looked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    assert collectives.find_collective() == ""


@pytest.mark.long
def test_a_collective_operation_of_the_world_is_refused_at_once(handoff, tmp_path):
    (tmp_path / "waits.py").write_text(DAG_FILE)
    ended = handoff("run", "-n", "3", "--isolation", "rank", "--run-dir", "run", "waits.py")
    assert ended.rc == 1, ended.err
    assert "RuntimeError: MPI.COMM_WORLD.allreduce would wait for ever: a collective operation needs all" in ended.err
    assert "RuntimeError: MPI.COMM_WORLD.Barrier would wait for ever" in ended.err
    assert load(tmp_path / "run")["other"] == (3, True)


@pytest.mark.soak
def test_a_function_that_waits_for_ranks_in_vain_is_named_once(mpirun, tmp_path):
    (tmp_path / "waits.py").write_text(SCRIPT)
    ended = mpirun(3, "waits.py", ft=True)
    (line,) = [line for line in ended.err.splitlines() if "a collective operation needs all ranks" in line]
    assert "function 'alone' waits on rank" in line and "Barrier() (" in line
