"""All questions, one after the other, and what they tell of the speed that is promised.

    python -m tests.benchmarks [--ranks 2 3 5] [--repeats 5] [--quick] [--only NAME...] [--out DIR] [--markdown]
    python -m tests.benchmarks --from DIR [--markdown]      # measure nothing: tell what was written there

Writes a JSON file for each question. Other people's packages are asked where they are installed (the extra ``bench``,
and Parsl and Ray where you have installed those), with the number of ranks that is nearest to one worker a core.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import targets
from tests.benchmarks.granularity import cores
from tests.benchmarks.harness import Answer, Setting, leave_nothing_behind
from tests.benchmarks.questions import QUESTIONS, Question

OUT = Path("build/benchmarks")
RANKS = (2, 3, 5)
PACKAGES = ("mpi4py", "numpy", "joblib", "executorlib", "ray", "parsl", "distributed")


def main(words: Sequence[str]) -> int:
    given = arguments(words)
    if given.read is None:
        leave_nothing_behind()
        failed = measure(given)
        out = given.out
    else:
        failed, out = [], given.read
    answers, environment = read(out)
    tell(answers, environment, given.markdown)
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def arguments(words: Sequence[str]) -> argparse.Namespace:
    names = [question.name for question in QUESTIONS]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", help=f"{' '.join(map(str, RANKS))} by default; 3 with --quick")
    parser.add_argument("--repeats", type=int, help="turns of each contender; 5 by default, 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that all runs")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--out", type=Path, default=OUT, help=f"directory of the JSON files; {OUT} by default")
    parser.add_argument("--from", dest="read", type=Path, metavar="DIR", help="measure nothing; tell what is there")
    parser.add_argument("--markdown", action="store_true", help="print the last table in Markdown")
    return parser.parse_args(words)


def measure(given: argparse.Namespace) -> list[str]:
    """Ask all that was asked for, and write the answers down; return what failed."""
    numbers = given.ranks or ([3] if given.quick else RANKS)
    base = Setting(repeats=given.repeats or (1 if given.quick else 5), quick=given.quick)
    with_peers = min(numbers, key=lambda ranks: abs(ranks - 1 - cores()))
    given.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for question in QUESTIONS:
        if question.name not in given.only:
            continue
        begun = time.monotonic()
        settings = [
            replace(base, ranks=ranks, with_peers=ranks == with_peers)
            for ranks in (numbers if question.by_ranks else [base.ranks])
            if ranks >= question.least_ranks
        ]
        failed += ask(question, settings, given.out)
        print(f"{question.name} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return failed


def ask(question: Question, settings: Sequence[Setting], out: Path) -> list[str]:
    """Ask one question, show the answers, write them down; return what failed."""
    answers, failed = [], []
    for setting in settings:
        try:
            answers.append(question.ask(setting))
            answers[-1].show()
        except RuntimeError as error:
            failed.append(f"{question.name}, {setting.ranks} ranks: {error}")
    told = {"environment": environment(), "answers": [answer.to_json() for answer in answers]}
    (out / f"{question.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    return failed


def environment() -> dict[str, Any]:
    """Return what the figures depend on: the date, cores and versions; nothing that names the machine."""
    import mpi4py

    mpi4py.rc(initialize=False, finalize=False)
    from mpi4py import MPI

    vendor, version = MPI.get_vendor()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cores": cores(),
        "python": platform.python_version(),
        "mpi": f"{vendor} {'.'.join(map(str, version))}",
        "packages": versions,
    }


def read(out: Path) -> tuple[dict[str, list[Answer]], dict[str, Any]]:
    """Return the answers to each question that are written in a directory, and the environment of the last one."""
    answers: dict[str, list[Answer]] = {}
    last: dict[str, Any] = {}
    for question in QUESTIONS:
        path = out / f"{question.name}.json"
        if path.exists():
            told = json.loads(path.read_text())
            answers[question.name] = [Answer.from_json(each) for each in told["answers"]]
            last = told["environment"]
    return answers, last


def machine(environment: dict[str, Any]) -> str:
    """Return when and on what it was measured, in neutral words."""
    python, mpi = (".".join(environment[name].split(".")[:2]) for name in ("python", "mpi"))
    return f"{environment['date']}, {environment['cores']} cores, {mpi}, Python {python}"


def tell(answers: targets.Answers, environment: dict[str, Any], as_markdown: bool) -> None:
    """Print what is promised, what was measured (median, least to most), and whether that keeps it."""
    if as_markdown:
        print(f"{machine(environment)}:\n\n{targets.markdown(answers)}")
        return
    head, rows = targets.table(answers)
    table = Table(*head, title=f"promised speed, {machine(environment)}")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
