"""The speed that is promised, line by line, and the answer that measures it: always as a ratio within one run.

That transfers overlap with calls, and that no value passes through rank 0, has no figure here: tests count it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.benchmarks import (
    array_bounds,
    array_chains,
    array_contender,
    arrays,
    bandwidth,
    children,
    functions,
    idle,
    latency,
    pools,
    ranks,
    startup,
)
from tests.benchmarks.contender import BARE, BOUND, CHILDREN
from tests.benchmarks.harness import Answer, spread

#: The answers of all questions that were asked, by name: one for each number of ranks.
Answers = Mapping[str, Sequence[Answer]]
#: Reads off an answer what a promise is about, turn by turn; nothing where that was not measured.
Reading = Callable[[Answer], list[float]]


@dataclass(frozen=True)
class Promise:
    """A line of what is promised.

    Attributes:
        line: what is measured, in words.
        limit: the ratio that is promised.
        is_least: whether that is the least it may be; else it is the most.
        question: whose answer tells.
        read: how.
    """

    line: str
    limit: float
    is_least: bool
    question: str
    read: Reading

    def words(self) -> str:
        return f"{'at least' if self.is_least else 'at most'} {self.limit:g}"

    def is_met(self, each: Sequence[float]) -> bool:
        """Whether the median of what was measured keeps the promise."""
        median = statistics.median(each)
        return median >= self.limit if self.is_least else median <= self.limit

    def margins(self, each: Sequence[float]) -> list[float]:
        """Return how many times better than promised it was, turn by turn; less than 1 where it was worse."""
        shares = [value / self.limit for value in each]
        return shares if self.is_least else [1 / max(each, LEAST_SHARE) for each in shares]

    def verdict(self, answer: Answer) -> str:
        each = self.read(answer)
        return f"{spread(each)} {'met' if self.is_met(each) else 'missed'}" if each else ""


def ratio(row: str, contender: str) -> Reading:
    """Read a contender's figures ÷ the baseline's."""
    return lambda answer: answer.ratios(row, contender)


def against(row: str, contender: str, other: str) -> Reading:
    """Read a contender's figures ÷ those of one that is not the baseline."""

    def read(answer: Answer) -> list[float]:
        figures = answer.figures.get(row, {})
        if not {contender, other} <= figures.keys():
            return []
        return [mine / theirs for mine, theirs in zip(figures[contender], figures[other], strict=True)]

    return read


def share(row: str, contender: str, whole: float) -> Reading:
    """Read a contender's figures ÷ what is promised in plain units."""
    return lambda answer: [each / whole for each in answer.figures.get(row, {}).get(contender, ())]


def excess(row: str, contender: str, whole: float) -> Reading:
    """Read how much a contender's figures are above the baseline's, ÷ what is promised in plain units."""

    def read(answer: Answer) -> list[float]:
        figures = answer.figures.get(row, {})
        if contender not in figures:
            return []
        return [(mine - base) / whole for mine, base in zip(figures[contender], figures[answer.baseline], strict=True)]

    return read


#: A share of the promise below this is reported as this.
LEAST_SHARE = 0.1
FEWEST, MOST = (f"{counts[at]:,}" for counts in (functions.COUNTS,) for at in (0, -1))
MOST_RANKS = f"{ranks.COUNTS[-1]:,} ranks"
#: Microseconds that a placement may take: costs all alike, or mixed.
PLACEMENT_US = {"uniform": 2.0, "mixed": 20.0}
#: What counts as the same speed.
SAME = 1.2

