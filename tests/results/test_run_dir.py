"""Who may use a run-dir, and one at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.results.run_dir import LAUNCH_LOCK, LOCK, lock_run_dir, make_run_dir

NOBODY = 65534


@pytest.fixture
def as_user():
    """A directory of an ordinary user, and for the time of the test this process is that user."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)
            os.setegid(0)


@pytest.fixture
def shared_umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


def refused(wanted) -> str:
    with pytest.raises(UsageError) as caught:
        make_run_dir(wanted)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- making it -----------------------------------------------------------------------------------------


def test_it_is_made_with_its_parents_and_used_again(tmp_path):
    path = make_run_dir(tmp_path / "a" / "b")
    assert path == tmp_path / "a" / "b" == make_run_dir(str(path))
    assert list(path.iterdir()) == []


@pytest.mark.parametrize("name", ["journal", "values", "status.json", "lock"])
def test_what_is_in_the_way_of_its_files_is_refused_and_left(tmp_path, name):
    path = tmp_path / name
    path.mkdir() if "." in name or name == "lock" else path.write_text("a diary")
    assert f"{path} is " in refused(tmp_path)
    assert "move it away, or name another with --run-dir" in refused(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_nothing_in_place_of_its_directories_is_refused(tmp_path):
    (tmp_path / "values").symlink_to("nothing")
    assert "values is not a directory" in refused(tmp_path)


def test_without_a_name_each_is_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = {make_run_dir(None) for _ in range(3)}
    assert len(made) == 3
    assert {path.parent for path in made} == {tmp_path / "handoff-runs"}


def test_a_umask_for_sharing_does_not_open_it(tmp_path, monkeypatch, shared_umask):
    monkeypatch.chdir(tmp_path)
    for path in (make_run_dir("named"), make_run_dir(None)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_link_to_ones_own_directory_is_fine(tmp_path):
    (tmp_path / "scratch").mkdir(0o700)
    (tmp_path / "link").symlink_to("scratch")
    assert make_run_dir(tmp_path / "link") == tmp_path / "link"


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        why = f"{tmp_path / 'file'} is not a directory"
        assert refused(path) == f"the run-dir {path}: {why}; name another with --run-dir"


def test_a_read_only_directory_is_refused(as_user):
    (as_user / "closed").mkdir(0o555)
    for path in (as_user / "closed", as_user / "closed" / "new"):
        assert refused(path) == f"the run-dir {path} cannot be used: Permission denied; name another with --run-dir"


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        os.chown(tmp_path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    said = refused(tmp_path)
    assert f"{tmp_path} belongs to " in said
    assert "(mode 0700) and not to you (" in said
    assert said.endswith("; name a run-dir of your own with --run-dir")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_everybody_writes_to_is_refused(tmp_path, mode):
    path = tmp_path / "a b"
    path.mkdir()
    path.chmod(mode)
    said = refused(path)
    assert f", mode {mode:04o}) can be written to by everybody" in said
    assert said.endswith("name a run-dir of your own with --run-dir")
    assert (f"; chmod go-w '{path}', or " in said) == (not mode & stat.S_ISVTX), "/tmp, say, must stay as it is"


def test_a_refusal_names_the_directory_that_refuses(as_user):
    (as_user / "closed").mkdir(0o555)
    (as_user / "hidden").mkdir(0)
    for name in ("closed", "hidden"):
        why = f"{as_user / name / 'a'}: Permission denied"
        path = as_user / name / "a" / "b"
        assert refused(path) == f"the run-dir {path} cannot be used: {why}; name another with --run-dir"


# -- its lock ------------------------------------------------------------------------------------------

HOLD = """
import os, subprocess, sys, time
from pathlib import Path
from handoff_mpi.results.run_dir import lock_run_dir
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
def test_a_dead_one_does_not_whatever_it_left_behind(tmp_path, holder, child):
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
