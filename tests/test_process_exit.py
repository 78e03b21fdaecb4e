"""How a process ends: exit handlers run within bounds, and nothing that was started is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handoff_mpi.descendants import kill_group
from tests.conftest import run_process

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")


def run_script(tmp_path, text, **env):
    (tmp_path / "script.py").write_text(text)
    return run_process([sys.executable, "script.py"], tmp_path, 60.0, env)


START = "print(subprocess.Popen(['sleep', '50']).pid, flush=True)\n"


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_handlers_run_in_pythons_order_and_the_status_is_kept(tmp_path):
    ended = run_script(
        tmp_path,
        "import atexit, sys, threading, concurrent.futures\n"
        "from handoff_mpi.process_exit import exit_process\n"
        "atexit.register(print, 'first registered, last run')\n"
        "atexit.register(sys.exit, 5)\n"
        "atexit.register(lambda: 1 / 0)\n"
        "pool = concurrent.futures.ThreadPoolExecutor()\n"
        "pool.submit(threading.Event().wait, 0.2).add_done_callback(lambda _: print('pool'))\n"
        "threading.Timer(0.3, print, ['thread']).start()\n"
        "exit_process(7)\n",
    )
    assert ended.rc == 7, ended.err
    assert ended.out == "pool\nthread\nfirst registered, last run\n"
    assert "ZeroDivisionError" in ended.err, "a handler that raises is reported"


def test_it_can_be_called_beside_a_main_thread_that_is_busy(tmp_path):
    ended = run_script(
        tmp_path,
        "import atexit, threading, time\n"
        "from handoff_mpi.process_exit import exit_process\n"
        "atexit.register(print, 'handler')\n"
        "threading.Thread(target=exit_process, args=(3,)).start()\n"
        "time.sleep(50)\n",
    )
    assert (ended.rc, ended.out) == (3, "handler\n"), ended.err


@pytest.mark.long
@pytest.mark.sample("waits for a pool", "holds the interpreter")
@pytest.mark.parametrize("what", ["sleeps", "waits for a thread", "waits for a pool", "holds the interpreter"])
def test_what_never_ends_does_not_hold_the_process(tmp_path, what):
    hangs = {
        "sleeps": "atexit.register(time.sleep, 50)",
        "waits for a thread": "threading.Thread(target=time.sleep, args=(50,)).start()",
        "waits for a pool": "ThreadPoolExecutor().submit(time.sleep, 50); atexit.register(print, 'handler')",
        "holds the interpreter": "atexit.register(re.match, '(a+)+b', 'a' * 60)",
    }
    ended = run_script(
        tmp_path,
        "import atexit, re, subprocess, threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from handoff_mpi import process_exit\n"
        "process_exit._DESCENDANTS_TIMEOUT_S = 1.0\n"
        f"{'' if what == 'holds the interpreter' else START}"
        f"{hangs[what]}\n"
        "process_exit.exit_process(4, 0.4, 0.2)\n",
    )
    assert ended.rc == (-signal.SIGALRM if what == "holds the interpreter" else 4), ended.err
    assert ("exit handlers have not ended within 0.4 s" in ended.err) == (what == "sleeps"), ended.err
    if what != "holds the interpreter":
        pid, *rest = ended.out.split()
        assert not is_there(int(pid))
        assert rest == (["handler"] if what == "waits for a pool" else [])


LEFTOVERS = {
    "a child": "subprocess.Popen(['sleep', '50'])",
    "a child of a child": "subprocess.Popen(['sh', '-c', 'sleep 50; true'])",
    "an orphan of the group": "subprocess.run('sleep 50 &', shell=True)",
    "an orphan in a session of its own": "subprocess.run('setsid sleep 50 &', shell=True)",
    "one that ignores TERM": "subprocess.Popen(['sh', '-c', 'trap \"\" TERM; while true; do sleep 0.1; done'])",
    "one that is stopped": "os.kill(subprocess.Popen(['sleep', '50']).pid, signal.SIGSTOP)",
    "one that was forked": "os.fork() or time.sleep(50)",
    "an orphan that was forked": "os.fork() or os.fork() or time.sleep(50)",
    "a forked orphan in a session of its own": "os.fork() or (os.setsid(), os.fork() or time.sleep(50))",
}


@pytest.mark.long
@pytest.mark.sample(
    "a child of a child",
    "an orphan in a session of its own",
    "one that ignores TERM",
    "a forked orphan in a session of its own",
)
@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_processes_that_were_left_running_end_and_those_of_others_do_not(tmp_path, leftover):
    # The test reads until the pipes are closed: a process that is left behind would hold it as it does a launcher.
    bystander = subprocess.Popen(["sleep", "50"])
    try:
        ended = run_script(
            tmp_path,
            "import os, signal, subprocess, time\n"
            "from handoff_mpi.descendants import mark_descendants\n"
            "from handoff_mpi.process_exit import exit_process\n"
            "mark_descendants()\n"
            "own = os.getpid()\n"
            f"{LEFTOVERS[leftover]}\n"
            "if os.getpid() != own: os._exit(0)\n"
            "time.sleep(0.2)\n"
            "exit_process(0)\n",
        )
        assert ended.rc == 0, ended.err
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.long
def test_a_pipeline_keeps_its_other_end(tmp_path):
    (tmp_path / "script.py").write_text(
        "import time\n"
        "from handoff_mpi.process_exit import exit_process\n"
        "time.sleep(0.2)\n"
        "print('said')\n"
        "exit_process(0)\n"
    )
    # Job control makes the first process of a pipeline the leader of a group, as in a terminal.
    line = f"set -m; {sys.executable} script.py | (sleep 0.7 && cat && echo survived)"
    ended = run_process(["bash", "-c", line], tmp_path)
    assert ended.out == "said\nsurvived\n", ended.err


SHARED = """
import multiprocessing, os, sys, time
from multiprocessing import shared_memory
from handoff_mpi.process_exit import exit_process
def hold(name):
    block = shared_memory.SharedMemory(create=True, size=100, name=name)
    open("held", "w").close()
    time.sleep(50)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=hold, args=(sys.argv[1],), daemon=True)
    process.start()
    shared_memory.SharedMemory(create=True, size=100, name=sys.argv[1] + "-own")
    end = time.monotonic() + 30
    while not os.path.exists("held") and time.monotonic() < end: time.sleep(0.01)
    exit_process(0)
