"""The report that is made at the end of a run."""

from __future__ import annotations

import sys
import time

import pytest

from handoff_mpi import DAG, Function, UsageError, execute_local
from handoff_mpi.launch import end_report
from handoff_mpi.launch.end_report import is_wanted, make_report

DAG_FILE = """
from handoff_mpi import DAG, Function
dag = DAG("small")
dag.add_function(Function(id="a", code=len, extra_args=["abc"]))
"""


def test_by_itself_it_is_made_only_where_it_takes_little_time_beside_the_run(monkeypatch):
    assert is_wanted("auto", "done", 100, 60.0)
    assert is_wanted("auto", "failed", 100, 60.0)
    assert not is_wanted("auto", "done", 100, 5.0)
    assert not is_wanted("auto", "done", 1_000_000, 60.0)
    assert not is_wanted("auto", "stopped", 100, 60.0), "who stopped it may wait for its end"
    assert is_wanted("always", "stopped", 10**6, 0.1)
    assert not is_wanted("none", "done", 100, 1e6)
    monkeypatch.setattr(end_report.importlib.util, "find_spec", lambda name: None)
    assert not is_wanted("auto", "done", 100, 60.0)


@pytest.mark.long
@pytest.mark.sample("ranks")
@pytest.mark.parametrize("ranks", [[], ["-n", "2"]], ids=["here", "ranks"])
def test_it_is_made_at_the_end_of_a_run_behind_the_verdict(handoff, tmp_path, ranks):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    ended = handoff("run", *ranks, "--report", "always", "--run-dir", "run", "dag.py")
    assert ended.rc == 0
    last = ended.err.strip().splitlines()[-1]
    assert last == f"handoff: report: {tmp_path}/run/report.html"
    assert (tmp_path / "run" / "report.html").stat().st_size > 4e6


@pytest.mark.long
@pytest.mark.sample("here")
@pytest.mark.parametrize("ranks", [[], ["-n", "2"]], ids=["here", "ranks"])
def test_the_command_that_makes_it_is_told_where_it_is_not_made(handoff, tmp_path, ranks):
    (tmp_path / "dag.py").write_text(DAG_FILE)
    told = "  report: handoff-mpi report "
    ended = handoff("run", *ranks, "--run-dir", "run of mine", "dag.py")
    assert ended.rc == 0
    assert ended.err.count(told) == 1
    assert f"{told}'run of mine'\n" in ended.err
    for words in (["--quiet"], ["--report", "none"], ["--report", "always"]):
        ended = handoff("run", *ranks, "--run-dir", "run of mine", *words, "dag.py")
        assert (ended.rc, told in ended.err) == (0, False)


def test_it_is_made_for_a_script_that_asks_for_it(tmp_path, capfd):
    dag = DAG("scripted")
    dag.add_function(Function(id="a", code=len, extra_args=["abc"]))
    execute_local(dag, run_dir=tmp_path / "run", report="always")
    assert f"report: {tmp_path}/run/report.html" in capfd.readouterr().err
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(UsageError, match="run_dir=False is a run without one"):
        execute_local(dag, run_dir=False, report="always")
    with pytest.raises(UsageError, match="report must be one of auto, always, none"):
        execute_local(dag, report=True)


def test_one_that_cannot_be_made_is_said_and_nothing_else(tmp_path, capfd):
    make_report(tmp_path, 1)
    said = capfd.readouterr().err
    assert said.startswith(f"handoff: the report was not made: {tmp_path} is not a run-dir")
    assert said.endswith(f"; `handoff-mpi report {tmp_path}` makes it\n")


def test_nobody_waits_for_it_longer_than_its_limit_or_once_the_run_is_to_stop(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(end_report, "python_program", lambda *_: [sys.executable, "-c", "import time; time.sleep(60)"])
    begin = time.monotonic()
    make_report(tmp_path, 1, lambda: True)
    monkeypatch.setattr(end_report, "_MIN_LIMIT_S", 0.0)
    monkeypatch.setattr(end_report, "_PATIENCE", 0.1)
    make_report(tmp_path, 1)
    assert time.monotonic() - begin < 30
    said = capfd.readouterr().err.splitlines()
    assert "the run was asked to stop" in said[0]
    assert "it took more than 0 s" in said[1]
