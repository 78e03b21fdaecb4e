"""Measures the imports of a rank before it can join: how long they take in a fresh Python, and where they lie.

All ranks measure at once, as they import at once when a job starts: a file system that serves one of them well may
keep thousands waiting.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from handoff_mpi.programs import run_program
from handoff_mpi.python_path import python_program
from handoff_mpi.worker.child_process import environment_of_child

#: What every rank imports; mpi4py without starting MPI, and numpy for nearly all functions.
MODULES = ("handoff_mpi", "mpi4py.MPI", "numpy")
#: Imports that take longer are given up: rank 0 would not wait for such a rank either.
IMPORT_TIMEOUT_S = 60.0
_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "cvmfs2", "dvs", "fhgfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
    "fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.s3fs", "fuse.sshfs",
}  # fmt: skip
# The package stands for all that a rank imports of it. Told as JSON on the last line: a module may print on its way.
_PROGRAM = """
import json
from time import perf_counter
def take(name):
    begun = perf_counter()
    try:
        if name == "mpi4py.MPI":
            import mpi4py
            mpi4py.rc.initialize = False
        __import__("handoff_mpi.cli" if name == "handoff_mpi" else name)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return perf_counter() - begun
print(json.dumps({name: take(name) for name in sys.argv[1:]}), flush=True)
"""


@dataclass(slots=True)
class Imports:
    """The cost of one rank's imports.

    Attributes:
        seconds: module to the seconds its import took, or to why it failed.
        path: where the interpreter's packages are.
        file_system: the type of the file system there, empty where that is not known.
        is_compiled: whether Python finds this package compiled, rather than compiling it in every process.
    """

    seconds: dict[str, float | str] = field(default_factory=dict)
    path: str = ""
    file_system: str = ""
    is_compiled: bool = True

    @property
    def total_s(self) -> float:
        """The seconds of all that could be imported."""
        return sum(each for each in self.seconds.values() if not isinstance(each, str))

    @property
    def is_remote(self) -> bool:
        """Whether another machine serves the files."""
        return self.file_system in _NETWORK


def measure_imports() -> Imports:
    """Import what every rank does in a fresh Python; takes ``IMPORT_TIMEOUT_S`` seconds at most."""
    path = os.path.realpath(sysconfig.get_path("platlib"))
    return Imports(_in_fresh_process(IMPORT_TIMEOUT_S), path, file_system_of(path), _is_compiled())


def _in_fresh_process(limit_s: float) -> dict[str, float | str]:
    command = [*python_program("", _PROGRAM), *MODULES]
    try:
        ended = run_program(command, limit_s, env=environment_of_child())
        told: dict[str, float | str] = json.loads(ended.out.splitlines()[-1])
    except TimeoutError:
        return dict.fromkeys(MODULES, f"not imported within {limit_s:.0f} s")
    except (OSError, ValueError, IndexError) as error:
        return dict.fromkeys(MODULES, f"a fresh Python told nothing: {type(error).__name__}: {error}".splitlines()[0])
    return told


def file_system_of(path: str) -> str:
    """Return the type of the file system that holds ``path``, as it is mounted; empty where that is not known."""
    import psutil

    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, RuntimeError):
        return ""
    inside = [each for each in mounts if Path(path).is_relative_to(each.mountpoint)]
    # Of several on one place, the last hides the others.
    return max(reversed(inside), key=lambda each: len(each.mountpoint)).fstype if inside else ""


def _is_compiled() -> bool:
    cached = sys.modules[__name__].__spec__
    return bool(cached and cached.cached and Path(cached.cached).exists())
