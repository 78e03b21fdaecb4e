"""The journal: after any damage to its files, the records read are a beginning of those committed."""

from __future__ import annotations

import enum
import errno
import functools
import os
import pickle
import random
import resource
import shutil
import stat
import struct
import subprocess
import sys
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from handoff_mpi.errors import EXIT_STOPPED, EXIT_USAGE, JournalError, UsageError
from handoff_mpi.results import journal as module
from handoff_mpi.results.journal import MIN_WRITE_OUT_NBYTES, Journal, clear
from handoff_mpi.results.journal_reader import read_journal
from handoff_mpi.results.run_dir import JOURNAL
from tests.conftest import missing, run_process

NOBODY = 65534


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Disk:
    """Counts what is asked of it, and does it, or fails."""

    def __init__(self) -> None:
        self.writes = 0
        self.fsyncs = 0
        self.most = 1 << 40
        self.room = 1 << 40
        self.fsync_error = 0

    def pwrite(self, fd, data, offset) -> int:
        self.writes += 1
        data = data[: min(self.most, self.room)]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(data)
        return os.pwrite(fd, data, offset)

    def fsync(self, fd) -> None:
        self.fsyncs += 1
        if self.fsync_error:
            raise OSError(self.fsync_error, os.strerror(self.fsync_error))


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def journal(tmp_path, disk, clock):
    with Journal(tmp_path, clock=clock, pwrite=disk.pwrite, fsync=disk.fsync) as journal:
        disk.writes = disk.fsyncs = 0
        yield journal


def newest_epoch(run_dir):
    return max(segment.epoch for segment in read_journal(run_dir).segments)


def records(run_dir) -> list:
    return [record for _, record in read_journal(run_dir)]


def commit(journal, *batch) -> None:
    for record in batch:
        assert journal.append(record)
    journal.commit()


def written(run_dir, *batches) -> Path:
    with Journal(run_dir) as journal:
        for batch in batches:
            commit(journal, *batch)
    return journal.path


def joined(batches) -> list:
    return [record for batch in batches for record in batch]


# -- what comes back -----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


@dataclass(frozen=True)
class Cell:
    row: int
    column: str


def test_nothing_comes_of_nothing(tmp_path):
    assert records(tmp_path) == records(tmp_path / "not there") == []
    (tmp_path / JOURNAL).mkdir()
    assert records(tmp_path) == []


def test_what_is_committed_comes_back_launch_by_launch(tmp_path):
    first = [("done", 0, "load", b"\0" * 5000), ("done", 1, ("fit", 3), None), ("failed", Cell(1, "a"), 2.5)]
    second = [("done", Colour.RED, 10**30), ("header", "of mine")]
    written(tmp_path, first[:2], first[2:])
    written(tmp_path, second)
    contents = read_journal(tmp_path)
    assert list(contents) == [(1, record) for record in first] + [(2, record) for record in second]
    assert contents.notes == []
    assert [segment.epoch for segment in contents.segments] == [1, 2]
    assert contents.segments[1].python == sys.version.split()[0]
    assert contents.segments[1].version
    assert contents.segments[1].started_s >= contents.segments[0].started_s > 1.7e9


def test_what_was_appended_is_there_after_the_commit(tmp_path, journal):
    journal.append(("a",))
    assert records(tmp_path) == []
    journal.commit()
    assert records(tmp_path) == [("a",)]
    journal.append(("b",))
    journal.close()
    assert records(tmp_path) == [("a",), ("b",)]
    journal.close()


def test_a_commit_is_one_write_and_an_empty_one_none(tmp_path, journal, disk):
    commit(journal, *[("done", number) for number in range(100)])
    assert disk.writes == 1
    journal.commit()
    assert disk.writes == 1


def test_segments_are_private_under_any_umask(tmp_path):
    before = os.umask(0o000)
    try:
        path = written(tmp_path, [("a",)])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_an_id_that_cannot_be_pickled_costs_its_own_record(tmp_path, journal):
    journal.append(("done", "before"))
    assert journal.append(("done", lambda: 0)) is journal.append(("done", lambda: 1)) is False
    commit(journal, ("done", "after"))
    assert records(tmp_path) == [("done", "before"), ("done", "after")]
    assert journal.left_out == 2
    assert len(journal.notes) == 1
    assert "a record (done) cannot be pickled" in journal.notes[0]


