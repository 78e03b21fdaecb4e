"""Where the elements of an array stand, and those of a lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.links import UNKNOWN_COUNT
from handoff_mpi.dag import TaskSpec
from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import DEATH, ErrorReport, Interval
from handoff_mpi.scheduler.events import ElementsPulled, Failure

#: A lease should take about this long: less wastes messages, more delays results and makes the tail uneven.
LEASE_S = 0.01
#: While a slot has this many times as much to compute, leases take longer: each costs its rank and rank 0, which often
#: share a core, about 0.4 ms.
_LEASES_LEFT = 10
#: But not longer than this, so that failures and values are known soon.
_MAX_LONG_LEASE_S = 0.05
#: The time of so many leases that follow one another is added up: more of them would keep a slot for too long.
_MAX_SUMMED = 3
#: But rank 0 should have to handle no more than one lease in this many seconds, so that it has time for other work. The
#: figure is twice what ``python -m tests.benchmarks.leases`` measures of the scheduler alone.
LEASE_INTERVAL_S = 100e-6
#: It should take at least this long, though other slots end sooner then: a message to another rank takes as long.
MIN_LEASE_S = 0.0001
#: A lease that follows another one costs its rank and rank 0 so much, which the first one should not be too short for.
_LEASE_COST_S = 0.0004
#: The weight of a new lease in the moving mean of the seconds of an element.
_WEIGHT = 0.2


class Followers(NamedTuple):
    """The arrays of which leases follow one of another array.

    Attributes:
        arrays: their numbers, each one behind that whose elements it takes.
        element_s: seconds that they take together for each element of the first lease.
        block: it should end at a multiple of so many, which are folded.
    """

    arrays: tuple[int, ...] = ()
    element_s: float = 0.0
    block: int = 1

    def with_another(self, number: int, array: Array, block: int) -> Followers:
        """Return these, and another one, of which an element takes ``block`` elements of the one before."""
        element_s = self.element_s + (array.element_s or 0.0) / block
        return Followers((*self.arrays, number), element_s, max(self.block, block))


NO_FOLLOWERS = Followers()


@dataclass(slots=True)
class Array:
    """Where the elements of one array stand.

    Attributes:
        spec: how many there are, unless it is windowed, and the user's limits.
        lease_spec: what the scheduler must know of its leases.
        todo: the elements that wait to be leased.
        suspects: groups of elements that are leased before the others, each as it is, to run in a child process: one of
            a group may have ended an earlier launch.
        awaited: those that wait for elements of other arrays, or of this one.
        have: those that have values.
        failures: the elements that failed for good, and why.
        failed: how many these are.
        doubted: how many have failed, though not for good; see :mod:`handoff_mpi.scheduler.pauses`.
        skipped: how many will not be computed, since too many failed, the array did, or an element that they take.
        bereft: how many of these take an element that failed, or was skipped.
        leases: the numbers of its leases.
        element_s: seconds that an element is expected to take; None while that is unknown.
        free: numbers of leases that ended, which may be used again.
        in_flight: its leases at ranks that may have elements to give back, and since when they are there; the oldest
            first.
        slots: how many slots computed it when a lease was made last.
        leads: whether it was put at the head of its queue.
        count: how many elements there are, as far as is known.
        is_open: whether more may come, as it has a window.
        is_cut: whether no more come although there may be more: its iterables failed, it did, or an array did whose
            elements it takes.
        input_error: why no more came, where its iterables failed, or nothing came that it could fold.
    """

    spec: ArraySpec
    lease_spec: TaskSpec
    todo: IntervalSet
    suspects: list[Sequence[Interval]] = field(default_factory=list)
    awaited: IntervalSet = field(default_factory=IntervalSet)
    have: IntervalSet = field(default_factory=IntervalSet)
    failures: list[tuple[tuple[Interval, ...], Failure]] = field(default_factory=list)
    failed: int = 0
    doubted: int = 0
    skipped: int = 0
    bereft: int = 0
    leases: set[int] = field(default_factory=set)
    element_s: float | None = None
    free: list[int] = field(default_factory=list)
    in_flight: dict[int, float] = field(default_factory=dict)
    slots: int = 1
    leads: bool = False
    count: int = 0
    is_open: bool = False
    is_cut: bool = False
    input_error: ErrorReport | None = None

    def __post_init__(self) -> None:
        self.count, self.is_open = self.spec.count, self.spec.window is not None

    def cut(self) -> None:
        """No more elements come than those that are there, although there may be more."""
        self.awaited.discard(self.count, UNKNOWN_COUNT)
        self.is_open, self.is_cut = False, True

    def not_begun(self) -> IntervalSet:
        """Return the elements that wait: for a slot, for others or for what all of them take."""
        found = self.todo.copy()
        found.update(self.awaited)
        return found

    def restored(self, intervals: Sequence[Interval]) -> None:
        """Elements that waited, for others or for what all of them take, have values of an earlier launch."""
        for interval in intervals:
            self.awaited.discard(*interval)
            self.todo.discard(*interval)
            self.have.add(*interval)

    def pulled(self, event: ElementsPulled) -> IntervalSet:
        """Take in that elements of a windowed array have come, or that no more do; return those to compute."""
        new = IntervalSet()
        if self.is_open:
            new.update([(self.count, event.count)] if event.count > self.count else [])
            for interval in event.done:
                new.discard(*interval)
                self.have.add(*interval)
            self.count, self.is_open = event.count, not event.is_last
            self.input_error, self.is_cut = event.error, event.error is not None
        return new

    @property
    def done(self) -> int:
        """How many elements have values."""
        return len(self.have)

    @property
    def is_worth_a_lease(self) -> bool:
        """Whether so many elements wait to be leased that a lease has no fewer than it should."""
        return len(self.todo) >= self.lease_count(self.slots)

    @property
    def has_failed(self) -> bool:
        """Whether it fails once its elements have all ended: those that take elements that failed do not count."""
        return bool(self.failed) or self.input_error is not None or self.skipped > self.bereft

    @property
    def has_too_many_failures(self) -> bool:
        """Whether nothing more of it may begin."""
        return self.spec.max_failures is not None and self.failed > self.spec.max_failures

    @property
    def must_pause(self) -> bool:
        """Whether nothing more of it may begin for now: too many elements may be about to fail for good."""
        most = self.spec.max_failures
        return most is not None and self.failed <= most < self.failed + self.doubted

    def take_suspects(self) -> list[Interval]:
        """Return the suspects to lease next, which wait no longer; none if none of them wait to be leased.

        Those that wait for others stay.
        """
        suspects, self.suspects = self.suspects, []
        while suspects:
            group = suspects.pop()
            found = [part for interval in group for part in self.todo.within(*interval)]
            for interval in found:
                self.todo.discard(*interval)
            if found:
                self.suspects += suspects
                return found
            if any(self.awaited.within(*interval) for interval in group):
                self.suspects.append(group)
        return []

    def learn(self, count: int, seconds: float) -> None:
        """Take in that ``count`` elements took so long."""
        mean = seconds / count
        self.element_s = mean if self.element_s is None else self.element_s + _WEIGHT * (mean - self.element_s)

    def lease_count(self, slots: int, followers: Followers = NO_FOLLOWERS) -> int:
        """Return how many elements the next lease has, while ``slots`` compute the array.

        Args:
            slots: how many do.
            followers: what is computed with them.

        The first one has a single element, whose duration nobody knows. Later ones take some time, which grows with the
        slots, as rank 0 handles the leases of all of them. But none takes more than half of an even share of what is
        left, so that all slots end together (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on
        Computers C-36, 1987). The last shares are not halved where they take no longer than any lease, and nothing is
        cut into parts that take less time than a message.
        """
        if self.element_s is None:
            return 1
        # The even share of a slot
        element_s = max(self.element_s + followers.element_s, 1e-9)
        left = len(self.todo) + len(self.awaited)
        if self.is_open:  # more come while these are computed
            left = max(left, self.spec.window or 0)
        share = -(-left // max(1, slots))
        # The time that the lease, and those that follow it, should take
        leases = min(1 + len(followers.arrays), _MAX_SUMMED)
        lease_s = leases * LEASE_S
        if not (self.is_open or (self.awaited and self.spec.is_fold)):  # else others wait for these
            lease_s = max(lease_s, leases * min(_MAX_LONG_LEASE_S, share * element_s / _LEASES_LEFT))
        lease_s = max(lease_s, slots * LEASE_INTERVAL_S)
        least_s = MIN_LEASE_S + (leases - 1) * _LEASE_COST_S
        # The elements of that time, within the share and the user's limits
        if self.is_open or share * element_s > lease_s:
            share = -(-share // 2)
        count = max(min(int(lease_s / element_s), share), int(least_s / element_s))
        count = max(count, self.spec.min_count)
        count = min(count, self.spec.chunk or count)
        if count > followers.block > 1:  # a block that is cut is folded later, when its other part is done
            first, _ = next(iter(self.todo))
            count -= (first + count) % followers.block
        return count


@dataclass(slots=True)
class Lease:
    """Elements of an array that a rank computes, or is to compute.

    Attributes:
        array: the number of the array.
        intervals: the elements that have not ended, as far as is known.
        incidents: how often something happened to its elements, so that they must run again.
        failure: the rank where their last attempt failed, and why; None if none has, or if they were lost otherwise.
        messages: those of its elements that failed together when it was dispatched last.
        has_ended: whether its number may be used again, after this turn.
        follows: the number of the lease that it was sent with, whose values its elements take; -1 if there is none.
    """

    array: int
    intervals: IntervalSet
    incidents: int = 0
    failure: tuple[int, ErrorReport] | None = None
    messages: list[tuple[tuple[Interval, ...], str]] = field(default_factory=list)
    has_ended: bool = False
    follows: int = -1

    @property
    def reason(self) -> str:
        """Why their last attempt failed, in words; empty if none has."""
        if self.failure is None:
            return ""
        _, error = self.failure
        return error.message if error.kind == DEATH else f"{error.kind}: {error.message}"

    @property
    def first(self) -> int:
        """Its first element that has not ended, -1 if all have."""
        return next((start for start, _ in self.intervals), -1)
