"""``srun`` as the launcher, in a real Slurm: what the manual's page about clusters says of it."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT
from tests.slurm.test_sbatch import SLEEPING, TWO_BY_TWO, mpich_python, status, write

JOB = """#!/bin/bash
export PYTHONPATH={root}
exec srun --mpi={pmi} --kill-on-bad-exit=1 {python} -m handoff_mpi run --run-dir run sleeping.py
"""


def submit(slurm, directory, pmi, python):
    write(directory, "sleeping.py", SLEEPING)
    script = write(directory, "job.sh", JOB.format(root=ROOT, pmi=pmi, python=python), 0o755)
    return slurm.submit(*TWO_BY_TWO, script, cwd=directory, env={"HANDOFF_OUTPUT": "plain"})


@pytest.mark.long
def test_processes_that_are_alone_are_refused(slurm, tmp_path):
    job = slurm.wait(submit(slurm, tmp_path, "none", sys.executable), tmp_path)
    assert job.state == "FAILED" and "the launcher started 4 ranks, but this MPI sees 1" in job.out, job.out
    assert not list(tmp_path.glob("began-*"))


@pytest.mark.long
def test_a_signal_to_the_step_stops_the_run(slurm, tmp_path):
    number = submit(slurm, tmp_path, "pmi2", mpich_python())
    slurm.wait_for(lambda: len(list(tmp_path.glob("began-*"))) >= 3, 60, tmp_path / f"{number}.out")
    slurm.command("scancel", "--signal", "USR1", number)
    job = slurm.wait(number, tmp_path)
    assert job.exit_code == "75:0", job.out
    assert status(tmp_path / "run")["status"] == "stopped"
    assert "on node1" in job.out and "on node2" in job.out, job.out
