"""However a run ends, it leaves no process, no temporary file, no socket and no shared memory on its host."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.faults.launching import launch

pytestmark = pytest.mark.soak

DAG = """
import time
from pathlib import Path
import numpy
from handoff_mpi import DAG, Function

def work(array, number):
    Path(f"begun{number}").touch()
    time.sleep(3.0)
    return int(array.sum())

dag = DAG("d")
dag.add_function(Function("array", (), numpy.ones, [300_000]))  # of 2.4 MB: children map it
for number in range(4):
    dag.add_function(Function(number, ["array"], work, [number]))
"""
#: What is done to which process: the command, Open MPI's launcher, or a rank; "all" are all at once.
DEATHS = {
    "TERM to the command": ("command", signal.SIGTERM),
    "KILL of the command": ("command", signal.SIGKILL),
    "TERM to the launcher": ("launcher", signal.SIGTERM),
    "KILL of the launcher": ("launcher", signal.SIGKILL),
    "KILL of rank 0": (0, signal.SIGKILL),
    "KILL of rank 1": (1, signal.SIGKILL),
    "STOP of rank 1, and TERM": (1, signal.SIGSTOP),
    "a deadline": ("", 0),
}


def target(launched, whom):
    if whom == "command":
        return psutil.Process(launched.process.pid)
    if whom == "launcher":
        return next(each for each in launched.processes() if each.name() in ("prterun", "mpirun", "mpiexec.hydra"))
    return launched.ranks()[whom]


def sockets(pids):
    """Return the names of the sockets that these processes have bound."""
    found = set()
    for pid in pids:
        try:
            found |= {each.laddr for each in psutil.Process(pid).net_connections("unix") if each.laddr}
        except psutil.Error:
            pass
    return found


def mapped():
    """Return the files in shared memory that a process has mapped: those of other jobs."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:
            continue
        found |= {Path(line.split(maxsplit=5)[5]) for line in text.splitlines() if "/dev/shm/" in line}
    return found


def bound():
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    return {line.split()[7] for line in lines if len(line.split()) > 7}


@pytest.mark.parametrize("isolation", ["rank", "process"])
@pytest.mark.parametrize("death", DEATHS)
def test_nothing_is_left_on_the_host(death, isolation, tmp_path):
    (tmp_path / "dag.py").write_text(DAG)
    temporary = tmp_path / "t"
    temporary.mkdir()
    shared = {*Path("/dev/shm").iterdir()}
    whom, number = DEATHS[death]
    words = ["run", "-n", "3", "--isolation", isolation, "--run-dir", "run", *(["--deadline", "4"] if not whom else [])]
    environment = {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    launched = launch([sys.executable, "-m", "handoff_mpi", *words, "dag.py"], tmp_path, environment)
    try:
        end = time.monotonic() + 60
        while not [*tmp_path.glob("begun*")] and launched.process.poll() is None:
            assert time.monotonic() < end, launched.text()
            time.sleep(0.05)
        names = sockets(each.pid for each in launched.processes())
        if whom != "":
            os.kill(target(launched, whom).pid, number)
        if number == signal.SIGSTOP:
            launched.process.terminate()
        assert launched.wait(60) is not None, f"it hangs: {launched.text()}"
        assert not launched.leftovers(grace_s=15.0), launched.text()
    finally:
        launched.kill()
    assert not [*temporary.iterdir()], launched.text()
    assert not {*Path("/dev/shm").iterdir()} - shared - mapped()
    assert not names & bound()
