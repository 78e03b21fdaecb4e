"""How ranks and child processes end: with their exit handlers, and without what their functions have left running."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import mpirun_command, run_process

LEAVES = """
import atexit, os, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path
from handoff_mpi import DAG, Function


def leave(name, hangs):
    # The launcher waits until the pipes that these inherit are closed.
    left = [subprocess.Popen(["sleep", "100"]), subprocess.Popen(["sleep", "100"], start_new_session=True)]
    subprocess.run("setsid sleep 100 & echo $! > orphan", shell=True)
    left = [each.pid for each in left] + [int(Path("orphan").read_text())]
    if hangs:
        atexit.register(time.sleep, 100)
        return left
    folder = tempfile.TemporaryDirectory(dir=os.getcwd(), prefix="folder-")
    sys.modules["keeps_it"] = folder
    atexit.register(folder.cleanup)
    atexit.register(Path(name).write_text, "handled")
    threading.Timer(0.3, Path("of-a-thread").touch).start()
    return left

def build(args):
    dag = DAG("leaves")
    dag.add_function(Function("left", (), leave, ["of-a-call", bool(args)]))
    return dag
"""
PROGRAM = """
from handoff_mpi import process_exit
from handoff_mpi.worker import child_main
process_exit.HANDLERS_TIMEOUT_S = 0.5
from handoff_mpi import cli
cli.program()
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.sample("ft-rank", "plain-rank", "here-process")
@pytest.mark.parametrize(
    ("launcher", "isolation"),
    [("ft", "rank"), ("ft", "process"), ("plain", "rank"), ("here", "rank"), ("here", "process")],
)
def test_exit_handlers_run_and_nothing_is_left_behind(tmp_path, launcher, isolation):
    (tmp_path / "leaves.py").write_text(LEAVES)
    command = [] if launcher == "here" else mpirun_command(2, ft=launcher == "ft")
    words = ["-m", "handoff_mpi", "run", "--isolation", isolation, "--run-dir", "run", "leaves.py"]
    ended = run_process([*command, sys.executable, *words], tmp_path, 60.0)  # until all pipes are closed
    assert ended.rc == 0, ended.err
    assert (tmp_path / "of-a-call").read_text() == "handled"
    assert (tmp_path / "of-a-thread").exists()
    assert not list(tmp_path.glob("folder-*"))
    _assert_ended(tmp_path)


def _assert_ended(tmp_path):
    import handoff_mpi

    left = handoff_mpi.load(tmp_path / "run")["left"]
    assert len(left) == 3
    assert [pid for pid in left if lives(pid)] == []


@pytest.mark.long
@pytest.mark.sample("ft")
@pytest.mark.parametrize("launcher", ["ft", "plain"])
def test_an_exit_handler_that_hangs_does_not_hold_the_job(tmp_path, launcher):
    (tmp_path / "leaves.py").write_text(LEAVES)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [*mpirun_command(2, ft=launcher == "ft"), sys.executable, "program.py"]
    words = ["run", "--isolation", "rank", "--run-dir", "run", "leaves.py", "--", "hang"]
    ended = run_process([*command, *words], tmp_path, 60.0)
    assert ended.rc == 0, ended.err
    assert ended.err.count("exit handlers have not ended within 0.5 s; the process ends without them") == 1
    _assert_ended(tmp_path)


FORKS = """
import multiprocessing, os, signal, subprocess, sys, time
from handoff_mpi import DAG, Function

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")

def show():
    return {name: str(signal.getsignal(getattr(signal, name))) for name in SIGNALS}

def answer(connection):
    connection.send(show())
    time.sleep(100)

def started():
    program = f"import signal; print({{name: str(signal.getsignal(getattr(signal, name))) for name in {SIGNALS}}})"
    return eval(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)

def forked():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    shown = ours.recv()
    process.terminate()
    process.join(30)
    return shown, process.exitcode

def pooled():
    with multiprocessing.get_context("fork").Pool(2) as pool:  # whose end sends TERM, and waits
        return pool.map(abs, [-1, -2])

dag = DAG("forks")
for code in (started, forked, pooled): dag.add_function(Function(code.__name__, (), code))
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [["--isolation", "rank"], ["--isolation", "process"], ["-n", "2", "--isolation", "rank"]],
    ids=["one process", "child", "rank"],
)
def test_what_a_function_forks_or_starts_has_the_default_handlers(handoff, tmp_path, words):
    import handoff_mpi

    (tmp_path / "forks.py").write_text(FORKS)
    ended = handoff("run", *words, "--run-dir", "run", "forks.py", timeout_s=60.0)
    assert ended.rc == 0, ended.err
    results = handoff_mpi.load(tmp_path / "run")
    shown, code = results["forked"]
    assert shown == results["started"]
    assert "default_int_handler" in shown.pop("SIGINT")
    assert set(shown.values()) == {str(signal.SIG_DFL)}
    assert code == -15
    assert results["pooled"] == [1, 2]
