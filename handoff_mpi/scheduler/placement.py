"""Release, allocate, dispatch: what the scheduler does once it has absorbed what happened.

The strategy is asked once a turn, for queues of tasks that need the same. What it answers is claimed in the
ledger and dispatched; further tasks of the class follow to the same slot and inherit its claim, so that short
functions travel in batches.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterator

from handoff_mpi.allocation import (
    AllocationStrategy,
    Claim,
    ClusterView,
    RatedStrategy,
    RequestClass,
    demand_and_supply,
)
from handoff_mpi.allocation.missing import find_missing
from handoff_mpi.callbacks import in_words, shown
from handoff_mpi.errors import AllocationError
from handoff_mpi.resources.amounts import format_amounts
from handoff_mpi.scheduler.events import Command, Dispatch, Retract
from handoff_mpi.scheduler.lifecycle import WAITING, Cause
from handoff_mpi.scheduler.offers import Offers
from handoff_mpi.scheduler.policy import Policy
from handoff_mpi.scheduler.queues import ReadyQueue
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.slots import Slot, SlotTable
from handoff_mpi.scheduler.tasks import TaskTable
from handoff_mpi.scheduler.waiters import Waiters

#: A batch at a slot should last about this long: less wastes messages, more delays results.
BATCH_S = 0.004
#: A slot that waits for its next task loses some milliseconds: to longer functions than this they do not matter.
QUEUED_S = 0.25
#: Large inputs are fetched while their call waits: those at a slot should take no more memory than this.
AHEAD_NBYTES = 64 * 1024 * 1024
#: A task that has waited behind a running one for this long is asked for again when another slot is idle.
LONG_TASK_S = 0.02

_NEVER = float("inf")


class Placer:
    """Brings ready tasks to slots.

    Args:
        view: what the strategy sees of the cluster.
        strategy: decides which ready task goes where.
        tasks, ready, slots: the scheduler's tables.
        policy: the user's choices.

    Attributes:
        mean_s: seconds a call of each code takes, a moving mean.
        recalled: tasks that were asked for again because slots were idle.
        logs_claims: whether claims and their release go into the log.
        holds_back: whether something is ready that could not finish before the run will be stopped.
    """

    def __init__(
        self,
        view: ClusterView,
        strategy: AllocationStrategy,
        tasks: TaskTable,
        ready: ReadyTasks,
        slots: SlotTable,
        policy: Policy,
    ) -> None:
        self.mean_s: dict[int, float] = {}
        self.recalled: set[int] = set()
        self.logs_claims = False
        self.holds_back = False
        self._view = view
        self._ledger = view.ledger
        self._strategy = strategy
        self._reuses_claims = bool(getattr(strategy, "reuses_claims", False))
        self._given_prices = dict(view.prices)
        self._tasks = tasks
        self._ready = ready
        self._slots = slots
        self._policy = policy
        self._waiters = Waiters(view.ledger, ready, self._remaining_s)
        self._is_prepared = False
        self._has_bound = False
        self._now = 0.0
        self._fed: dict[Slot, None] = {}  # what was sent something, or lost a task, in this turn
        self._commands: list[Command] = []

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

    def close(self) -> None:
        """Break the reference cycles; the placer is of no use afterwards."""
        del self._waiters

    def take_commands(self) -> list[Command]:
        """Return the commands of this turn."""
        commands, self._commands = self._commands, []
        return commands

    def learn(self, task: int, duration: float) -> None:
        """Note how long a call took: others of its code are taken to last alike."""
        code = self._tasks.specs[task].code
        mean = self.mean_s.get(code)
        self.mean_s[code] = duration if mean is None else mean + 0.2 * (duration - mean)

    def next_wakeup(self, now: float) -> float:
        """Return when tasks that wait behind a long one should be asked for again."""
        if self._ledger.idle_slots and self._slots.in_flight > self._slots.claimed:
            return now + LONG_TASK_S
        return float("inf")

    # -- release --------------------------------------------------------------------------------------

    def release(self, now: float, goes_on: bool) -> None:
        """Give slots whose calls ended the next tasks of their class, or release their claims."""
        self._now = now
        touched = self._slots.touched()
        for slot in touched:
            queue = slot.queue
            if queue is None or slot.claim is None:
                continue
            if goes_on and queue.tasks and self._reuses_claims:
                self._go_on(slot, queue, slot.claim)
            if slot.tasks:
                self._fed[slot] = None
                continue
            if self.logs_claims:
                self._log_claim(slot, "released")
            self._slots.release(slot)

    def _go_on(self, slot: Slot, queue: ReadyQueue, claim: Claim) -> None:
        """Send ``slot`` further tasks of ``queue``, unless an older queue waits for what its claim holds."""
        if not (self._can_finish(queue) and self._may_go_on(claim)):
            return
        if self._waiters.may_go_on(queue, claim, self._may_start_more):
            head = queue.tasks[0]
            count = self._refill(slot, queue)
            if count and self._waiters.is_sample(count):
                self._waiters.skipped(self._ready.older_than(queue, head, claim.group.host), claim)

    def _may_go_on(self, claim: Claim) -> bool:
        """Whether the claim's rank takes tasks, and still has what was claimed."""
        ledger = self._ledger
        return claim.rank not in ledger.cordoned and (not ledger.was_updated or ledger.covers(claim))

    def _refill(self, slot: Slot, queue: ReadyQueue) -> int:
        """Send a slot further tasks of its class; return how many."""
        if slot.tasks and self._now - slot.since >= LONG_TASK_S:
            return 0  # what runs there is longer than was thought
        room = self._depth(queue.tasks[0]) - len(slot.tasks)
        if room < len(slot.tasks):
            return 0  # not worth a message yet
        share = -(-len(queue.tasks) // max(1, queue.slots))
        count = max(0, min(max(room, 0 if slot.tasks else 1), share))
        if count:
            if queue.skips:
                self._waiters.served(queue)
            self._send(slot, queue.take_some(count), None)
        return count

    def _depth(self, task: int) -> int:
        """Return how many tasks like this one should be in flight at a slot."""
        mean = self.mean_s.get(self._tasks.specs[task].code)
        if mean is None or mean > QUEUED_S:
            return 1
        depth = min(self._policy.window, 2 + int(BATCH_S / max(mean, 1e-6)))
        if depth > 2 and self._tasks.holders:
            return max(2, min(depth, AHEAD_NBYTES // max(1, self._tasks.nbytes_to_fetch(task))))
        return depth

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
        self._now = now
        if self._ledger.reservations.all:
            self._waiters.review()
        if not self._ledger.idle_slots or not self._may_start_more():
            return
        holds_back = self._ready.is_queued() and self._offer(only, most)
        if only is None:
            self.holds_back = holds_back
        if self._has_bound:  # what waited for it may fit beside it
            self._has_bound = False
            if most is None:
                self.allocate(now)

    def _offer(self, only: Callable[[ReadyQueue], bool] | None, most: int | None) -> bool:
        """Offer the queues to the strategy; return whether some were left out that would not finish in time."""
        offers = Offers(self._ready, self._ledger, self._can_finish, only)
        try:
            if offers.has_any():
                self._serve(offers, most)
        finally:
            offers.close()
        return offers.holds_back

    def _serve(self, offers: Offers, most: int | None) -> None:
        """Ask the strategy, and carry out its answers."""
        if not self._is_prepared:
            self._prepare()
        for placed, (task, rank) in enumerate(self._placements(offers), 1):
            queue = offers.take(task)
            if queue is None:
                raise self._no_leader(task)
            try:
                claim = self._place(rank, queue)
            except AllocationError as error:
                raise self._wrong(f"is wrong: {error}") from None
            if self._waiters.is_sample():
                self._waiters.skipped(offers.older_than(queue, task, claim.group.host), claim)
            if queue.tasks:
                offers.led_by[queue.tasks[0]] = queue
            if placed == most or not self._may_start_more():
                break

    def _can_finish(self, queue: ReadyQueue) -> bool:
        """Whether the next task of ``queue`` would end before the run will be stopped, if it lasts as others did."""
        return self._can_finish_task(queue.tasks[0])

    def _can_finish_task(self, task: int) -> bool:
        stop_at = self._policy.stop_at
        if stop_at == _NEVER:
            return True
        mean = self.mean_s.get(self._tasks.specs[task].code)
        return mean is None or self._now + mean <= stop_at

    def _remaining_s(self, claim: Claim) -> float:
        """Return how long a claim is still expected to be held: as others of its code, or as long again as so far."""
        slot = self._slots.of_rank[claim.rank][claim.slot]
        if not slot.tasks:
            return 0.0
        mean, elapsed = self.mean_s.get(self._tasks.specs[slot.tasks[0]].code, 0.0), self._now - slot.since
        return mean - elapsed if mean > elapsed else elapsed

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
        return AllocationError(f"the strategy {type(self._strategy).__name__} {how}")

    def _no_leader(self, task: object) -> AllocationError:
        return self._wrong(f"placed {shown(task)}, which is not the next task of any group")

    def _prepare(self) -> None:
        self._is_prepared = True
        costs = ((spec.cost, 1.0) for spec in self._tasks.specs)
        self._view.prices = {**demand_and_supply(costs, self._ledger), **self._given_prices}
        prepare = getattr(self._strategy, "prepare", None)
        if prepare is None:
            return
        try:
            prepare(self._view)
        except AllocationError:
            raise
        except Exception as error:
            raise self._wrong(f"failed in prepare: {in_words(error)}") from error

    def _may_start_more(self) -> bool:
        most = self._policy.max_concurrency
        return most is None or self._slots.claimed < most

    # -- dispatch -------------------------------------------------------------------------------------

    def _place(self, rank: int, queue: ReadyQueue) -> Claim:
        slot, claim = self._slots.claim(queue, rank)
        task = queue.take()
        if queue.skips:
            self._waiters.served(queue)
        self._send(slot, [task], claim)
        self._fed[slot] = None
        if self.logs_claims:
            self._log_claim(slot, "claimed")
        return claim

    def _send(self, slot: Slot, tasks: list[int], claim: Claim | None, cause: Cause = Cause.PLACED) -> None:
        attempts, move, rank = self._tasks.attempts, self._tasks.move, slot.rank
        self._slots.send_off(slot, tasks, self._now)
        sent = []
        for task in tasks:
            attempts[task] += 1
            move(task, cause, rank)
            sent.append((task, attempts[task]))
        self._commands.append(Dispatch(slot.rank, slot.number, claim, sent))
        if self._ready.has_groups:
            for task in tasks:
                self._has_bound |= self._ready.bind(task, slot.rank)

    # -- ahead ----------------------------------------------------------------------------------------

    def prefill(self) -> None:
        """If nothing is ready, send slots what will be: the first task that waits for nothing but their last one.

        It takes that value where it is made, so that a chain of short calls travels in batches too.
        """
        fed, self._fed = self._fed, {}
        if not fed or not self._reuses_claims or self._ready.is_queued():
            return
        for slot in fed:
            if not slot.tasks or self._now - slot.since >= LONG_TASK_S:
                continue
            assert slot.claim is not None
            assert slot.queue is not None
            tasks = self._followers(slot, slot.queue)
            if tasks and self._may_go_on(slot.claim):
                self._send(slot, tasks, None, Cause.SENT_AHEAD)

    def _followers(self, slot: Slot, queue: ReadyQueue) -> list[int]:
        last, count = slot.tasks[-1], len(slot.tasks)
        followers: list[int] = []
        if self._depth(last) < 2 * count:
            return followers  # not worth a message yet
        while True:
            task = self._follower(last, queue)
            if task is None or self._depth(task) <= count + len(followers):
                return followers
            followers.append(task)
            last = task

    def _follower(self, last: int, queue: ReadyQueue) -> int | None:
        table = self._tasks
        for task in table.children[last]:
            if table.state[task] == WAITING and table.missing[task] == 1 and self._ready.is_like(task, queue):
                return task if self._can_finish_task(task) else None
        return None

    def _log_claim(self, slot: Slot, what: str) -> None:
        assert slot.claim is not None
        first = slot.tasks[0] if slot.tasks else -1
        self._tasks.log.append((-1, -1, -1, 0, slot.rank, (what, (first, slot.claim.cost.amounts))))

    # -- recall ---------------------------------------------------------------------------------------

    def recall_for_idle(self, now: float) -> None:
        """Tasks that wait behind a long one are asked for again when a slot is idle, unless it makes their input."""
        if self._slots.in_flight <= self._slots.claimed or not self._ledger.idle_slots:
            return
        missing = self._tasks.missing
        asked: dict[int, list[tuple[int, int]]] = {}
        for slot in self._slots.long_since(now - LONG_TASK_S):
            assert slot.queue is not None
            if self._ledger.best(slot.queue.cost) is None:
                continue
            tasks = [task for task in slot.tasks[1:] if not missing[task] and task not in self.recalled]
            self.recalled.update(tasks)
            asked.setdefault(slot.rank, []).extend((task, self._tasks.attempts[task]) for task in tasks)
        self._commands += [Retract(rank, tasks) for rank, tasks in sorted(asked.items()) if tasks]

    def why_no_room(self, cost: RequestClass) -> str:
        """Say why tasks of this class can be placed nowhere although nothing runs."""
        needs = format_amounts(cost.need)
        if self._ledger.feasibility.could_fit(cost):
            return f"the strategy {type(self._strategy).__name__} places it nowhere, although it would fit ({needs})"
        return f"{self._where_no_room(cost)} ({needs}){self._what_is_missing(cost)}"

    def _where_no_room(self, cost: RequestClass) -> str:
        if cost.rank is not None:
            return f"it is bound to rank {cost.rank}, which is lost or cannot hold what it needs"
        if cost.host is not None:
            return f"it is bound to host {cost.host}, where no rank that is left can hold what it needs"
        return "no rank that is left can hold what it needs"

    def _what_is_missing(self, cost: RequestClass) -> str:
        missing = find_missing(self._ledger.feasibility, cost)
        return f": {', and '.join(missing)}" if missing else ""
