"""Nothing is imported from the current directory, or from beside dag.py, that Python itself would not import."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

import handoff_mpi
from tests.conftest import missing, run_process

#: Modules that ranks, child processes, the doctor or the supervisor import, at once or late.
HOSTILE = ("json", "socket", "subprocess", "tempfile", "hashlib", "numpy", "psutil", "cloudpickle", "threadpoolctl")
HOSTILE_PACKAGES = ("mpi4py", "handoff_mpi", "concurrent", "multiprocessing")
TRACE = "import os\nos.write(os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'{name} ')\n"
DAG_FILE = """
import os, sys
from handoff_mpi import DAG, Function, current_task
import beside  # what dag.py needs of its own directory

def look():
    import beside
    current_task().scratch, current_task().seed  # the package imports what these need late
    options = [option for option in sys._xoptions if option != "frozen_modules"]
    return [os.getpid(), [*map(str, sys.path)], [*sys.flags], sys.warnoptions, options]

dag = DAG("look")
for name in ("a", "b"): dag.add_function(Function(name, (), look))
"""


@pytest.fixture
def hostile(tmp_path):
    """A current directory whose modules leave a trace when they are imported."""
    directory = tmp_path / "hostile"
    directory.mkdir()
    for name in HOSTILE:
        (directory / f"{name}.py").write_text(TRACE.format(path=str(tmp_path / "trace"), name=name))
    for name in HOSTILE_PACKAGES:
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(TRACE.format(path=str(tmp_path / "trace"), name=name))
    return directory


def write_dag(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "dag.py").write_text(DAG_FILE)
    (directory / "beside.py").write_text("")
    return directory / "dag.py"


def command_line(way: str) -> tuple[list[str], dict[str, str]]:
    python = [sys.executable]
    if way in ("-P", "PYTHONSAFEPATH") and sys.version_info < (3, 11):
        pytest.skip("Python has -P from 3.11 on")
    if way == "handoff-mpi":
        program = Path(sys.executable).parent / "handoff-mpi"
        if not program.exists():
            missing("handoff-mpi")
        return [str(program)], {}
    if way == "PYTHONSAFEPATH":
        return [*python, "-m", "handoff_mpi"], {"PYTHONSAFEPATH": "1"}
    return [*python, way, "-m", "handoff_mpi"], {}


@pytest.mark.long
@pytest.mark.parametrize(
    ("way", "words", "where"),
    [
        ("-I", ["-n", "2", "--isolation", "rank"], "beside"),
        ("-P", ["-n", "2", "--isolation", "process"], "elsewhere"),
        ("PYTHONSAFEPATH", ["--isolation", "process"], "beside"),
        ("handoff-mpi", ["-n", "2", "--isolation", "process"], "beside"),
        ("handoff-mpi", ["-n", "2", "--isolation", "process"], "elsewhere"),
        ("handoff-mpi", ["--isolation", "rank"], "beside"),
    ],
)
def test_a_run_imports_nothing_of_a_hostile_directory(hostile, tmp_path, way, words, where):
    path = write_dag(hostile if where == "beside" else tmp_path / "own")
    command, env = command_line(way)
    ended = run_process([*command, "run", *words, "--run-dir", "run", path], hostile, 60.0, env)
    assert ended.rc == 0, ended.err
    assert not (tmp_path / "trace").exists(), (tmp_path / "trace").read_text()
    _, paths, *_ = handoff_mpi.load(hostile / "run")["a"]
    assert (str(hostile) in paths or "" in paths) == (where == "beside")


@pytest.mark.long
def test_the_doctor_imports_nothing_of_a_hostile_directory(hostile, tmp_path):
    command, env = command_line("-I")
    ended = run_process([*command, "doctor", "-n", "2", "--json"], hostile, 90.0, env)
    assert "findings" in json.loads(ended.out), ended.err
    assert not (tmp_path / "trace").exists(), (tmp_path / "trace").read_text()


@pytest.mark.long
@pytest.mark.parametrize("flags", [["-O", "-W", "ignore::ResourceWarning", "-X", "utf8", "-s"], ["-I", "-X", "dev"]])
def test_ranks_and_children_have_the_flags_and_the_path_of_the_command(tmp_path, flags):
    path = write_dag(tmp_path / "own")
    seen = []
    for words in (["--isolation", "rank"], ["--isolation", "process"], ["-n", "2", "--isolation", "process"]):
        command = [sys.executable, *flags, "-m", "handoff_mpi", "run", *words, "--fresh", "--run-dir", "run", path]
        ended = run_process(command, tmp_path)
        assert ended.rc == 0, ended.err
        seen += [handoff_mpi.load(tmp_path / "run")[name] for name in ("a", "b")]
    assert len({pid for pid, *_ in seen}) >= 3
    assert [rest for _, *rest in seen] == [seen[0][1:]] * len(seen)
    assert seen[0][1].count(str(tmp_path)) == ("-I" not in flags), "Python puts the current directory there for -m"


@pytest.mark.parametrize(
    "words", [["--isolation", "rank"], pytest.param(["--isolation", "process"], marks=pytest.mark.long)]
)
def test_a_package_of_this_name_beside_dag_py_is_the_users_and_not_this_one(hostile, tmp_path, words):
    """A clone of this repository, say: every process has to execute the same code."""
    path = write_dag(hostile)
    command, _ = command_line("handoff-mpi")
    ended = run_process([*command, "run", *words, "--run-dir", "run", path], tmp_path)
    assert ended.rc == 0, ended.err
    assert not (tmp_path / "trace").exists(), (tmp_path / "trace").read_text()


def test_a_directory_is_put_behind_the_standard_library_and_before_what_is_installed(monkeypatch):
    from handoff_mpi.python_path import add_directories

    before = [*sys.path]
    monkeypatch.setattr(sys, "path", [*before])
    add_directories(["/one", "/two", before[0]])
    added = sys.path.index("/one")
    assert sys.path[added : added + 2] == ["/one", "/two"]
    assert sys.path.index(os.path.dirname(os.__file__)) < added  # noqa: PTH120
    assert added < min(place for place, entry in enumerate(sys.path) if entry.endswith("site-packages"))
    assert [entry for entry in sys.path if entry not in ("/one", "/two")] == before
