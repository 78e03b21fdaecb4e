"""Where calls are drawn: all launches on one time line, and a track for each slot of each rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handoff_mpi.results.story import Floats, Ints, Story

#: A gap between two launches is drawn at most as long as this part of the time in which the run ran.
_MAX_GAP = 0.03
#: More tracks than this are drawn several to a band.
MAX_BANDS = 256


@dataclass(slots=True)
class TimeLine:
    """The time of the run, in seconds from its start; of long gaps between launches, most is left out.

    Attributes:
        begins, ends: where each launch lies on it.
        offsets: seconds since the epoch at 0, as each launch sees it.
        gaps_s: how long each gap really was, and ``cuts``: whether it is drawn shorter.
    """

    begins: list[float]
    ends: list[float]
    offsets: Floats
    gaps_s: list[float]
    cuts: list[bool]

    @property
    def length(self) -> float:
        """Where the newest launch ends; above 0."""
        return max(self.ends[-1], 1e-6)

    def of(self, launches: NDArray[Any], times: Floats) -> Floats:
        """Return where ``times``, in seconds since the epoch, of ``launches`` lie."""
        place: Floats = times - self.offsets[launches]
        return place


def time_line(story: Story) -> TimeLine:
    """Return the time line of a run."""
    spans = [(each.started_s, max(each.stopped_s, each.started_s)) for each in story.launches]
    longest = _MAX_GAP * sum(stop - start for start, stop in spans)
    line = TimeLine([], [], np.zeros(len(spans)), [], [])
    at, before = 0.0, spans[0][0]
    for number, (start, stop) in enumerate(spans):
        gap = max(0.0, start - before)
        if number:
            line.gaps_s.append(gap)
            line.cuts.append(gap > longest)
        at += min(gap, longest)
        line.begins.append(at)
        line.offsets[number] = start - at
        at += stop - start
        line.ends.append(at)
        before = stop
    return line


@dataclass(slots=True)
class Tracks:
    """The rows of the chart of calls: one for each slot of each rank, or several slots to a band where there are many.

    Attributes:
        ranks: those with slots, or calls, in order.
        first: the first track of each rank, and ``slots``: how many it has.
        count: of tracks.
        per_band: tracks in a band.
    """

    ranks: list[int]
    first: dict[int, int]
    slots: dict[int, int]
    count: int
    per_band: int

    @property
    def bands(self) -> int:
        """How many bands there are."""
        return -(-self.count // self.per_band)


def tracks_of(story: Story) -> Tracks:
    """Return the tracks of a run, of all its launches."""
    slots: dict[int, int] = {}
    for launch in story.launches:
        for rank, count in launch.slots.items():
            slots[rank] = max(slots.get(rank, 0), count)
    ranks, lanes = story.calls.rank, story.lanes
    if len(ranks):
        known = np.unique(ranks)
        used = np.zeros(len(known), np.int64)
        np.maximum.at(used, np.searchsorted(known, ranks), lanes.astype(np.int64) + 1)
        for rank, count in zip(known.tolist(), used.tolist(), strict=True):
            slots[rank] = max(slots.get(rank, 0), count)
    first, at = {}, 0
    for rank in sorted(slots):
        first[rank] = at
        at += slots[rank]
    return Tracks(sorted(slots), first, slots, max(at, 1), max(1, -(-at // MAX_BANDS)))


def track_of_calls(story: Story, tracks: Tracks) -> Ints:
    """Return the track of each call."""
    calls = story.calls
    if not len(calls):
        return np.zeros(0, np.int32)
    ranks = np.array(tracks.ranks)
    firsts = np.array([tracks.first[rank] for rank in tracks.ranks], np.int32)
    return firsts[np.searchsorted(ranks, calls.rank)] + story.lanes.astype(np.int32)
