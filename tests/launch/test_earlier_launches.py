"""check tells what a launch with a run-dir would take over, and what it would run again, and why."""

from __future__ import annotations

import json

import pytest

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
    return [line for line in out.splitlines() if "fit on ranks" not in line][1:]


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
    ]


def test_functions_that_are_named_would_run_again(check):
    told = json.loads(check("--json", "--run-dir", "run", "--rerun", "load-3", result="1 / 0"))["resume"]
    assert told == {
        "run_dir": "run",
        "launches": 1,
        "done": 8,
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
