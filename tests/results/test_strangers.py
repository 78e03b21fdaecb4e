"""Other users of a host attack a run of yours: real users, and the files that they got."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pickle
import shutil
import stat
import tempfile
import threading
import time
from pathlib import Path

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.errors import JournalError, UntrustedFile, UsageError, ValueDamaged
from handoff_mpi.results.journal import Journal
from handoff_mpi.results.store import _text
from handoff_mpi.results.value_file import write_value
from tests.strangers import COLLEAGUE, OWNER, PROJECT, STRANGER, need_root

UMASKS = (0o077, 0o022, 0o002, 0o000)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


def small(number):
    return number


def big(number, *inputs):
    return numpy.full(40_000, float(number))


def total(array):
    return float(array.sum())


def dag(version=""):
    dag = DAG("trust")
    dag.add_function(Function("big", (), big, [2]))
    dag.add_function(Function("total", ["big"], total, version=version))
    return dag


def run(run_dir, version=""):
    results = handoff.execute_local(dag(version), run_dir=run_dir, checkpoint="all", check=False)
    return results.status, results.exit_code, results["total"]


def run_without_a_name(place):
    os.chdir(place)
    return run(None)


def load(run_dir):
    results = handoff.load(run_dir)
    return results["total"], float(results["big"].sum())


@pytest.fixture(scope="module")
def warm():
    """Modules that are imported late may lie where other users cannot read."""
    need_root()
    with tempfile.TemporaryDirectory() as place:
        run(Path(place, "run"))
        load(Path(place, "run"))


@pytest.fixture
def project(warm):
    """A directory that root made for a project: its members may write to it, and what they make is the group's."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        project = Path(place, "project")
        project.mkdir()
        os.chown(project, 0, PROJECT)
        project.chmod(0o2775)
        yield project


@pytest.fixture
def old_run(project):
    """A run as older versions left it under umask 002: its group may write to its directories."""
    run_dir = project / "mine" / "run"
    assert OWNER.does(run, run_dir, umask=0o002) == ("done", 0, 80_000.0)
    for each in (run_dir, run_dir / "values", run_dir / "journal"):
        each.chmod(0o2775)
    return run_dir


def value_file(run_dir):
    (path,) = (run_dir / "values").glob("*.value")
    return path


def bomb_of(run_dir, mark):
    """Return the file of a value that is right in all but what it unpickles."""
    path = value_file(run_dir)
    data = path.read_bytes()
    count = int.from_bytes(data[6:10], "little")
    parts = int.from_bytes(data[10:14], "little")
    key = data[14 + 8 * parts : 14 + 8 * parts + count]
    file = io.BytesIO()
    write_value(file.write, key, (1, pickle.dumps(Bomb(mark))))
    return file.getvalue()


# -- what a run makes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", UMASKS, ids="{:03o}".format)
def test_what_a_run_makes_is_writable_by_nobody_else_and_no_more_open_than_the_umask(project, umask):
    run_dir = project / "above" / "run"
    assert OWNER.does(run, run_dir, umask=umask) == ("done", 0, 80_000.0)
    found = {path: stat.S_IMODE(path.stat().st_mode) & 0o777 for path in (run_dir.parent, *run_dir.parent.rglob("*"))}
    assert {path.name for path in found} > {"run", "values", "journal", "status.json", "lock", "000001.journal"}
    for path, mode in found.items():
        usual = 0o755 if path.is_dir() else 0o600 if path.name in ("lock", "launch.lock") else 0o644
        assert mode == usual & ~umask, path
    assert OWNER.does(run, run_dir, "2", umask=umask) == ("done", 0, 80_000.0), "it resumes"
    assert OWNER.does(load, run_dir, umask=umask) == (80_000.0, 80_000.0)


def open_to_all(path):
    path.chmod(0o777)


def plant(path):
    (path / "planted").touch()


def overwrite(path):
    path.open("r+b").close()


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def rename(path):
    path.rename(path.with_name("moved"))


