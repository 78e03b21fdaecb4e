"""INT and TERM leave no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from handoff_mpi import DAG, Function, execute_local, load
from tests.conftest import mpirun_command, run_process
from tests.processes import command_line, descendants

SLEEPER = """
import time
from pathlib import Path
from handoff_mpi import DAG, Function
def nap():
    Path("napping").touch()
    time.sleep(30)
def build(args):
    dag = DAG("sleeper")
    for number in range(8): dag.add_function(Function(number, (), nap))
    return dag
"""


def marked(marker):
    """Return the processes that carry the marker on their command line, or are children of such."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if any(marker in word for word in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


@pytest.mark.long
@pytest.mark.sample("run -n-TERM", "mpirun-INT")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["INT", "TERM"])
@pytest.mark.parametrize("how", ["run -n", "mpirun"])
def test_a_signal_leaves_nothing_behind(tmp_path, how, number):
    marker = f"sleeper{os.getpid()}{number}{how[0]}.py"
    (tmp_path / marker).write_text(SLEEPER)
    python = [sys.executable, "-m", "handoff_mpi", "run"]
    if how == "mpirun":
        command = [*mpirun_command(3), *python, "--isolation", "process", str(tmp_path / marker)]
    else:
        command = [*python, "-n", "3", "--grace-period", "1", "--isolation", "process", str(tmp_path / marker)]
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = set()
    try:
        end = time.monotonic() + 30
        while not (children and (tmp_path / "napping").exists()) and time.monotonic() < end:
            time.sleep(0.2)
            for rank in marked(marker):
                children |= {each for each in descendants(rank) if "child" in command_line(each)}
        assert children, "no call began"
        process.send_signal(number)
        _, err = process.communicate(timeout=40)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while time.monotonic() < end and (marked(marker) or any(child.is_running() for child in children)):
        time.sleep(0.2)
    assert not marked(marker)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    if how == "run -n":
        assert process.returncode == 75, err
        why = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        said = [line for line in err.splitlines() if line.startswith(f"handoff: {why} while ")]
        assert len(said) == 1, err
        assert re.search(r" while \d(, \d)* (and \d more )?ran \(.* did not end\); 0 of 8 functions were", said[0])
        assert "SIGUSR1" not in err


@pytest.mark.long
@pytest.mark.parametrize("who", ["rank 0", "the launcher"])
def test_ranks_in_long_calls_end_with(tmp_path, who):
    marker = f"sleeper{os.getpid()}{len(who)}.py"
    (tmp_path / marker).write_text(SLEEPER)
    words = ["run", "-n", "3", "--max-relaunches", "0", "--isolation", "rank", "--run-dir", "run"]
    command = [sys.executable, "-m", "handoff_mpi", *words, str(tmp_path / marker)]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    try:
        status = tmp_path / "run" / "status.json"
        end = time.monotonic() + 30
        while time.monotonic() < end and (not status.exists() or len(marked(marker)) < 4):
            time.sleep(0.1)
        time.sleep(1)
        rank_0 = psutil.Process(json.loads(status.read_text())["pid"])
        (rank_0 if who == "rank 0" else rank_0.parent()).kill()
        assert process.wait(15) == 75
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while time.monotonic() < end and marked(marker):
        time.sleep(0.1)
    assert not marked(marker)


DYING = """
import pathlib, time
import psutil
from handoff_mpi import DAG, Function
def nap(number):
    time.sleep(0.05)
    with open("log", "a") as file: file.write(f"{number}\\n")
    return number
def end_the_launcher(times):
    time.sleep(0.5)
    marks = list(pathlib.Path(".").glob("mark*"))
    if len(marks) < times:
        pathlib.Path(f"mark{len(marks)}").touch()
        launcher = next(each for each in psutil.Process().parents() if each.name() in ("mpirun", "prterun"))
        launcher.kill()
        time.sleep(30)
    return "survived"
def build(args):
    dag = DAG("dying")
    for number in range(40): dag.add_function(Function(number, (), nap, [number]))
    dag.add_function(Function("ender", (), end_the_launcher, [int(args[0])], priority=1))
    dag.add_function(Function("sum", list(range(40)), lambda *parts: sum(parts)))
    return dag
"""


