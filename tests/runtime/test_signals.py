"""INT and TERM leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import mpirun_command

SLEEPER = """
import time
from handoff_mpi import DAG, Function
def nap(): time.sleep(30)
def build(args):
    dag = DAG("sleeper")
    for number in range(8): dag.add_function(Function(number, (), nap))
    return dag
"""


def marked(marker):
    """Return the processes that carry the marker on their command line, or are children of such."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(marker in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("how", ["run -n", "mpirun"])
def test_a_signal_leaves_nothing_behind(tmp_path, how, number):
    marker = f"sleeper{os.getpid()}{number}{how[0]}.py"
    (tmp_path / marker).write_text(SLEEPER)
    python = [sys.executable, "-m", "handoff_mpi", "run"]
    if how == "mpirun":
        command = [*mpirun_command(3), *python, "--isolation", "process", str(tmp_path / marker)]
    else:
        command = [*python, "-n", "3", "--drain", "1", "--isolation", "process", str(tmp_path / marker)]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = set()
    try:
        end = time.monotonic() + 30
        while not children and time.monotonic() < end:
            time.sleep(0.2)
            for rank in marked(marker):
                children |= {each for each in rank.children(recursive=True) if "child" in " ".join(each.cmdline())}
        assert children, "no call began"
        process.send_signal(number)
        _, err = process.communicate(timeout=40)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end and (marked(marker) or any(child.is_running() for child in children)):
        time.sleep(0.2)
    assert not marked(marker)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    if how == "run -n":
        assert process.returncode == 75, err
        assert len([line for line in err.splitlines() if "handoff: stopped;" in line]) == 1
