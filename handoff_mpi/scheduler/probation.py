"""Ranks and hosts on probation: they fail functions that succeed elsewhere, and are given only a probe now and then.

A place (a rank, or a host with all its ranks) is put on probation when evidence convicts it, never the last one. Its
ranks are cordoned in the ledger: nothing is placed there but probes, and what can run nowhere else (pins win).
A probe that succeeds ends the probation; each that fails doubles the wait for the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from handoff_mpi.allocation import PROBATION, Ledger
from handoff_mpi.scheduler.evidence import SOUND, Evidence

#: The number of a rank, or the name of a host.
Place: TypeAlias = "int | str"

#: A place is first probed after this many seconds, then ever less often.
PROBATION_PROBE_S = 2.0
MAX_PROBE_S = 300.0
#: A place that worked for so many times its last wait begins with the first wait again.
_FORGOTTEN_AFTER = 8


@dataclass(slots=True)
class Term:
    """One place on probation.

    Attributes:
        place: the rank or host.
        ranks: its ranks.
        reason: why, in words.
        wait_s: seconds between the last probe and the next one.
        next_probe: when it is tried again.
        probe: the task that is tried there now, if any.
    """

    place: Place
    ranks: tuple[int, ...]
    reason: str
    wait_s: float
    next_probe: float
    probe: int | None = None


class Probation:
    """The places on probation.

    Args:
        ledger: cordons their ranks.
        evidence: convicts them.

    Attributes:
        terms: by place.
        of_rank: by each of their ranks.
        probes: the tasks that are tried on such places now, and the terms of those.
    """

    def __init__(self, ledger: Ledger, evidence: Evidence) -> None:
        self.terms: dict[Place, Term] = {}
        self.of_rank: dict[int, Term] = {}
        self.probes: dict[int, Term] = {}
        self._ledger = ledger
        self._evidence = evidence
        self._waits: dict[Place, tuple[float, float]] = {}  # the last wait of a place, and when its probation ended

    # -- beginning of probation ------------------------------------------------------------------------

    def trusted(self, host: str) -> list[int]:
        """Return the living ranks of ``host`` that are not on probation."""
        return [rank for rank in self._evidence.hosts[host] if self._is_trusted(rank)]

    def _dead(self, host: str) -> list[int]:
        """Return the ranks of ``host`` that have died: what they did speaks for the host, or against it, too."""
        return [rank for rank in self._evidence.hosts[host] if not self._ledger.rank_states[rank].is_present]

    def _is_trusted(self, rank: int) -> bool:
        rank_state = self._ledger.rank_states[rank]
        return rank_state.is_present and rank_state.slots > 0 and rank not in self.of_rank

    def is_alone_to_blame(self, rank: int) -> bool:
        """Whether ``rank`` is on probation while the other ranks of its host work."""
        term = self.of_rank.get(rank)
        if term is None or isinstance(term.place, str):
            return False
        others = self._evidence.of_ranks(self.trusted(self._ledger.rank_states[rank].host))
        return others.good > 0 and others.failing < SOUND

    def has_trusted(self, but: Sequence[int] = ()) -> bool:
        """Whether a living rank is left that is not on probation, besides ``but``."""
        return any(self._is_trusted(rank) and rank not in but for rank in self._ledger.rank_states)

    def judge(self, failed_on: Sequence[int], rank: int, now: float) -> list[Term]:
        """A function that failed on some ranks succeeded on ``rank``; return the probations that begin with this."""
        found = [self._convict(each, rank, now) for each in self._evidence.refute(failed_on, rank)]
        return [term for term in found if term is not None]

    def _convict(self, rank: int, judge: int, now: float) -> Term | None:
        is_present = self._ledger.rank_states[rank].is_present
        if (is_present and not self._is_trusted(rank)) or not self._is_trusted(judge):
            return None
        host, judges_host = self._ledger.rank_states[rank].host, self._ledger.rank_states[judge].host
        ranks = self.trusted(host)
        if ranks and host != judges_host:
            witnesses = [*ranks, *self._dead(host)]
            if self._evidence.is_bad_host(witnesses, self.trusted(judges_host)):
                return self._begin(host, witnesses, now)
        if not is_present or not self._evidence.is_bad_rank(rank, judge):
            return None
        is_last_of_host = ranks == [rank] and host != judges_host
        return self._begin(host if is_last_of_host else rank, [rank], now)

    def _begin(self, place: Place, ranks: Sequence[int], now: float) -> Term | None:
        """Put ``place`` on probation, unless it is the last one; ``ranks`` are those that speak against it."""
        if not self.has_trusted(ranks):
            return None
        count = round(self._evidence.of_ranks(ranks).refuted)
        reason = f"{count:,} functions that failed there succeeded elsewhere"
        if isinstance(place, str):
            ranks = self._evidence.hosts[place]
            for other in {term.place for rank in ranks if (term := self.of_rank.get(rank)) is not None}:
                self._drop(self.terms[other])
        wait_s = self._first_wait(place, now)
        term = self.terms[place] = Term(place, tuple(ranks), reason, wait_s, now + wait_s)
        for rank in ranks:
            self.of_rank[rank] = term
            self._ledger.cordon(rank, PROBATION)
        self._ledger.feasibility.set_shunned(self.of_rank)
        return term

    def _first_wait(self, place: Place, now: float) -> float:
        wait_s, ended = self._waits.get(place, (0.0, now))
        if now - ended > _FORGOTTEN_AFTER * wait_s or not wait_s:
            return PROBATION_PROBE_S
        return min(2 * wait_s, MAX_PROBE_S)

    def end(self, term: Term, now: float) -> None:
        """The place of ``term`` is trusted again, and what was known of it is forgotten."""
        self._waits[term.place] = (term.wait_s, now)
        self._drop(term)
        self._evidence.clear(term.ranks)
        for rank in term.ranks:
            self._ledger.uncordon(rank, PROBATION)
        self._ledger.feasibility.set_shunned(self.of_rank)

    def _drop(self, term: Term) -> None:
        del self.terms[term.place]
        if term.probe is not None:
            del self.probes[term.probe]
        for rank in term.ranks:
            self.of_rank.pop(rank, None)

    # -- probes -----------------------------------------------------------------------------------------

    def due(self, now: float) -> list[Term]:
        """Return the terms whose place should be tried now."""
        return [term for term in self.terms.values() if term.probe is None and now >= term.next_probe]

    def sent(self, term: Term, rank: int, task: int) -> None:
        """``task`` is tried on ``rank``; another rank's turn comes next time."""
        term.ranks = (*(each for each in term.ranks if each != rank), rank)
        term.probe = task
        self.probes[task] = term

    def came_back(self, task: int, now: float, has_failed: bool) -> None:
        """A probe has failed, or came back without a result."""
        term = self.probes.pop(task)
        term.probe = None
        if has_failed:
            term.wait_s = min(2 * term.wait_s, MAX_PROBE_S)
        term.next_probe = now + term.wait_s

    def idle_ranks(self, terms: Iterable[Term]) -> list[int]:
        """Return the ranks of ``terms`` that have an idle slot, and are cordoned for nothing else."""
        rank_states, cordoned = self._ledger.rank_states, self._ledger.cordoned
        ranks = (rank for term in terms for rank in term.ranks)
        return [
            r for r in ranks if rank_states[r].is_present and rank_states[r].idle and cordoned.get(r) == {PROBATION}
        ]