@pytest.mark.parametrize("who", [COLLEAGUE, STRANGER], ids=["colleague", "stranger"])
def test_others_can_change_nothing_of_a_run(project, who):
    run_dir = project / "mine" / "run"
    OWNER.does(run, run_dir, umask=0o002)

    def attempts():
        got = {}
        for path in (run_dir.parent, run_dir, *run_dir.rglob("*")):
            for does in (open_to_all, plant if path.is_dir() else overwrite, remove, rename):
                if does is rename and path == run_dir.parent:
                    continue  # the cases below say what becomes of a run then
                try:
                    does(path)
                    got[does.__name__, path.name] = "done"
                except OSError as error:
                    got[does.__name__, path.name] = type(error).__name__
        assert len(got) > 30
        return got

    assert set(who.does(attempts).values()) == {"PermissionError"}


@pytest.mark.parametrize("who", [COLLEAGUE, STRANGER], ids=["colleague", "stranger"])
def test_others_cannot_hold_the_locks_of_a_run(project, who):
    """A lock can be taken through a descriptor that may only read."""
    run_dir = project / "mine" / "run"
    OWNER.does(run, run_dir)
    for name in ("lock", "launch.lock"):
        (run_dir / name).chmod(0o644)  # as older versions made it
    OWNER.does(run, run_dir)

    def hold(name):
        fd = os.open(run_dir / name, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    for name in ("lock", "launch.lock"):
        assert isinstance(who.does(hold, name), PermissionError)


# -- what was planted while it was open to the group ----------------------------------------------------


@pytest.mark.parametrize("way", ["another file", "the same file", "a link"])
def test_a_planted_value_is_not_unpickled(old_run, project, way):
    path, mark = value_file(old_run), project / "exploded"
    bomb = bomb_of(old_run, mark)
    if way == "the same file":
        path.chmod(0o664)

    def plant():
        if way == "the same file":
            path.write_bytes(bomb)
        else:
            (project / "theirs").write_bytes(bomb)
            path.unlink()
            (project / "theirs").rename(path) if way == "another file" else path.symlink_to(project / "theirs")

    assert COLLEAGUE.does(plant) is None
    for closes in (False, True):  # the directory is refused first, then the file
        if closes:
            (old_run / "values").chmod(0o755)
            old_run.chmod(0o755), (old_run / "journal").chmod(0o755)
        refused = OWNER.does(load, old_run)
        assert isinstance(refused, ValueDamaged if closes else UntrustedFile), refused
    assert OWNER.does(run, old_run, "2") == ("done", 0, 80_000.0), "it was made again"
    assert OWNER.does(load, old_run) == (80_000.0, 80_000.0)
    assert not mark.exists()


def test_a_planted_segment_of_the_journal_is_not_unpickled(old_run, project):
    mark = project / "exploded"

    def plant():
        other = project / "theirs"
        with Journal(other_run(other)) as journal:
            journal.append(("run", Bomb(mark)))
        (other / "journal" / "000001.journal").rename(old_run / "journal" / "000002.journal")

    def other_run(path):
        path.mkdir()
        return path

    assert COLLEAGUE.does(plant) is None
    for refused in (OWNER.does(load, old_run), OWNER.does(run, old_run), OWNER.does(load, old_run)):
        assert isinstance(refused, UsageError)
    assert "000002.journal belongs to user 65533 (mode 0644) and not to you (user 65532)" in str(refused)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["values/{}", "journal/000002.journal", "status.json", "lock", "launch.lock"])
@pytest.mark.parametrize("kind", ["fifo", "link to a device", "hard link", "directory"])
def test_odd_things_that_were_planted_neither_hang_nor_harm(old_run, project, name, kind):
    path = old_run / name.format(value_file(old_run).name)
    precious = project / "precious"

    def plant():
        precious.write_text("theirs")
        path.unlink(missing_ok=True)
        {
            "fifo": lambda: os.mkfifo(path),
            "link to a device": lambda: path.symlink_to("/dev/zero"),
            "hard link": lambda: path.hardlink_to(precious),
            "directory": path.mkdir,
        }[kind]()

    assert COLLEAGUE.does(plant) is None
    told = OWNER.does(run, old_run, "2")
    if isinstance(told, Exception):
        assert isinstance(told, (UsageError, JournalError)), told
        assert str(path) in str(told)
    else:
        assert told == ("done", 0, 80_000.0)
    assert precious.read_text() == "theirs"


