"""Failures without tries left that are not final yet, because the rank or host may be to blame.

Such a failure is held until the record of its rank tells: once the rank has succeeded in another call, or after some
seconds, it is final. While the rank or host fails most of its calls and others do not (it is *suspect*), up to three of
the functions held for it are tried on another host, where they have not failed: if they succeed there, that convicts
the suspect, and the attempts that failed there are given back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from handoff_mpi.allocation import RankState
from handoff_mpi.messages import ErrorReport
from handoff_mpi.scheduler.evidence import (
    MAX_OTHERS,
    MAX_RANKS,
    MIN_FUNCTIONS,
    MIN_SHARE,
    SOUND,
    SUSPICION,
    WINDOW,
    Account,
    Evidence,
    surprise,
)
from handoff_mpi.scheduler.retries import Chance

#: A failure is held for so many times as long as its call took, within these bounds.
HOLD_CALLS = 4
MIN_HOLD_S = 1.0
MAX_HOLD_S = 60.0
#: Seconds between two looks at what is held, and the most ranks looked at in one.
UNDECIDED_INTERVAL_S = 0.05
#: A function without tries left is tried elsewhere so often at most.
MAX_TRIALS = 2
MAX_LOOKS = 32


class Verdict(Enum):
    """The verdict on a failure that was held."""

    HOLD = 0
    TRY_ELSEWHERE = 1
    FINAL = 2


@dataclass(slots=True)
class Undecided:
    """A failure that is not final yet.

    Attributes:
        rank: where the last attempt failed.
        error: what the rank reported.
        chance: how often that deserves another try.
        wins: how many calls had succeeded on the rank by then.
        host_wins, host_losses: how many calls had succeeded and failed on its host by then.
        all_wins: the same of all ranks.
        streak: how many calls had failed there since one succeeded, this one included.
        until: when it becomes final unless the rank is suspect.
    """

    rank: int
    error: ErrorReport
    chance: Chance
    wins: int
    host_wins: int
    host_losses: int
    all_wins: int
    streak: int
    until: float


class UndecidedFailures:
    """The held failures, by rank.

    Attributes:
        next_look: when :meth:`look` should be called again.
        trials: tasks that are tried elsewhere although they have no tries left, and the rank where each failed.

    Args:
        rank_states: rank to its place.
        evidence: the records of ranks.
        trusted: returns the ranks of a host that are not on probation.
        failed_on: task to the ranks where it failed.
        failures: by task; the table of ready tasks keeps it, since they are READY.
        may_run: whether a task runs or could: it has not ended since, and waits for no input.
    """

    def __init__(
        self,
        rank_states: dict[int, RankState],
        evidence: Evidence,
        trusted: Callable[[str], list[int]],
        failed_on: dict[int, list[int]],
        failures: dict[int, Undecided],
        may_run: Callable[[int], bool],
    ) -> None:
        self.next_look = float("inf")
        self.trials: dict[int, int] = {}
        self._tried: dict[int, int] = {}
        self._rank_states = rank_states
        self._evidence = evidence
        self._trusted = trusted
        self._failed_on = failed_on
        self._failures = failures
        self._may_run = may_run
        self._of_rank: dict[int, dict[int, None]] = {}

    def failure(self, rank: int, error: ErrorReport, chance: Chance, until: float) -> Undecided:
        """Return a failure that was on ``rank``, and must be final at ``until`` unless the rank is suspect then."""
        evidence = self._evidence
        wins, streak = evidence.wins[rank], evidence.of_rank(rank).streak
        return Undecided(rank, error, chance, wins, *self._of_host(rank), sum(evidence.wins.values()), streak, until)

    def _of_host(self, rank: int) -> tuple[int, int]:
        """Return how many calls have succeeded and failed on the host of ``rank``; of a single host, on the rank."""
        evidence = self._evidence
        ranks = evidence.hosts[self._rank_states[rank].host] if len(evidence.hosts) > 1 else [rank]
        return sum(evidence.wins[each] for each in ranks), sum(evidence.losses[each] for each in ranks)

    def _since(self, failure: Undecided) -> Account:
        """Return the record of the host of ``failure`` since then."""
        wins, losses = self._of_host(failure.rank)
        return Account(good=wins - failure.host_wins, failed=losses - failure.host_losses)

    def add(self, task: int, failure: Undecided, now: float) -> None:
        """The failure of ``task`` is held."""
        self._failures[task] = failure
        self._of_rank.setdefault(failure.rank, {})[task] = None
        self.next_look = min(self.next_look, now + UNDECIDED_INTERVAL_S)

    def begin_trial(self, task: int, rank: int) -> frozenset[str]:
        """``task``, which failed on ``rank``, is tried elsewhere; return the hosts that are no better."""
        self.trials[task] = rank
        self._tried[task] = self._tried.get(task, 0) + 1
        return self._record(rank).no_better()

    def release(self, task: int) -> Undecided:
        """The failure of ``task`` is no longer held."""
        failure = self._failures.pop(task)
        self._of_rank[failure.rank].pop(task, None)
        return failure

    def copy(self, task: int, other: int) -> None:
        """``other`` is a part of ``task``: it was tried elsewhere as often."""
        for known in (self.trials, self._tried):
            if task in known:
                known[other] = known[task]

    def forget(self, task: int) -> None:
        """Nothing is known of ``task`` any more."""
        self.trials.pop(task, None)
        self._tried.pop(task, None)

    # -- verdicts ---------------------------------------------------------------------------------------

    def look(self, now: float, is_busy: Callable[[str], bool]) -> Iterator[tuple[int, Verdict]]:
        """Yield what becomes of held failures; each must be released before the next is asked for, unless held on.

        Args:
            is_busy: whether calls that could tell about a host are in flight or about to be.
        """
        for rank in list(islice(self._of_rank, max(MAX_LOOKS, len(self._of_rank) // 8))):
            tasks = self._of_rank.pop(rank)
            self._of_rank[rank] = tasks  # the others' turn comes first next time
            record = self._record(rank)
            for task in [*tasks]:
                if task not in self._failures:  # skipped, since an input failed
                    tasks.pop(task, None)
                    continue
                verdict = self._judge(task, self._failures[task], record, now, is_busy)
                if verdict != Verdict.HOLD:
                    yield task, verdict
                elif record.is_suspect:
                    break  # the others' turn comes later
            if not tasks:
                del self._of_rank[rank]
        self.next_look = now + UNDECIDED_INTERVAL_S if self._of_rank else float("inf")

    def verdict(self, task: int, failure: Undecided, now: float, is_busy: Callable[[str], bool]) -> Verdict:
        """Return what becomes of a failure of ``task`` that is not held yet."""
        record = self._record(failure.rank)
        if task in self.trials and not record.is_suspect:
            return Verdict.FINAL  # it has failed on another host, too
        return self._judge(task, failure, record, now, is_busy)

    def _judge(
        self, task: int, failure: Undecided, record: _Record, now: float, is_busy: Callable[[str], bool]
    ) -> Verdict:
        host = self._rank_states[failure.rank].host
        if record.is_suspect:
            if self._tried.get(task, 0) >= MAX_TRIALS or not record.untried(self._failed_on[task]):
                return Verdict.FINAL
            return Verdict.TRY_ELSEWHERE if self._is_turn(failure.rank, record.is_host_suspect) else Verdict.HOLD
        if record.is_sound and self._has_worked_since(failure):
            return Verdict.FINAL
        if record.is_untold and is_busy(""):
            return Verdict.HOLD
        if self._only_fails(failure) and is_busy(""):
            return Verdict.HOLD
        return Verdict.FINAL if now >= failure.until or not is_busy(host) else Verdict.HOLD

    def _is_turn(self, rank: int, is_host_suspect: bool) -> bool:
        """Whether one more function that failed on ``rank`` may be tried elsewhere now.

        Several ranks must speak against a host, so each of its ranks has a turn.
        """
        host = self._rank_states[rank].host
        # One that waits for an input that was lost may wait for the very failure that is looked at.
        tried = (each for task, each in self.trials.items() if self._may_run(task))
        there = [each for each in tried if self._rank_states[each].host == host]
        if is_host_suspect and len(self._trusted(host)) > 1 and rank in there:
            return False
        return len(there) < MIN_FUNCTIONS

    def _has_worked_since(self, failure: Undecided) -> bool:
        """Whether the rank and its host have worked since ``failure``, for as long as a record is worth anything.

        A host that was good and is half bad by now has a good record at first, and a success soon.
        """
        if self._evidence.wins[failure.rank] <= failure.wins:
            return False
        since = self._since(failure)
        return since.good + since.failed >= WINDOW and since.failing < MIN_SHARE

    def _only_fails(self, failure: Undecided) -> bool:
        """Whether the rank of ``failure`` has failed again since and not succeeded, while other calls succeeded."""
        account = self._evidence.of_rank(failure.rank)
        has_failed_again = account.streak > failure.streak and self._evidence.wins[failure.rank] == failure.wins
        return has_failed_again and sum(self._evidence.wins.values()) > failure.all_wins

    def _record(self, rank: int) -> _Record:
        host = self._rank_states[rank].host
        own = [self._evidence.of_ranks(islice(self._trusted(host), MAX_RANKS)), self._evidence.of_rank(rank)]
        others = [ranks for other in self._other_hosts(host) if (ranks := self._trusted(other)[:MAX_RANKS])]
        if not others:  # one host alone: its ranks are compared
            own = own[1:]
            others = [[other] for other in self._trusted(host)[:MAX_OTHERS] if other != rank]
        oldest = next((self._failures[task] for task in self._of_rank.get(rank, ()) if task in self._failures), None)
        since = Account() if oldest is None else self._since(oldest)
        return _Record(own, since, [(ranks, self._evidence.of_ranks(ranks)) for ranks in others], self._rank_states)

    def _other_hosts(self, host: str) -> Sequence[str]:
        return [*islice((other for other in self._evidence.hosts if other != host), MAX_OTHERS)]


class _Record:
    """How a rank and its host compare with others now.

    Args:
        own: the records of the host, if there are several, and of the rank.
        since: of the host since its oldest failure that is held: a host that has become bad has a good record yet.
        others: the records of others, with their ranks.
        rank_states: rank to its place.
    """

    def __init__(
        self,
        own: Sequence[Account],
        since: Account,
        others: Sequence[tuple[Sequence[int], Account]],
        rank_states: dict[int, RankState],
    ) -> None:
        self.is_sound = own[0].failing < SOUND
        works = [(ranks, other) for ranks, other in others if other.good and other.streak < MIN_FUNCTIONS]
        has_become = [_has_become_worse(since, other) for _, other in works]
        worse = [any(_is_worse(each, other) for each in own) for _, other in works]
        self._better = [ranks for (ranks, _), *so in zip(works, worse, has_become, strict=True) if any(so)]
        self._others = [ranks for ranks, _ in others if ranks not in self._better]
        self.is_suspect = bool(self._better)
        self.is_host_suspect = len(own) > 1 and (any(has_become) or any(_is_worse(own[0], other) for _, other in works))
        is_silent = any(not (other.good or other.failed) for _, other in others)
        fails = any(each.streak >= MIN_FUNCTIONS for each in own)
        self.is_untold = fails and is_silent and not any(other.good for _, other in others)
        self._rank_states = rank_states
        self._are_hosts = len(own) > 1

    def untried(self, failed_on: Collection[int]) -> bool:
        """Whether a better host, or rank of a single host, is left where a function has not failed."""
        hosts = {self._rank_states[rank].host for rank in failed_on}
        if self._are_hosts:
            return any(self._rank_states[ranks[0]].host not in hosts for ranks in self._better)
        return any(ranks[0] not in failed_on for ranks in self._better)

    def no_better(self) -> frozenset[str]:
        """Return the other hosts that are no better, as far as they were compared."""
        return frozenset(self._rank_states[ranks[0]].host for ranks in self._others) if self._are_hosts else frozenset()


def _is_worse(own: Account, other: Account) -> bool:
    """Whether ``own`` fails, lately or on the whole, what can hardly be chance where ``other`` does not."""
    if own.streak >= MIN_FUNCTIONS and surprise(own.streak, 0.0, other.failed, other.good) > SUSPICION:
        return True
    is_many = own.failed > MIN_FUNCTIONS - 0.5 and own.failing >= SOUND
    return is_many and surprise(own.failed, own.good, other.failed, other.good) > SUSPICION


def _has_become_worse(since: Account, other: Account) -> bool:
    """Whether a host has failed, since a failure, what can hardly be chance where ``other`` does not."""
    return since.failed >= MIN_FUNCTIONS and surprise(since.failed, since.good, other.failed, other.good) > SUSPICION
