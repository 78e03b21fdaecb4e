"""Which processes are ranks of a launcher, as their variables tell, and what an mpirun of one that is not may see."""

from __future__ import annotations

import os
import subprocess

import pytest

from handoff_mpi.launch import environment
from handoff_mpi.launch.hosts import find_hosts
from handoff_mpi.launch.unused_tasks import tell_of_unused_tasks
from handoff_mpi.resources import slurm

CAPTURED = {"capture_output": True, "text": True, "timeout": 20}

JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_PROCID": "0",
}
BATCH = {**JOB, "SLURM_NTASKS": "8", "SLURM_TASKS_PER_NODE": "4(x2)"}
SHELL = {
    **JOB,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_NNODES": "1",
    "SLURM_TASKS_PER_NODE": "1",
}
INTERACTIVE = {**BATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}
PMI2 = {"PMI_FD": "10", "PMI_JOBID": "7.0", "PMI_RANK": "0", "PMI_SIZE": "1"}
PMIX = {"PMIX_NAMESPACE": "slurm.pmix.7.0", "PMIX_RANK": "0", "PMIX_SERVER_URI": "x"}
STEP = {**SHELL, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "PMIX_RANK": "3", "PMIX_NAMESPACE": "prterun-1@1"}
MPICH = {"PMI_SIZE": "4", "PMI_RANK": "3", "PMI_FD": "5"}


@pytest.fixture
def within(monkeypatch):
    """Have the launchers' variables be those given, and no others."""

    def set_to(variables: dict[str, str]) -> None:
        for name in [*os.environ]:
            if name.startswith(("SLURM_", "PMI_", "PMIX_", "OMPI_", "PRTE_")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    "variables",
    [{}, BATCH, SHELL, INTERACTIVE, {**SHELL, **PMI2}, {**SHELL, **PMIX}],
    ids=["none", "batch script", "shell", "interactive", "shell with PMI2", "shell with PMIx"],
)
def test_what_is_no_rank(within, variables):
    within(variables)
    assert not environment.is_under_launcher()
    assert (environment.rank_by_launcher(), environment.size_by_launcher()) == (0, 1)


@pytest.mark.parametrize(
    "variables",
    [
        STEP,
        {**STEP, **PMI2, "PMI_SIZE": "4", "PMI_RANK": "3"},
        {**STEP, **PMIX, "PMIX_RANK": "3"},
        OPEN_MPI,
        {**INTERACTIVE, **OPEN_MPI},
        {**SHELL, **PMIX, **OPEN_MPI},
        MPICH,
        {**SHELL, **MPICH},
        {**SHELL, **PMI2, **MPICH},
    ],
)
def test_what_is_a_rank(within, variables):
    within(variables)
    assert environment.is_under_launcher()
    assert (environment.rank_by_launcher(), environment.size_by_launcher()) == (3, 4)


@pytest.mark.parametrize("variables", [{**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, {**MPICH, "PMI_SIZE": "1"}])
def test_a_world_of_one_is_a_launchers(within, variables):
    within({**SHELL, **variables})
    assert environment.is_under_launcher()


def test_an_mpirun_sees_the_whole_job_and_no_pmi_of_slurms():
    seen = environment.environment_to_launch({**SHELL, **PMI2, **PMIX, "HOME": "/root"})
    expected = {**SHELL, "SLURM_TASKS_PER_NODE": "4(x2)", "SLURM_NNODES": "2", "SLURM_OVERLAP": "1", "HOME": "/root"}
    del expected["SLURM_NTASKS"], expected["SLURM_NPROCS"]
    assert seen == expected


@pytest.mark.parametrize("variables", [BATCH, INTERACTIVE, {**BATCH, "PMI_DEBUG": "1"}])
def test_the_variables_of_a_job_stay_as_they_are(variables):
    assert environment.environment_to_launch(variables) == {**variables, "SLURM_OVERLAP": "1"}


def test_outside_slurm_nothing_is_changed():
    assert environment.environment_to_launch({"HOME": "/root", "PMIX_MCA_x": "1"}) == {
        "HOME": "/root",
        "PMIX_MCA_x": "1",
    }


@pytest.mark.parametrize(
    ("variables", "tasks"),
    [
        ({}, 0),
        (BATCH, 8),
        (INTERACTIVE, 8),
        (SHELL, 8),
        ({**SHELL, "SLURM_CPUS_PER_TASK": "4"}, 2),
        ({**SHELL, "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_CPUS_PER_NODE": "4"}, 0),
        ({**BATCH, "SLURM_TASKS_PER_NODE": "1"}, 0),
        ({**BATCH, **OPEN_MPI}, 0),
    ],
)
def test_tasks_that_one_process_leaves_unused(within, capsys, variables, tasks):
    within(variables)
    assert environment.unused_tasks() == tasks
    tell_of_unused_tasks.cache_clear()
    tell_of_unused_tasks("run -n {}")
    tell_of_unused_tasks("run -n {}")
    said = f"handoff: the run uses 1 process, though Slurm granted this job {tasks} tasks; run -n {tasks}\n"
    assert capsys.readouterr().err == (said if tasks else "")


HETEROGENEOUS = {
    **JOB,
    "SLURM_HET_SIZE": "2",
    "SLURM_JOB_NODELIST_HET_GROUP_0": "node1",
    "SLURM_TASKS_PER_NODE_HET_GROUP_0": "2",
    "SLURM_MEM_PER_CPU_HET_GROUP_0": "600",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_0": "2",
    "SLURM_JOB_NODELIST_HET_GROUP_1": "node[2-3]",
    "SLURM_TASKS_PER_NODE_HET_GROUP_1": "1(x2)",
    "SLURM_MEM_PER_NODE_HET_GROUP_1": "700",
    "SLURM_JOB_CPUS_PER_NODE_HET_GROUP_1": "4,3",
    "SLURM_MEM_PER_CPU": "600",
}


def test_a_heterogeneous_job_has_the_hosts_of_all_components(within):
    within(HETEROGENEOUS)
    hosts = find_hosts(4, None)
    assert hosts.places() == {"node1": 2, "node2": 1, "node3": 1}
    assert hosts.host_probe.command == [str(environment.COMPONENT_AGENT), "{host}"]
    assert find_hosts(2, "node1,node3").host_probe.command == hosts.host_probe.command
    assert os.access(environment.COMPONENT_AGENT, os.X_OK)


def test_each_component_has_what_slurm_granted_it():
    assert [slurm.granted_cpus(HETEROGENEOUS, host) for host in ("node1", "node2", "node3.site")] == [2, 4, 3]
    granted = [slurm.granted_nbytes(HETEROGENEOUS, host) for host in ("node1", "node2")]
    assert granted == [2 * 600 << 20, 700 << 20]


def test_the_agent_of_components_finds_the_one_that_has_a_node(within, tmp_path):
    for name, text in (("srun", 'echo "$@"'), ("scontrol", 'echo "$3" | sed "s/node.2-3./node2 node3/"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    within(HETEROGENEOUS)
    variables = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}

    def ask(*host):
        return subprocess.run([environment.COMPONENT_AGENT, *host, "true &&", "exit 3"], env=variables, **CAPTURED)

    assert "--het-group=0 " in ask("node1").stdout
    found = ask("-x", "node3")
    assert "--het-group=1 " in found.stdout and found.stdout.endswith("-w node3 sh -c true && exit 3\n")
    assert (ask("node4").returncode, ask("node4").stdout) == (255, "")
