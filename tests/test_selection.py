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
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "conftest.py").write_text("from tests.selection import *\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "test_a.py").write_text(TESTS)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "chosen", "tells"),
    [
        ([], "test_short test_way[1]", True),
        (["deep"], "test_short test_way[1]", True),
        (["--all"], "test_short test_long test_way[1] test_way[2]", False),
        (["--rest"], "test_long test_way[2]", False),
        (["--rest", "--all"], "test_short test_long test_way[1] test_way[2]", False),
        (["--deselect", "deep/test_a.py::test_short"], "test_way[1]", True),
        (["-m", "soak"], "test_soak", False),
        (["-m", "long"], "test_long test_way[2]", False),
        (["deep/test_a.py"], "test_short test_long test_way[1] test_way[2]", False),
        (["deep/test_a.py::test_soak"], "test_soak", False),
        (["deep/test_a.py::test_way[2]"], "test_way[2]", False),
    ],
)
def test_what_runs(directory, words, chosen, tells):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--strict-markers", *words]
    ended = run_process(command, directory, env={"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""})
    assert ended.rc == 0, ended.out
    ran = [line.split("::")[1].split()[0] for line in ended.out.splitlines() if line.endswith("]") and "PASSED" in line]
    assert ran == chosen.split()
    assert ("2 tests marked long are left out; --all runs them too" in ended.out) is tells


def test_default_and_rest_are_all_tests_once(directory):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q"]

    def collected(*words):
        ended = run_process([*command, *words], directory, env={"PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""})
        return [line for line in ended.out.splitlines() if "::" in line]

    assert sorted([*collected(), *collected("--rest")]) == sorted(collected("--all"))
