"""The table of the names of functions: how many calls had each, how long they took, and how many failed.

A rank times the leases of an array, not its elements. So of each lease the mean of its elements counts here, as often
as the lease had elements.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.results.lease_tally import Attempts
from handoff_mpi.results.story import DONE, RUNNING, Floats, Story, groups_of
from handoff_mpi.visualization.report.tables import CAUSES


@dataclass(slots=True)
class NameRow:
    """All calls of the functions with one name, and of the elements of such arrays; times in seconds.

    Attributes:
        functions: how many functions and elements there are.
        calls: each attempt is one.
        mean_s, median_s, p95_s, longest_s: of a call; of arrays see this module.
        failed: calls that failed, or were lost.
        again: calls after the first one of a function or element.
        leases: how many leases the elements had.
    """

    name: str
    functions: int
    calls: int
    total_s: float
    mean_s: float
    median_s: float
    p95_s: float
    longest_s: float
    failed: int
    again: int
    waited: dict[str, float]
    leases: int


def name_rows(story: Story) -> list[NameRow]:
    """Return a row for each name, those that took most time first."""
    calls, tasks = story.calls, story.tasks
    waits = {cause: getattr(story.waits, cause) for cause in CAUSES}
    functions = Counter(tasks.name.tolist())
    for task, (count, _) in story.elements.items():
        functions[int(tasks.name[task])] += count - 1
    attempts = _attempts_by_name(story)
    name = tasks.name[calls.task]
    groups = {int(name[rows[0]]): rows for rows in groups_of(name)} if len(calls) else {}
    groups |= {number: np.zeros(0, np.int64) for number in attempts if number not in groups}
    rows = []
    for number, group in groups.items():
        waited = {cause: float(each[group].sum()) for cause, each in waits.items()}
        rows.append(_row(story, number, group, functions[number], attempts.get(number, Attempts()), waited))
    return sorted(rows, key=lambda row: -row.total_s)


def _attempts_by_name(story: Story) -> dict[int, Attempts]:
    found: dict[int, Attempts] = {}
    for (_, task), each in story.attempts.items():
        total = found.setdefault(int(story.tasks.name[task]), Attempts())
        total.done += each.done
        total.failed += each.failed
        total.retries += each.retries
    return found


def _row(
    story: Story, name: int, group: NDArray[np.int64], functions: int, attempts: Attempts, waited: dict[str, float]
) -> NameRow:
    calls = story.calls
    elements, total_s = calls.elements[group], float(calls.duration[group].sum())
    counts = np.maximum(elements, 1)
    each = calls.duration[group] / counts
    median, p95 = percentiles(each, counts, (50, 95))
    leases = int((elements > 0).sum())
    is_bad = (calls.outcome[group] != DONE) & (calls.outcome[group] != RUNNING)
    return NameRow(
        story.tasks.names[name],
        functions,
        len(group) - leases + attempts.done + attempts.failed,
        total_s,
        total_s / max(1, int(counts.sum())),
        median,
        p95,
        float(each.max(initial=0.0)),
        int(is_bad.sum()) + attempts.failed,
        int((calls.attempt[group] > 1).sum()) + attempts.retries,
        waited,
        leases,
    )


def percentiles(values: Floats, counts: NDArray[np.int32], percents: tuple[float, ...]) -> list[float]:
    """Return percentiles of ``values`` as numpy interpolates them, where each is there ``counts`` times."""
    if not len(values):
        return [0.0] * len(percents)
    order = np.argsort(values)
    values, last = values[order], np.cumsum(counts[order], dtype=np.int64)
    found = []
    for percent in percents:
        place = percent / 100 * (int(last[-1]) - 1)
        low, high = values[np.searchsorted(last, (np.floor(place), np.ceil(place)), side="right")].tolist()
        found.append(low + (high - low) * (place % 1))
    return found
