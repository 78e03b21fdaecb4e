"""Shells in a job, as people get them: an interactive ``salloc``, ``srun --pty``, a batch script of their own."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from tests.slurm.test_sbatch import write

PLACES = """
import os, time
from handoff_mpi import DAG, Function
def place():
    time.sleep(0.3)
    return os.uname().nodename
def tell(*places):
    print("PLACES", *sorted(set(places)), flush=True)
dag = DAG("places")
for number in range(8):
    dag.add_function(Function(number, (), place))
dag.add_function(Function("tell", [*range(8)], tell))
"""
TWO_BY_TWO = "-N2 -n4 --ntasks-per-node=2"


@pytest.fixture
def shell(tmp_path):
    """A script that plays what is typed into a shell; its output is plain."""
    write(tmp_path, "places.py", PLACES)

    def make(*lines: str) -> str:
        python = shlex.quote(sys.executable)
        text = "".join(f"{python} -m handoff_mpi {line}; echo ended with $?\n" for line in lines)
        head = "#!/bin/bash\nexport HANDOFF_OUTPUT=plain HANDOFF_PROGRESS=none\n"
        return str(write(tmp_path, "shell", head + text, 0o755))

    return make


@pytest.mark.long
def test_an_interactive_allocation_is_no_launcher(slurm, tmp_path, shell):
    typed = shell("run -n 4 places.py", "run places.py")
    shown = slurm.in_terminal(f"env SHELL={typed} salloc {TWO_BY_TWO}", tmp_path)
    assert "PLACES node1 node2" in shown, shown
    assert "though Slurm granted this job 4 tasks; run -n 4 starts a rank for each" in shown
    assert shown.count("PLACES node1\n") == 1
    assert shown.count("ended with 0") == 2


@pytest.mark.soak
def test_what_slurm_granted_is_compared_with_what_the_ranks_use(slurm, tmp_path, shell):
    typed = shell("doctor -n 4", "run -n 4 places.py", "run -n 2 places.py", "run -n 9 places.py")
    shown = re.sub("\x1b\\[[0-9;]*m", "", slurm.in_terminal(f"env SHELL={typed} salloc {TWO_BY_TWO} -t 10", tmp_path))
    by_doctor, as_granted, with_fewer, with_more, _ = shown.split("ended with ")
    assert " of 4 tasks on 2 nodes; it ends in 9 min " in by_doctor, shown
    assert "grants: the ranks use the tasks and nodes that Slurm granted" in by_doctor
    assert "steps: a step reaches each of 2 nodes" in by_doctor
    assert "Slurm granted" not in as_granted, shown
    assert "2 ranks use a job of 4 tasks; `run -n 4` starts a rank for each" in with_fewer
    assert "9 ranks share the 4 tasks that Slurm granted; `run -n 4`" in with_more


A_STEP = f"salloc {TWO_BY_TWO} srun -N1 -n1 --mpi=pmi2 --pty"  # with a PMI, as where a site has made one the default


@pytest.mark.soak
def test_a_shell_that_is_a_step_is_no_launcher(slurm, tmp_path, shell):
    """It holds all the CPUs and the memory of its node."""
    shown = slurm.in_terminal(f"{A_STEP} {shell('run -n 4 places.py')}", tmp_path)
    assert "PLACES node1 node2" in shown, shown
    assert "ended with 0" in shown


@pytest.mark.soak
def test_doctor_looks_at_all_nodes_from_a_shell(slurm, tmp_path, shell):
    shown = slurm.in_terminal(f"{A_STEP} {shell('doctor -n 4')}", tmp_path)
    assert "4 ranks on 2 hosts" in shown, shown
    assert "ended with 0" in shown
