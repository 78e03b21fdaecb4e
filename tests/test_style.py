"""Style, types and the floors of the house are part of the tests."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing, run_process

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


@pytest.mark.parametrize("tool", CHECKS)
def test_the_tree_passes(tool):
    command = CHECKS[tool]
    program = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(command[0])
    if program is None:
        missing(tool)
    ended = run_process([program, *command[1:]], ROOT, 240, {"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0, ended.out + ended.err


def test_importing_the_package_does_not_start_mpi(tmp_path):
    names = "('mpi4py.MPI', 'cupy', 'networkx', 'numpy')"
    code = f"import handoff_mpi, sys; print([m for m in {names} if m in sys.modules])"
    ended = run_process([sys.executable, "-c", code], tmp_path)
    assert ended.out.strip() == "[]", ended.err


def test_the_readme_draws_the_lifecycle_from_the_table():
    from handoff_mpi.scheduler.lifecycle import mermaid

    assert mermaid() in (ROOT / "README.md").read_text()


def test_the_package_is_typed():
    origin = importlib.util.find_spec("handoff_mpi").origin
    assert (Path(origin).parent / "py.typed").exists()
