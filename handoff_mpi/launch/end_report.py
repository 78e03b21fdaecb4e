"""Makes ``report.html`` at the end of a run, in a separate process: if that fails, the run has ended all the same.

The verdict is written before. The process gets a bounded time, and nothing waits for it once the run was asked to stop.
"""

from __future__ import annotations

import importlib.util
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from handoff_mpi.console import print_message
from handoff_mpi.formatting import one_line
from handoff_mpi.python_path import python_program
from handoff_mpi.runtime.choices import ALWAYS, AUTO
from handoff_mpi.worker.child_process import no_launcher_in_environment

#: What making a report takes, in seconds, and of those for each function; measured, and rounded up.
_MAKING_S, _MAKING_FUNCTION_S = 1.0, 15e-6
#: By itself it is made only where it takes at most this part of the run.
_MAX_PART = 0.05
#: It may take so many times as long as expected, and this long at the least, and at the most.
_PATIENCE, _MIN_LIMIT_S, _MAX_LIMIT_S = 5, 20.0, 300.0
_END_POLL_INTERVAL_S = 0.05


def can_make_report() -> bool:
    """Whether the libraries that a report needs are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("jinja2", "plotly"))


def is_wanted(choice: str, status: str, functions: int, duration_s: float) -> bool:
    """Whether a run of the command line gets a report at its end.

    Args:
        choice: the option ``report``. "auto" means: where the libraries are installed, the run has come to its end, and
            the report takes little time beside it.
        status: of the run: "done", "failed" or "stopped".
        functions: how many there were.
        duration_s: how long the run took, in seconds.
    """
    if choice != AUTO:
        return choice == ALWAYS
    return can_make_report() and status in ("done", "failed") and _expected_s(functions) <= _MAX_PART * duration_s


def _expected_s(functions: int) -> float:
    return _MAKING_S + _MAKING_FUNCTION_S * functions


def make_report(run_dir: Path, functions: int, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Make the report of a run that has ended, and say where it is, or why it was not made.

    Args:
        is_stopped: whether nobody should wait for it any longer.
    """
    limit_s = min(_MAX_LIMIT_S, max(_MIN_LIMIT_S, _PATIENCE * _expected_s(functions)))
    try:
        problem = _made(run_dir, limit_s, is_stopped)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    if problem:
        print_message(f"the report was not made: {problem}; `handoff-mpi report {one_line(str(run_dir))}` makes it")
    else:
        print_message(f"report: {one_line(str(run_dir / 'report.html'))}")


def _made(run_dir: Path, limit_s: float, is_stopped: Callable[[], bool]) -> str:
    """Run the process to its end; return what went wrong."""
    program = [*python_program("from handoff_mpi.program import program", "program()"), "report", str(run_dir)]
    with tempfile.TemporaryFile() as said, no_launcher_in_environment():
        process = subprocess.Popen(
            program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        end = time.monotonic() + limit_s
        try:
            while True:
                try:
                    code = process.wait(_END_POLL_INTERVAL_S)
                    break
                except subprocess.TimeoutExpired:
                    pass
                if is_stopped():
                    return "the run was asked to stop"
                if time.monotonic() >= end:
                    return f"it took more than {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code == 0:
            return ""
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    return one_line(lines[-1].removeprefix("handoff: "), 300) if lines else f"its process ended with status {code}"
