"""A run-dir that two want, and one that goes away while it is used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from tests.conftest import mpirun_command


def test_runs_one_after_the_other_leave_no_files_open(tmp_path):
    def count():
        return len(list(Path("/proc/self/fd").iterdir()))

    dag = DAG("large")
    dag.add_function(Function("large", (), bytes, [100_000]))
    counts = []
    for number in range(4):
        results = handoff.execute_local(dag, run_dir=tmp_path / str(number % 2))
        assert len(results["large"]) == len(handoff.load(tmp_path / str(number % 2))["large"]) == 100_000
        counts.append(count())
    assert counts[-1] <= counts[1], counts


# -- two starts ----------------------------------------------------------------------------------------

SLOW = """
import pathlib, time
from handoff_mpi import DAG, Function
def wait(number):
    (pathlib.Path("calls") / f"{number}-{time.monotonic_ns()}").touch()
    end = time.monotonic() + 150
    while not pathlib.Path("go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return number
dag = DAG("slow")
for number in range(2):
    dag.add_function(Function(number, (), wait, [number]))
"""


def start(tmp_path, *words):
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", *words, "slow.py"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.long
def test_of_simultaneous_starts_one_runs_and_the_others_only_refuse(tmp_path):
    mpirun_command(2)
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "calls").mkdir()
    started = [start(tmp_path, *words) for words in (("-n", "2"), (), ("-n", "2"))]
    try:
        wait_until(lambda: sum(each.poll() is not None for each in started) == len(started) - 1)
        refused = [each for each in started if each.poll() is not None]
        (running,) = [each for each in started if each not in refused]
        wait_until(lambda: any((tmp_path / "calls").iterdir()))
        assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "running"
        (tmp_path / "go").touch()
        said = {each: each.communicate(timeout=60)[1] for each in started}
    finally:
        for each in started:
            if each.poll() is None:
                each.kill()
                each.wait()
    for each in refused:
        assert each.returncode == 2, said[each]
        assert "is in use by process " in said[each]
        assert said[each].count("\n") == 1
    assert running.returncode == 0, said[running]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"
    assert len(list((tmp_path / "calls").iterdir())) == 2, "each function was called once"


def wait_until(is_so, limit_s=100.0):
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.05)


# -- one that goes away -----------------------------------------------------------------------------------

WHY = "was removed, renamed or replaced during its run"


def losing(run_dir, how):
    if how == "removed":
        shutil.rmtree(run_dir)
    elif how == "renamed":
        run_dir.rename(run_dir.with_name("elsewhere"))
    elif how == "emptied":
        for each in run_dir.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    elif how == "replaced":
        shutil.rmtree(run_dir)
        run_dir.mkdir()
    return 1


@pytest.mark.parametrize("moment", ["in the middle", "at the very end"])
@pytest.mark.parametrize("how", ["removed", "renamed", "emptied", "replaced"])
def test_a_run_whose_run_dir_goes_away_says_so_and_is_not_done(tmp_path, capfd, monkeypatch, how, moment):
    run_dir = tmp_path / "run"
    dag = DAG("losing")
    dag.add_function(Function("before", (), abs, [-3]))
    dag.add_function(Function("losing", ["before"], lambda _: losing(run_dir, how)))
    if moment == "in the middle":
        monkeypatch.setattr("handoff_mpi.runtime.scheduler_loop.CONFIRM_S", 0.0)
        monkeypatch.setattr("handoff_mpi.runtime.scheduler_loop.CHECK_INTERVAL_S", 0.0)
        dag.add_function(Function("after", ["losing"], lambda _: 2))
    results = handoff.execute_local(dag, run_dir=run_dir, check=False, keep="all")
    assert (results.status, results.exit_code) == ("stopped", 75)
    assert results["before"] == 3, "what is in memory can be had"
    said = capfd.readouterr().err
    assert said.count(f"the run-dir {run_dir} {WHY}") == 1
    assert "Traceback" not in said
    with pytest.raises(handoff.UsageError, match="holds no run"):
        handoff.load(run_dir)


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_run_whose_values_go_away_says_so_and_is_not_done(tmp_path, capfd, monkeypatch, how):
    monkeypatch.setattr("handoff_mpi.runtime.scheduler_loop.CONFIRM_S", 0.0)
    monkeypatch.setattr("handoff_mpi.runtime.scheduler_loop.CHECK_INTERVAL_S", 0.0)
    run_dir = tmp_path / "run"

    def keeping(loses):
        dag = DAG("losing")
        dag.add_function(Function("large", (), bytes, [50_000]))
        dag.add_function(Function("losing", ["large"], lambda _: loses and losing(run_dir / "values", how)))
        return dag

    results = handoff.execute_local(keeping(True), run_dir=run_dir, check=False, keep="all")
    assert (results.status, results.exit_code) == ("stopped", 75)
    assert capfd.readouterr().err.count(f"{run_dir / 'values'} {WHY}") == 1
    assert handoff.execute_local(keeping(False), run_dir=run_dir, keep="all").status == "done"
    assert handoff.load(run_dir)["large"] == bytes(50_000)


def test_values_that_go_away_before_the_first_look_are_missed(tmp_path, capfd):
    values = tmp_path / "run" / "values"
    dag = DAG("losing")
    dag.add_function(Function("large", (), bytes, [50_000]))
    dag.add_function(Function("losing", ["large"], lambda _: losing(values, "removed")))
    dag.add_function(Function("larger", ["losing"], lambda _: bytes(60_000)))
    results = handoff.execute_local(dag, run_dir=tmp_path / "run", check=False, keep="all")
    assert (results.status, results.exit_code) == ("stopped", 75)
    assert capfd.readouterr().err.count(f"{values} {WHY}") == 1


@pytest.mark.long
def test_a_lost_run_dir_ends_run_n_with_75_and_nothing_is_launched_again(handoff, tmp_path):
    (tmp_path / "losing.py").write_text("""
import shutil, time
from handoff_mpi import DAG, Function
def lose():
    shutil.rmtree("run")
    time.sleep(1.5)
dag = DAG("losing")
dag.add_function(Function("lose", (), lose))
dag.add_function(Function("after", ["lose"], print, ["after"]))
""")
    ended = handoff("run", "-n", "2", "--run-dir", "run", "losing.py")
    assert ended.rc == 75, ended.err
    assert WHY in ended.err
    assert "is no longer there; the same command starts over" in ended.err
    assert "launched again" not in ended.err
    assert not (tmp_path / "run").exists()
