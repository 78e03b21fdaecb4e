"""This checkout against an earlier commit of it: each question's figures of ours, now ÷ then.

    python -m tests.benchmarks.earlier COMMIT [--only NAME...] [--repeats 5] [--quick] [--json FILE]

The two are asked in turns, question by question, each turn in a process of its own, so that what disturbs the machine
disturbs them alike. Both run with the packages of this environment. Other people's packages are not asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.harness import LIMIT_S, Answer, Figures, in_turns, leave_nothing_behind, spread
from tests.benchmarks.questions import QUESTIONS
from tests.conftest import ROOT

THEN, NOW = "then", "now"
#: Asked in a checkout: argv is a question, ranks, whether small numbers will do, and where the answer goes.
_ASK = """
import json, sys
from tests.benchmarks.harness import Setting
from tests.benchmarks.questions import QUESTIONS
name, ranks, quick, file = sys.argv[1:]
question = next(each for each in QUESTIONS if each.name == name)
answer = question.ask(Setting(int(ranks), 1, quick == "True", False))
with open(file, "w") as out:
    json.dump(answer.figures, out)
"""
#: A question asks several contenders.
_LIMIT_S = 10 * LIMIT_S


def main(words: Sequence[str]) -> None:
    given = arguments(words)
    leave_nothing_behind()
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)
        check_out(given.commit, place / THEN)
        asked = [each for each in given.only if is_known(place / THEN, each)]
        answers = {each: ask(each, place, given.ranks, given.repeats, given.quick) for each in asked}
    show(answers, given.commit)
    if given.json is not None:
        given.json.write_text(json.dumps({name: answer.to_json() for name, answer in answers.items()}, indent=1))


def arguments(words: Sequence[str]) -> argparse.Namespace:
    names = [question.name for question in QUESTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.earlier", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("commit", metavar="COMMIT")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def check_out(commit: str, place: Path) -> None:
    """Write the files of a commit to ``place``."""
    place.mkdir()
    archive = subprocess.run(["git", "-C", ROOT, "archive", commit], stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)


def is_known(checkout: Path, question: str) -> bool:
    """Whether the checkout has that question; say so if not."""
    if (checkout / f"tests/benchmarks/{question}.py").exists():
        return True
    print(f"{question} is left out: the earlier commit does not have it", file=sys.stderr)
    return False


def ask(question: str, place: Path, ranks: int, repeats: int, quick: bool) -> Answer:
    """Ask one question in both checkouts, in turns."""
    print(f"{question} ...", file=sys.stderr, flush=True)

    def asked(checkout: Path) -> Callable[[], dict[str, float]]:
        return lambda: figures_of(checkout, question, place / "answer.json", ranks, quick)

    figures = in_turns({THEN: asked(place / THEN), NOW: asked(ROOT)}, repeats)
    return Answer(question, THEN, figures, "as the question says", ranks)


def figures_of(checkout: Path, question: str, file: Path, ranks: int, quick: bool) -> dict[str, float]:
    """Return the figures of one turn in a checkout, by row and contender."""
    words = [sys.executable, "-c", _ASK, question, str(ranks), str(quick), str(file)]
    # With -c, Python looks for modules in the current directory first: both packages are those of the checkout.
    subprocess.run(words, cwd=checkout, check=True, timeout=_LIMIT_S, stdout=subprocess.DEVNULL)
    figures: Figures = json.loads(file.read_text())
    return {f"{row}, {name}": seen[0] for row, contenders in figures.items() for name, seen in contenders.items()}


def show(answers: dict[str, Answer], commit: str) -> None:
    """Print a table: a line for each figure."""
    table = Table("question", "figure", commit, "now ÷ then", title=f"this checkout against {commit}")
    for question, answer in answers.items():
        for row, figures in answer.figures.items():
            median = sorted(figures[THEN])[len(figures[THEN]) // 2]
            table.add_row(question, row, f"{median:,.4g}", spread(answer.ratios(row, NOW)))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
