"""The manual's examples are complete, and run as the manual says."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import DEVELOPMENT, ROOT

MANUAL = ROOT / "handoff_mpi" / "manual"
_BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What each whole file of extending.md prints, among other things.
EXAMPLES = {
    "near_data.py": "bytes: 1000045",
    "packed.py": "20 functions ran",
    "licences.py": "sum of squares: 285",
    "in_sqlite.py": "rows: 150000",
    "in_files.py": "bytes: 150000",
    "columns.py": "totals: 0 495000 990000 1485000",
    "progress.py": '"done": 5, "of": 5}',
}


def blocks_of(page):
    return _BLOCKS.findall(page.read_text())


@pytest.mark.parametrize("page", sorted(MANUAL.glob("*.md")), ids=lambda page: page.stem)
def test_all_python_of_the_manual_can_be_compiled(page):
    for block in blocks_of(page):
        ast.parse(block)


@pytest.fixture
def examples(tmp_path):
    """The whole files of extending.md, written down."""
    names = []
    for block in blocks_of(MANUAL / "extending.md"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block)
        names.append(name)
    assert names == list(EXAMPLES)
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("name", ["near_data.py", "licences.py", "in_sqlite.py"])  # scripts show the others on ranks
def test_an_example_runs_on_three_ranks(name, handoff, examples):
    ended = handoff("run", "-n", "3", name, env={**DEVELOPMENT, "TMPDIR": str(examples)})
    assert ended.rc == 0, ended.err
    assert EXAMPLES[name] in ended.out
    assert "Warning" not in ended.err
    assert not list(examples.glob("values-*")), "a store is emptied when it is closed"


ALL = """
import runpy
from handoff_mpi.runtime import options

for name in NAMES:
    runpy.run_path(name, run_name="__main__")
    options._defaults.clear()
    from handoff_mpi import telemetry
    for handler_id in {each.handler_id for each in telemetry.list_handlers()}:
        telemetry.detach(handler_id)
"""


@pytest.mark.parametrize("ranks", [1, 3])
def test_all_examples_run_as_scripts_in_one_process_and_under_mpirun(ranks, mpirun, examples):
    (examples / "all.py").write_text(ALL.replace("NAMES", repr(list(EXAMPLES))))
    ended = mpirun(ranks, "all.py", env={**DEVELOPMENT, "TMPDIR": str(examples)})
    assert ended.rc == 0, ended.err
    assert "Warning" not in ended.err
    for printed in EXAMPLES.values():
        assert printed in ended.out
    assert not list(examples.glob("values-*"))
