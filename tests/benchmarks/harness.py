"""Measuring contenders in turns, so that what disturbs the machine disturbs them alike; and telling it as ratios."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.conftest import ROOT, mpirun_command
from tests.faults.launching import launch

_RESULT = "RESULT "
LIMIT_S = 180.0

#: A contender's name to what runs it once and returns its figure (larger is better, or smaller: the question says).
Contenders = Mapping[str, Callable[[], float]]


def report(**figures: Any) -> None:
    """Tell the harness what was measured; called in the process that measured it."""
    print(_RESULT + json.dumps(figures), flush=True)


def arguments(name: str, about: str | None, ask: Callable[[int, int], Answer]) -> None:
    """Be the command line of one question: ask it, show the answer, write it down."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=(about or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    answer = ask(given.ranks, given.repeats)
    answer.show()
    if given.json is not None:
        given.json.write_text(json.dumps(answer.to_json(), indent=1))


def run(command: Sequence[str], place: Path, rest_s: float = 1.0) -> dict[str, Any]:
    """Run a command to its end; return what it reported.

    Raises:
        RuntimeError: it reported nothing.
    """
    launched = launch([*command], place, {"PYTHONPATH": os.fspath(ROOT)})
    code = launched.wait(LIMIT_S)
    if rest_s:
        launched.leftovers(rest_s)
    for line in launched.text().splitlines():
        if _RESULT in line:
            return dict(json.loads(line[line.index(_RESULT) + len(_RESULT) :]))
    raise RuntimeError(f"{' '.join(command)} ended with {code} and reported nothing: {launched.text()[-600:]}")


def touch_memory(nbytes: int) -> None:
    """Use that much memory and give it back.

    A virtual machine returns memory that was free for seconds to its host, and getting it again costs more than a
    transfer: all contenders begin with memory that was just in use.
    """
    import numpy as np

    np.ones(nbytes, np.uint8)


def under_mpi(ranks: int, module: str, *words: object, ft: bool = False, before: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a module of this package on ``ranks`` ranks."""
    return [*mpirun_command(ranks, ft), sys.executable, *before, "-m", f"tests.benchmarks.{module}", *map(str, words)]


def alone(module: str, *words: object) -> list[str]:
    """Return the command that runs a module of this package in one process."""
    return [sys.executable, "-m", f"tests.benchmarks.{module}", *map(str, words)]


def in_turns(contenders: Contenders, repeats: int) -> dict[str, list[float]]:
    """Run every contender ``repeats`` times, in turns; one that fails is left out, and said so."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            if name not in figures:
                continue
            try:
                figures[name].append(measure())
            except (RuntimeError, subprocess.SubprocessError) as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
                del figures[name]
    return figures


@dataclass
class Answer:
    """What was found out: for each row, each contender's figures against the baseline's, turn by turn.

    Attributes:
        question: in words.
        baseline: the contender that the others are held against.
        figures: row to contender to figures.
        unit: of the figures.
        tells_differences: whether what a contender takes more than the baseline matters too, not its ratio alone.
    """

    question: str
    baseline: str
    figures: dict[str, dict[str, list[float]]]
    unit: str
    tells_differences: bool = False

    def differences(self, row: str, contender: str) -> list[float]:
        figures = self.figures[row]
        return [mine - base for mine, base in zip(figures[contender], figures[self.baseline], strict=False)]

    def ratios(self, row: str, contender: str) -> list[float]:
        figures = self.figures[row]
        return [mine / base for mine, base in zip(figures[contender], figures[self.baseline], strict=False)]

    def show(self) -> None:
        """Print a table of medians and spreads."""
        names = list(dict.fromkeys(name for figures in self.figures.values() for name in figures))
        others = [name for name in names if name != self.baseline]
        table = Table("", f"{self.baseline}: {self.unit}", *others, title=self.question)
        for row, figures in self.figures.items():
            cells = [self._cell(row, name) if name in figures else "" for name in others]
            table.add_row(row, f"{statistics.median(figures[self.baseline]):,.4g}", *cells)
        Console(width=None if sys.stdout.isatty() else 150).print(table)

    def _cell(self, row: str, contender: str) -> str:
        each = self.ratios(row, contender)
        cell = f"{statistics.median(each):.3g} ({min(each):.3g} to {max(each):.3g})"
        if self.tells_differences:
            more = self.differences(row, contender)
            cell += f"\n{statistics.median(more):+.2f} {self.unit} ({min(more):+.2f} to {max(more):+.2f})"
        return cell

    def to_json(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "baseline": self.baseline,
            "unit": self.unit,
            "figures": self.figures,
            "ratios": {
                row: {name: statistics.median(self.ratios(row, name)) for name in figures}
                for row, figures in self.figures.items()
            },
            "differences": {
                row: {name: statistics.median(self.differences(row, name)) for name in figures}
                for row, figures in self.figures.items()
            },
        }
