"""The plugin for pytest: what it restores between tests, and what it does for ranks under pytest-mpi."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

PLUGIN = ("-p", "handoff_mpi.testing.plugin", "-p", "no:cacheprovider")

LEAVES = """
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

def attached():
    return [each.handler_id for each in handoff.telemetry.list_handlers()]

def once():
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1]))
    return dag

def test_sets():
    handoff.start(max_retries=7)
    handoff.register_local_node({"tape": 3})
    handoff.telemetry.attach("mine", ("handoff", "execution", "dag", "start"), print)
    assert handoff.discover_nodes()[0]["tape"] == 3

def test_finds_nothing_of_it(handoff_run_dir):
    from handoff_mpi.runtime.options import options_of
    assert options_of({}).max_retries == 3
    assert "tape" not in handoff.discover_nodes()[0]
    assert attached() == ["of the session"]
    assert not handoff_run_dir.exists()
    results = handoff.execute(once(), run_dir=handoff_run_dir)
    assert results["a"] == 1 and handoff_run_dir.is_dir()

def test_the_run_dir_is_another(handoff_run_dir):
    assert not handoff_run_dir.exists()

def test_ranks(handoff_ranks, handoff_run_dir):
    handoff_ranks(3, gpu=[0, 0, 1])
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1], cost={"gpu": 1}))
    assert handoff.execute(dag, run_dir=handoff_run_dir).allocations["a"] == 2

def test_the_ranks_are_gone():
    assert list(handoff.discover_nodes()) == [0]
"""

CONFTEST = """
import handoff_mpi as handoff
from handoff_mpi.testing import contracts
pytest_plugins = ["handoff_mpi.testing.plugin"]
handoff.telemetry.attach("of the session", ("handoff", "execution", "dag", "stop"), lambda *_: None)
"""

SLIPS = """
import pytest
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.comm.mpi import world

def run(number):
    dag = DAG()
    dag.add_function(Function("value", (), abs, [number]))
    return handoff.execute(dag, results_on="all")["value"]

@pytest.mark.mpi
@pytest.mark.parametrize("number", [1, 2, 3])
def test_slips(number):
    if number == 2:
        assert world().rank != 1, "of its own"
    assert run(number) == number

@pytest.mark.mpi
def test_is_well():
    assert run(10) == 10

@pytest.mark.mpi
def test_rank_0_slips():
    assert world().rank != 0, "of its own"
    assert run(11) == 11

@pytest.mark.mpi
def test_within_one_test():
    try:
        assert world().rank != 2
        run(12)
    except AssertionError:
        pass
    assert run(13) == 13

@pytest.mark.mpi
def test_is_well_again():
    assert run(14) == 14

@pytest.mark.mpi
def test_the_last_one_slips():
    assert world().rank != 2, "of its own"
    assert run(15) == 15
"""


def run_pytest(directory, *words):
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)


@pytest.mark.long
@pytest.mark.parametrize("how", ["-p", "pytest_plugins"])
def test_tests_do_not_see_what_others_have_set(tmp_path, how):
    (tmp_path / "test_leaves.py").write_text(LEAVES)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    ended = run_pytest(tmp_path, "-W", "error", *(PLUGIN if how == "-p" else PLUGIN[2:]))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "5 passed" in ended.stdout


@pytest.mark.long
def test_it_is_not_loaded_by_itself(tmp_path):
    (tmp_path / "test_empty.py").write_text("def test_nothing(handoff_run_dir): pass\n")
    ended = run_pytest(tmp_path, "--trace-config", *PLUGIN[2:])
    assert "handoff_mpi.testing" not in ended.stdout
    assert "fixture 'handoff_run_dir' not found" in ended.stdout


def outcomes(text, rank):
    found = re.findall(r"^\d*\s*RANK (\d) (\w+)(?:\[(\d)\])? (\w+)", text, re.MULTILINE)
    return {name + number: outcome for of, name, number, outcome in found if int(of) == rank}


REPORT = """
pytest_plugins = ["handoff_mpi.testing.plugin"]
def pytest_runtest_logreport(report):
    from handoff_mpi.comm.mpi import world
    if report.when == "call":
        name = report.nodeid.partition("::")[2]
        text = f"\\nRANK {world().rank} {name} {report.outcome}\\n"
        if report.failed:
            text += f"ERROR {world().rank} {name} {report.longrepr.reprcrash.message.splitlines()[0]}\\n"
        import os
        os.write(2, text.encode())
"""


@pytest.mark.long
def test_a_rank_that_fails_before_execute_serves_no_other_test(mpirun, tmp_path):
    (tmp_path / "conftest.py").write_text(REPORT)
    (tmp_path / "test_slips.py").write_text(SLIPS)
    ended = mpirun(3, "-m", "pytest", "--with-mpi", "-q", "-s", "-p", "no:cacheprovider", ".", timeout_s=60)
    fails = {"test_slips2", "test_rank_0_slips", "test_within_one_test", "test_the_last_one_slips"}
    for rank in range(3):
        found = outcomes(ended.err, rank)
        assert len(found) == 8, ended.err + ended.out
        assert {name for name, outcome in found.items() if outcome == "failed"} == fails, ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("ERROR") and "StartupError" in line]
    assert len(errors) == 2 + 2 + 3 + 2
    between = [line for line in errors if "test_slips[2]" in line.partition("StartupError")[0]]
    assert len(between) == 2
    assert all(
        "in test_slips.py::test_slips[2]" in line and "in test_slips.py::test_slips[3]" in line for line in between
    )
    assert all("rank 2 came to the end of its script" in line for line in errors if " test_the_last_one_slips " in line)
    assert ended.rc != 0