"""


def test_resource_trackers_remove_the_shared_memory_that_was_left(tmp_path):
    (tmp_path / "shared.py").write_text(SHARED)
    name = f"handoff-test-{os.getpid()}"
    ended = run_process([sys.executable, "shared.py", name], tmp_path)
    assert ended.rc == 0, ended.err
    assert (tmp_path / "held").exists()
    assert not list(Path("/dev/shm").glob(f"{name}*"))
    assert "leaked shared_memory objects" in ended.err, "the tracker did it"


def test_a_process_that_leaves_nothing_sends_no_signal(tmp_path):
    ended = run_script(
        tmp_path,
        "import os\n"
        "from handoff_mpi import descendants\n"
        "from handoff_mpi.process_exit import exit_process\n"
        "descendants.os.kill = lambda *words: print(words)\n"
        "exit_process(0)\n",
    )
    assert (ended.rc, ended.out) == (0, ""), ended.err


KILLED = """
import os, sys
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=100, name=sys.argv[1])
os.write(1, b"held")
sys.stdin.read()
"""


def test_a_group_that_is_killed_leaves_its_resource_tracker_to_clean_up(tmp_path):
    name = f"handoff-test-killed-{os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.read(4) == b"held"
    kill_group(process.pid)
    _, err = process.communicate(timeout=30)  # the tracker holds the pipes until it has ended
    assert process.returncode == -signal.SIGKILL
    assert b"leaked shared_memory objects" in err
    assert not Path("/dev/shm", name).exists()
