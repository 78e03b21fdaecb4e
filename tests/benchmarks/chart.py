"""Draws what the benchmarks told: ratios only, readable on a light ground and on a dark one.

    python -m tests.benchmarks.chart [DIR] [--to tests/benchmarks/chart.svg]

Above, each line of the promised speed: how many times better than promised it was, the median and the spread. Below,
no-ops a second of all contenders, ÷ those of the bare loop.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.__main__ import OUT, machine, read
from tests.benchmarks.contender import CONTENDERS
from tests.benchmarks.harness import Answer
from tests.benchmarks.targets import PROMISES, Answers, Promise

CHART = Path(__file__).with_name("chart.svg")
INK = "#7d8590"  # stands out from white and from black alike
COLOURS = ("#3b82f6", "#e8833a", "#22a06b", "#b65fd0")
MARKERS = ("o", "s", "D", "^")


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.chart", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("directory", type=Path, nargs="?", default=OUT, help=f"of the JSON files; {OUT} by default")
    parser.add_argument("--to", type=Path, default=CHART)
    given = parser.parse_args(words)
    answers, environment = read(given.directory)
    if "throughput" not in answers:
        parser.error(f"there is no throughput.json in {given.directory}")
    draw(answers, machine(environment), given.to)
    return 0


def draw(answers: Answers, about: str, to: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "handoff_mpi", "font.size": 9})
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    matplotlib.rcParams.update(dict.fromkeys(names, INK))
    from matplotlib import pyplot

    widest = widest_throughput(answers["throughput"])
    promises = [promise for promise in PROMISES if any(map(promise.read, answers.get(promise.question, ())))]
    heights = [len(promises), len(contenders(widest))]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(9, 0.28 * sum(heights) + 2.2), height_ratios=heights)
    draw_promises(above, promises, answers)
    draw_throughput(below, widest)
    figure.text(0.99, 0.005, f"handoff_mpi, {about}", ha="right", fontsize=7)
    figure.tight_layout(rect=(0, 0.015, 1, 1))
    figure.savefig(to, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None})


def widest_throughput(told: Sequence[Answer]) -> Answer:
    """Return the answer in which most contenders took part."""
    return max(told, key=lambda answer: len(contenders(answer)))


def contenders(answer: Answer) -> list[str]:
    """Return those who are held against the baseline, in their usual order."""
    return [name for name in CONTENDERS if any(answer.ratios(row, name) for row in answer.figures)]


def draw_promises(axes: Any, promises: Sequence[Promise], answers: Answers) -> None:
    """A row for each promise, a mark for each number of ranks."""
    numbers = sorted({answer.ranks for each in answers.values() for answer in each if answer.ranks is not None})
    looks = {ranks: (colour, marker) for ranks, colour, marker in zip(numbers, COLOURS, MARKERS, strict=False)}
    for at, promise in enumerate(promises):
        for answer in answers.get(promise.question, ()):
            each = promise.margins(promise.read(answer))
            if each:
                colour, marker = looks.get(answer.ranks, (INK, "o"))
                mark(axes, each, at + shift(answer.ranks, numbers), colour, marker)
    for ranks, (colour, marker) in looks.items():
        axes.plot([], [], linestyle="", color=colour, marker=marker, label=f"{ranks} ranks")
    axes.plot([], [], linestyle="", color=INK, marker="o", label="no MPI")
    finish(axes, [f"{promise.line}: {promise.words()}" for promise in promises], "times better than promised")


def draw_throughput(axes: Any, answer: Answer) -> None:
    """A row for each contender, a mark for each shape."""
    shapes = list(answer.figures)
    rows = [name for name in contenders(answer) if name != answer.baseline]
    for shape, colour, marker in zip(shapes, COLOURS, MARKERS, strict=False):
        for at, name in enumerate(rows):
            each = answer.ratios(shape, name)
            if each:
                mark(axes, each, at + shift(shape, shapes), colour, marker)
        axes.plot([], [], linestyle="", color=colour, marker=marker, label=shape)
    finish(axes, rows, f"no-ops a second ÷ those of a {answer.baseline}, {answer.ranks} ranks")


def shift(which: Any, among: Sequence[Any]) -> float:
    """Return how far a mark is drawn from the middle of its row, so that none hides another."""
    return 0.16 * (among.index(which) - (len(among) - 1) / 2) if which in among else 0.0


def mark(axes: Any, each: Sequence[float], at: float, colour: str, marker: str) -> None:
    axes.plot([min(each), max(each)], [at, at], color=colour, linewidth=1.2, alpha=0.7)
    axes.plot(statistics.median(each), at, color=colour, marker=marker, markersize=4)


def finish(axes: Any, rows: Sequence[str], label: str) -> None:
    axes.set_xscale("log")
    axes.axvline(1.0, color=INK, linewidth=1.0)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
