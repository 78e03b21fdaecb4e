"""Which other hosts have gone silent as a whole, and what is to be asked about it. Pure, and apart from the machine.

A rank that is silent may be busy; a host all of whose ranks are silent may have been cut off, and then nobody there can
be asked through MPI. Somebody is asked past it: the host itself, and as a control one that surely lives, because asking
may not work from here at all. Only a host that is silent on both ways is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

#: A host that answers while its ranks stay silent is asked at least this often.
_RAREST_S = 60.0


class HostFailureDetector:
    """Watches the hosts of a run, except the host of rank 0.

    Args:
        hosts: host to its ranks; rank 0's own host comes first.
        limit_s: seconds of silence of all its ranks after which a host is asked.
    """

    def __init__(self, hosts: Mapping[str, Collection[int]], limit_s: float) -> None:
        self.limit_s = limit_s
        self._hosts = {host: list(ranks) for host, ranks in hosts.items()}
        self._own = next(iter(self._hosts), "")
        self._asked: dict[str, tuple[float, float]] = {}  # host to when it was asked, and how long that holds

    def look(
        self, heard: Mapping[int, float], gone: Collection[int], now: float, most: int = 64
    ) -> list[tuple[str, str]]:
        """Return ``(host to ask, control)`` for each host that has become silent.

        Args:
            heard: rank to when it was last heard of.
            gone: ranks that are known to be lost.
            now: the time, in seconds.
            most: how many hosts can be asked now; the others' turn comes later.
        """
        last = self._last_heard(heard, gone, now)
        due = (host for host, when in last.items() if now - when > self.limit_s and self._is_due(host, when, now))
        silent = list(islice(due, most))
        loudest = max(last, key=lambda host: last[host], default=self._own)
        is_certain = loudest in last and now - last[loudest] <= self.limit_s
        return [(host, loudest if is_certain else self._own) for host in silent]

    def _last_heard(self, heard: Mapping[int, float], gone: Collection[int], now: float) -> dict[str, float]:
        heard_of = {host: self._heard_of(host, heard, gone, now) for host in self._hosts if host != self._own}
        return {host: when for host, when in heard_of.items() if when is not None}

    def _heard_of(self, host: str, heard: Mapping[int, float], gone: Collection[int], now: float) -> float | None:
        """Return when ``host`` was last heard of; None if all its ranks are lost."""
        return max((heard.get(rank, now) for rank in self.ranks(host, gone)), default=None)

    def is_silent(self, host: str, heard: Mapping[int, float], gone: Collection[int], now: float) -> bool:
        """Whether nothing was heard of ``host`` for longer than the limit."""
        when = self._heard_of(host, heard, gone, now)
        return host != self._own and when is not None and now - when > self.limit_s

    def ranks(self, host: str, gone: Collection[int]) -> Sequence[int]:
        """Return the ranks of ``host`` that are not known to be lost."""
        return [rank for rank in self._hosts[host] if rank not in gone]

    def _is_due(self, host: str, heard: float, now: float) -> bool:
        """Whether to ask now: at once, then ever less often while the host answers and its ranks do not."""
        asked, wait_s = self._asked.get(host, (heard, 0.0))
        if asked < heard:
            wait_s = 0.0
        elif now - asked < wait_s:
            return False
        self._asked[host] = (now, min(_RAREST_S, max(self.limit_s, 2 * wait_s)))
        return True
