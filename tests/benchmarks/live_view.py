"""The cost of showing progress: run time with the live view, and with lines, against run time without, interleaved.

    python -m tests.benchmarks.live_view [--ranks 3] [--repeats 5] [--json FILE]

The view is drawn on a pseudo-terminal of 120 columns and 40 rows, which this process reads. The run time is the run's
own, as ``status.json`` tells it, without the launch.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from pathlib import Path

from handoff_mpi.results.status_file import read_status
from tests.benchmarks.harness import LIMIT_S, Answer, Setting, arguments, in_turns
from tests.faults.launching import fresh

DAG = Path(__file__).with_name("journal_dag.py")
WORKLOADS = {"10,000 functions of 1 ms": (10_000, 0.001), "500,000 no-ops": (500_000, 0.0)}
MODES = ("none", "lines", "live")


def ask(setting: Setting) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def durations(mode: str) -> dict[str, float]:
            scale = 10 if setting.quick else 1
            return {
                name: duration(Path(place, "cell"), setting.ranks, count // scale, seconds, mode)
                for name, (count, seconds) in WORKLOADS.items()
            }

        figures = in_turns({mode: (lambda mode=mode: durations(mode)) for mode in MODES}, setting.repeats)
    return Answer("run time with progress", "none", figures, "s", setting.ranks)


def duration(directory: Path, ranks: int, functions: int, seconds: float, mode: str) -> float:
    """Return how long one run took, without its launch.

    Raises:
        RuntimeError: it did not end well.
    """
    fresh(directory)
    words = ["run", "-n", str(ranks), "--isolation", "rank", "--run-dir", "run", "--progress", mode, str(DAG)]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "handoff_mpi", *words, "--", str(functions), str(seconds), "on"]
    environment = {**os.environ, "TERM": "xterm-256color"}
    run = subprocess.Popen(command, cwd=directory, env=environment, stderr=theirs, start_new_session=True)
    os.close(theirs)
    reader = threading.Thread(target=_read, args=(ours,), daemon=True)
    reader.start()
    try:
        run.wait(LIMIT_S)
    finally:
        run.kill()
        run.wait()
        os.close(ours) if not reader.is_alive() else reader.join(5.0)
    status = read_status(directory / "run")
    if status.get("exit_code") != 0:
        raise RuntimeError(f"a run did not end well: {status}")
    return float(status["duration_s"])


def _read(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # as Linux says that nobody has it open
        pass


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