def test_group_write_permission_is_taken_from_ones_own_run_dir_and_that_is_said(old_run, capfd):
    assert OWNER.does(run, old_run, "2") == ("done", 0, 80_000.0)
    told = [line for line in capfd.readouterr().err.splitlines() if "group write" in line]
    where = f"{old_run}, {old_run / 'journal'}, {old_run / 'values'}"
    assert told == [f"handoff: group write permission was removed from {where}: a run executes what it reads there"]
    for each in (old_run, old_run / "journal", old_run / "values"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o2755


# -- what is above it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o002], ids="{:03o}".format)
def test_a_parent_that_a_stranger_made_first_is_refused(project, umask):
    runs = project / "handoff-runs"
    assert COLLEAGUE.does(runs.mkdir, umask=umask) is None
    runs.chmod(0o2777 & ~umask)

    def run_there():
        os.chdir(project)
        return run(None)

    refused = OWNER.does(run_there)
    assert isinstance(refused, UntrustedFile)
    mode = 0o2777 & ~umask
    assert str(refused) == (
        f"{runs} above the run-dir belongs to user 65533 (mode {mode:04o}), who could put another directory into its "
        "place; name a run-dir in a directory of your own with --run-dir"
    )
    assert list(runs.iterdir()) == []
    assert OWNER.does(run, project / "mine" / "run") == ("done", 0, 80_000.0), "as it says"


def test_a_directory_that_everybody_may_write_to_is_refused_unless_it_is_sticky(project):
    project.chmod(0o777)
    for run_dir in (project / "run", project / "deeper" / "below" / "run"):
        refused = OWNER.does(run, run_dir)
        assert isinstance(refused, UntrustedFile)
        assert f"{project} above the run-dir (mode 0777) can be written to by everybody" in str(refused)
        assert str(refused).endswith("who could replace it; name a run-dir elsewhere with --run-dir"), "it is root's"
    os.chown(project, OWNER.uid, PROJECT)
    project.chmod(0o777)
    assert f"; chmod +t {project}, or name a run-dir elsewhere" in str(OWNER.does(run, run_dir))
    project.chmod(0o1777)
    assert OWNER.does(run, run_dir) == ("done", 0, 80_000.0)


def test_a_directory_of_somebody_else_is_accepted_far_above_and_refused_right_above(project):
    theirs = project / "theirs"
    assert COLLEAGUE.does(theirs.mkdir) is None
    (theirs / "yours").mkdir()
    os.chown(theirs / "yours", OWNER.uid, PROJECT)
    for mode in (0o755, 0o2775):
        theirs.chmod(mode)
        assert OWNER.does(run, theirs / "yours" / f"run-{mode:o}") == ("done", 0, 80_000.0)
    theirs.chmod(0o777)
    assert isinstance(OWNER.does(run, theirs / "yours" / "run"), UntrustedFile), "everybody may write there"
    theirs.chmod(0o2775)
    assert isinstance(OWNER.does(run, theirs / "run"), UntrustedFile), "it is the nearest"
    assert OWNER.does(run_without_a_name, theirs) == ("done", 0, 80_000.0), "the nearest is handoff-runs"
    (theirs / "handoff-runs").rename(theirs / "runs-before")
    assert COLLEAGUE.does((theirs / "handoff-runs").mkdir) is None
    (theirs / "handoff-runs").chmod(0o2775)
    assert isinstance(OWNER.does(run_without_a_name, theirs), UntrustedFile)


def test_load_of_a_colleagues_run_says_what_to_do_and_that_works(project):
    theirs, copied = project / "theirs", project / "copied"
    COLLEAGUE.does(theirs.mkdir)
    assert COLLEAGUE.does(run, theirs / "run") == ("done", 0, 80_000.0)
    for run_dir in (theirs / "run", theirs):
        said = OWNER.does(load, run_dir)
        assert isinstance(said, UntrustedFile)
        assert str(said).endswith("; copy it into a directory of your own, if you trust its owner, and load the copy")
        assert "--run-dir" not in str(said)
    assert isinstance(OWNER.does(shutil.copytree, theirs / "run", copied), shutil.Error), "the locks are private"
    assert OWNER.does(load, copied) == (80_000.0, 80_000.0)


def test_links_on_the_way_are_followed_if_nobody_else_could_change_them(project):
    mine = project / "mine"
    OWNER.does(mine.mkdir)
    OWNER.does((mine / "scratch").symlink_to, "../../project/mine/real")
    OWNER.does((mine / "real").mkdir)
    assert OWNER.does(run, mine / "scratch" / ".." / "real" / "run") == ("done", 0, 80_000.0)
    assert OWNER.does(load, mine / "scratch" / "run") == (80_000.0, 80_000.0)
    COLLEAGUE.does((project / "trap").symlink_to, mine)
    refused = OWNER.does(run, project / "trap" / "run")
    assert f"{project / 'trap'}, on the way to the run-dir, is a link of user 65533" in str(refused)
    (mine / "round").symlink_to("round")
    os.chown(mine / "round", OWNER.uid, PROJECT, follow_symlinks=False)
    assert "Too many levels of symbolic links" in str(OWNER.does(run, mine / "round" / "run"))


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)


