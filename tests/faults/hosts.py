"""Three hosts, one cut off and one killed whole: the run finishes on the rest.

    python -m tests.faults.hosts [--pairs N] [--seconds S]

shows what that costs: when the loss was noticed, and how much longer the run took than undisturbed (on fewer hosts, so
that a part of it is honest work). Needs root, since the hosts are namespaces: see ``tests/faults/namespaces.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import handoff_mpi as handoff
from tests.faults.launching import told
from tests.faults.namespaces import Hosts, find_missing, wait_for
from tests.faults.workload import expected

WORKLOAD = Path(__file__).with_name("workload.py")
THREE = "h1:2,h2:2,h3:2"
#: (what share of the calls has been made, what happens, to which host)
Fault = tuple[float, str, str]
CUT: Fault = (0.25, "cut", "h2")
KILL: Fault = (0.35, "kill", "h3")
STORIES: dict[str, Sequence[Fault]] = {
    "undisturbed": (),
    "h2 cut off": (CUT,),
    "h3 killed whole": (KILL,),
    "h2 cut off, h3 killed whole": (CUT, KILL),
}


@dataclass
class Ending:
    """How a run ended.

    Attributes:
        code: the exit code of ``run -n``.
        status: what ``status.json`` says.
        is_right: whether the value is.
        took_s: from the command to its end.
        noticed_s: host to how long after its failure that was noticed.
        calls: how many were made, those that were made twice included.
        said: all it printed.
    """

    code: int
    status: dict[str, Any]
    is_right: bool
    took_s: float
    noticed_s: dict[str, float]
    calls: int
    said: str


@dataclass
class Run:
    """One run of the workload, started on ``h1``."""

    hosts: Hosts
    directory: Path
    pairs: int = 40
    seconds: float = 0.1
    words: Sequence[str] = ("-n", "6", "--hosts", THREE)
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lines: list[tuple[float, str]] = []
        self.failed_at: dict[str, float] = {}

    def start(self) -> Run:
        """Start it."""
        command = [sys.executable, "-m", "handoff_mpi", "run", *self.words, "--run-dir", self.directory / "run"]
        self._started = time.time()
        self.process = subprocess.Popen(
            self.hosts["h1"].enter(*command, WORKLOAD, "--", self.pairs, self.seconds, cwd=self.directory),
            env={**self.hosts.environment(), **self.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        told.append((f"run {' '.join(self.words)}", lambda: self.said))
        return self

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.append((time.time(), line))

    @property
    def said(self) -> str:
        return "".join(line for _, line in self._lines)

    @property
    def calls(self) -> int:
        """How many calls have been made."""
        log = self.directory / "calls"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def status(self) -> dict[str, Any]:
        """Return what ``status.json`` says."""
        path = self.directory / "run" / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def fail(self, fault: Fault) -> None:
        """Have something happen once so many calls have been made."""
        share, what, host = fault
        wait_for(lambda: self.calls >= share * 2 * self.pairs or self.process.poll() is not None, 60)
        self.failed_at[host] = time.time()
        getattr(self.hosts, what)(host)

    def end(self, timeout_s: float = 120) -> Ending:
        """Wait until it has ended."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"hung for {timeout_s} s\n{self.said}") from None
        took_s = time.time() - self._started
        self._reader.join(2)  # a launcher's daemon that was cut off may hold the other end
        try:
            is_right = handoff.load(self.directory / "run")["sum"] == expected(self.pairs)
        except handoff.HandoffError:
            is_right = False
        return Ending(code, self.status(), is_right, took_s, self._noticed(), self.calls, self.said)

    def _noticed(self) -> dict[str, float]:
        """Rank 0 notices, or the supervisor does where the launcher took rank 0 with it."""
        noticed: dict[str, float] = {}
        losses = self.directory / "losses"
        for line in losses.read_text().splitlines() if losses.exists() else ():
            when, _, host, *_ = line.split()
            if host in self.failed_at and self.hosts[host].starter.poll() is None:
                noticed.setdefault(host, float(when) - self.failed_at[host])
        for when, line in self._lines:
            for host in self.failed_at:
                if "no longer answer" in line and "launched again" in line and host in line:
                    noticed.setdefault(host, when - self.failed_at[host])
        return noticed


def tell(faults: Sequence[Fault], directory: Path, **about: Any) -> Ending:
    """Run the workload on three hosts while ``faults`` happen."""
    with Hosts(3) as hosts:
        run = Run(hosts, directory, **about).start()
        for fault in faults:
            run.fail(fault)
        return run.end()


def main() -> int:
    """Tell all stories, and print what they cost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.hosts", description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="pairs of calls (default: 60)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each call (default: 0.2)")
    given = parser.parse_args()
    lacking = find_missing()
    if lacking is not None:
        print(f"this needs {lacking} and there is none here", file=sys.stderr)
        return 2
    calm_s, is_well = 0.0, True
    head = f"{'three hosts of two ranks':<30}{'exit':>5}{'value':>7}{'seconds':>9}{'lost':>7}{'launches':>10}"
    print(f"{head}  noticed after")
    for name, faults in STORIES.items():
        with tempfile.TemporaryDirectory(prefix="handoff-faults-") as directory:
            ending = tell(faults, Path(directory), pairs=given.pairs, seconds=given.seconds)
        calm_s = calm_s or ending.took_s
        is_well &= ending.is_right and ending.code == 0
        noticed = ", ".join(f"{host} {after_s:.1f} s" for host, after_s in ending.noticed_s.items())
        figures = f"{ending.took_s:>9.1f}{ending.took_s - calm_s:>7.1f}{ending.status.get('launch', '?'):>10}"
        print(f"{name:<30}{ending.code:>5}{'right' if ending.is_right else 'WRONG':>7}{figures}  {noticed}", flush=True)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
