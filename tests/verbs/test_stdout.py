"""Commands that print: the reader of stdout may leave, its encoding may be ASCII, and its disk may be full."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import run_process

DAG = """
from handoff_mpi import DAG, Function
def grüße(): print("grüße" * 200, flush=True)
dag = DAG("grüße")
dag.add_function(Function("grüße", (), grüße))
"""
#: The one that the short tests try; others print in the same way.
SHORT = ("graph",)
COMMANDS = {
    "help": ("help",),
    "page": ("help", "options"),
    "status": ("status", "run"),
    "runs": ("runs", "."),
    "logs": ("logs", "run"),
    "explain": ("explain", "run", "grüße"),
    "graph": ("graph", "run"),
}


CASES = [
    pytest.param(words, id=name, marks=[] if name in SHORT else pytest.mark.long) for name, words in COMMANDS.items()
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stdout")
    (directory / "dag.py").write_text(DAG, encoding="utf-8")
    command = [sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", "--output", "capture", "dag.py"]
    ended = run_process(command, directory)
    assert ended.rc == 0, ended.err
    return directory


def printed(directory, words, stdout, **variables):
    command = [sys.executable, "-m", "handoff_mpi", *words]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **variables}
    return subprocess.run(command, cwd=directory, stdout=stdout, stderr=subprocess.PIPE, env=environment, timeout=60)


@pytest.mark.parametrize("words", CASES)
def test_the_reader_of_stdout_may_leave(words, run):
    read, write = os.pipe()
    os.close(read)
    ended = printed(run, words, write)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("words", CASES)
def test_stdout_may_be_ascii(words, run):
    ended = printed(run, words, subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.isascii()


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's own")  # noqa: PTH110
@pytest.mark.parametrize("words", CASES)
def test_the_disk_of_stdout_may_be_full(words, run):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = printed(run, words, full)
    message = (
        f"handoff: cannot write the output of {words[0]}: No space left on device; free space, or write it elsewhere\n"
    )
    assert (ended.returncode, ended.stderr.decode()) == (2, message)
