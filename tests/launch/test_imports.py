"""Modules are imported by the ranks and children that need them, and by no others."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import handoff_mpi
from handoff_mpi.version import VERSION
from tests.conftest import run_process

#: What a run of plain functions needs on no rank; ours, and others'.
_OF_NO_RANK = {f"handoff_mpi.{room}" for room in ("api", "doctor", "launch.supervisor", "simulation")} | {
    "handoff_mpi.visualization",
    *("asyncio", "concurrent.futures", "email", "importlib.metadata", "multiprocessing", "zipfile"),
    *("networkx", "numpy", "psutil", "rich", "threadpoolctl"),
}
#: What it needs on rank 0 alone.
_OF_RANK_0 = {f"handoff_mpi.{room}" for room in ("allocation", "dag.fingerprint", "launch.dag_file", "launch.run")} | {
    *(f"handoff_mpi.{room}" for room in ("results.journal", "runtime.scheduler_loop", "scheduler", "telemetry")),
    "hashlib",
}

# Every rank tells on its way out what it has imported, beyond what this Python imports by itself.
PROGRAM = """
import sys; before = {*sys.modules}
import pathlib
from handoff_mpi import cli
from handoff_mpi.comm import mpi

def tell_and_leave(code, leave=mpi.leave):
    pathlib.Path(f"imported-{mpi.world().rank}").write_text("\\n".join({*sys.modules} - before))
    leave(code)

mpi.leave = tell_and_leave
sys.exit(cli.main())
"""
# Modules and functions leave a line with the process they were executed in.
TRACE = """
import os
def leave(name):
    with open({path!r}, "a") as file: file.write(f"{{name}} {{os.getpid()}}\\n")
"""
DAG_FILE = """
import trace_of; trace_of.leave("dag.py")
import of_dag_file
from handoff_mpi import DAG, task

@task(node=1)
def first():
    import of_first
    of_first.trace_of.leave("first")
    return 1

@task(node=2)
def second(value):
    import of_second
    of_second.trace_of.leave("second")
    return value + 1

with DAG("two") as dag:
    second(first())
"""


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_ranks_and_children_import_what_they_need(mpirun, tmp_path, isolation):
    trace = tmp_path / "trace"
    (tmp_path / "trace_of.py").write_text(TRACE.format(path=str(trace)))
    for name in ("of_dag_file", "of_first", "of_second"):
        (tmp_path / f"{name}.py").write_text(f"import trace_of; trace_of.leave({name!r})\n")
    (tmp_path / "dag.py").write_text(DAG_FILE)
    (tmp_path / "program.py").write_text(PROGRAM)
    ended = mpirun(3, "program.py", "run", "--isolation", isolation, "dag.py", env={"HANDOFF_GPUS": "0"})
    assert ended.rc == 0, ended.out + ended.err

    left = [line.split() for line in trace.read_text().splitlines()]
    pids = dict(left)
    assert sorted(name for name, _ in left) == sorted([*pids]), "each was executed once over all processes"
    assert pids["of_dag_file"] == pids["dag.py"]
    assert pids["of_first"] == pids["first"] and pids["of_second"] == pids["second"]
    assert len({pids["dag.py"], pids["first"], pids["second"]}) == 3

    imported = [set((tmp_path / f"imported-{rank}").read_text().split()) for rank in range(3)]
    assert [modules & _OF_NO_RANK for modules in imported] == [set()] * 3
    assert imported[0] >= _OF_RANK_0, "else the next line means nothing"
    assert [modules & _OF_RANK_0 for modules in imported[1:]] == [set()] * 2


def test_a_child_imports_less_than_its_rank(tmp_path):
    said = run_process(
        [sys.executable, "-c", "import handoff_mpi.worker.child_main, sys; print(*sys.modules)"], tmp_path
    )
    imported = set(said.out.split())
    assert "handoff_mpi.worker.child_main" in imported
    of_ranks = {f"handoff_mpi.{room}" for room in ("cli", "comm", "launch", "results", "runtime", "worker.machine")}
    assert imported & (_OF_NO_RANK | _OF_RANK_0 | of_ranks | {"mpi4py", "subprocess", "tempfile"}) == set()


def test_importing_the_package_imports_no_room_and_asking_for_names_no_mpi(tmp_path):
    code = (
        "import sys, handoff_mpi\n"
        "print([name for name in sys.modules if name.startswith(('handoff_mpi.', 'mpi4py', 'networkx', 'rich'))])\n"
        "assert all(getattr(handoff_mpi, name) for name in handoff_mpi.__all__)\n"
        "print([name for name in sys.modules if name in ('mpi4py.MPI', 'networkx', 'rich', 'numpy')])\n"
    )
    said = run_process([sys.executable, "-c", code], tmp_path)
    assert said.out == "[]\n[]\n", said.err


def test_names_come_from_where_type_checkers_are_told():
    tree = ast.parse(Path(handoff_mpi.__file__).read_text())
    block = next(each for each in tree.body if isinstance(each, ast.If) and ast.unparse(each.test) == "TYPE_CHECKING")
    told = {name.name: f"{each.module}." for each in block.body for name in each.names}
    rooms = {name: room for name, room in handoff_mpi._ROOM_OF.items() if name in handoff_mpi.__all__}  # no old names
    assert {name: f"handoff_mpi.{room}.".replace("..", ".") for name, room in rooms.items()} == told
    assert sorted(told) == sorted(handoff_mpi.__all__)
    assert {*handoff_mpi.__all__} <= {*dir(handoff_mpi)}


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(AttributeError, match="module 'handoff_mpi' has no attribute 'dagg'"):
        handoff_mpi.dagg  # noqa: B018


def test_rooms_are_attributes_of_the_package_wherever_it_is_imported(tmp_path):
    program = "import handoff_mpi as h; print(h.results.MemoryStore, h.serialization.encode, hasattr(h, 'nowhere'))"
    ended = run_process([sys.executable, "-c", program], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.out.endswith("False\n")


def test_the_version_is_one_wherever_it_is_asked_for(handoff, tmp_path):
    code = (
        "import sys, handoff_mpi\n"
        "print(handoff_mpi.__version__, '__version__' in dir(handoff_mpi))\n"
        "print(sorted(name for name in sys.modules if name.startswith('handoff_mpi')))\n"
    )
    ended = run_process([sys.executable, "-c", code], tmp_path)
    version, rooms = ended.out.splitlines()
    assert version == f"{VERSION} True"
    assert rooms == "['handoff_mpi', 'handoff_mpi.version']"
    ended = handoff("--version")
    assert (ended.rc, ended.out, ended.err) == (0, f"handoff_mpi {handoff_mpi.__version__}\n", "")


@pytest.mark.long
def test_one_rank_tells_the_version(mpirun):
    ended = mpirun(2, "-m", "handoff_mpi", "--version")
    assert (ended.rc, ended.out) == (0, f"handoff_mpi {VERSION}\n"), ended.err
