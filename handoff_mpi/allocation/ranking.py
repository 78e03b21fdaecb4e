"""Which bay comes first: for each cost class bays are kept in the order of the strategy's rating.

A claim or a release touches one bay; an index looks only at bays that changed since it was last asked, so that a
placement costs the same with ten hosts and with ten thousand. Classes that differ in a wish alone (not that rank, only
that host) need no index of their own: there are as many of them as ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

from handoff_mpi.allocation.bays import Bay
from handoff_mpi.allocation.costs import CostClass
from handoff_mpi.allocation.pools import DevicePool, Pool
from handoff_mpi.allocation.seating import Seating

#: Ratings are kept of this many pairs of class and bay, or of one class more: functions may have thousands of costs.
MAX_RATINGS = 4_000_000
#: Gives a bay that fits a cost class its place in the order: least first.
Rate: TypeAlias = "Callable[[CostClass, Bay], Any]"


class Changes:
    """Which bays have changed, in order: for those who keep something about them.

    Args:
        bays: all there are; more may come.
    """

    def __init__(self, bays: Sequence[Bay]) -> None:
        self._bays = bays
        self._numbers: list[int] = []
        self._dropped = 0

    def note(self, bay: Bay) -> None:
        """What ``bay`` has or who sits there has changed."""
        self._numbers.append(bay.number)

    def note_shared(self, bay: Bay, bill: Iterable[tuple[Pool, int]], devices: DevicePool | None) -> None:
        """A claim in ``bay`` was made or released: other bays that draw on the same pools have changed as well."""
        changed = self._numbers
        changed.append(bay.number)
        for pool, _ in bill:
            if len(pool.bays) > 1:
                changed.extend(pool.bays)
        if devices is not None and (len(devices.bays) > 1 or devices is not bay.devices):
            changed.extend(devices.bays)
        if len(changed) > 4 * len(self._bays) + 1024:
            half = len(changed) // 2  # who has not seen these looks at all bays when it is asked again
            del changed[:half]
            self._dropped += half

    def since(self, seen: int) -> tuple[int, Collection[int] | None]:
        """Return what to ask with next time, and the numbers of the bays that changed; None: any may have.

        Args:
            seen: what the last call returned, -1 at first.
        """
        changed, first = self._numbers, seen - self._dropped
        now = self._dropped + len(changed)
        if first < 0 or now - seen > len(self._bays):
            return now, None
        return now, changed[first:] if now - seen < 2 else dict.fromkeys(changed[first:])


class Ranking:
    """The order of bays for each cost class.

    Args:
        seating: who sits where.
        changes: told of each bay that changes.
    """

    def __init__(self, seating: Seating, changes: Changes) -> None:
        self._seating = seating
        self._changes = changes
        self._indexes: dict[int, _Index] = {}
        self._rate: Rate = lambda cost, bay: bay.first_idle(cost)

    def order_by(self, rate: Rate) -> None:
        """Order bays by ``rate`` from now on, least first."""
        self._rate = rate
        self._indexes.clear()

    def best(self, cost: CostClass) -> Bay | None:
        """Return the bay with the least rating that fits the class now, if any."""
        if cost.rank is not None:
            seat = self._seating.seats.get(cost.rank)
            return seat.bay if seat is not None and seat.is_alive and seat.bay.fits(cost) else None
        if cost.host is not None:
            return self._best_of(cost, [(bay, None) for bay in self._seating.bays_of_host.get(cost.host, ())])
        if cost.plain is not None:
            return self._best_elsewhere(cost, cost.plain)
        entry = self._index(cost).best(self._rate)
        return None if entry is None else self._seating.bays[entry[1]]

    def _index(self, cost: CostClass) -> _Index:
        index = self._indexes.get(cost.number)
        if index is None:
            if len(self._indexes) * len(self._seating.bays) > MAX_RATINGS:
                del self._indexes[next(iter(self._indexes))]
            index = self._indexes[cost.number] = _Index(self._seating.bays, self._changes, cost)
        return index

    def _best_elsewhere(self, cost: CostClass, plain: CostClass) -> Bay | None:
        """As :meth:`best`, for a class that avoids a rank or hosts: all other bays are as for the plain class."""
        seat = self._seating.seats.get(cost.avoid) if cost.avoid is not None else None
        own = None if seat is None or seat.host in cost.avoid_hosts else seat.bay
        hosts = self._seating.bays_of_host
        aside = {bay.number for host in cost.avoid_hosts for bay in hosts.get(host, ())}
        if own is not None:
            aside.add(own.number)
        entry = self._index(plain).best(self._rate, aside)
        found: list[tuple[Bay, Any]] = [] if entry is None else [(self._seating.bays[entry[1]], entry[0])]
        return self._best_of(cost, found if own is None else [*found, (own, None)])

    def _best_of(self, cost: CostClass, bays: Iterable[tuple[Bay, Any]]) -> Bay | None:
        """Return the best of a few bays, given with their ratings as far as they are known."""
        rated = [
            (rating if rating is not None else self._rate(cost, bay), bay.number)
            for bay, rating in bays
            if rating is not None or bay.fits(cost)
        ]
        return self._seating.bays[min(rated)[1]] if rated else None


class _Index:
    """The bays with room for one cost class, ordered by rating: a heap whose entries are checked when met."""

    def __init__(self, bays: Sequence[Bay], changes: Changes, cost: CostClass) -> None:
        self._bays = bays
        self._changes = changes
        self._cost = cost
        self._heap: list[tuple[Any, int]] = []
        self._rating: list[Any] = []
        self._seen = -1

    def best(self, rate: Rate, but: Collection[int] = ()) -> tuple[Any, int] | None:
        """Return the least ``(rating, number of the bay)``, the bays ``but`` left aside."""
        self._catch_up(rate)
        heap, ratings = self._heap, self._rating
        aside = []
        while heap:
            entry = heap[0]
            if ratings[entry[1]] != entry[0]:
                heapq.heappop(heap)
            elif entry[1] in but:
                aside.append(heapq.heappop(heap))
            else:
                break
        best = heap[0] if heap else None
        for entry in aside:
            heapq.heappush(heap, entry)
        return best

    def _catch_up(self, rate: Rate) -> None:
        bays, cost, heap, ratings = self._bays, self._cost, self._heap, self._rating
        self._seen, changed = self._changes.since(self._seen)
        if changed is None:
            changed = range(len(bays))
        ratings += [None] * (len(bays) - len(ratings))
        for number in changed:
            bay = bays[number]
            rating = rate(cost, bay) if bay.fits(cost) else None
            if rating != ratings[number]:
                ratings[number] = rating
                if rating is not None:
                    heapq.heappush(heap, (rating, number))
        if len(heap) > 4 * len(bays) + 64:
            self._heap = [(rating, number) for number, rating in enumerate(ratings) if rating is not None]
            heapq.heapify(self._heap)
