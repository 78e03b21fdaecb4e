"""Prints which ranks were lost, equal losses in a line, and what runs again because of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from handoff_mpi.console import print_message
from handoff_mpi.formatting import show

#: Of functions that run again, and of ranks that are lost, so many are named; and so many lines tell of lost ranks.
MAX_NAMED, MAX_LINES_OF_LOSSES = 5, 30


class LossPrinter:
    """Prints losses, a bounded number of lines.

    Args:
        hosts: rank to host name.
    """

    def __init__(self, hosts: Mapping[int, str]) -> None:
        self._hosts = hosts
        self._lines = 0

    def tell(self, lost: Mapping[int, str], reassigned: Sequence[Hashable], recomputed: Sequence[Hashable]) -> None:
        """Print the losses of a turn.

        Args:
            lost: rank to why it is lost.
            reassigned: what ran there, by id.
            recomputed: whose values were there.
        """
        alike: dict[tuple[str, str], list[int]] = {}
        for rank, why in lost.items():
            alike.setdefault((self._hosts.get(rank, ""), why), []).append(rank)
        for (host, why), ranks in alike.items():
            self._lines += 1
            if self._lines <= MAX_LINES_OF_LOSSES:
                named = ", ".join(map(str, ranks[:MAX_NAMED])) + (", ..." if len(ranks) > MAX_NAMED else "")
                who = f"rank {named} ({host}) is" if len(ranks) == 1 else f"{len(ranks)} ranks of {host} ({named}) are"
                print_message(f"{who} lost: {why}")
        if self._lines > MAX_LINES_OF_LOSSES:
            return
        again = [f"calls that ran there are repeated on other ranks: {_named(reassigned)}"] if reassigned else []
        again += [f"values that were there are computed again: {_named(recomputed)}"] if recomputed else []
        if again:
            print_message("; ".join(again))


def _named(ids: Sequence[Hashable]) -> str:
    names = ", ".join(map(show, ids[:MAX_NAMED]))
    return f"{names} and {len(ids) - MAX_NAMED:,} more" if len(ids) > MAX_NAMED else names
