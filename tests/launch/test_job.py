"""A rank that cannot continue, and runs that begin before another one of their process has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Fixed, Function, execute_local
from handoff_mpi.launch.joining import local_job
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.pool import Pool
from handoff_mpi.process_context import this_process
from handoff_mpi.worker.process_state import is_in_call

SCRIPT = """
import os, sys, threading, time
from handoff_mpi.comm import mpi
from handoff_mpi.launch import rank_end

rank_end.JOB_END_TIMEOUT_S = 1
mpi.has_fault_tolerance = lambda: False

def fill():
    os.set_blocking(2, False)
    for size in (4096, 1):
        try:
            while True: os.write(2, bytes(size))
        except BlockingIOError:
            pass
    os.set_blocking(2, True)

def end():
    if "nobody reads" in sys.argv:
        fill()
        rank_end.end_rank(ConnectionError("rank 0 was lost"))
    mpi.abort = lambda code: time.sleep(600)
    rank_end.end_rank(RuntimeError("a bug"))

if "thread" in sys.argv:
    threading.Thread(target=end, daemon=True).start()
    time.sleep(600)
end()
"""


@pytest.mark.long
@pytest.mark.sample("MPI hangs-main", "nobody reads-thread")
@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("what", ["MPI hangs", "nobody reads"])
def test_a_rank_that_cannot_continue_ends_although_something_hangs(what, where):
    words = [sys.executable, "-c", SCRIPT, what, where]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(60) == -signal.SIGALRM
        finally:
            process.kill()


TWO_RUNS = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

dag = DAG("fails")
dag.add_function(Function("x", (), lambda: 1 / 0, max_retries=0))
for number in range(2):
    handoff.execute(dag, run_dir=f"run{number}")
    print("continued", flush=True)
"""


@pytest.mark.long
@pytest.mark.parametrize("ft", [False, True])
def test_what_nobody_catches_on_rank_0_ends_all_ranks(mpirun, tmp_path, ft):
    """The others have gone on to the next run by then, for which rank 0 will not come."""
    (tmp_path / "two.py").write_text(TWO_RUNS)
    ended = mpirun(3, "two.py", ft=ft, timeout_s=45)  # they would wait for a minute
    assert ended.rc != 0
    assert "DAGFailed: 'x': ZeroDivisionError" in ended.err
    assert "has not joined" not in ended.err


def test_a_cluster_without_a_launcher_is_this_process(tmp_path):
    pids = []
    with handoff.Cluster() as cluster:
        assert cluster
        for number in range(3):
            dag = DAG()
            dag.add_function(Function("pid", (), os.getpid))
            pids.append(cluster.execute(dag, run_dir=tmp_path / str(number))["pid"])
    assert pids == [os.getpid()] * 3


MANY_RUNS = """
import os
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

dag = DAG("again")
dag.add_function(Function("x", (), abs, [-1]))
opened = []
for number in range(8):
    handoff.execute(dag, run_dir=f"run{number}")
    opened.append(len(os.listdir("/proc/self/fd")))
print("KEPT", opened[-1] - opened[2], flush=True)
"""


@pytest.mark.long
def test_one_run_after_the_other_leaves_no_files_open(mpirun, tmp_path):
    (tmp_path / "many.py").write_text(MANY_RUNS)
    ended = mpirun(2, "many.py", ft=True)
    assert ended.rc == 0, ended.err
    assert ended.out.count("KEPT 0") == 2, ended.out


def numbered(number):
    dag = DAG(f"dag {number}")
    first = dag.add_function(Function("first", [], abs, [-number]))
    dag.map(pow, range(30), Fixed(2), id="squares")
    dag.add_function(Function("second", [first], str))
    return dag


def executed(number):
    """Return how many of some runs, one after the other, had the values that they should have."""
    found = [execute_local(numbered(number), run_dir=False) for _ in range(4)]
    return sum(each["second"] == str(number) and each["squares"][5] == 25 for each in found)


def test_runs_of_one_process_that_begin_beside_one_another_keep_their_messages_apart():
    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(executed, range(1, 4))] == [4, 4, 4]
    assert this_process.of(OwnJobs).current is None
    assert not is_in_call()


def in_directory(name):
    """Return the directory and a variable that this call finds, and leave others."""
    found = Path.cwd().name, os.environ.get("LEFT_BY_A_CALL")
    time.sleep(0.01)
    os.chdir("..")
    os.environ["LEFT_BY_A_CALL"] = name
    return found


def in_directories(place):
    dag = DAG(place.name)
    dag.map(in_directory, [place.name] * 20, id="found", cwd=place)
    return set(execute_local(dag, run_dir=False)["found"])


def test_calls_of_runs_and_maps_in_threads_leave_the_directory_and_the_environment_alone(tmp_path):
    places = [tmp_path / name for name in ("a", "b")]
    for each in places:
        each.mkdir()
    before = Path.cwd()

    def mapped(pool):
        return {*pool.map(lambda _: (time.sleep(0.01), Path.cwd())[1], range(20))}

    with Pool(local_job()) as pool, ThreadPoolExecutor(3) as threads:
        runs = threads.map(in_directories, places)
        assert threads.submit(mapped, pool).result() == {before}
        assert [*runs] == [{(each.name, None)} for each in places]
    assert Path.cwd() == before and "LEFT_BY_A_CALL" not in os.environ


def test_runs_within_a_run_of_one_process_keep_their_messages_apart():
    dag = DAG("outer")
    dag.map(executed, range(3), id="inner")
    dag.map(abs, (executed(number) for number in range(2)), window=2, id="elements")
    results = execute_local(dag, run_dir=False)
    assert results["inner"][:] == [4, 4, 4]
    assert results["elements"][:] == [4, 4]


def test_a_run_within_another_has_a_setup_of_its_own():
    def inner(number):
        dag = DAG("inner")
        dag.add_function(Function("variable", [], os.environ.get, ["OF_SETUP"], cost={"of inner": 1}))
        return execute_local(dag, setup=lambda rank: {"of inner": 1}, run_dir=False).counts()["done"]

    dag = DAG("outer")
    dag.map(inner, range(2), id="inner", cost={"of outer": 1})
    job = local_job()
    with job.running():
        assert job.for_another_run() is not job
    assert job.for_another_run() is job
    results = execute_local(dag, setup=lambda rank: {"of outer": 1}, run_dir=False)
    assert results["inner"][:] == [1, 1]


def test_a_run_within_another_is_stopped_with_it():
    job = local_job()
    with job.running(), job.running() as inner:
        assert inner is not job
        job.stop_reason = "interrupted"
        assert inner.stop_reason == "interrupted"
    with job.running() as again:
        assert again is job


class OpenRun:
    """A run of maps that counts how often it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_map_that_computes_beside_a_run_is_not_ended_by_the_next_one_within_it():
    job = local_job()
    with ExitStack() as first:
        first.enter_context(job.running())
        with job.mapping() as beside:
            assert beside is not job
            beside.open_run = mine = OpenRun()
            first.close()
            with job.running(), job.mapping() as again:
                assert again not in (job, beside), "the job beside computes a map"
            job.end_maps()
            with job.mapping() as free:
                assert free is job
            beside.end_maps()
            assert not mine.closed
    job.end_maps()
    assert mine.closed == 1


def test_jobs_may_be_left_in_another_order_than_they_were_entered():
    jobs, one, other = OwnJobs(), local_job(), local_job()
    jobs.enter(one)
    jobs.enter(other)
    jobs.leave(one)
    assert jobs.current is other
    jobs.leave(other)
    assert jobs.current is None
