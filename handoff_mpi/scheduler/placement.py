"""Asks the strategy where ready tasks should go, and sends them there.

The strategy is asked once a turn, for queues of tasks that need the same. Each of its answers is claimed in the ledger
and dispatched; what follows to the same slot under that claim is the business of
:mod:`handoff_mpi.scheduler.pipelining`.
"""

from __future__ import annotations

import bisect
import operator
from collections import Counter
from collections.abc import Callable, Iterator

from handoff_mpi.allocation import AllocationStrategy, Claim, ClusterView, RatedStrategy, demand_and_supply
from handoff_mpi.callbacks import in_words, shown
from handoff_mpi.errors import AllocationError
from handoff_mpi.scheduler.dispatches import Dispatches
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.offers import Offers
from handoff_mpi.scheduler.queues import ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.waiters import Waiters


class Placer:
    """Brings ready tasks to slots that hold no claim.

    Args:
        view: what the strategy sees of the cluster.
        strategy: decides which ready task goes where.
        tasks, ready, slots: the scheduler's tables.
        waiters: counts what is skipped.
        durations: how long calls take.
        dispatches: sends tasks.

    Attributes:
        holds_back: whether something is ready that could not finish before the run will be stopped.
    """

    def __init__(
        self,
        view: ClusterView,
        strategy: AllocationStrategy,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        waiters: Waiters,
        durations: Durations,
        dispatches: Dispatches,
    ) -> None:
        self.holds_back = False
        self._view = view
        self._ledger = view.ledger
        self._strategy = strategy
        self._given_prices = dict(view.prices)
        self._tasks = tasks
        self._ready = ready
        self._slots = slots
        self._waiters = waiters
        self._durations = durations
        self._dispatches = dispatches
        self._is_prepared = False

    @property
    def strategy_name(self) -> str:
        """The name of the strategy's class."""
        return type(self._strategy).__name__

    @property
    def may_choose_ranks(self) -> bool:
        """Whether the strategy places a task wherever it fits, so that it may be offered on one rank alone."""
        return isinstance(self._strategy, RatedStrategy)

    def ranks_behind(self, task: int, rank: int) -> Iterator[int]:
        """Yield the ranks where ``task`` fits now, in rank order, beginning behind ``rank``."""
        cost = self._ledger.request_class(self._tasks.specs[task].cost)
        ranks = sorted(self._ledger.rank_states)
        first = bisect.bisect(ranks, rank)
        for each in ranks[first:] + ranks[:first]:
            if self._view.fits(cost, each):
                yield each

    # -- allocate -------------------------------------------------------------------------------------

    def allocate(self, now: float, most: int | None = None, only: Callable[[ReadyQueue], bool] | None = None) -> None:
        """Ask the strategy where ready tasks should go, and send them there, at most ``most``.

        Args:
            now: the time.
            most: the largest number of tasks.
            only: whether tasks of a queue may be placed; all may if None.

        Raises:
            AllocationError: the strategy failed, or placed a task where it does not fit.
        """
        if self._ledger.reservations.all:
            self._waiters.review()
        if not self._ledger.idle_slots or not self._slots.may_claim_more():
            return
        holds_back = self._ready.is_queued() and self._offer(now, only, most)
        if only is None:
            self.holds_back = holds_back
        if self._dispatches.has_bound:  # what waited for it may fit beside it
            self._dispatches.has_bound = False
            if most is None:
                self.allocate(now)

    def _offer(self, now: float, only: Callable[[ReadyQueue], bool] | None, most: int | None) -> bool:
        """Offer the queues to the strategy; return whether some were left out that would not finish in time."""
        offers = Offers(self._ready, self._ledger, self._durations.can_finish, only)
        try:
            if offers.has_any():
                self._serve(offers, now, most)
        finally:
            offers.close()
        return offers.holds_back

    def _serve(self, offers: Offers, now: float, most: int | None) -> None:
        """Ask the strategy, and carry out its answers."""
        if not self._is_prepared:
            self._prepare()
        for placed, (task, rank) in enumerate(self._placements(offers), 1):
            queue = offers.take(task)
            if queue is None:
                raise self._no_leader(task)
            try:
                claim = self._place(rank, queue, now)
            except AllocationError as error:
                raise self._wrong(f"is wrong: {error}") from None
            if self._waiters.is_sample():
                self._waiters.skipped(offers.older_than(queue, task, claim.group.host), claim)
            if queue.tasks:
                offers.led_by[queue.tasks[0]] = queue
            if placed == most or not self._slots.may_claim_more():
                break

    def _place(self, rank: int, queue: ReadyQueue, now: float) -> Claim:
        slot, claim = self._slots.claim(queue, rank)
        task = queue.take()
        if queue.skips:
            self._waiters.served(queue)
        dispatches = self._dispatches
        dispatches.send(slot, [task], claim, now)
        dispatches.fed[slot] = None
        if dispatches.logs_claims:
            dispatches.log_claimed(slot)
        return claim

    def _placements(self, ready: Offers) -> Iterator[tuple[int, int]]:
        """Ask the strategy; report each exception, and each answer that is not a placement, as its fault."""
        try:
            answers = self._strategy.allocate(ready, self._view)
            for answer in () if answers is None else answers:
                try:
                    task, rank = answer
                    if type(rank) is not int:
                        rank = operator.index(rank)  # of numpy, say
                    if type(task) is not int:
                        task = operator.index(task)
                except (TypeError, ValueError):
                    raise self._wrong(f"placed {shown(answer)}, which is not a pair (task, rank)") from None
                yield task, rank
        except AllocationError:
            raise
        except Exception as error:
            raise self._wrong(f"failed: {in_words(error)}") from error

    def _wrong(self, how: str) -> AllocationError:
        return AllocationError(f"the strategy {self.strategy_name} {how}")

    def _no_leader(self, task: object) -> AllocationError:
        return self._wrong(f"placed {shown(task)}, which is not the next task of any group")

    def _prepare(self) -> None:
        self._is_prepared = True
        costs = [spec.cost for spec in self._tasks.specs]
        of_id = dict(zip(map(id, costs), costs, strict=True))  # there are few, however many tasks
        demand = [(of_id[each], float(count)) for each, count in Counter(map(id, costs)).items()]
        self._view.prices = {**demand_and_supply(demand, self._ledger), **self._given_prices}
        prepare = getattr(self._strategy, "prepare", None)
        if prepare is None:
            return
        try:
            prepare(self._view)
        except AllocationError:
            raise
        except Exception as error:
            raise self._wrong(f"failed in prepare: {in_words(error)}") from error
