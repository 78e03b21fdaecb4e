"""check tells what a launch with a run-dir would take over, and what it would run again, and why."""

from __future__ import annotations

import json

import pytest

from handoff_mpi import load
from handoff_mpi.cli import main

DAG = """
from handoff_mpi import DAG, Function
def load(n): return [n] * 3
def fit(numbers): return sum(numbers){more}
def fail(total): return {result}
dag = DAG("d")
for n in range(5):
    dag.add_function(Function(f"load-{{n}}", (), load, [n]))
    dag.add_function(Function(f"fit-{{n}}", [f"load-{{n}}"], fit))
dag.add_function(Function("all", [f"fit-{{n}}" for n in range(5)], lambda *parts: sum(parts)))
dag.add_function(Function("last", ["all"], fail, max_retries=0))
"""


@pytest.fixture
def check(in_process, tmp_path, capsys):
    """Write the DAG, run it once, and return what check says of it as it is changed then."""

    def checked(*words, more="", result="total"):
        (tmp_path / "dag.py").write_text(DAG.format(more=more, result=result))
        code = main(["check", *words, "dag.py"])
        out = capsys.readouterr().out
        assert code == 0
        return out

    (tmp_path / "dag.py").write_text(DAG.format(more="", result="1 / 0"))
    assert main(["run", "--run-dir", "run", "dag.py"]) == 1
    capsys.readouterr()
    return checked


def lines(out):
    return [line for line in out.splitlines() if " on rank" not in line][1:]


def test_what_is_done_would_not_run_again(check):
    first = "with --run-dir run 1 of 12 functions would run; 11 are done"
    assert lines(check("--run-dir", "run", result="1 / 0")) == [first]
    assert lines(check("--run-dir", "run")) == [first], "one that failed has not been done"


def test_what_has_changed_would_run_again_with_all_behind_it(check):
    assert lines(check("--run-dir", "run", more=" + 1", result="1 / 0")) == [
        "with --run-dir run 7 of 12 functions would run; 5 are done",
        "an earlier launch has done these, and they would run again:",
        "  'fit-0', 'fit-1', 'fit-2' and 2 more: the code of 'fit' changed",
        "  'all': an input has changed",
        "to keep the old values instead, add --accept-changes NAME",
    ]


def test_functions_that_are_named_would_run_again(check):
    told = json.loads(check("--json", "--run-dir", "run", "--rerun", "load-3", result="1 / 0"))["resume"]
    assert told == {
        "run_dir": "run",
        "launches": 1,
        "done": 8,
        "calls": 12,
        "calls_done": 8,
        "again": [
            {"reason": "--rerun names a function that it depends on", "count": 2, "ids": ["'fit-3'", "'all'"]},
            {"reason": "--rerun names it", "count": 1, "ids": ["'load-3'"]},
        ],
    }


@pytest.mark.parametrize("words", [(), ("--run-dir", "other"), ("--run-dir", "run", "--fresh"), ("--run-dir", ".")])
def test_without_an_earlier_launch_there_is_nothing_to_say(check, words, tmp_path):
    assert lines(check(*words)) == []
    assert json.loads(check("--json", *words))["resume"] is None
    assert not (tmp_path / "other").exists(), "check makes no run-dir"


def test_check_leaves_the_run_as_it_is(check, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    check("--run-dir", "run", more=" + 1")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}


# -- arrays ----------------------------------------------------------------------------------------------

ARRAYS = """
import os
from handoff_mpi import DAG, task
@task
def simulate(x):
    if x == {fails}: raise ValueError(x)
    return x * {factor}
@task
def report(values): return sum(values)
def build(args):
    with DAG("d") as dag:
        report(simulate.map({elements}, id="runs"))
    return dag
"""


