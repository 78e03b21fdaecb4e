"""The fault scripts, each in small: what they show at length must hold at every change."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

import handoff_mpi
from handoff_mpi.results.status_file import read_status
from tests.conftest import missing
from tests.faults import kill_job, kill_leases, kill_workers, layers, matrix, walltime
from tests.faults.launching import fresh, handoff_commands, launch, memory_cgroup

RUN_N = [sys.executable, "-m", "handoff_mpi", "run", "-n", "4"]


@pytest.mark.soak
def test_workers_killed_one_after_the_other(tmp_path):
    ended = kill_workers.run(tmp_path / "cell", ranks=5, functions=400, seconds=0.02, every=0.3)
    assert (ended.code, ended.is_right, ended.leftovers) == (0, True, [])
    assert len(ended.killed) == 2
    assert (ended.launches, ended.lost) == (1, ended.killed)
    results = handoff_mpi.load(tmp_path / "cell" / "run")
    told = [incident for record in results.records() for incident in record.incidents]
    assert {(each.launch, each.rank) for each in told if each.kind == "rank-lost"} <= set(ended.killed)
    assert any(each.kind == "rank-lost" for each in told), "each of them was in a call"
    assert sum(results.incidents().values()) == len(told)


@pytest.mark.soak
def test_workers_and_jobs_killed_while_an_array_runs(tmp_path):
    tally = kill_leases.carry_out(tmp_path / "cell", elements=20_000, seconds=0.001, every=0.3, jobs=2)
    assert tally.problems == []
    assert tally.jobs >= 1
    assert tally.workers >= 2


ALSO = [("SIGKILL", 99), ("exit(1)", 1), ("memory hog", 99)]


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("SIGKILL", 1),
        *[pytest.param(*case, marks=pytest.mark.long) for case in (("exit(1)", 99), ("memory hog", 1))],
        *[pytest.param(*case, marks=pytest.mark.soak) for case in ALSO],
    ],
)
def test_a_rank_that_dies_in_a_call_where_mpi_survives_it(tmp_path, kind, times):
    with memory_cgroup(200 << 20) as cgroup:
        if kind == "memory hog" and cgroup is None:
            pytest.skip("no control group for memory may be made here")
        cell = matrix.try_cell(kind, RUN_N, "rank", times, tmp_path / "cell", cgroup)
    assert (cell.problems, cell.starts) == ([], 1)


@pytest.mark.long
@pytest.mark.sample("Open MPI, no ft-once", "MPICH-always")
@pytest.mark.parametrize("times", [1, 99], ids=["once", "always"])
@pytest.mark.parametrize("way", ["Open MPI, no ft", "MPICH"])
def test_a_rank_that_dies_in_a_call_where_mpi_does_not_survive_it(tmp_path, way, times):
    ways = handoff_commands(4)
    if way not in ways:
        missing("an environment with MPICH (HANDOFF_TEST_MPICH names its mpiexec)")
    cell = matrix.try_cell("SIGSEGV", ways[way], "rank", times, tmp_path / "cell", None)
    assert cell.problems == []


@pytest.mark.soak
def test_jobs_killed_at_random_moments(tmp_path):
    tally = kill_job.Tally()
    kill_job.carry_out(tmp_path / "cell", 100, 0.02, 4, random.Random(3), tally)
    assert tally.problems == []
    assert tally.kills


@pytest.mark.soak
@pytest.mark.parametrize(
    ("naps", "seconds"), [(20, 0.5), (3, 5.0)], ids=["calls end in the grace period", "they do not"]
)
def test_usr1_ends_in_time(tmp_path, naps, seconds):
    ended = walltime.stop(RUN_N, tmp_path / "cell", naps, seconds, grace_period_s=2.0)
    assert (ended.code, ended.again, ended.is_right) == (75, 0, True)
    assert ended.seconds < 2.0 + walltime.MARGIN_S


@pytest.mark.long
def test_a_rank_that_is_unresponsive_beyond_the_heartbeat_timeout_is_left_alone(tmp_path):
    code, is_right, lost = walltime.hold(RUN_N, tmp_path / "cell", held=5.0, heartbeat_timeout=1.5)
    assert (code, is_right, lost) == (0, True, "{}")


@pytest.mark.long
def test_a_full_disk_stops_the_run_and_the_same_command_resumes(tmp_path):
    directory = fresh(tmp_path / "cell")
    run_dir = directory / "run"
    run_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k,mode=0700", "tmpfs", str(run_dir)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    command = [*RUN_N, "--checkpoint", "none", "--run-dir", str(run_dir), str(matrix.DAG.with_name("layers.py")), "--"]
    try:
        full = launch([*command, "2000", "0"], directory)
        assert full.wait(60) == 75, full.text()
        assert "No space left" in full.text()
        assert full.text().count("No space left") == 2, "once when it happens, once in the summary"
        done = read_status(run_dir).get("done", 0)
        subprocess.run(["mount", "-o", "remount,size=50m", str(run_dir)], check=True)
        again = launch([*command, "2000", "0"], directory)
        assert again.wait(60) == 0, again.text()
        assert handoff_mpi.load(run_dir)["sum"] == layers.expected(2000)
        assert done
    finally:
        subprocess.run(["umount", "-l", str(run_dir)], check=False)