def test_a_class_that_is_gone_costs_its_own_records(tmp_path, monkeypatch):
    path = written(tmp_path, [("done", "before"), ("done", Cell(1, "a")), ("done", "after")], [("done", "later")])
    monkeypatch.delattr(sys.modules[__name__], "Cell")
    contents = read_journal(tmp_path)
    assert [record[1] for _, record in contents] == ["before", "after", "later"]
    (note,) = contents.notes
    assert note.startswith(f"{path}: 1 record(s) cannot be unpickled (AttributeError: ")


# -- epochs --------------------------------------------------------------------------------------------


def test_the_newest_epoch_counts_segments_alone(tmp_path):
    assert [Path(written(tmp_path)).name for _ in range(2)] == ["000001.journal", "000002.journal"]
    for name in ("000009.journal.bak", "9.journal", "0000009.journal", "x00009.journal", "000009"):
        (tmp_path / JOURNAL / name).touch()
    assert newest_epoch(tmp_path) == 2
    (tmp_path / JOURNAL / "1000000.journal").touch(0o644)
    assert newest_epoch(tmp_path) == 1_000_000
    with Journal(tmp_path) as journal:
        assert journal.epoch == 1_000_001
    assert [segment.epoch for segment in read_journal(tmp_path).segments] == [1, 2, 1_000_000, 1_000_001]


OPEN_MANY = """
import sys
from pathlib import Path
from handoff_mpi.results.journal import Journal
print(flush=True)
sys.stdin.readline()
for number in range(40):
    with Journal(Path(sys.argv[1]), fsync=lambda fd: None) as journal:
        journal.append((sys.argv[2], number))
        print(journal.epoch)
"""


def test_openers_that_race_get_an_epoch_each(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_MANY, tmp_path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "ab"
    ]
    for racer in racers:
        racer.stdout.readline()
    for racer in racers:
        racer.stdin.write(b"go\n")
        racer.stdin.flush()
    mine, others = ([int(line) for line in racer.communicate(timeout=60)[0].split()] for racer in racers)
    assert sorted(mine + others) == list(range(1, 81))
    contents = read_journal(tmp_path)
    assert contents.notes == []
    assert [(epoch, record[1]) for epoch, record in contents if record[0] == "a"] == list(
        zip(mine, range(40), strict=True)
    )


def test_the_loser_of_a_race_takes_the_next_number(tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.setattr(module, "find_epochs", lambda directory: [])
    with Journal(tmp_path) as journal:
        assert journal.epoch == 2


# -- death at any moment -------------------------------------------------------------------------------

BATCHES = [[("done", "load", b"\0\0\0")], [("done", ("fit", 1), 0.5), ("done", ("fit", 2), None)], [("stop", 75)]]


@pytest.fixture
def committed(tmp_path):
    """A segment, what is in it, and the sizes it had after each commit."""
    sizes = []
    with Journal(tmp_path) as journal:
        sizes.append(journal.path.stat().st_size)
        for batch in BATCHES:
            commit(journal, *batch)
            sizes.append(journal.path.stat().st_size)
    return journal.path, journal.path.read_bytes(), sizes


def test_every_beginning_of_a_segment_is_one_of_its_records(tmp_path, committed):
    path, data, sizes = committed
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = [batch for batch, end in zip(BATCHES, sizes[1:], strict=True) if end <= size]
        contents = read_journal(tmp_path)
        assert [record for _, record in contents] == joined(whole)
        assert len(contents.notes) == (size not in (0, data.index(b"\n") + 1, *sizes)), size


def test_after_a_torn_segment_the_next_one_is_read(tmp_path, committed):
    path, data, _ = committed
    path.write_bytes(data[:-1])
    written(tmp_path, [("done", "again")])
    assert list(read_journal(tmp_path))[-2:] == [(1, BATCHES[1][1]), (2, ("done", "again"))]


def test_no_flipped_bit_makes_a_record(tmp_path, committed):
    path, data, sizes = committed
    for position in range(sizes[0], len(data)):
        whole = joined(batch for batch, end in zip(BATCHES, sizes[1:], strict=True) if end <= position)
        for bit in {position % 8, position * 5 % 7}:  # all of them would take seconds
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            contents = read_journal(tmp_path)
            assert [record for _, record in contents] == whole
            assert len(contents.notes) == 1


def test_a_flipped_bit_of_the_header_makes_none_either(tmp_path, committed):
    path, data, sizes = committed
    every = joined(BATCHES)
    for position in range(sizes[0]):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            found = records(tmp_path)
        except JournalError:
            assert position <= data.index(b"\n")
            continue
        assert found in ([], every)


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 50, b"\0" * 7 + b"\1"], ids=["zeros", "ones", "long"])
def test_what_was_never_committed_is_not_read(tmp_path, committed, tail):
    path, data, sizes = committed
    path.write_bytes(data + tail)
    assert records(tmp_path) == joined(BATCHES)
    path.write_bytes(data[: sizes[0]] + tail + data[sizes[0] :])
    assert records(tmp_path) == [], "nothing after damage is trusted"
    path.write_bytes(tail[:1] * 5000 if tail[0] == 0 else b"")
    assert records(tmp_path) == []


