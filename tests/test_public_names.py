"""The package introduces itself: ``help(handoff_mpi)``, ``dir(handoff_mpi)``, and an import that costs little."""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
import textwrap

import pytest

import handoff_mpi
from tests.conftest import DEVELOPMENT, run_process


def names_listed():
    _, _, table = handoff_mpi.__doc__.partition("The names, by purpose:\n\n")
    return re.findall(
        r"\w+(?=,|$)", re.sub(r"^ +\w+:", "", table.partition("\n\n")[0], flags=re.MULTILINE), re.MULTILINE
    )


def test_help_opens_with_an_example_and_lists_every_name_once():
    assert sorted(names_listed()) == sorted(handoff_mpi.__all__)
    assert dir(handoff_mpi) == sorted([*handoff_mpi.__all__, "__version__"])
    text = pydoc.plain(pydoc.render_doc(handoff_mpi))
    assert text.index("An MPI-based HPC batch runner") < text.index("with DAG(") < text.index("PACKAGE CONTENTS")


def test_every_public_name_has_help():
    for name in handoff_mpi.__all__:
        value = getattr(handoff_mpi, name)
        assert "Callable" in str(value) or inspect.getdoc(value), name


@pytest.mark.parametrize("words", [[], pytest.param(["-n", "2"], marks=pytest.mark.long)], ids=["one process", "ranks"])
def test_the_example_of_the_help_runs_as_it_stands(words, handoff, tmp_path):
    _, _, example = handoff_mpi.__doc__.partition("A complete ``dag.py``::\n\n")
    (tmp_path / "dag.py").write_text(textwrap.dedent(example.partition("\n\nRun it")[0]) + "\n")
    ended = handoff("run", *words, "dag.py", env=DEVELOPMENT)
    assert ended.rc == 0, ended.err
    assert f"sum of squares: {sum(number**2 for number in range(4000))}" in ended.out


def test_importing_the_package_imports_none_of_its_modules(tmp_path):
    code = (
        "import handoff_mpi, sys; print([name for name in sys.modules if name.startswith(('handoff_mpi.', 'mpi4py'))])"
    )
    ended = run_process([sys.executable, "-c", code], tmp_path)
    assert ended.out.strip() == "[]", ended.err


def test_help_does_not_start_mpi(tmp_path):
    code = "import handoff_mpi, pydoc, sys; pydoc.render_doc(handoff_mpi); print('mpi4py.MPI' in sys.modules)"
    ended = run_process([sys.executable, "-c", code], tmp_path)
    assert ended.out.strip() == "False", ended.err
