"""A run-dir is made, and refused where another user could write to it or its names are taken."""

from __future__ import annotations

import os
import stat

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.results.run_dir import make_run_dir

NOBODY = 65534


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
