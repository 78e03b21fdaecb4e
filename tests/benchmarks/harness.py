"""Measuring contenders in turns, so that what disturbs the machine disturbs them alike; and telling it as ratios."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.conftest import ROOT, mpirun_command
from tests.faults.launching import launch

_RESULT = "RESULT "
#: A contender that has not ended after this long hangs.
LIMIT_S = 120.0

#: A contender's name to what runs it once and returns its figures by row (whether larger is better, the question says).
Contenders = Mapping[str, Callable[[], Mapping[str, float]]]
#: Row to contender to its figures, turn by turn.
Figures = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Setting:
    """How a question is asked.

    Attributes:
        ranks: of the MPI runs; the others get one worker fewer.
        repeats: turns.
        quick: whether small numbers will do, to see that all runs.
        with_peers: whether other people's packages are asked too.
    """

    ranks: int = 3
    repeats: int = 5
    quick: bool = False
    with_peers: bool = True


def report(**figures: Any) -> None:
    """Tell the harness what was measured; called in the process that measured it."""
    print(_RESULT + json.dumps(figures), flush=True)


def arguments(name: str, about: str | None, ask: Callable[[Setting], Answer]) -> None:
    """Be the command line of one question: ask it, show the answer, write it down."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=(about or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    leave_nothing_behind()
    answer = ask(Setting(given.ranks, given.repeats, given.quick))
    answer.show()
    if given.json is not None:
        given.json.write_text(json.dumps(answer.to_json(), indent=1))


def leave_nothing_behind() -> None:
    """Let TERM end this process as INT does: what is being measured is ended too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def run(command: Sequence[str], place: Path, rest_s: float = 1.0, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Run a command to its end; return what it reported. Nothing of it is left.

    Args:
        rest_s: what it left behind gets so long to end by itself.
        limit_s: after this long it is ended.

    Raises:
        RuntimeError: it hung, or reported nothing.
    """
    path = os.pathsep.join([os.fspath(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    launched = launch([*command], place, {"PYTHONPATH": os.fspath(ROOT), "PATH": path})
    code = launched.wait(limit_s)
    if rest_s or code is None:
        launched.leftovers(rest_s)
    if code is None:
        raise RuntimeError(f"it had not ended after {limit_s:g} s")
    for line in launched.text().splitlines():
        if _RESULT in line:
            return dict(json.loads(line[line.index(_RESULT) + len(_RESULT) :]))
    raise RuntimeError(f"it ended with {code} and reported nothing: {launched.text()[-600:]}")


def arrays_of(nbytes: int) -> int:
    """Return how many arrays of a size are handed over in one run, of which the median counts."""
    return 3 if nbytes < 1 << 28 else 1


def touch_memory(nbytes: int) -> None:
    """Use that much memory and give it back.

    A virtual machine returns memory that was free for seconds to its host, and getting it again costs more than a
    transfer: all contenders begin with memory that was just in use.
    """
    import numpy as np

    np.ones(nbytes, np.uint8)


def serialized_mpi() -> Any:
    """Return mpi4py's MPI, started at the thread level that handoff_mpi asks for; a higher one doubles round trips."""
    import mpi4py

    mpi4py.rc.thread_level = "serialized"
    from mpi4py import MPI

    return MPI


def under_mpi(ranks: int, module: str, *words: object, before: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a module of this package on ``ranks`` ranks.

    Fault tolerance is on for all where MPI has it, since handoff_mpi needs it to call functions in its ranks.
    """
    command = mpirun_command(ranks, ft=True)
    return [*command, sys.executable, *before, "-m", f"tests.benchmarks.{module}", *map(str, words)]


def alone(module: str, *words: object) -> list[str]:
    """Return the command that runs a module of this package in one process."""
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)]


def in_turns(contenders: Contenders, repeats: int) -> Figures:
    """Run every contender ``repeats`` times, in turns; one that fails or hangs is left out, and said so."""
    turns: dict[str, list[Mapping[str, float]]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            if name not in turns:
                continue
            try:
                turns[name].append(measure())
            except (RuntimeError, subprocess.SubprocessError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
                del turns[name]
    figures: Figures = {}
    for name, seen in turns.items():
        for row in seen[0]:
            figures.setdefault(row, {})[name] = [each[row] for each in seen]
    return figures


@dataclass
class Answer:
    """The measurements: for each row, each contender's figures against the baseline's, turn by turn.

    Attributes:
        question: in words.
        baseline: the contender that the others are held against.
        figures: row to contender to figures.
        unit: of the figures.
        ranks: of the runs, where it depends on them.

    Raises:
        RuntimeError: there are no figures of the baseline.
    """

    question: str
    baseline: str
    figures: Figures
    unit: str
    ranks: int | None = None

    def __post_init__(self) -> None:
        if not self.figures or any(self.baseline not in row for row in self.figures.values()):
            raise RuntimeError(f"{self.question}: there is nothing to hold the others against, {self.baseline} failed")

    def ratios(self, row: str, contender: str) -> list[float]:
        """Return the contender's figures ÷ the baseline's, turn by turn; none where it has none."""
        figures = self.figures.get(row, {})
        if contender not in figures:
            return []
        return [mine / base for mine, base in zip(figures[contender], figures[self.baseline], strict=True)]

    def show(self) -> None:
        """Print a table: the baseline's medians, and the others' ratios with their spread."""
        names = list(dict.fromkeys(name for figures in self.figures.values() for name in figures))
        title = self.question if self.ranks is None else f"{self.question}, {self.ranks} ranks"
        table = Table("", *self.figures, title=title)
        medians = [statistics.median(figures[self.baseline]) for figures in self.figures.values()]
        table.add_row(f"{self.baseline}, {self.unit}", *[f"{each:,.4g}" for each in medians], end_section=True)
        for name in names:
            if name != self.baseline:
                table.add_row(f"{name}, ratio", *[spread(self.ratios(row, name)) for row in self.figures])
        Console(width=None if sys.stdout.isatty() else 150).print(table)

    def to_json(self) -> dict[str, Any]:
        ratios = {
            row: {name: statistics.median(self.ratios(row, name)) for name in figures}
            for row, figures in self.figures.items()
        }
        return {**asdict(self), "ratios": ratios}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Answer:
        return cls(**{name: value for name, value in told.items() if name != "ratios"})


def spread(each: Sequence[float]) -> str:
    """Return the median, the least and the most, in words; nothing if there are none."""
    return f"{statistics.median(each):.3g} ({min(each):.3g} to {max(each):.3g})" if each else ""
