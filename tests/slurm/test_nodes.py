"""Nodes of a Slurm that fail under a job: killed whole, or cut off. The healthy ones stay in the run."""

from __future__ import annotations

import sys

import pytest

from tests.slurm.test_sbatch import SCRIPT, SLEEPING, mpich_python, status, write

THREE_BY_TWO = ["--nodes=3", "--ntasks=6", "--ntasks-per-node=2"]
NAPS = SLEEPING.replace("range(60)", "range(30)").replace("sleep(2)", "sleep(0.5)")


def start(slurm, directory, *words, flags=(), python=sys.executable):
    """Submit the naps on three nodes; return the job's number once some of them are over."""
    dag = write(directory, "sleeping.py", NAPS)
    number = slurm.submit(*THREE_BY_TWO, *flags, SCRIPT, dag, *words, cwd=directory, env={"PYTHON": python})
    slurm.wait_for(lambda: len(list(directory.glob("began-*"))) >= 8, 60, directory / f"{number}.out")
    return number


ALSO = [(["--mem-per-cpu=300"], "memory"), (["--gres=gpu:2"], "gpus")]


def survives_the_death_of_node3(own_slurm, tmp_path, number):
    own_slurm.kill_node("node3")
    own_slurm.wait_for_script(number, tmp_path, 150)
    out = (tmp_path / f"{number}.out").read_text()
    assert out.count("node3 no longer answers; it is launched again on the other hosts") == 1, out
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (ended["exit_code"], ended["done"], ended["launch"], ended["ranks"]) == (0, 30, 2, 4), out


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="default", marks=pytest.mark.long),
        *(pytest.param(flags, id=name, marks=pytest.mark.soak) for flags, name in ALSO),
    ],
)
def test_a_node_that_is_killed_costs_seconds_and_no_other_node(own_slurm, tmp_path, flags):
    number = start(own_slurm, tmp_path, flags=flags)
    survives_the_death_of_node3(own_slurm, tmp_path, number)


@pytest.mark.soak
def test_under_mpich_too(own_slurm, tmp_path):
    number = start(own_slurm, tmp_path, python=mpich_python())
    survives_the_death_of_node3(own_slurm, tmp_path, number)


@pytest.mark.soak
def test_a_node_that_is_cut_off_is_noticed(own_slurm, tmp_path):
    number = start(own_slurm, tmp_path, "--heartbeat-timeout", "10")
    own_slurm.hosts.cut("node3")
    own_slurm.wait_for_script(number, tmp_path, 150)
    out = (tmp_path / f"{number}.out").read_text()
    assert "its host node3 no longer answers" in out, out
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (ended["exit_code"], ended["done"], ended["launch"]) == (0, 30, 1), out
    assert {*ended["lost_ranks"]} == {"4", "5"}


@pytest.mark.soak
def test_the_loss_of_the_batch_node_requeues_the_job(own_slurm, tmp_path):
    """Slurm would leave the job running without its script; a step on another node outlives it, and sees to that."""
    dag = write(tmp_path, "sleeping.py", NAPS.replace("sleep(0.5)", "sleep(1)"))
    env = {"PYTHON": sys.executable, "HANDOFF_GUARD_INTERVAL_S": "1"}
    number = own_slurm.submit("--nodes=2", "--ntasks=4", "--ntasks-per-node=2", SCRIPT, dag, cwd=tmp_path, env=env)
    out = tmp_path / f"{number}.out"
    own_slurm.wait_for(lambda: len(list(tmp_path.glob("began-*"))) >= 8, 60, out)
    assert own_slurm.field(number, "BatchHost") == "node1"
    own_slurm.kill_node("node1")
    own_slurm.wait_for(lambda: own_slurm.field(number, "Restarts") == "1", 60, out)
    own_slurm.wait(number, tmp_path, 90)
    ended = status(tmp_path / "handoff-runs" / str(number))
    assert (ended["exit_code"], ended["done"], ended["ranks"]) == (0, 30, 4), out.read_text()
    assert ended["restored"] >= 4, "what was done is not done again"
    assert ended["host"] == "node2"
