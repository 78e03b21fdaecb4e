"""Reads the MPI library's version, thread level and CUDA support, for ``doctor``, without sending messages."""

from __future__ import annotations

import ctypes
from pathlib import Path

from handoff_mpi.comm import mpi

_LEVELS = ("SINGLE", "FUNNELED", "SERIALIZED", "MULTIPLE")
_MAPS = Path("/proc/self/maps")


def library() -> str:
    """Return the name and version of the MPI library, initialising MPI."""
    return " ".join(mpi.library().split())


def thread_level() -> str:
    """Return the thread level that MPI granted: SINGLE, FUNNELED, SERIALIZED or MULTIPLE."""
    # Importing mpi4py.MPI initialises MPI; comm.mpi, imported above, must set the thread level before that.
    from mpi4py import MPI

    granted = MPI.Query_thread()
    return next((name for name in _LEVELS if getattr(MPI, f"THREAD_{name}") == granted), str(granted))


def is_cuda_aware() -> bool | None:
    """Whether MPI accepts pointers to device memory; None if the library cannot tell. MPI must be initialised."""
    for path in _loaded_libraries():
        try:
            return bool(ctypes.CDLL(path).MPIX_Query_cuda_support())
        except (OSError, AttributeError):
            continue  # not every library called libmpi* has this function
    return None


def _loaded_libraries() -> list[str]:
    """Return the paths of the MPI libraries that this process has loaded: opening them again costs nothing."""
    try:
        lines = _MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    paths = {line[line.index("/") :] for line in lines if "/" in line}
    return sorted(path for path in paths if Path(path).name.startswith("libmpi"))
