"""What goes wrong, through the command line: one clear line, the right exit code, no hang."""

from __future__ import annotations

import json

import pytest

PREAMBLE = "import os, sys, time, ctypes\nimport handoff_mpi\nfrom handoff_mpi import DAG, Function\ndag = DAG('d')\n"

BAD_INPUT = {
    "no such name": ("x = 1\n", 2, "holds no DAG"),
    "syntax error": ("def f(:\n", 2, "dag.py, line 1"),
    "raises at import": ("1 / 0\n", 2, "line 1: ZeroDivisionError"),
    "exits at import": ("import sys; sys.exit(0)\n", 2, "SystemExit"),
    "build fails": ("def build(args):\n    return args[5]\n", 2, "line 2: IndexError"),
    "build returns no DAG": ("def build(args):\n    return 5\n", 2, "returned 5, not a DAG"),
    "cycle": (
        PREAMBLE + "for a, b in 'ab', 'bc', 'ca': dag.add_function(Function(a, [b], print))\n",
        2,
        "there is a cycle",
    ),
    "missing ids": (PREAMBLE + "dag.add_function(Function('a', ['x', 'y'], print))\n", 2, "there is no function 'y'"),
    "fits nowhere": (PREAMBLE + "dag.add_function(Function('a', (), print, cost={'cpu': 9999}))\n", 3, "cpu=9999"),
    "unknown resource": (PREAMBLE + "dag.add_function(Function('a', (), print, cost={'tape': 1}))\n", 3, "tape=1"),
    "unknown rank": (PREAMBLE + "dag.add_function(Function('a', (), print, node=77))\n", 2, "rank 77"),
    "unpicklable constant": (
        PREAMBLE + "dag.add_function(Function('a', (), print, [sys._getframe()]))\n",
        2,
        "cannot be pickled",
    ),
    "setup fails": (PREAMBLE + "def setup(rank): 1 / 0\ndag.add_function(Function('a', (), print))\n", 2, "setup(0)"),
    "setup registers nonsense": (
        PREAMBLE + "def setup(rank): return {'cpu': -1}\ndag.add_function(Function('a', (), print))\n",
        2,
        "negative",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line(handoff, tmp_path, case):
    text, code, says = BAD_INPUT[case]
    (tmp_path / "dag.py").write_text(text)
    ended = handoff("run", "dag.py")
    assert ended.rc == code, ended.err
    assert says in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("case", ["syntax error", "cycle", "fits nowhere", "setup fails"])
def test_bad_input_ends_all_ranks(mpirun, tmp_path, case):
    text, code, says = BAD_INPUT[case]
    (tmp_path / "dag.py").write_text(text)
    ended = mpirun(3, "-m", "handoff_mpi", "run", "dag.py")
    assert ended.rc == code, ended.err
    assert ended.err.count(says) == 1


FLAGS = {
    "missing file": (["run", "nothing.py"], "does not exist"),
    "directory": (["run", "."], "is a directory"),
    "unknown strategy": (["run", "ok.py", "--allocation-strategy", "best"], "no allocation strategy 'best'"),
    "nonsense number": (["run", "ok.py", "--max-retries", "many"], "invalid int value"),
    "negative number": (["run", "ok.py", "--max-retries", "-1"], "max_retries must be"),
    "unknown flag": (["run", "ok.py", "--fast"], "unrecognized arguments"),
    "no ranks": (["run", "-n", "0", "ok.py"], "-n must be"),
    "arguments for a DAG": (["run", "ok.py", "--", "7"], "is a DAG"),
    "unknown id kept": (["run", "ok.py", "--keep", "zebra"], "zebra"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_nonsense_flags(handoff, tmp_path, case):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    words, says = FLAGS[case]
    ended = handoff(*words)
    assert ended.rc == 2, ended.err
    assert says in ended.err


def test_nonsense_in_the_environment(handoff, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    ended = handoff("run", "ok.py", env={"HANDOFF_MAX_RETRIES": "some"})
    assert ended.rc == 2
    assert "HANDOFF_MAX_RETRIES='some'" in ended.err


def test_n_inside_a_launcher_is_refused(mpirun, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    ended = mpirun(2, "-m", "handoff_mpi", "run", "-n", "2", "ok.py")
    assert ended.rc == 2
    assert "leave -n out" in ended.err


FAILING = PREAMBLE + """
def raises(): raise ValueError("no luck")
def twice():
    if handoff_mpi.current_task().attempt < 3: raise RuntimeError("not yet")
    return "worked"
def exits(): sys.exit(3)
def os_exits(): os._exit(1)
def segfault(): ctypes.string_at(0)
def unpicklable(): return (i for i in range(3))
def endless():
    while True: time.sleep(1)
def build(args):
    dag = DAG("failing")
    for name in args:
        limit = 1.0 if name == "endless" else None
        retries = None if name == "twice" else 1
        dag.add_function(Function(name, (), globals()[name], timeout=limit, max_retries=retries))
        dag.add_function(Function("after " + name, [name], len))
    dag.add_function(Function("unharmed", (), abs, [-7]))
    return dag
"""

ENDS = {
    "raises": "ValueError: no luck",
    "exits": "sys.exit(3)",
    "os_exits": "ended with exit status 1",
    "segfault": "SIGSEGV",
    "unpicklable": "cannot be pickled",
    "endless": "timeout of 1 s",
}


def status_of(tmp_path):
    (path,) = (tmp_path / "handoff-runs").glob("*/status.json")
    return json.loads(path.read_text())


def test_whatever_a_function_does_no_rank_is_lost(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "--isolation", "process", "f.py", "--", *ENDS)
    assert ended.rc == 1, ended.err
    for name, says in ENDS.items():
        lines = [line for line in ended.err.splitlines() if f"function '{name}' failed" in line]
        assert len(lines) == 1, ended.err
        assert says in lines[0]
    assert "in raises" in ended.err, "the remote traceback is shown"
    status = status_of(tmp_path)
    assert (status["status"], status["exit_code"]) == ("failed", 1)
    assert (status["done"], status["failed"], status["skipped"]) == (1, 6, 6)
    assert status["lost_ranks"] == {}


def test_retried_into_success(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "f.py", "--", "twice")
    assert ended.rc == 0, ended.err
    assert status_of(tmp_path)["done"] == 3


def test_on_failure_stop(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "--on-failure", "stop", "f.py", "--", "raises", "twice")
    assert ended.rc == 1, ended.err
    assert status_of(tmp_path)["status"] == "stopped"