def run_while_swapped(project, run_dir):
    """Run a DAG whose first function ends once the run-dir was swapped."""

    def wait():
        (project / "started").touch()
        wait_for(project / "swapped")
        return 1.0

    slow = DAG("slow")
    slow.add_function(Function("wait", (), wait))
    slow.add_function(Function("after", ["wait"], lambda value: value + 1))
    results = handoff.execute_local(slow, run_dir=run_dir, check=False)
    return results.status, results.exit_code, results.stopped_because


def swap(project, run_dir, instead):
    """Put something else into the place of the run-dir."""
    run_dir.rename(project / "moved")
    if instead == "a directory of theirs":
        run_dir.mkdir()
        for name, target in (("status.json", "precious"), (".reserve", "precious"), ("journal", ".")):
            (run_dir / name).symlink_to(project / target)
    elif instead == "another run of mine":
        (project / "other").rename(run_dir)
    (project / "swapped").touch()


@pytest.mark.parametrize("instead", ["nothing", "a directory of theirs", "another run of mine"])
def test_a_run_dir_that_was_swapped_in_mid_run_gets_no_verdict(project, instead):
    """Members of a project may rename what lies in its directory: the run writes to its own, and is not done."""
    run_dir, precious = project / "run", project / "precious"
    OWNER.does(precious.write_text, "mine")
    OWNER.does(run, project / "other")
    before = (project / "other" / "status.json").read_text()
    said = []

    def swap_once_started():
        wait_for(project / "started")
        said.append(COLLEAGUE.does(swap, project, run_dir, instead))

    swapping = threading.Thread(target=swap_once_started)
    swapping.start()
    status, code, why = OWNER.does(run_while_swapped, project, run_dir)
    swapping.join()
    assert (said, status, code) == ([None], "stopped", 75)
    assert why.startswith(f"the run-dir {run_dir} was removed, renamed or replaced during its run")
    assert precious.read_text() == "mine"
    if instead == "another run of mine":
        assert (run_dir / "status.json").read_text() == before
    elif instead == "a directory of theirs":
        assert isinstance(OWNER.does(load, run_dir), UntrustedFile)
    assert json.loads((project / "moved" / "status.json").read_text())["status"] == "stopped"


def test_root_does_not_run_what_users_own(project):
    run_dir = project / "mine" / "run"
    OWNER.does(run, run_dir)
    for does in (load, run):
        with pytest.raises(UntrustedFile, match="belongs to user 65532"):
            does(run_dir)
    OWNER.does(shutil.rmtree, run_dir)
    assert run(project / "roots") == ("done", 0, 80_000.0)
    assert OWNER.does(load, project / "roots") == (80_000.0, 80_000.0), "what root made is trusted"


def test_moved_out_values_are_refused_if_others_could_write_them(project, monkeypatch):
    from handoff_mpi.results.spilling import SpillingStore
    from handoff_mpi.serialization import encode

    mark = project / "exploded"
    store = SpillingStore(1, project / "spilled")
    monkeypatch.setattr("handoff_mpi.results.spilling.is_in_memory", lambda directory: False)
    store.put(("run", 1), encode("x" * 5000))
    store.spill(("run", 1), 5000)
    (path,) = (project / "spilled").iterdir()
    data = io.BytesIO()
    write_value(data.write, _text(("run", 1)), (1, pickle.dumps(Bomb(mark))))
    path.write_bytes(data.getvalue())
    os.chown(path, COLLEAGUE.uid, PROJECT)
    with pytest.raises(ValueDamaged, match="belongs to user 65533"):
        store.get(("run", 1))
    assert not mark.exists()
    store.close()
