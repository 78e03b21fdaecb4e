"""Processes that a process has left running are found and ended; spared ones, and those of others, are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from handoff_mpi import descendants as module
from handoff_mpi.descendants import descendants, end_descendants, kill_group, kill_left_by, members, spare

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="they are found in /proc")  # noqa: PTH110

SLEEP = "import time; print(1, flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).wait()"


@pytest.fixture
def start():
    """Start a Python program that prints once it runs."""
    started = []

    def run(text, **options):
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, **options)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield run
    for each in started:
        each.kill()
        each.communicate()


def ours(*processes):
    """Return what finds these processes and those below them: others may run beside a test."""
    wanted = {process.pid for process in processes}

    def left():
        found = descendants()
        return [each for each in found if each.pid in wanted or each.parent in wanted]

    return left


def test_children_and_their_children_are_found_and_ended(start):
    child = start(PARENT)
    assert len(ours(child)()) == 2
    assert end_descendants(ours(child)) == 2
    assert ours(child)() == [] and child.wait(10) == -signal.SIGTERM


def test_one_that_ignores_the_request_is_killed(start, monkeypatch):
    monkeypatch.setattr(module, "TERMINATE_TIMEOUT_S", 0.05)
    child = start(STUBBORN)
    assert end_descendants(ours(child)) == 1
    assert child.wait(10) == -signal.SIGKILL


def test_one_that_is_spared_is_no_descendant(start):
    child = start(SLEEP)
    spare(child.pid)
    try:
        assert ours(child)() == []
    finally:
        module.this_process.of(module.SparedChildren).pids.discard(child.pid)


def has_ended(pid):
    left = module._process(pid)
    return left is None or left.state in "ZX"


def test_an_orphan_is_found_by_its_mark_and_killed_once_its_maker_has_died(start):
    forks = "import os, subprocess, sys\nfrom handoff_mpi.descendants import mark_descendants\nmark_descendants()\n"
    forks += f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\nimport time; time.sleep(60)"
    maker = start(forks)
    born = module._process(maker.pid).born
    (orphan,) = [each for each in module._processes() if each.parent == maker.pid]
    maker.kill()
    maker.wait()
    kill_left_by(maker.pid, born)
    end = time.monotonic() + 10  # a signal takes effect a moment after it was sent
    while not has_ended(orphan.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert has_ended(orphan.pid)


def test_a_group_is_killed_and_its_resource_tracker_is_not(start):
    leader = start(PARENT, start_new_session=True)
    assert len(members(leader.pid)) == 2
    kill_group(leader.pid)
    assert leader.wait(10) == -signal.SIGKILL
    tracker = start("import time  # resource_tracker import main\n" + SLEEP, start_new_session=True)
    assert module._process(tracker.pid).is_tracker
    kill_group(tracker.pid)
    assert tracker.poll() is None


def test_a_resource_tracker_gets_the_time_to_end_by_itself(start):
    read, _ = os.pipe()
    text = f"import os  # resource_tracker import main\nprint(1, flush=True); os.read({read}, 1)"
    tracker = start(text, pass_fds=[read])
    os.close(read)
    assert end_descendants(ours(tracker)) == 0
    assert tracker.wait(10) == 0, "its pipe was closed, and it was neither asked nor killed"


def test_a_process_that_has_ended_is_signalled_no_more(start):
    child = start(SLEEP)
    process = module._process(child.pid)
    child.kill()
    child.wait()
    process.signal(signal.SIGKILL)
    assert module._process(child.pid) is None and not process._lives()
