"""The table of failures: calls of functions and elements that failed alike are a row."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.formatting import one_line, without_controls
from handoff_mpi.results.failure_groups import group_key
from handoff_mpi.results.lease_tally import ElementFailure
from handoff_mpi.results.story import Story, groups_of

#: Rows of the table, and functions and elements that are named in each.
MAX_FAILURES, MAX_IDS = 50, 5
_PLACE = re.compile(r'File "(.+?)", line (\d+)')
_MAX_TRACEBACK = 8_000


@dataclass(slots=True)
class FailureRow:
    """Calls that failed alike, elements of arrays among them.

    Attributes:
        kind, place, message, traceback: of the first.
        calls: how many calls failed so: of functions all that failed, of elements those that failed for good.
        again: attempts of other elements that failed so and were tried again.
        functions: ids of the first functions and elements, and ``more``: of how many others.
        names, ranks: of the calls.
        first: the row of the first call; -1 if a function failed without any.
        output: what that call printed; empty if that is not known.
    """

    kind: str
    place: str
    message: str
    traceback: str
    calls: int = 0
    functions: list[str] = field(default_factory=list)
    more: int = 0
    names: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    first: int = -1
    output: str = ""
    again: int = 0


def failure_rows(story: Story) -> list[FailureRow]:
    """Return a row for each way in which calls failed, the most frequent first."""
    groups = _groups(story)
    of_group = np.full(len(story.failures) + 1, -1)
    for group, numbers in enumerate(groups.values()):
        of_group[numbers] = group
    calls = story.calls
    failed = np.flatnonzero(calls.failure >= 0)
    by_group = {}
    if len(failed):
        group_of = of_group[calls.failure[failed]]
        by_group = {int(group_of[rows[0]]): failed[rows] for rows in groups_of(group_of)}
    rows = [
        _failure_row(story, numbers, by_group.get(group, failed[:0])) for group, numbers in enumerate(groups.values())
    ]
    named: dict[tuple[int, int], IntervalSet] = defaultdict(IntervalSet)
    for each in story.element_failures:
        group = int(of_group[each.failure])
        _add_elements(story, rows[group], each, named[group, each.task])
    found = [row for row in rows if row.calls or row.again]  # an array's own failure says no more than its elements'
    return sorted(found, key=lambda row: (-row.calls, -row.again))


def _groups(story: Story) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of the failures in each group, those with a traceback first.

    Of elements that were tried again, and of some of many, the journal has no traceback: they are of the group of those
    that say the same and have one.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    known: dict[tuple[str, str], tuple[str, str]] = {}
    order = sorted(range(len(story.failures)), key=lambda number: not story.failures[number].traceback)
    for number in order:
        failure = story.failures[number]
        place = _place_of(failure.traceback)
        key, alike = (group_key(failure.kind, each, failure.message) for each in (place, ""))
        known.setdefault(alike, key)
        groups.setdefault(key if place else known[alike], []).append(number)
    return groups


def _add_elements(story: Story, row: FailureRow, failure: ElementFailure, named: IntervalSet) -> None:
    """Add elements that failed so, ``named`` being those of the same array that are in the row."""
    count = sum(stop - start for start, stop in failure.elements)
    if failure.is_final:
        row.calls += count
    else:
        row.again += count
    label, name = story.tasks.label(failure.task), story.tasks.name_of(failure.task)
    new = IntervalSet(failure.elements)
    for interval in failure.elements:
        for known in named.within(*interval):
            new.discard(*known)
    named.update(new)
    indices = chain.from_iterable(range(start, stop) for start, stop in new)
    shown = [f"{label}[{index}]" for index in islice(indices, MAX_IDS - len(row.functions))]
    row.functions += shown
    row.more += len(new) - len(shown)
    if name not in row.names:
        row.names = sorted([*row.names, name])
    if failure.rank >= 0 and failure.rank not in row.ranks:
        row.ranks = sorted([*row.ranks, failure.rank])


def _place_of(traceback: str) -> str:
    found = _PLACE.findall(traceback)
    return f"{found[-1][0]}:{found[-1][1]}" if found else ""


def _failure_row(story: Story, numbers: list[int], rows: NDArray[Any]) -> FailureRow:
    calls, tasks = story.calls, story.tasks
    first = story.failures[numbers[0]]
    who = list(dict.fromkeys(calls.task[rows].tolist()))
    return FailureRow(
        one_line(first.kind, 100),
        one_line(_place_of(first.traceback), 300),
        without_controls(first.message),
        without_controls(_cut(first.traceback)),
        sum(story.failure_counts[number] for number in numbers),
        [tasks.label(task) for task in who[:MAX_IDS]],
        max(0, len(who) - MAX_IDS),
        sorted({tasks.name_of(task) for task in who[:1000]}),
        sorted(set(calls.rank[rows].tolist())),
        int(rows[0]) if len(rows) else -1,
    )


def _cut(text: str) -> str:
    half = _MAX_TRACEBACK // 2
    return text if len(text) <= _MAX_TRACEBACK else f"{text[:half]}\n...\n{text[-half:]}"
