"""A run that is asked to stop, and a rank that is silent for a minute: the one ends in time, the other is left alone.

python -m tests.faults.walltime [--held 60]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import handoff_mpi
from handoff_mpi.results.status_file import read_status
from tests.conftest import mpirun_command
from tests.faults import naps
from tests.faults.launching import Launched, fresh, launch

DAG = Path(__file__).with_name("naps.py")
RUN = ["-m", "handoff_mpi", "run"]
#: From the end of the grace period to the end of the launcher: writing down, taking leave.
MARGIN_S = 5.0


@dataclass
class Stopped:
    """A run that was asked to stop, and resumed.

    Attributes:
        code: its exit code.
        seconds: from the signal to the end of the launcher.
        done: how many functions were done by then.
        again: the exit code of the same command, given again.
        is_right: whether the value is right then.
    """

    code: int | None
    seconds: float
    done: int
    again: int | None
    is_right: bool


def stop(command: list[str], directory: Path, count: int, seconds: float, grace_period_s: float) -> Stopped:
    """Start ``count`` naps of ``seconds``, send USR1 when a second of the run has passed, then resume."""
    fresh(directory)
    command = [
        *command,
        "--grace-period",
        str(grace_period_s),
        "--run-dir",
        "run",
        str(DAG),
        "--",
        str(count),
        str(seconds),
        "0",
    ]
    launched = launch(command, directory)
    _await_start(launched, directory / "run")
    time.sleep(1.0)
    begun = time.monotonic()
    launched.process.send_signal(signal.SIGUSR1)
    code = launched.wait(grace_period_s + 60)
    taken = time.monotonic() - begun
    done = int(read_status(directory / "run").get("done") or 0)
    resumed = launch(command, directory)
    again = resumed.wait(120)
    is_right = again == 0 and handoff_mpi.load(directory / "run")["sum"] == naps.expected(count, 0)
    return Stopped(code, taken, done, again, is_right)


def _await_start(launched: Launched, run_dir: Path) -> None:
    while read_status(run_dir).get("status") != "running" and launched.process.poll() is None:
        time.sleep(0.05)


def hold(command: list[str], directory: Path, held: float, heartbeat_timeout: float) -> tuple[int | None, bool, str]:
    """Have one rank silent for ``held`` seconds; return the exit code, whether all is right, and what was lost."""
    fresh(directory)
    words = ["--isolation", "rank", "--heartbeat-timeout", str(heartbeat_timeout), "--run-dir", "run", str(DAG)]
    launched = launch([*command, *words, "--", "40", "0.1", str(held)], directory)
    code = launched.wait(held + 60)
    lost = json.dumps(read_status(directory / "run").get("lost_ranks"))
    results = handoff_mpi.load(directory / "run")
    tries = next(record.attempts for record in results.records() if record.id == "held")
    is_right = code == 0 and tries == 1 and results["sum"] == naps.expected(40, held)
    return code, is_right, lost


def main(words: list[str]) -> int:
    """Print a table; return 1 if something was not as promised."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.walltime", description=__doc__.splitlines()[0])
    parser.add_argument("--held", type=float, default=60.0)
    given = parser.parse_args(words)
    ways = {
        "run -n": [sys.executable, *RUN, "-n", "4"],
        "mpirun": [*mpirun_command(4), sys.executable, *RUN],
        "mpirun --with-ft ulfm": [*mpirun_command(4, ft=True), sys.executable, *RUN],
    }
    good = True
    table = Table("launched by", "a nap", "grace_period", "exit code", "ended after", "done then", "resumed", "value")
    with tempfile.TemporaryDirectory(prefix="handoff-faults-") as place:
        for way, command in ways.items():
            # Naps that end within the grace period, and naps that do not.
            for count, seconds, grace_period_s in ((100, 0.5, 5.0), (12, 20.0, 2.0)):
                ended = stop(command, Path(place, "cell"), count, seconds, grace_period_s)
                good &= ended.code == 75 and ended.is_right and ended.seconds <= grace_period_s + MARGIN_S
                outcome = (f"{ended.seconds:.1f} s", ended.done, ended.again, "right" if ended.is_right else "WRONG")
                table.add_row(way, f"{seconds} s", f"{grace_period_s} s", str(ended.code), *map(str, outcome))
        Console(width=None if sys.stdout.isatty() else 120).print(table)
        code, is_right, lost = hold(ways["run -n"], Path(place, "cell"), given.held, given.held / 6)
    good &= is_right
    print(
        f"a call that holds the interpreter for {given.held:.0f} s, silence limit {given.held / 6:.0f} s: "
        f"exit code {code}, {'right, tried once' if is_right else 'WRONG'}; ranks lost: {lost}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
