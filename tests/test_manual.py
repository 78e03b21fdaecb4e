"""The manual's examples run as the manual says: whole files on ranks, other blocks behind what they take as given."""

from __future__ import annotations

import ast
import re
import sys
import textwrap

import pytest

from tests.conftest import DEVELOPMENT, ROOT, run_process

MANUAL = ROOT / "handoff_mpi" / "manual"
_BLOCKS = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What each whole file of extending.md and telemetry.md prints, among other things.
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
    blocks = blocks_of(page)
    assert len(blocks) == page.read_text().count("```python")
    for block in blocks:
        assert ast.parse(block).body, block


@pytest.fixture
def examples(tmp_path):
    """The whole files of extending.md and telemetry.md, written down."""
    blocks = [block for page in ("extending.md", "telemetry.md") for block in blocks_of(MANUAL / page)]
    files = {block.splitlines()[0].removeprefix("# "): block for block in blocks}
    del files["spans.py"]  # tests/telemetry/test_opentelemetry.py has it
    assert list(files) == list(EXAMPLES)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


#: Pages with blocks that are no whole files, and what these take as given.
PARTS = {
    "functions": """
        import logging, os
        from handoff_mpi import Function, task
        def simulate(): pass
    """,
    "results-and-resume": """
        import handoff_mpi as handoff
        range = lambda count: [0, 1]
        def make_dag(step):
            dag = handoff.DAG()
            dag.add_function(handoff.Function("step", code=abs, extra_args=[step]))
            return dag
    """,
    "arrays": "",
    "resources-and-strategies": "",
    "contributing": "",
}


def is_whole(block):
    return re.match(r"# \w+\.py\n", block) is not None


def test_every_block_is_a_whole_file_or_has_what_it_takes_as_given():
    parts = {page.stem for page in MANUAL.glob("*.md") if not all(map(is_whole, blocks_of(page)))}
    assert parts == {*PARTS, "getting-started"}


@pytest.mark.parametrize("page", PARTS)
def test_a_part_of_a_file_runs(page, tmp_path):
    blocks = [block for block in blocks_of(MANUAL / f"{page}.md") if not is_whole(block)]
    (tmp_path / "part.py").write_text("\n".join([textwrap.dedent(PARTS[page]), *blocks]))
    ended = run_process([sys.executable, "part.py"], tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0, ended.err


@pytest.mark.long
def test_the_transcript_of_the_manual_passes(tmp_path):
    (block,) = filter(is_whole, blocks_of(MANUAL / "contributing.md"))
    (tmp_path / "test_retry.py").write_text(block)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_retry.py"]
    ended = run_process(words, tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0 and "1 passed" in ended.out, ended.out


def test_the_programs_that_contributing_names_exist():
    page = (MANUAL / "contributing.md").read_text()
    names = {*re.findall(r"python -m (tests\.[\w.]*\w)[ `]", page)}
    names |= {f"tests.faults.{name}" for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)}
    assert len(names) > 10
    paths = [ROOT / name.replace(".", "/") for name in names]
    assert all(path.with_suffix(".py").exists() or (path / "__main__.py").exists() for path in paths), names


@pytest.mark.long
@pytest.mark.sample("licences.py")
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
    options._defaults.values.clear()
    from handoff_mpi import telemetry
    for handler_id in {each.handler_id for each in telemetry.list_handlers()}:
        telemetry.detach(handler_id)
"""


@pytest.mark.parametrize("ranks", [1, pytest.param(3, marks=pytest.mark.long)])
def test_all_examples_run_as_scripts_in_one_process_and_under_mpirun(ranks, mpirun, examples):
    (examples / "all.py").write_text(ALL.replace("NAMES", repr(list(EXAMPLES))))
    ended = mpirun(ranks, "all.py", env={**DEVELOPMENT, "TMPDIR": str(examples)})
    assert ended.rc == 0, ended.err
    assert "Warning" not in ended.err
    for printed in EXAMPLES.values():
        assert printed in ended.out
    assert not list(examples.glob("values-*"))
