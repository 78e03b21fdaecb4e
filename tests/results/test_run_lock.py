"""One launch at a time uses a run-dir, until it ends, however that happens."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.results.run_dir import LAUNCH_LOCK, LOCK
from handoff_mpi.results.run_lock import lock_run_dir

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from handoff_mpi.results.run_lock import lock_run_dir
lock = lock_run_dir(Path(sys.argv[1]))
if "fork" in sys.argv:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
elif "exec" in sys.argv:
    print(subprocess.Popen(["sleep", "60"], close_fds=False).pid, flush=True)
else:
    print(0, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that locks tmp_path; returns it, and the pid of its child."""
    started = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append((process, int(process.stdout.readline())))
        return started[-1]

    yield start
    for process, orphan in started:
        if orphan:
            os.kill(orphan, signal.SIGKILL)
        process.kill()
        process.communicate()


def test_a_living_process_keeps_others_out(tmp_path, holder):
    process, _ = holder()
    with pytest.raises(UsageError) as caught:
        lock_run_dir(tmp_path)
    host = os.uname().nodename
    assert f"{tmp_path} is in use by process {process.pid} on host {host} since 2" in str(caught.value)
    assert str(caught.value).endswith("or name another with --run-dir")
    process.communicate(b"")
    lock_run_dir(tmp_path).close()


@pytest.mark.parametrize("child", ["none", "fork", "exec"])
def test_a_dead_process_does_not_even_if_its_child_lives(tmp_path, holder, child):
    process, orphan = holder(child)
    process.kill()
    process.wait()
    if orphan:
        os.kill(orphan, 0)
    with lock_run_dir(tmp_path) as lock:
        assert lock.note == ""
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_lock_is_for_one_run_of_a_process(tmp_path):
    (tmp_path / LOCK).write_text("what an earlier one left there, longer than what is said now" * 10)
    lock = lock_run_dir(tmp_path)
    with pytest.raises(UsageError, match=f"in use by process {os.getpid()} "):
        lock_run_dir(tmp_path)
    shared = os.dup(lock._fd)  # as by a library that forks without telling Python
    lock.close()
    lock.close()
    lock_run_dir(tmp_path).close()
    os.close(shared)


def test_a_refusal_says_what_it_can(tmp_path):
    with lock_run_dir(tmp_path):
        for text in ("", "[1]", '{"pid": 1}', '{"started_s": 1e400}', "\x00\xff"):
            (tmp_path / LAUNCH_LOCK).write_text(text)
            with pytest.raises(UsageError, match="is in use by another process;"):
                lock_run_dir(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, code):
    def flock(fd, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_run_dir(tmp_path) as lock, lock_run_dir(tmp_path):
        assert lock.note == f"the file system of {tmp_path} knows no locks: do not use it for two runs at once"


def test_a_lock_that_cannot_be_had_is_a_usage_error(tmp_path, as_user, monkeypatch):
    (as_user / LOCK).symlink_to("elsewhere")
    with pytest.raises(UsageError, match="lock is not a regular file, and no file of a run; move it away"):
        lock_run_dir(as_user)
    (as_user / LOCK).unlink()

    def flock(fd, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match="cannot be locked: Input/output error"):
        lock_run_dir(as_user)
    (as_user / LAUNCH_LOCK).unlink()
    as_user.chmod(0o555)
    with pytest.raises(UsageError, match="lock: Permission denied"):
        lock_run_dir(as_user)


def test_locks_leave_no_files_open(tmp_path):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with lock_run_dir(tmp_path), pytest.raises(UsageError):
        lock_run_dir(tmp_path)
    assert count() == before
