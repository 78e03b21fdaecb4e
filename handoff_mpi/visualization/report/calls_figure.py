"""The chart of calls: which call ran where and when; the elements that a rank has leased of an array are one bar.

Up to some thousand calls are drawn one by one: all of a small run; of a large one those that failed or were tried
again, and the longest. All others are added up in cells, a band of tracks times a stretch of time that is about a pixel
wide, by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.results.story import DONE, Story
from handoff_mpi.visualization.report.axis import TimeLine, Tracks, track_of_calls

#: So many calls are drawn one by one, at most; and so many of those that failed or were tried again.
MAX_BARS, MAX_ODD_BARS = 6_000, 2_000
#: So many of the longest calls are always among them.
_MIN_SHOWN_CALLS = 100
#: So many names have a colour of their own.
MAX_NAMES = 10
#: Stretches of time, and cells that hold anything.
_MAX_BINS, _MAX_CELLS = 1200, 150_000


@dataclass(slots=True)
class Names:
    """The names of functions in the charts: those that took most time, and the others as one.

    Attributes:
        shown: the names, the last of them for all others if there are more.
        of_call: the index of the name of each call.
    """

    shown: list[str]
    of_call: NDArray[np.uint8]


def names_of(story: Story) -> Names:
    """Return the names that charts tell apart."""
    calls, tasks = story.calls, story.tasks
    of_call = tasks.name[calls.task]
    busy = np.bincount(of_call, calls.duration, len(tasks.names))
    count = np.bincount(of_call, minlength=len(tasks.names))
    order = np.lexsort((-count, -busy))[: min(MAX_NAMES, int((count > 0).sum()))]
    place = np.full(len(tasks.names), len(order), np.uint8)
    place[order] = np.arange(len(order), dtype=np.uint8)
    shown = [tasks.names[each] for each in order.tolist()]
    if int((count > 0).sum()) > len(shown):
        shown.append("(others)")
    return Names(shown, place[of_call])


@dataclass(slots=True)
class Cells:
    """Calls that are added up: one entry for each cell and name.

    Attributes:
        bins: stretches of time, each ``width`` long.
        cell: band times ``bins`` plus stretch.
        name: an index of :attr:`Names.shown`.
        busy: the part of the cell in which its slots were in such calls, of 255.
        count: how many such calls began there.
    """

    bins: int
    width: float
    cell: NDArray[np.uint32]
    name: NDArray[np.uint8]
    busy: NDArray[np.uint8]
    count: NDArray[np.uint32]


def choose_bars(story: Story, line: TimeLine) -> NDArray[np.int64]:
    """Return the rows of the calls that are drawn one by one, in order.

    Of many calls, those that are thinner than a pixel would hide how busy a slot is: each is drawn a pixel wide. So
    only the longest of them are among these.
    """
    calls = story.calls
    if len(calls) <= MAX_BARS:
        return np.arange(len(calls))
    is_odd = (calls.outcome != DONE) | (calls.attempt > 1)
    odd = _longest(np.flatnonzero(is_odd), calls.duration, MAX_ODD_BARS)
    is_wide = ~is_odd & (calls.duration >= line.length / _MAX_BINS / 2)
    usual = _longest(np.flatnonzero(is_wide), calls.duration, MAX_BARS - len(odd))
    if len(usual) < _MIN_SHOWN_CALLS:
        usual = _longest(np.flatnonzero(~is_odd), calls.duration, _MIN_SHOWN_CALLS)
    return np.sort(np.concatenate((odd, usual)))


def _longest(rows: NDArray[np.int64], durations: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    if len(rows) <= most:
        return rows
    return rows[np.argpartition(-durations[rows], most)[:most]]


def cells_of(story: Story, line: TimeLine, tracks: Tracks, names: Names, bars: NDArray[np.int64]) -> Cells | None:
    """Return the calls that are not among ``bars``, added up; None if there is none."""
    is_rest = np.ones(len(story.calls), bool)
    is_rest[bars] = False
    rest = np.flatnonzero(is_rest)
    if not len(rest):
        return None
    bins = _MAX_BINS
    while True:
        cells = _add_up(story, line, tracks, names, rest, bins)
        if len(cells.cell) <= _MAX_CELLS or bins <= 50:
            return cells
        bins = bins * 2 // 3


def _add_up(story: Story, line: TimeLine, tracks: Tracks, names: Names, rest: NDArray[np.int64], bins: int) -> Cells:
    calls = story.calls
    width = line.length / bins
    begin = np.clip(line.of(calls.launch[rest], calls.started[rest]) / width, 0, bins - 1e-9)
    end = np.clip(begin + calls.duration[rest] / width, begin, bins)
    base = (track_of_calls(story, tracks)[rest] // tracks.per_band).astype(np.int64) * bins
    name = names.of_call[rest].astype(np.int64)
    at = begin.astype(np.int64)
    several = len(names.shown) + 1
    keys, parts, counts = [(base + at) * several + name], [np.minimum(end, at + 1) - begin], [np.ones(len(rest))]
    left = np.flatnonzero(end > at + 1)
    while len(left):  # the calls that continue in the next stretch
        at[left] += 1
        keys.append((base[left] + at[left]) * several + name[left])
        parts.append(np.minimum(end[left], at[left] + 1) - at[left])
        counts.append(np.zeros(len(left)))
        left = left[end[left] > at[left] + 1]
    found, where = np.unique(np.concatenate(keys), return_inverse=True)
    busy = np.bincount(where, np.concatenate(parts)) / tracks.per_band
    return Cells(
        bins,
        width,
        (found // several).astype(np.uint32),
        (found % several).astype(np.uint8),
        np.clip(np.ceil(busy * 255), 1, 255).astype(np.uint8),
        np.bincount(where, np.concatenate(counts)).astype(np.uint32),
    )


def bars_of(story: Story, line: TimeLine, tracks: Tracks, names: Names, bars: NDArray[np.int64]) -> dict[str, object]:
    """Return the columns of the calls that are drawn one by one."""
    calls, tasks = story.calls, story.tasks
    launch = calls.launch[bars]
    return {
        "start": line.of(launch, calls.started[bars]),
        "duration": calls.duration[bars].astype(np.float32),
        "track": track_of_calls(story, tracks)[bars],
        "rank": calls.rank[bars],
        "name": names.of_call[bars],
        "outcome": calls.outcome[bars].astype(np.uint8),
        "attempt": np.minimum(calls.attempt[bars], 65_535).astype(np.uint16),
        "launch": launch.astype(np.uint16),
        "failure": calls.failure[bars],
        "elements": calls.elements[bars],
        "id": [tasks.label(task) for task in calls.task[bars].tolist()],
    }
