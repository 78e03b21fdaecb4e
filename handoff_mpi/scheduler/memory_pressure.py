"""Tracks the ranks that are short of memory and so receive no new tasks; picks one of them if all are short."""

from __future__ import annotations

from collections.abc import Iterator

from handoff_mpi.allocation import MEMORY, Ledger


class MemoryPressure:
    """The ranks that are short of memory.

    Args:
        ledger: cordons them; what a rank is cordoned for besides is left alone.

    Attributes:
        ranks: those that are short, the one whose turn comes next first.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ranks: dict[int, None] = {}
        self._ledger = ledger

    def begin(self, rank: int) -> None:
        """``rank`` is short of memory from now on."""
        self.ranks.setdefault(rank)
        self._ledger.cordon(rank, MEMORY)

    def end(self, rank: int) -> None:
        """``rank`` is no longer short of memory."""
        self.ranks.pop(rank, None)
        self._ledger.uncordon(rank, MEMORY)

    def turns(self) -> Iterator[int]:
        """Yield the ranks, each being the last of all from then on: the load is shared."""
        for rank in list(self.ranks):
            del self.ranks[rank]
            self.ranks[rank] = None
            yield rank