@pytest.fixture
def arrays(in_process, tmp_path, capsys):
    """Run ``handoff-mpi VERB`` on an array that is changed in some way; return the code and what it says."""

    def run(verb, *words, factor=2, fails=-1, elements="range(100)"):
        (tmp_path / "dag.py").write_text(ARRAYS.format(factor=factor, fails=fails, elements=elements))
        code = main([verb, "--run-dir", "run", *words, "dag.py"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def value(tmp_path):
    return load(tmp_path / "run")["report"]


def test_elements_that_are_done_are_counted_as_calls(arrays):
    code, _ = arrays("run", "--max-retries", "0", fails=40)
    assert code == 1
    code, said = arrays("check", fails=40)
    assert "with --run-dir run 2 of 101 calls would run; 99 are done\n" in said
    assert "would run again" not in said, "the element that failed, and the report, have not been done"
    code, said = arrays("run", "--max-retries", "0", fails=40)
    assert "launch 2 of" in said and ": 99 of 101 calls are done\n" in said


def test_changed_code_of_an_array_is_told_with_its_elements(arrays):
    arrays("run")
    _, said = arrays("check", factor=3)
    assert "with --run-dir run 101 of 101 calls would run; 0 are done\n" in said
    assert "  100 elements of 'runs': the code of 'simulate' changed\n  'report': an input has changed\n" in said
    _, said = arrays("run", factor=3)
    assert "the code of 'simulate' changed: 100 elements of 'runs' run again\n" in said
    assert "1 function that depends on them runs again\n" in said
    assert "to keep the old values instead, stop the run and add --accept-changes NAME\n" in said
    assert "the arguments of" not in said


@pytest.mark.parametrize("name", ["simulate", "runs"])
def test_a_change_of_an_array_is_accepted_for_good(arrays, tmp_path, name):
    arrays("run")
    _, said = arrays("run", "--accept-changes", name, factor=3)
    assert "--accept-changes: the values of 100 elements of 'runs' are kept as they were before the change\n" in said
    assert "101 of 101 calls are done" in said and value(tmp_path) == sum(range(100)) * 2
    _, said = arrays("run", "--accept-changes", name, factor=3)
    assert "101 of 101 calls are done" in said
    assert "--accept-changes: the values of 100 elements of 'runs' are kept, as was accepted before\n" in said


PAIRS = """
from pathlib import Path
from handoff_mpi import DAG, Argument, task
@task
def read(index): return int(Path("file").read_text()) if index else 1
@task
def total(pairs): return sum(value for _, value in pairs)
@task
def scaled(factor): return factor
def build(args):
    with DAG("d") as dag:
        total(Argument(read.map(range(2), id="xs"), missing="skip"))
        scaled({factor})
    return dag
"""


def test_neither_more_elements_nor_other_arguments_are_taken_for_damage_or_for_what_may_be_kept(
    in_process, tmp_path, capsys
):
    def said(*words, factor=1):
        (tmp_path / "dag.py").write_text(PAIRS.format(factor=factor))
        main([*words, "--run-dir", "run", "dag.py"])
        found = capsys.readouterr()
        return found.out + found.err

    said("run", "--max-retries", "0")
    (tmp_path / "file").write_text("10")
    assert "  'total': more of the elements that it was made of have values now\n" in said("check")
    told = said("run", factor=2)
    assert "more of the elements that it was made of have values now: 1 function runs again\n" in told
    assert "the arguments of 'scaled' changed: 1 function runs again\n" in told
    assert "--accept-changes" not in told + said("check", factor=3)
    assert load(tmp_path / "run")["total"] == 11


def test_an_acceptance_that_has_no_effect_is_told(arrays):
    arrays("run")
    _, said = arrays("run", "--accept-changes", "simulate")
    why = "'runs' has not changed since an earlier launch made its values"
    assert f"--accept-changes has nothing to accept: {why}\n" in said
    arrays("run", "--fresh", "--max-retries", "0", fails=40)
    _, said = arrays("run", "--accept-changes", "report")
    assert "--accept-changes has nothing to accept: no earlier launch has a value of 'report'\n" in said


def test_check_tells_which_values_an_acceptance_keeps(arrays):
    arrays("run")
    kept = "--accept-changes: the values of 100 elements of 'runs' are kept"
    _, said = arrays("check", "--accept-changes", "runs", factor=3)
    assert f"101 are done\n{kept} as they were before the change\n" in said
    arrays("run", "--accept-changes", "runs", factor=3)
    assert f"{kept}, as was accepted before\n" in arrays("check", "--accept-changes", "runs", factor=3)[1]


def test_a_launch_that_takes_nothing_over_says_so(arrays):
    _, said = arrays("run", "--max-retries", "0", fails=0, elements="[0]")
    assert "are done" not in said, "it is the first one"
    _, said = arrays("run", "--max-retries", "0", fails=0, elements="[0]")
    assert "launch 2 of" in said and ": 0 of 2 calls are done\n" in said


def test_an_array_that_is_half_done_keeps_that_half_when_its_change_is_accepted(arrays, tmp_path):
    arrays("run", "--max-retries", "0", fails=40)
    _, said = arrays("run", "--accept-changes", "runs", factor=3)
    assert "--accept-changes: the values of 99 elements of 'runs' are kept" in said
    assert value(tmp_path) == (sum(range(100)) - 40) * 2 + 40 * 3


def test_elements_with_other_arguments_are_told(arrays):
    arrays("run", elements="[*range(100)]")
    elements = "[*range(97), 1, 2, 3]"
    _, said = arrays("check", elements=elements)
    assert "with --run-dir run 4 of 101 calls would run; 97 are done\n" in said
    assert "  3 elements of 'runs': the arguments of these elements changed\n  'report': an input has changed\n" in said
    _, said = arrays("run", elements=elements)
    assert "the arguments of these elements changed: 3 elements of 'runs' run again\n" in said
    assert "1 function that depends on them runs again\n" in said and "--accept-changes" not in said


def test_more_elements_are_no_change_of_those_that_are_done(arrays):
    arrays("run")
    _, said = arrays("run", elements="range(103)")
    assert "100 of 104 calls are done\n" in said and "1 function runs again as its inputs have changed\n" in said
    assert "elements of 'runs' run again" not in said and "--accept-changes" not in said


def test_each_element_that_fails_counts_as_a_failed_attempt(arrays):
    """So it does in the launches after that, whose journals tell of the last attempts alone."""
    several = "[40, 1, 40, 40, 2, 40]"
    _, said = arrays("run", "--max-retries", "0", fails=40, elements=several)
    assert "  failed attempts: 4 (4 ValueError)\n" in said and "  why: handoff-mpi explain run\n" in said
    _, said = arrays("run", "--max-retries", "0", fails=40, elements=several)
    assert "  failed attempts: 4 (4 ValueError)\n" in said
    assert "  failed attempts in earlier launches: 4 (4 ValueError)\n" in said


RETRIED = """
from handoff_mpi import DAG, current_task, task
@task(max_retries=2)
def simulate(x):
    if x == 7 or x in (3, 4) and current_task().attempt == 1: raise ValueError(x)
with DAG("d") as dag:
    simulate.map(range(10), id="runs")
"""


def test_attempts_of_elements_that_succeeded_later_count_in_later_launches(in_process, tmp_path, capsys):
    (tmp_path / "dag.py").write_text(RETRIED)
    words = ["run", "--run-dir", "run", "--retry-delay", "0", "dag.py"]
    assert main(words) == 1
    assert "  failed attempts: 5 (5 ValueError)\n" in capsys.readouterr().err
    assert load(tmp_path / "run").incidents() == {"ValueError": 5}
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "  failed attempts: 3 (3 ValueError)\n" in said
    assert "  failed attempts in earlier launches: 5 (5 ValueError)\n" in said


STOPPED = """
import os, signal, time
from handoff_mpi import DAG, task
@task
def simulate(x):
    if x == 5: os.kill(os.getppid(), signal.SIGUSR1)
    if x > 5: time.sleep(0.02)
with DAG("d") as dag:
    simulate.map(range(1000), id="runs")
"""


@pytest.mark.long
def test_a_run_that_is_stopped_tells_how_many_elements_are_left(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(STOPPED)
    ended = handoff("run", "--run-dir", "run", "--isolation", "process", "dag.py")
    assert ended.rc == 75
    left = len(load(tmp_path / "run")["runs"]) - load(tmp_path / "run").counts()["done"]
    assert 0 < left < 1000
    assert f"  stopped: by SIGUSR1 while 'runs' ran ({left} elements of 'runs' are left)\n" in ended.err


def test_a_run_of_another_dag_is_not_taken_for_an_earlier_launch(arrays, tmp_path, capsys):
    arrays("run")
    other = "from handoff_mpi import DAG, Function\ndag = DAG('other')\ndag.add_function(Function('f', (), int))\n"
    (tmp_path / "other.py").write_text(other)
    for verb in ("check", "run"):
        assert main([verb, "--run-dir", "run", "other.py"]) == 2
        said = capsys.readouterr().err
        assert "the run-dir holds the run of another DAG, 'd', and no function of DAG 'other'; name another" in said
    assert value(tmp_path) == sum(range(100)) * 2
    assert main(["run", "--run-dir", "run", "--fresh", "other.py"]) == 0
