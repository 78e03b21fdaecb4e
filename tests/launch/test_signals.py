"""Signals that come early, or late: none is lost, and each gets one clear line."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from tests.conftest import run_process

ENDLESS = """
import time
end = time.monotonic() + 60
while time.monotonic() < end: time.sleep(0.01)
"""

#: Stands for mpirun: the supervisor is asked to stop before there is any rank.
EARLY = """
import os, sys
from handoff_mpi import cli
from handoff_mpi.launch import supervisor
script = 'kill -USR1 $PPID; sleep 0.3; exec "$@"'
supervisor.launcher_command = lambda *_: (["sh", "-c", script, "sh"], dict(os.environ))
sys.exit(cli.main(["run", "-n", "1", "--run-dir", "run", "dag.py"]))
"""


@pytest.mark.long
def test_a_signal_before_ranks_listen_reaches_them(tmp_path):
    (tmp_path / "dag.py").write_text(ENDLESS)
    ended = run_process([sys.executable, "-c", EARLY], tmp_path, 50.0)
    assert ended.rc == 75, ended.err
    assert f"stopped by SIGUSR1; the run had not begun; the same command with --run-dir {tmp_path}/run" in ended.err
    assert "functions were done" not in ended.err
    assert "Traceback" not in ended.err


BEFORE = """
import os, signal, sys
from handoff_mpi import cli
cli.use_run_dir = lambda run_dir: os.kill(os.getpid(), getattr(signal, sys.argv[1]))
sys.exit(cli.main(["run", "-n", "2", "--run-dir", "run", "dag.py"]))
"""


@pytest.mark.long
def test_a_signal_before_anything_is_launched_ends_the_command(tmp_path):
    (tmp_path / "dag.py").write_text(ENDLESS)
    for name, why in (("SIGUSR1", "stopped by SIGUSR1"), ("SIGINT", "interrupted"), ("SIGTERM", "stopped by SIGTERM")):
        ended = run_process([sys.executable, "-c", BEFORE, name], tmp_path, 50.0)
        assert (ended.rc, ended.err) == (75, f"handoff: {why} before the run had begun; the same command begins it\n")


INTERRUPTED_IMPORT = """
import builtins, os, runpy, signal, sys
real = builtins.__import__
def load(name, globals=None, locals=None, fromlist=(), level=0):
    if name == "handoff_mpi.launch.job" or name == "handoff_mpi.launch" and "job" in (fromlist or ()):
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = load
sys.argv[1:] = ["run", "--run-dir", "run", "dag.py"]
"""


@pytest.mark.parametrize(
    "way",
    [
        "runpy.run_module('handoff_mpi.__main__', run_name='__main__')",
        "from handoff_mpi.program import program; program()",
    ],
)
def test_an_interrupt_during_imports_ends_the_command_by_its_signal(way, tmp_path):
    (tmp_path / "dag.py").write_text(ENDLESS)
    for rank in ({}, {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}):
        ended = run_process([sys.executable, "-c", INTERRUPTED_IMPORT + way], tmp_path, 50.0, rank)
        assert (ended.rc, ended.err) == (-signal.SIGINT, "")


LATE = """
import os, signal
from handoff_mpi import DAG, Function, telemetry
telemetry.attach("late", telemetry.DAG_STOP, lambda *_: os.kill(os.getpid(), signal.SIGINT))
dag = DAG("late")
dag.add_function(Function("a", (), print))
"""


def test_a_signal_after_the_last_function_changes_nothing(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(LATE)
    ended = handoff("run", "--run-dir", "run", "dag.py")
    assert ended.rc == 0, ended.err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"
