"""mypy refuses options that do not exist and values of a wrong type, and knows what tasks and runs return."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from handoff_mpi.dag.arrays import ARRAY_OPTIONS
from handoff_mpi.dag.function import Function
from handoff_mpi.dag.task import _OPTIONS
from handoff_mpi.dag.task_options import MapOptions, TaskOptions
from handoff_mpi.runtime.option_types import ExecuteOptions
from handoff_mpi.runtime.options import RunOptions
from tests.conftest import ROOT, missing, run_process

CASES = ROOT / "tests" / "typing" / "cases.py"
_EXPECTED = re.compile(r"# E: ([a-z, -]+)$")
_FOUND = re.compile(r":(\d+): error: .*\[([a-z-]+)\]$", re.MULTILINE)


def test_mypy_finds_the_errors_that_are_there_and_no_others():
    program = shutil.which("mypy", path=str(Path(sys.executable).parent)) or shutil.which("mypy")
    if program is None:
        missing("mypy")
    ended = run_process([program, "--no-error-summary", str(CASES)], ROOT, 240)
    expected = {}
    for number, line in enumerate(CASES.read_text().splitlines(), 1):
        if codes := _EXPECTED.search(line):
            expected[number] = codes[1].split(", ")
    found = {}
    for number, code in _FOUND.findall(ended.out):
        found.setdefault(int(number), []).append(code)
    assert found == expected, ended.out


def test_the_options_that_type_checkers_see_are_those_of_a_run():
    assert ExecuteOptions.__annotations__.keys() == RunOptions.__annotations__.keys()
    declared = {name: type.__forward_arg__ for name, type in ExecuteOptions.__annotations__.items()}
    assert declared == RunOptions.__annotations__


def test_the_options_that_type_checkers_see_are_those_of_a_task():
    declared = {name: type.__forward_arg__ for name, type in TaskOptions.__annotations__.items()}
    assert declared.items() <= Function.__annotations__.items()
    assert declared.keys() == _OPTIONS


def test_the_options_that_type_checkers_see_are_those_of_an_array():
    assert {*MapOptions.__annotations__, "fixed"} == ARRAY_OPTIONS
