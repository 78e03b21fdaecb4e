"""Helpers of the fault scripts: launching in several ways, finding leftovers, starving a process of memory."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.conftest import mpirun_command

MARK = "HANDOFF_FAULTS_MARK"
_LAUNCHER = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDI_", "HYDRA_", "SLURM_", "HANDOFF_")
_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")


#: What was started since somebody last cleared this, each with what it has said: shown of a test that fails.
told: list[tuple[str, Callable[[], str]]] = []


@dataclass
class Launched:
    """A launch, whose processes all carry its mark in their environment, and can so be found."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path
    started: float = field(default_factory=time.monotonic)

    def processes(self) -> list[psutil.Process]:
        """Return all its processes that live, under any parent."""
        found = []
        for process in psutil.process_iter(["status"]):
            with contextlib.suppress(psutil.Error):
                if process.info["status"] != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def ranks(self) -> dict[int, psutil.Process]:
        """Return its ranks that live; not their child processes, which know nothing of MPI."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                rank = next((environment[name] for name in _RANK if name in environment), None)
                if rank is not None:
                    found[int(rank)] = process
        return found

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code; None if it hung, and then everything of it is ended."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.seconds = time.monotonic() - self.started
            if self.process.poll() is None:
                self.kill()

    def kill(self) -> None:
        """End all of it at once, by SIGKILL."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(10)

    def leftovers(self, grace_s: float = 3.0) -> list[str]:
        """Return the command lines of what still lives some seconds after the end."""
        end = time.monotonic() + grace_s
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        lines = []
        for process in left:
            with contextlib.suppress(psutil.Error):
                lines.append(" ".join(process.cmdline())[:100])
                process.kill()
        return lines

    def text(self) -> str:
        """Return all that it has printed; nothing if its directory was made again since."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


def launch(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> Launched:
    """Start a command in ``directory``, its output going to a file there."""
    mark = uuid.uuid4().hex
    own = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
    own.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **(environment or {}), **{MARK: mark})
    output = directory / f"{mark}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=directory, env=own, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    launched = Launched(process, mark, output)
    told.append((shlex.join(command), launched.text))
    return launched


def mpich_python() -> str | None:
    """Return the Python of an environment with MPICH, where HANDOFF_TEST_MPICH names its mpiexec."""
    mpiexec = os.environ.get("HANDOFF_TEST_MPICH")
    return None if not mpiexec else str(Path(mpiexec).parent / "python")


def handoff_commands(ranks: int) -> dict[str, list[str]]:
    """Return, for each way of launching that this machine has, the words before ``dag.py``."""
    run = ["-m", "handoff_mpi", "run"]
    ways = {
        "Open MPI, ft": [sys.executable, *run, "-n", str(ranks)],
        "Open MPI, no ft": [*mpirun_command(ranks), sys.executable, *run],
    }
    python = mpich_python()
    if python is not None:
        ways["MPICH"] = [python, *run, "-n", str(ranks)]
    return ways


@contextlib.contextmanager
def memory_cgroup(limit_nbytes: int) -> Iterator[Path | None]:
    """Make a control group in which little memory is to be had; None where that is not allowed."""
    name = f"handoff-{uuid.uuid4().hex[:8]}"
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        directory = Path(root, name)
        with contextlib.suppress(OSError):
            directory.mkdir()
            try:
                (directory / limit).write_text(str(limit_nbytes))
                yield directory
                return
            finally:
                _remove(directory)
    yield None


def _remove(directory: Path) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            directory.rmdir()
            return
        except OSError:  # a process in there is still ending
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)


def fresh(directory: Path) -> Path:
    """Return ``directory``, made again, empty."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
