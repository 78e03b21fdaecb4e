"""How many tries each function has used up, and on which ranks: those on a bad rank or host are given back."""

from __future__ import annotations

from collections.abc import Collection


class Tries:
    """The tries of functions that failed; those to which nothing happened are not in here."""

    def __init__(self) -> None:
        self._spent: dict[int, list[tuple[int, bool]]] = {}

    def spend(self, task: int, rank: int, has_died: bool) -> None:
        """An attempt of ``task`` failed on ``rank``; by the death of its process or otherwise."""
        self._spent.setdefault(task, []).append((rank, has_died))

    def used(self, task: int) -> int:
        """Return how many attempts count for ``max_retries``."""
        return sum(not has_died for _, has_died in self._spent.get(task, ()))

    def counts(self, task: int, rank: int) -> bool:
        """Whether an attempt of ``task`` that failed on ``rank`` was not given back."""
        return any(where == rank for where, _ in self._spent.get(task, ()))

    def clear_deaths(self, task: int) -> None:
        """``task`` has succeeded, so its deaths count no more, and cannot be given back."""
        spent = self._spent.get(task)
        if spent is not None:
            spent[:] = [entry for entry in spent if not entry[1]]

    def forget(self, task: int) -> None:
        """``task`` has failed for good."""
        self._spent.pop(task, None)

    def give_back(self, ranks: Collection[int]) -> dict[int, int]:
        """Attempts on ``ranks`` count no more; return each task that had some, and how many of them were deaths."""
        given: dict[int, int] = {}
        for task, spent in self._spent.items():
            there = [has_died for rank, has_died in spent if rank in ranks]
            if there:
                given[task] = sum(there)
                spent[:] = [entry for entry in spent if entry[0] not in ranks]
        return given
