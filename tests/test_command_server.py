"""A command that the server forks does what one that is started does."""

from __future__ import annotations

import subprocess

import pytest

from tests.command_server import CommandServer
from tests.conftest import HANDOFF, _run_once, command_environment

DAG = """
import os, sys
from handoff_mpi import DAG, Function
def show():
    print(sys.argv[-1], os.getcwd(), os.environ.get("MINE"), sys.path[0], os.getsid(0) == os.getpid(), flush=True)
    os.write(2, b"done\\r\\n")
def build(args):
    how = args[0]
    umask = os.umask(0)
    print(umask, sys.modules["__main__"].__spec__.name, len(os.listdir("/proc/self/fd")))
    if how == "kill":
        os.kill(os.getpid(), 9)
    dag = DAG("d")
    dag.add_function(Function("show", (), show if how == "ok" else os.abort, max_retries=0))
    return dag
"""


@pytest.fixture(scope="module")
def server():
    server = CommandServer(command_environment())
    yield server
    server.close()


@pytest.mark.parametrize(
    "words",
    [
        *(["run", "--run-dir", "r", "--fresh", "--quiet", "dag.py", "--", how] for how in ("ok", "abort", "kill")),
        *(["check", "no.py"], ["--version"], ["run", "--fast", "dag.py"], ["help"]),
    ],
    ids=lambda words: " ".join(words[-2:]),
)
def test_a_command_is_what_it_is_when_started(server, tmp_path, words):
    (tmp_path / "dag.py").write_text(DAG)
    environment = command_environment({"MINE": "1"})
    started = _run_once([*HANDOFF, *words], tmp_path, 60, environment)
    assert server.run(words, tmp_path, environment, 60) == (started.rc, started.out, started.err)


def test_a_command_that_hangs_is_killed(server, tmp_path):
    (tmp_path / "dag.py").write_text("import os, time\nos.write(1, b'here')\ntime.sleep(60)\n")
    with pytest.raises(subprocess.TimeoutExpired) as hung:
        server.run(["check", "dag.py"], tmp_path, command_environment(), 2)
    assert hung.value.stdout == "here"


def test_a_variable_that_python_reads_as_it_starts_takes_a_fresh_process(server):
    assert server.serves(command_environment({"MINE": "1", "HANDOFF_CORES": "3"}))
    assert not server.serves(command_environment({"PYTHONDEVMODE": "1"}))
    assert not server.serves(command_environment({"OMPI_COMM_WORLD_SIZE": "2"}))