_OURS, _BEST = array_contender.OURS, array_contender.FUTURES
#: Elements of 1 ms use so much of the cores' time; longer ones of different lengths take so much more than the least.
EFFICIENT, EVEN = 0.97, 1.05
ARRAYS = [
    *[
        Promise(f"an array{where}: {row} ÷ {_BEST}", least, True, "arrays", ratio(row, contender))
        for where, row, contender, least in (
            ("", arrays.NO_OPS, _OURS, 1.0),
            ("", arrays.VALUES, _OURS, 1.0),
            (" in children", arrays.NO_OPS, array_contender.CHILDREN, 0.5),
        )
    ],
    Promise(f"an array: {arrays.NO_OPS} ÷ {BARE}", 3.0, True, "arrays", against(arrays.NO_OPS, _OURS, BARE)),
    *[
        Promise(f"an array: {row} ÷ bound", round(most, 2), False, "array_bounds", ratio(row, _OURS))
        for row, most in ((array_bounds.WORK, 1 / EFFICIENT), (array_bounds.TAIL, EVEN))
    ],
    *[
        Promise(f"an array: {row} ÷ bound", 1.0, False, "array_bounds", ratio(row, _OURS))
        for row in array_bounds.PROMISED
    ],
    *[
        Promise(f"an array: {row} ÷ {array_chains.ALONE}", most, False, "array_chains", ratio(row, _OURS))
        for row, most in ((array_chains.CHAIN, 2.5), (array_chains.WINDOWED, round(1 / 0.6, 2)))
    ],
]

PROMISES = [
    Promise(f"no-ops a second ÷ those of a {BARE}", 1.0, True, "throughput", ratio("independent", "handoff_mpi")),
    Promise("a link of a chain ÷ a raw round trip", 8.0, False, "latency", ratio(latency.LINK, "handoff_mpi")),
    Promise("submit to result ÷ a raw round trip", 8.0, False, "latency", ratio(latency.BACK_TO_BACK, BOUND)),
    Promise(f"no-ops in children ÷ a {children.PIPE}'s", 0.5, True, "children", ratio("independent", CHILDREN)),
    Promise(f"chain in children ÷ a {children.PIPE}'s", 0.5, True, "children", ratio("chain", CHILDREN)),
    Promise("a map of 4 no-ops ÷ that of 4 processes", 1.5, False, "pools", ratio(pools.NOOPS, pools.OURS)),
    Promise("a step of 32 walkers ÷ that of processes", 1.1, False, "pools", ratio(pools.STEP, pools.OURS)),
    Promise(f"64 MiB to another rank ÷ {bandwidth.RAW}", 0.9, True, "bandwidth", ratio("64 MiB", "handoff_mpi")),
    Promise(f"no-ops a second, {MOST} ÷ {FEWEST}", 0.8, True, "functions", ratio(functions.RATE, MOST)),
    Promise(f"memory a function of {MOST} ÷ 1 KB", 1.0, False, "functions", share(functions.NBYTES, MOST, 1000.0)),
    *ARRAYS,
    *[
        Promise(f"{row}, {MOST_RANKS} ÷ {limit:g} µs", 1.0, False, "ranks", share(row, MOST_RANKS, limit))
        for rows in (ranks.PLACEMENT, ranks.SCHEDULING)
        for row, limit in zip(rows, PLACEMENT_US.values(), strict=True)
    ],
    *[
        Promise(f"{row}, {MOST_RANKS} ÷ {ranks.COUNTS[0]}", SAME, False, "ranks", ratio(row, MOST_RANKS))
        for row in ranks.PLACEMENT
    ],
    *[
        Promise(f"{who}, idle ÷ 2 % of a core", 1.0, False, "idle", share(row, "handoff_mpi", 0.02))
        for who, row in (("rank 0", idle.RANK_0), ("a worker", idle.IDLE))
    ],
    *[
        Promise(f"{way} beyond a bare mpirun ÷ 0.4 s", 1.0, False, "startup", excess(startup.WHOLE, way, 0.4))
        for way in (startup.BY_MPIRUN, startup.BY_ITSELF)
    ],
]


def table(answers: Answers) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table: what is promised, what was measured, and whether that keeps it."""
    told = {answer.ranks for each in answers.values() for answer in each}
    columns = sorted(told, key=lambda ranks: (ranks is None, ranks))
    head = ["", "promised", *["no MPI" if ranks is None else f"{ranks} ranks" for ranks in columns]]
    rows = []
    for promise in PROMISES:
        if promise.question not in answers:
            continue
        verdicts = {answer.ranks: promise.verdict(answer) for answer in answers.get(promise.question, ())}
        rows.append([promise.line, promise.words(), *[verdicts.get(ranks, "") for ranks in columns]])
    return head, rows


def markdown(answers: Answers) -> str:
    """Return that table in Markdown."""
    head, rows = table(answers)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
