"""Judges ranks and hosts by the ends of calls: whether one fails functions that succeed elsewhere.

A failure says nothing by itself: the function may be wrong. It counts against a rank once the same function has
succeeded on another one, and against a host once it has succeeded on another host (the failure is *refuted*). Whether
the refuted failures are more than chance is a one-sided test of two rates: ``n`` calls of which a share ``s`` failed,
where another rank or host fails a share ``r``, have the likelihood ratio exp(n · KL(s ‖ r)), KL being the divergence
of two coin tosses (Cover and Thomas, Elements of Information Theory, section 11.2). Functions that fail at random fail
alike everywhere, and so convict nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import log

from handoff_mpi.allocation import RankState

#: A rank's record is worth about this many calls: older ones fade, so that one that goes bad is noticed soon.
WINDOW = 16
#: So many different functions must have failed there.
MIN_FUNCTIONS = 3
#: A rank or host that fails a smaller share of its calls is of use all the same.
MIN_SHARE = 0.25
#: A host that failed a smaller share of its calls is sound.
SOUND = 1 / 3
#: Logarithm of the likelihood ratio from which a rank or host is taken for bad: a thousand to one.
CONVICTION = log(1000)
#: The same for a suspicion, which costs one function another attempt: twenty to one.
SUSPICION = log(20)
#: Of so many ranks of a host, and so many other hosts or ranks, a suspicion takes account: it must cost little.
MAX_RANKS = 16
MAX_OTHERS = 8
_FADING = 1 - 1 / WINDOW
#: What is assumed of a rank or host of which little is known: one failure in so many calls.
_PRIOR = 8


@dataclass(slots=True)
class Account:
    """The record of a rank, or of some ranks together; figures fade.

    Attributes:
        good: calls that succeeded, or failed on other hosts or ranks as well.
        failed: functions that failed, also if a retry succeeded.
        refuted: those of them that succeeded on another rank.
        abroad: those of them that succeeded on another host.
        streak: functions that failed since the last success; of ranks together, 0 if any of them works.
        seen: how many of the rank's successes are in ``good``.
    """

    good: float = 0.0
    failed: float = 0.0
    refuted: float = 0.0
    abroad: float = 0.0
    streak: int = 0
    seen: int = 0

    def succeed(self, count: int) -> None:
        """``count`` more calls succeeded."""
        self.seen += count
        self.streak = 0
        self.good = min(WINDOW, self.good + count)
        if self.failed:
            fading = _FADING**count
            self.failed *= fading
            self.refuted *= fading
            self.abroad *= fading

    def fail(self) -> None:
        """A function failed."""
        self.good *= _FADING
        self.failed = min(WINDOW, self.failed + 1)
        self.streak += 1

    def refute(self, is_abroad: bool) -> None:
        """A function that failed succeeded elsewhere."""
        self.refuted = min(WINDOW, self.refuted + 1)
        if is_abroad:
            self.abroad = min(WINDOW, self.abroad + 1)

    def confirm(self) -> None:
        """A function that failed failed elsewhere as well: it was not the rank's fault."""
        self.failed = max(0.0, self.failed - 1)
        self.streak = max(0, self.streak - 1)
        self.good = min(WINDOW, self.good + 1)

    def add(self, other: Account) -> None:
        """Take in the record of another rank."""
        self.good += other.good
        self.failed += other.failed
        self.refuted += other.refuted
        self.abroad += other.abroad

    @property
    def failing(self) -> float:
        """The share of the calls that failed, also if retries succeeded."""
        return self.failed / (self.failed + self.good) if self.failed else 0.0


def surprise(bad: float, good: float, other_bad: float, other_good: float) -> float:
    """Return n · KL(share ‖ rate) of ``bad`` among ``good`` calls, the rate being the others'; 0 if it is no larger."""
    count = bad + good
    share, rate = (bad / count if count else 0.0), (other_bad + 1) / (other_bad + other_good + _PRIOR)
    if share <= rate:
        return 0.0
    rest = (1 - share) * log((1 - share) / (1 - rate)) if share < 1 else 0.0
    return count * (share * log(share / rate) + rest)


class Evidence:
    """The records of all ranks.

    Args:
        rank_states: rank to its place.

    Attributes:
        wins: rank to how many calls of it succeeded; the reporter of ended calls adds to it.
        losses: rank to how many calls of it failed.
        hosts: host to its ranks.
    """

    def __init__(self, rank_states: Mapping[int, RankState]) -> None:
        self.wins = dict.fromkeys(rank_states, 0)
        self.losses = dict.fromkeys(rank_states, 0)
        self.hosts: dict[str, list[int]] = {}
        for rank, rank_state in rank_states.items():
            self.hosts.setdefault(rank_state.host, []).append(rank)
        self._rank_states = rank_states
        self._accounts: dict[int, Account] = {}

    def of_rank(self, rank: int) -> Account:
        """Return the record of ``rank``, up to date."""
        account = self._accounts.get(rank)
        if account is None:
            account = self._accounts[rank] = Account()
        new = self.wins[rank] - account.seen
        if new:
            account.succeed(new)
        return account

    def fail(self, rank: int) -> None:
        """A function failed on ``rank``."""
        self.losses[rank] += 1
        self.of_rank(rank).fail()

    def of_ranks(self, ranks: Iterable[int]) -> Account:
        """Return the record of ``ranks`` together."""
        total = Account()
        works = False
        for rank in ranks:
            account = self.of_rank(rank)
            total.add(account)
            total.streak += account.streak
            works |= bool(account.good and not account.streak)
        if works:
            total.streak = 0
        return total

    def clear(self, ranks: Iterable[int]) -> None:
        """Forget what is known of ``ranks``."""
        for rank in ranks:
            self._accounts[rank] = Account(seen=self.wins[rank])

    def refute(self, failed_on: Iterable[int], rank: int) -> list[int]:
        """A function that failed on some ranks succeeded on ``rank``: return those that this speaks against."""
        host = self._rank_states[rank].host
        last_of_host = {self._rank_states[each].host: each for each in failed_on}
        suspects = [each for each in dict.fromkeys(failed_on) if each != rank]
        for each in suspects:
            there = self._rank_states[each].host
            self.of_rank(each).refute(there != host and last_of_host[there] == each)
        return suspects

    def confirm(self, failed_on: Iterable[int]) -> None:
        """A function failed for good: it was not the fault of the ranks where it did."""
        for rank in dict.fromkeys(failed_on):
            self.of_rank(rank).confirm()

    # -- verdicts ---------------------------------------------------------------------------------------

    def is_bad_host(self, ranks: Collection[int], judges: Iterable[int]) -> bool:
        """Whether the host of ``ranks`` fails functions that succeed on the host of ``judges``.

        Failures on one rank of several speak against that rank alone.
        """
        if sum(self.of_rank(rank).abroad > 0.5 for rank in ranks) < min(2, len(ranks)):
            return False
        own, other = self.of_ranks(ranks), self.of_ranks(judges)
        return _is_bad(own.abroad, own.good, other.abroad, other.good)

    def is_bad_rank(self, rank: int, judge: int) -> bool:
        """Whether ``rank`` fails functions that succeed on ``judge``."""
        own, other = self.of_rank(rank), self.of_rank(judge)
        return _is_bad(own.refuted, own.good, other.refuted, other.good)


def _is_bad(bad: float, good: float, other_bad: float, other_good: float) -> bool:
    is_many = bad > MIN_FUNCTIONS - 0.5 and bad >= MIN_SHARE * (bad + good)
    return is_many and surprise(bad, good, other_bad, other_good) > CONVICTION
