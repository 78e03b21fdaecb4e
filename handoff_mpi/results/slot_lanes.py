"""Divides the calls of a rank among its slots: the journal does not tell which slot a call was in."""

from __future__ import annotations

import heapq

#: Ranks of one host agree on the time to within this; calls that overlap by less do not overlap.
OVERLAP_S = 1e-5


def partition(starts: list[float], stops: list[float]) -> list[int]:
    """Return the lane of each interval, sorted by start: the lowest that is free."""
    lanes, busy, free, count = [], list[tuple[float, int]](), list[int](), 0
    for start, stop in zip(starts, stops, strict=True):
        while busy and busy[0][0] <= start + OVERLAP_S:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            lane = heapq.heappop(free)
        else:
            lane, count = count, count + 1
        lanes.append(min(lane, 32_000))
        heapq.heappush(busy, (stop, lane))
    return lanes
