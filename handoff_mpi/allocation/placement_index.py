"""Keeps the groups of each request class in the order of the strategy's score.

A claim or a release touches one group; an index looks only at groups that changed since it was last asked, so that a
placement costs the same with ten hosts and with ten thousand. Classes that differ in a wish alone (not that rank, only
that host) need no separate index: there are as many of them as ranks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

from handoff_mpi.allocation.costs import RequestClass
from handoff_mpi.allocation.pools import DevicePool, Pool
from handoff_mpi.allocation.resource_groups import ResourceGroup
from handoff_mpi.allocation.topology import Topology

#: Ratings are kept of this many pairs of class and group, or of one class more: functions may have thousands of costs.
MAX_SCORES = 4_000_000
#: Gives a group that fits a cost class its place in the order: least first.
Score: TypeAlias = "Callable[[RequestClass, ResourceGroup], Any]"


class Changes:
    """The groups that have changed, in order, for objects that cache facts about them.

    Args:
        groups: all there are; more may come.
    """

    def __init__(self, groups: Sequence[ResourceGroup]) -> None:
        self._groups = groups
        self._numbers: list[int] = []
        self._dropped = 0

    def note(self, group: ResourceGroup) -> None:
        """Note that the pools or the ranks of ``group`` have changed."""
        self._numbers.append(group.number)

    def note_shared(self, group: ResourceGroup, draws: Iterable[tuple[Pool, int]], devices: DevicePool | None) -> None:
        """A claim in ``group`` was made or released: other groups that draw on the same pools have changed as well."""
        changed = self._numbers
        changed.append(group.number)
        for pool, _ in draws:
            if len(pool.groups) > 1:
                changed.extend(pool.groups)
        if devices is not None and (len(devices.groups) > 1 or devices is not group.devices):
            changed.extend(devices.groups)
        if len(changed) > 4 * len(self._groups) + 1024:
            half = len(changed) // 2  # who has not seen these looks at all groups when it is asked again
            del changed[:half]
            self._dropped += half

    def since(self, seen: int) -> tuple[int, Collection[int] | None]:
        """Return what to ask with next time, and the numbers of the groups that changed; None: any may have.

        Args:
            seen: what the last call returned, -1 at first.
        """
        changed, first = self._numbers, seen - self._dropped
        now = self._dropped + len(changed)
        if first < 0 or now - seen > len(self._groups):
            return now, None
        return now, changed[first:] if now - seen < 2 else dict.fromkeys(changed[first:])


class PlacementIndex:
    """The order of groups for each cost class.

    Args:
        topology: who sits where.
        changes: told of each group that changes.
    """

    def __init__(self, topology: Topology, changes: Changes) -> None:
        self._topology = topology
        self._changes = changes
        self._indexes: dict[int, _Index] = {}
        self._score: Score = lambda cost, group: group.first_idle(cost)

    def order_by(self, score: Score) -> None:
        """Order groups by ``score`` from now on, least first."""
        self._score = score
        self._indexes.clear()

    def best(self, cost: RequestClass) -> ResourceGroup | None:
        """Return the group with the least rating that fits the class now, if any."""
        if cost.rank is not None:
            rank_state = self._topology.rank_states.get(cost.rank)
            return (
                rank_state.group
                if rank_state is not None and rank_state.is_present and rank_state.group.fits(cost)
                else None
            )
        if cost.host is not None:
            return self._best_of(cost, [(group, None) for group in self._topology.groups_of_host.get(cost.host, ())])
        if cost.plain is not None:
            return self._best_elsewhere(cost, cost.plain)
        found = self._index(cost).best(self._score)
        if found is None:
            return None
        _, number = found
        return self._topology.groups[number]

    def _index(self, cost: RequestClass) -> _Index:
        index = self._indexes.get(cost.number)
        if index is None:
            if len(self._indexes) * len(self._topology.groups) > MAX_SCORES:
                del self._indexes[next(iter(self._indexes))]
            index = self._indexes[cost.number] = _Index(self._topology.groups, self._changes, cost)
        return index

    def _best_elsewhere(self, cost: RequestClass, plain: RequestClass) -> ResourceGroup | None:
        """As :meth:`best`, for a class that avoids a rank or hosts: all other groups are as for the plain class."""
        rank_state = self._topology.rank_states.get(cost.avoid) if cost.avoid is not None else None
        own = None if rank_state is None or rank_state.host in cost.avoid_hosts else rank_state.group
        hosts = self._topology.groups_of_host
        aside = {group.number for host in cost.avoid_hosts for group in hosts.get(host, ())}
        if own is not None:
            aside.add(own.number)
        choice: list[tuple[ResourceGroup, object]] = [] if own is None else [(own, None)]
        found = self._index(plain).best(self._score, aside)
        if found is not None:
            rating, number = found
            choice.append((self._topology.groups[number], rating))
        return self._best_of(cost, choice)

    def _best_of(self, cost: RequestClass, groups: Iterable[tuple[ResourceGroup, object]]) -> ResourceGroup | None:
        """Return the best of a few groups, given with their ratings as far as they are known."""
        rated = [
            (rating if rating is not None else self._score(cost, group), group.number)
            for group, rating in groups
            if rating is not None or group.fits(cost)
        ]
        if not rated:
            return None
        _, number = min(rated)
        return self._topology.groups[number]


class _Index:
    """The groups with room for one cost class, ordered by rating: a heap whose entries are checked when met."""

    def __init__(self, groups: Sequence[ResourceGroup], changes: Changes, cost: RequestClass) -> None:
        self._groups = groups
        self._changes = changes
        self._cost = cost
        self._heap: list[tuple[object, int]] = []
        self._rating: list[object] = []
        self._seen = -1

    def best(self, score: Score, but: Collection[int] = ()) -> tuple[object, int] | None:
        """Return the least ``(rating, number of the group)``, the groups ``but`` left aside."""
        self._catch_up(score)
        heap, ratings = self._heap, self._rating
        aside = []
        while heap:
            rating, number = heap[0]
            if ratings[number] != rating:
                heapq.heappop(heap)
            elif number in but:
                aside.append(heapq.heappop(heap))
            else:
                break
        best = heap[0] if heap else None
        for entry in aside:
            heapq.heappush(heap, entry)
        return best

    def _catch_up(self, score: Score) -> None:
        groups, cost, heap, ratings = self._groups, self._cost, self._heap, self._rating
        self._seen, changed = self._changes.since(self._seen)
        if changed is None:
            changed = range(len(groups))
        ratings += [None] * (len(groups) - len(ratings))
        for number in changed:
            group = groups[number]
            rating = score(cost, group) if group.fits(cost) else None
            if rating != ratings[number]:
                ratings[number] = rating
                if rating is not None:
                    heapq.heappush(heap, (rating, number))
        if len(heap) > 4 * len(groups) + 64:
            self._heap = [(rating, number) for number, rating in enumerate(ratings) if rating is not None]
            heapq.heapify(self._heap)