APPEND = """
import sys
from pathlib import Path
from handoff_mpi.results.journal import Journal
journal = Journal(Path(sys.argv[1]))
for turn in range(1 << 40):
    for number in range(3):
        journal.append(("done", turn, number))
    journal.commit()
    if turn % 100 == 0:
        print(turn, flush=True)
"""


def test_a_killed_launch_leaves_whole_turns(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", APPEND, tmp_path], stdout=subprocess.PIPE)
    for _ in range(4):
        told = int(process.stdout.readline())
    process.kill()
    process.communicate()
    found = records(tmp_path)
    assert found == [("done", turn, number) for turn in range(len(found) // 3) for number in range(3)]
    assert len(found) >= 3 * told


# -- a disk that fails ---------------------------------------------------------------------------------


def test_short_writes_are_finished(tmp_path, journal, disk):
    disk.most = 7
    commit(journal, *BATCHES[0])
    assert disk.writes > 5
    disk.most = 1 << 40
    commit(journal, *BATCHES[1])
    assert records(tmp_path) == BATCHES[0] + BATCHES[1]
    assert read_journal(tmp_path).notes == []


def test_a_full_disk_leaves_whole_commits_and_can_be_tried_again(tmp_path, journal, disk):
    commit(journal, *BATCHES[0])
    size = journal.path.stat().st_size
    for record in BATCHES[1]:
        journal.append(record)
    disk.room = 20
    with pytest.raises(JournalError) as caught:
        journal.commit()
    assert str(caught.value) == (
        f"the journal {journal.path} cannot be written: No space left on device; what was done until then is kept: "
        "free space there, then give the same command again, which resumes"
    )
    assert caught.value.exit_code == EXIT_STOPPED
    assert journal.path.stat().st_size == size
    disk.room = 1 << 40
    journal.commit()
    commit(journal, *BATCHES[2])
    assert records(tmp_path) == joined(BATCHES)
    assert read_journal(tmp_path).notes == []


def test_a_tail_that_cannot_be_cut_is_written_over(tmp_path, journal, disk, monkeypatch):
    def ftruncate(fd, size):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", ftruncate)
    disk.room = 20
    with pytest.raises(JournalError):
        commit(journal, *BATCHES[1])
    assert records(tmp_path) == []
    disk.room = 1 << 40
    journal.commit()
    assert records(tmp_path) == BATCHES[1]
    assert read_journal(tmp_path).notes == []


def test_closing_after_a_failure_is_quiet(tmp_path, journal, disk):
    disk.room = 5
    with pytest.raises(JournalError):
        commit(journal, *BATCHES[0])
    journal.close()
    assert records(tmp_path) == []


def test_a_write_of_nothing_is_a_failure_and_no_endless_loop(tmp_path):
    with pytest.raises(JournalError, match="nothing was written"):
        Journal(tmp_path, pwrite=lambda fd, data, offset: 0)


def test_no_room_for_the_header_leaves_an_empty_segment_and_no_open_file(tmp_path, disk):
    disk.room = 10
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(JournalError, match="No space left"):
        Journal(tmp_path, pwrite=disk.pwrite)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    contents = read_journal(tmp_path)
    assert [segment.records for segment in contents.segments] == [[]]
    assert contents.notes == []
    assert newest_epoch(tmp_path) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        missing("root's mount")
    tried = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", path], capture_output=True)
    if tried.returncode != 0:
        missing("a mount that may mount a tmpfs")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_disk_that_is_really_full(small_disk):
    with Journal(small_disk) as journal:
        count = 0
        with pytest.raises(JournalError, match=r"No space left on device; .* free space there"):
            while True:
                journal.append(("done", count, b"x" * 1000))
                journal.commit()
                count += 1
        assert count > 20
        assert [record[1] for record in records(small_disk)] == list(range(count))
        assert read_journal(small_disk).notes == []
    assert records(small_disk)[-1][1] == count - 1
    with pytest.raises(JournalError, match="No space left on device"):
        Journal(small_disk)


def test_a_limit_of_file_sizes(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path) as journal:
        commit(journal, *BATCHES[0])
        journal.append(("done", b"x" * 5000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            journal.commit()
        except JournalError as error:
            said = str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large; what was done until then is kept: raise the limit of file sizes (ulimit -f)" in said
    assert records(tmp_path) == BATCHES[0]
    assert read_journal(tmp_path).notes == []


# -- fsync ---------------------------------------------------------------------------------------------


def test_a_segment_and_its_names_are_synced_when_it_is_made(tmp_path):
    synced = []
    with Journal(tmp_path, fsync=lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink())) as journal:
        assert synced == [journal.path, tmp_path / JOURNAL, tmp_path]


def fsyncs(journal, disk) -> int:
    journal.wait_for_disk()
    return disk.fsyncs


def test_fsync_comes_at_most_once_a_second(journal, disk, clock):
    for _ in range(10):
        commit(journal, ("a",))
    assert fsyncs(journal, disk) == 0
    clock.now += 1.0
    for _ in range(10):
        commit(journal, ("a",))
        assert fsyncs(journal, disk) == 1
    clock.now += 0.9
    commit(journal, ("a",))
    assert fsyncs(journal, disk) == 1
    clock.now += 0.1
    journal.commit()
    assert fsyncs(journal, disk) == 2, "a commit of nothing syncs what the earlier ones wrote"
    clock.now += 100.0
    journal.commit()
    assert fsyncs(journal, disk) == 2, "there is nothing to sync"
    journal.close()
    assert disk.fsyncs == 3


def test_a_failing_fsync_is_told(journal, disk, clock):
    clock.now += 1.0
    disk.fsync_error = errno.EIO
    commit(journal, ("a",))
    with pytest.raises(JournalError, match=r"Input/output error; .* see that its file system works again"):
        journal.wait_for_disk()
    disk.fsync_error = errno.EDQUOT
    with pytest.raises(JournalError, match="free some of your quota there"):
        journal.close()
    journal.close()


def test_the_system_begins_to_write_out_much_that_was_written_and_fsync_comes_once_a_second(
    journal, disk, clock, monkeypatch
):
    begun = []
    monkeypatch.setattr(module, "begin_write_out", begun.append)
    much = random.Random(0).randbytes(MIN_WRITE_OUT_NBYTES)
    for _ in range(2):
        commit(journal, ("a", much))
        assert fsyncs(journal, disk) == 0
    assert len(begun) == 2
    commit(journal, ("a",))
    clock.now += 1.0
    commit(journal, ("a", much))
    assert fsyncs(journal, disk) == 1 and len(begun) == 2


def test_commits_do_not_wait_for_a_slow_disk(tmp_path, clock):
    begun, may_end = threading.Event(), threading.Event()
    may_end.set()
    with Journal(tmp_path, clock=clock, fsync=lambda fd: begun.set() or may_end.wait()) as journal:
        clock.now += 1.0
        may_end.clear()
        begun.clear()
        commit(journal, ("a",))
        begun.wait()
        clock.now += 1.0
        commit(journal, ("b",))
        assert records(tmp_path) == [("a",), ("b",)]
        may_end.set()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_file_system_without_fsync_is_used_all_the_same(tmp_path, disk, code):
    disk.fsync_error = code
    with Journal(tmp_path, fsync=disk.fsync) as journal:
        commit(journal, ("a",))
    assert records(tmp_path) == [("a",)]


# -- starting over -------------------------------------------------------------------------------------


def test_what_runs_have_left_is_cleared_and_nothing_else(tmp_path):
    path = written(tmp_path, [("done", 1)])
    values = tmp_path / "values"
    values.mkdir()
    ours = [values / f"{'0a' * 20}.value", values / f"{'0a' * 20}.17.partial"]
    theirs = [values / "net.value", values / "notes.partial", tmp_path / JOURNAL / "diary.txt"]
    for each in (*ours, *theirs):
        each.write_text("something")
    clear(tmp_path)
    assert path.read_bytes() == b""
    assert newest_epoch(tmp_path) == 1
    assert [each for each in (*ours, *theirs) if each.exists()] == theirs
    assert {each.read_text() for each in theirs} == {"something"}


@pytest.mark.parametrize("name", [f"{JOURNAL}/000002.journal", f"values/{'0a' * 20}.value"])
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_no_run_has_made_is_left_and_all_else_with_it(tmp_path, name, kind):
    path = written(tmp_path, [("done", 1)])
    (tmp_path / "values").mkdir()
    (tmp_path / "precious").write_text("mine")
    odd = tmp_path / name
    link = functools.partial(odd.symlink_to, tmp_path / "precious")
    {"link": link, "fifo": lambda: os.mkfifo(odd), "directory": odd.mkdir}[kind]()
    with pytest.raises(UsageError, match="is not a regular file, and no file of a run; move it away, or name another"):
        clear(tmp_path)
    assert (tmp_path / "precious").read_text() == "mine"
    assert path.stat().st_size
    assert os.path.lexists(odd)


# -- what is refused -----------------------------------------------------------------------------------


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


@pytest.fixture
def bomb(tmp_path):
    """A segment that must not be unpickled."""
    path = written(tmp_path, [("done", Bomb())])
    with pytest.raises(pytest.fail.Exception):
        read_journal(tmp_path)
    return path


def refusal(run_dir) -> str:
    with pytest.raises(UsageError) as caught:
        read_journal(run_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("part", ["run-dir", "journal", "segment"])
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o602, 0o720])
def test_what_others_can_write_to_is_not_unpickled(tmp_path, bomb, part, mode):
    path = {"run-dir": tmp_path, "journal": bomb.parent, "segment": bomb}[part]
    path.chmod(mode | stat.S_IXUSR)
    said = refusal(tmp_path)
    path.chmod(0o700)
    assert said.startswith(f"{path} (of ")
    assert f"mode {mode | stat.S_IXUSR:04o}) can be written to by " in said
    is_scratch = path.is_dir() and mode & stat.S_ISVTX
    assert (f"; chmod go-w {path}, or " in said) == (not is_scratch)
    assert "name a run-dir of your own with --run-dir" in said


@pytest.mark.parametrize("part", ["run-dir", "journal", "segment"])
def test_what_belongs_to_somebody_else_is_not_unpickled(tmp_path, bomb, monkeypatch, part):
    path = {"run-dir": tmp_path, "journal": bomb.parent, "segment": bomb}[part]
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        path = tmp_path
    said = refusal(tmp_path)
    assert said.startswith(f"{path} belongs to ")
    assert said.endswith("name a run-dir of your own with --run-dir")


def test_only_regular_files_are_segments(tmp_path, bomb):
    elsewhere = bomb.rename(tmp_path / "elsewhere")
    for make in (lambda: bomb.symlink_to(elsewhere), lambda: os.mkfifo(bomb), bomb.mkdir):
        make()
        assert refusal(tmp_path).startswith(f"{bomb} is not a regular file")
        assert "--fresh" not in refusal(tmp_path), "it would not remove it either"
        bomb.rmdir() if bomb.is_dir() else bomb.unlink()


def test_a_journal_directory_of_others_is_not_written_to(tmp_path):
    (tmp_path / JOURNAL).mkdir()
    (tmp_path / JOURNAL).chmod(0o777)
    with pytest.raises(UsageError, match="can be written to by everybody"):
        Journal(tmp_path)


def test_another_format_is_refused_by_name_and_versions(tmp_path):
    path = written(tmp_path, [("done", Bomb())])
    path.write_bytes(path.read_bytes().replace(b"HMPJ %d " % module.FORMAT, b"HMPJ 12 "))
    version = module.VERSION
    with pytest.raises(JournalError) as caught:
        read_journal(tmp_path)
    assert str(caught.value) == (
        f"the journal {path} is of format 12, written by handoff_mpi {version}; this is handoff_mpi {version}, which "
        f"reads format {module.FORMAT}: run with --fresh, or with the version that wrote it"
    )
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("content", [b"hello\n", b"HMPJ one\n", b"x" * 1000, b"HMPJ " + b"1" * 1000, b"\n"])
def test_what_is_no_journal_is_refused(tmp_path, content):
    path = written(tmp_path)
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"000001\.journal is not a journal of handoff_mpi; move it away, or run"):
        read_journal(tmp_path)


def test_the_format_is_what_the_module_says(tmp_path):
    (tmp_path / JOURNAL).mkdir()
    header = pickle.dumps(("header", "0.1.0", "3.10.0", 1, 5.0), 5)
    payloads = [pickle.dumps([header], 5), pickle.dumps([pickle.dumps(("done", 1), 5)], 5)]
    frames = [struct.pack("<II", len(each), zlib.crc32(each, len(each))) + each for each in payloads]
    path = tmp_path / JOURNAL / "000001.journal"
    path.write_bytes(b"HMPJ %d 0.1.0\n" % module.FORMAT + b"".join(frames))
    path.chmod(0o644)
    contents = read_journal(tmp_path)
    assert list(contents) == [(1, ("done", 1))]
    assert contents.segments[0].started_s == 5.0


def test_what_cannot_be_made_or_listed_is_told(tmp_path):
    (tmp_path / JOURNAL).write_text("a file")
    with pytest.raises(JournalError, match="journal cannot be written: "):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="cannot be read: Not a directory; move it away, or name"):
        read_journal(tmp_path)


def test_a_long_version_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "VERSION", "1.0+ä" * 100)
    written(tmp_path, [("a",)])
    assert records(tmp_path) == [("a",)]


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(JournalError("why", EXIT_STOPPED)))
    assert (str(error), error.exit_code) == ("why", EXIT_STOPPED)


def test_dag_files_classes_come_back_once_it_is_loaded(tmp_path):
    (tmp_path / "dag.py").write_text("class Id(tuple):\n    pass\n")
    code = (
        "from pathlib import Path\n"
        "from handoff_mpi.launch.dag_file import load_dag_file\n"
        "from handoff_mpi.results.journal import Journal\n"
        "from handoff_mpi.results.journal_reader import read_journal\n"
        "load_dag_file('dag.py', [])\n"
        "import dag\n"
        "print([record[1] == dag.Id((1,)) and type(record[1]) is dag.Id for _, record in read_journal(Path('run'))])\n"
        "Path('run').mkdir(exist_ok=True)\n"
        "with Journal(Path('run')) as journal: journal.append(('done', dag.Id((1,))))\n"
    )
    said = [run_process([sys.executable, "-c", code], tmp_path) for _ in range(2)]
    assert [ended.out for ended in said] == ["[]\n", "[True]\n"], said
