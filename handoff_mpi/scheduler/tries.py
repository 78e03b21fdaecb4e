"""How many tries each function has used up, and on which ranks: those on a bad rank or host are given back."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from handoff_mpi.scheduler.retries import Chance


class _Try(NamedTuple):
    """An attempt that failed."""

    rank: int
    has_died: bool
    chance: Chance


class Tries:
    """The tries of functions that failed; those to which nothing happened are not in here."""

    def __init__(self) -> None:
        self._spent: dict[int, list[_Try]] = {}

    def spend(self, task: int, rank: int, has_died: bool, chance: Chance = Chance.ALWAYS) -> None:
        """An attempt of ``task`` failed on ``rank``; by the death of its process or otherwise."""
        self._spent.setdefault(task, []).append(_Try(rank, has_died, chance))

    def used(self, task: int) -> int:
        """Return how many attempts count for ``max_retries``."""
        return sum(not each.has_died for each in self._spent.get(task, ()))

    def spent(self, task: int) -> int:
        """Return how many attempts failed, also those that count for nothing."""
        return len(self._spent.get(task, ()))

    def has_chance(self, task: int, chance: Chance) -> bool:
        """Whether a failure of ``task`` that deserves ``chance``, and was noted by now, may be tried again."""
        if chance == Chance.ONCE:
            return sum(each.chance == Chance.ONCE for each in self._spent.get(task, ())) <= 1
        return chance == Chance.ALWAYS

    def counts(self, task: int, rank: int) -> bool:
        """Whether an attempt of ``task`` that failed on ``rank`` was not given back."""
        return any(each.rank == rank for each in self._spent.get(task, ()))

    def clear_deaths(self, task: int) -> None:
        """``task`` has succeeded, so its deaths no longer count, and cannot be given back."""
        spent = self._spent.get(task)
        if spent is not None:
            spent[:] = [each for each in spent if not each.has_died]

    def forget(self, task: int) -> None:
        """``task`` has failed for good."""
        self._spent.pop(task, None)

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``, and has used up as many tries."""
        if task in self._spent:
            self._spent[other] = [*self._spent[task]]

    def give_back(self, ranks: Collection[int]) -> dict[int, int]:
        """Attempts on ``ranks`` no longer count; return each task that had some, and how many of them were deaths."""
        given: dict[int, int] = {}
        for task, spent in self._spent.items():
            there = [each.has_died for each in spent if each.rank in ranks]
            if there:
                given[task] = sum(there)
                spent[:] = [each for each in spent if each.rank not in ranks]
        return given
