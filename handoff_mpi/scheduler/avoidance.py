"""Decides where a task that failed should run next: on another host first, else another rank, else anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from handoff_mpi.allocation import RankState

#: Each set of several hosts makes its own request class; beyond this many sets, a task avoids the last host alone.
MAX_HOST_SETS = 256


class Avoidance:
    """The ranks where tasks failed, and what that means for their next attempts.

    Args:
        rank_states: rank to its place.

    Attributes:
        failed_on: task to the ranks of its failed attempts, in order.
        besides: task to hosts that it should avoid besides: they fail most calls, too.
        relented: tasks that no longer avoid anything, since the strategy places them nowhere else.
        is_alone_to_blame: whether a rank is on probation while its host works, so that none need avoid the host.
    """

    def __init__(self, rank_states: Mapping[int, RankState]) -> None:
        self.failed_on: dict[int, list[int]] = {}
        self.besides: dict[int, frozenset[str]] = {}
        self.relented: set[int] = set()
        self.is_alone_to_blame: Callable[[int], bool] = lambda rank: False
        self._rank_states = rank_states
        self._host_sets: set[frozenset[str]] = set()

    def __contains__(self, task: int) -> bool:
        return task in self.failed_on

    def note(self, task: int, rank: int) -> None:
        """An attempt of ``task`` failed on ``rank``."""
        self.failed_on.setdefault(task, []).append(rank)

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``: it failed on the same ranks."""
        if task in self.failed_on:
            self.failed_on[other] = [*self.failed_on[task]]
        if task in self.besides:
            self.besides[other] = self.besides[task]
        if task in self.relented:
            self.relented.add(other)

    def forget(self, task: int) -> None:
        """Nothing is known of ``task`` any more."""
        self.failed_on.pop(task, None)
        self.besides.pop(task, None)
        self.relented.discard(task)

    def wishes(self, task: int) -> Iterator[tuple[int | None, frozenset[str]]]:
        """Yield ``(rank to avoid, hosts to avoid)``, the best wish first; the last one avoids nothing."""
        ranks = [rank for rank in self.failed_on.get(task, ()) if not self.is_alone_to_blame(rank)]
        if ranks and task not in self.relented:
            hosts = self._hosts(ranks, self.besides.get(task, frozenset()))
            last_host = frozenset({self._rank_states[ranks[-1]].host})
            yield None, hosts
            if hosts != last_host:
                yield None, last_host
            yield ranks[-1], frozenset()
        yield None, frozenset()

    def _hosts(self, ranks: Sequence[int], besides: frozenset[str]) -> frozenset[str]:
        hosts = besides.union(self._rank_states[rank].host for rank in ranks)
        if len(hosts) > 1 and hosts not in self._host_sets:
            if len(self._host_sets) >= MAX_HOST_SETS:
                return frozenset({self._rank_states[ranks[-1]].host})
            self._host_sets.add(hosts)
        return hosts