@pytest.mark.soak
def test_a_job_that_dies_is_launched_again_and_resumes_until_it_was_often_enough(handoff, tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    words = ["-n", "3", "--isolation", "rank", "--max-relaunches", "1", "--run-dir", "run", "dying.py", "--", "3"]
    ended = handoff("run", *words)
    assert ended.rc == 75, ended.err
    assert ended.err.count("launched again") == 1
    assert "the same command resumes" in ended.err
    ended = handoff("run", *words)
    assert ended.rc == 0, ended.err
    assert ended.err.count("launched again") == 1
    done = (tmp_path / "log").read_text().split()
    assert {*done} == {str(number) for number in range(40)}
    assert len(done) <= 40 + 3 * 2, "more ran twice than the two calls whose end nobody heard of at each death"
    assert json.loads((tmp_path / "run" / "status.json").read_text())["launch"] == 4


STOPPED = """
import json, os, pathlib, signal, time
from handoff_mpi import DAG, Function
def fails():
    if not pathlib.Path("mended").exists(): raise ValueError("for good")
def asks():
    pathlib.Path("asked").touch()
    os.kill(json.loads(pathlib.Path("run/status.json").read_text())["pid"], signal.SIGUSR1)
dag = DAG("stopped")
dag.add_function(Function("fails", (), fails, max_retries=0, priority=2))
if not pathlib.Path("asked").exists(): dag.add_function(Function("asks", (), asks, priority=1))
for number in range(20): dag.add_function(Function(number, (), time.sleep, [0.1]))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["here", "run -n"])
def test_a_stopped_run_is_to_be_resumed_though_a_function_has_failed_for_good(handoff, tmp_path, words):
    (tmp_path / "stopped.py").write_text(STOPPED)
    command = ["run", *words, "--isolation", "rank", "--run-dir", "run", "stopped.py"]
    ended = handoff(*command)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (ended.rc, status["status"], status["exit_code"]) == (75, "stopped", 75), ended.err
    assert (status["failed"], status["waiting"] > 0) == (1, True), status
    assert "1 failed" in ended.err
    assert ended.err.count(f"to resume: {status['resume']}\n") == 2, "as it begins, and as it ends"
    assert load(tmp_path / "run").exit_code == 75
    ended = handoff(*command)
    assert ended.rc == 1, "all that could run has ended: " + ended.err
    (tmp_path / "mended").touch()
    ended = handoff(*command)
    assert ended.rc == 0, ended.err
    assert "20 of 21 functions are done" in ended.err


@pytest.mark.long
@pytest.mark.sample("1-at import-INT", "1-in build-TERM", "2-at import-TERM", "2-in build-USR1")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=["INT", "TERM", "USR1"])
@pytest.mark.parametrize("where", ["at import", "in build"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_while_the_dag_is_made_ends_it_at_once(handoff, mpirun, tmp_path, number, where, ranks):
    waits = f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(50)\n"
    text = waits if where == "at import" else "def build(args):\n    " + waits.strip().replace("\n", "\n    ")
    (tmp_path / "slow.py").write_text(text)
    words = ["-m", "handoff_mpi", "run", "slow.py"]
    ended = mpirun(ranks, *words, timeout_s=40.0) if ranks > 1 else handoff(*words[2:], timeout_s=40.0)
    assert ended.rc == 75, ended.err
    how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert f"handoff: {how} before the run had begun; the same command begins it" in ended.err


INTERRUPTED = """
import pathlib, signal, sys, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

signal.signal(signal.SIGINT, signal.default_int_handler)  # with any parent of the tests
def quick(): return 1
def nap(*_):
    if pathlib.Path("calm").exists(): return 2
    pathlib.Path("naps").open("a").write("x")
    time.sleep(30)

dag = DAG("interrupted")
dag.add_function(Function("quick", (), quick))
dag.add_function(Function("nap", ["quick"], nap))
if sys.argv[1:] == ["cluster"]:
    with handoff.Cluster() as cluster: print(dict(cluster.execute(dag, run_dir="run").values))
else:
    print(dict(handoff.execute(dag, run_dir="run").values))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["cluster"]])
def test_an_interrupt_in_one_process_ends_the_run_and_is_no_failure_of_its_function(tmp_path, words):
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, "script.py", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "naps").exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT, err
    assert "KeyboardInterrupt" in err
    assert (tmp_path / "naps").read_text() == "x", "it was not tried again"
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("stopped", 75)
    (tmp_path / "calm").touch()
    again = run_process(command, tmp_path)
    assert again.rc == 0, again.err
    assert again.out == "{'quick': 1, 'nap': 2}\n"
    records = {record.id: record for record in load(tmp_path / "run").records()}
    assert (records["quick"].attempts, records["nap"].attempts) == (0, 1), "quick was done before"
    assert not records["nap"].incidents


def test_a_signal_that_comes_right_after_a_fork_ends_the_forked_process(tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, signal\n"
        "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
        "from handoff_mpi import signals\n"
        "signals.handle(signal.SIGTERM, print)\n"
        "pid = os.fork() or os._exit(5)\n"
        "assert os.waitpid(pid, 0)[1] == signal.SIGTERM\n"
        "assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
    )
    ended = run_process([sys.executable, "script.py"], tmp_path)
    assert ended.rc == 0, ended.err


def test_a_stop_that_children_receive_too_ends_none_of_them():
    def survive():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        return subprocess.run(["sh", "-c", "kill -USR1 $$"], check=False).returncode

    dag = DAG("signalled")
    dag.add_function(Function("survives", (), survive, max_retries=0))
    results = execute_local(dag, isolation="process", run_dir=False)
    assert results["survives"] == -signal.SIGUSR1, "programs that a function starts have the default handler"
