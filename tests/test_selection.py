"""Which tests a command runs: by default, with --all and --rest, by marks, and where it names files or tests."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT, run_process

TESTS = """
import pytest
def test_short(): pass
@pytest.mark.long
def test_long(): pass
@pytest.mark.soak
def test_soak(): pass
@pytest.mark.parametrize("way", [1, pytest.param(2, marks=pytest.mark.long)])
def test_way(way): pass
@pytest.mark.long
@pytest.mark.sample("1-2", "2-1")
@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize("b", [1, 2])
def test_grid(a, b): pass
@pytest.mark.long
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_kind(kind): pass
"""


#: What runs with --rest.
LONG = "test_long test_way[2] test_grid[1-2] test_grid[2-1] test_kind[1]"
#: What runs with --all.
ALL = "test_short test_long test_way[1] test_way[2] test_grid[1-2] test_grid[2-1] test_kind[1]"

CASES = [
    ([], "test_short test_way[1]", True),
    (["deep"], "test_short test_way[1]", True),
    (["--all"], ALL, False),
    (["--rest"], LONG, False),
    (["--rest", "--all"], ALL, False),
    (["--deselect", "deep/test_a.py::test_short"], "test_way[1]", True),
    (["-m", "soak"], "test_soak test_grid[1-1] test_grid[2-2] test_kind[2] test_kind[3]", False),
    (["-m", "long and not soak"], LONG, False),
    (["deep/test_a.py"], ALL, False),
    (["deep/test_a.py::test_soak"], "test_soak", False),
    (["deep/test_a.py::test_way[2]"], "test_way[2]", False),
    (["deep/test_a.py::test_grid[1-1]"], "test_grid[1-1]", False),
]
#: One process runs pytest for all cases: it starts as often as there are cases otherwise.
PROGRAM = """
import pytest, sys
for words in eval(sys.argv[1]):
    print("CASE", flush=True)
    print("RC", int(pytest.main(["-p", "no:cacheprovider", "-v", "--strict-markers", *words])), flush=True)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The output of pytest in each case."""
    directory = tmp_path_factory.mktemp("selected")
    (directory / "conftest.py").write_text("from tests.selection import *\n")
    (directory / "deep").mkdir()
    (directory / "deep" / "test_a.py").write_text(TESTS)
    command = [sys.executable, "-c", PROGRAM, repr([words for words, *_ in CASES])]
    ended = run_process(command, directory, env={"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""})
    assert ended.rc == 0, ended.err
    return ended.out.split("CASE\n")[1:]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[" ".join(words) or "nothing" for words, *_ in CASES])
def test_what_runs(outputs, case):
    _, chosen, tells = CASES[case]
    out = outputs[case]
    assert "RC 0\n" in out, out
    ran = [line.split("::")[1].split()[0] for line in out.splitlines() if line.endswith("]") and "PASSED" in line]
    assert ran == chosen.split()
    assert ("5 tests marked long are left out; --all runs them too" in out) is tells


def test_a_sample_that_is_no_combination_is_refused(tmp_path):
    (tmp_path / "conftest.py").write_text("from tests.selection import *\n")
    (tmp_path / "test_a.py").write_text(TESTS.replace('"2-1"', '"2-3"'))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only"]
    ended = run_process(command, tmp_path, env={"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""})
    assert ended.rc == 4 and "{'test_a.py::test_grid': {'2-3'}}" in ended.err


def test_default_and_rest_are_all_tests_once(outputs):
    chosen = {" ".join(words): tests.split() for words, tests, _ in CASES}
    assert sorted([*chosen[""], *chosen["--rest"]]) == sorted(chosen["--all"])
