"""The brain of rank 0: told what happened and what time it is, it answers what to do.

It never touches MPI, a clock, a file, a thread or dice; the loop does (:mod:`handoff_mpi.runtime`), and so
does the simulated cluster. Each turn has four verbs in order: absorb, release, allocate, dispatch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from handoff_mpi.allocation import AllocationStrategy, Claim, ClusterView, CostClass, Ledger, demand_and_supply
from handoff_mpi.dag import TaskSpec
from handoff_mpi.errors import AllocationError
from handoff_mpi.messages import DEATH, DIED, NO_ROOM, OK, REFUSED, Entry
from handoff_mpi.resources import Amounts
from handoff_mpi.resources.amounts import format_amounts
from handoff_mpi.scheduler.events import (
    Announce,
    Closed,
    Command,
    Dispatch,
    Event,
    Failure,
    Finished,
    Forget,
    Heard,
    RankLost,
    Recall,
    Refused,
    ResourcesUpdated,
    Returned,
    StopRequested,
    Submitted,
    Transition,
    Unfetched,
)
from handoff_mpi.scheduler.lifecycle import (
    DISPATCHED,
    DONE,
    FAILED,
    READY,
    SKIPPED,
    TABLE,
    WAITING,
    Cause,
    State,
)
from handoff_mpi.scheduler.ready import ReadyQueue, in_order

#: A batch at a slot should last about this long: less wastes messages, more delays results.
BATCH_S = 0.004
#: Functions that take longer are sent one at a time: one that waits behind another could run elsewhere.
LONG_S = 0.02
LARGEST_BATCH = 128
#: A task that was refused by the tracker waits this long, doubling, before it is offered again.
REFUSAL_S = 0.05
MOST_REFUSALS = 12


@dataclass(slots=True)
class Policy:
    """What the user chose for a run.

    Attributes:
        max_retries: tries after an exception or a time-out, for functions that do not say.
        crash_limit: deaths of its process after which a function is failed.
        stop_on_failure: dispatch nothing more once a function failed.
        max_concurrency: most calls at once, or None.
        silence_limit_s: seconds without a sign of life after which a rank's work is reassigned.
        window: most tasks in flight at a slot.
    """

    max_retries: int = 3
    crash_limit: int = 3
    stop_on_failure: bool = False
    max_concurrency: int | None = None
    silence_limit_s: float = 300.0
    window: int = LARGEST_BATCH


@dataclass(slots=True, eq=False)
class Slot:
    """A slot of a rank: its claim and the tasks in flight there, the running one first."""

    rank: int
    number: int
    claim: Claim | None = None
    queue: ReadyQueue | None = None
    tasks: deque[int] = None  # type: ignore[assignment]
    since: float = 0.0

    def __post_init__(self) -> None:
        self.tasks = deque()


class Scheduler:
    """The scheduler of one run.

    Args:
        ledger: the capability of the job.
        strategy: decides which ready task goes where.
        policy: the user's choices.
        prices: given to strategies, in place of demand ÷ supply.

    Attributes:
        state, attempts: by task number.
        failures: task to :class:`Failure`, for those that failed for good.
        log: transitions of this turn; the loop drains it.
        status: "running", then "done", "failed" or "stopped".
        stale: how many reports were dropped because they carried an old attempt number.
    """

    def __init__(
        self,
        ledger: Ledger,
        strategy: AllocationStrategy,
        policy: Policy | None = None,
        prices: dict[str, float] | None = None,
    ) -> None:
        self.ledger = ledger
        self.strategy = strategy
        self.policy = policy or Policy()
        self.view = ClusterView(ledger, dict(prices or {}), self.expected_s, self.inputs_elsewhere)
        self._given_prices = dict(prices or {})
        # by task number
        self.specs: list[TaskSpec] = []
        self.state = bytearray()
        self.attempts: list[int] = []
        self.missing: list[int] = []
        self.children: list[list[int]] = []
        self.consumers_left: list[int] = []
        self.at_home = bytearray()
        self._slot_of: dict[int, Slot] = {}
        # sparse, by task number
        self.holders: dict[int, list[int]] = {}
        self.nbytes: dict[int, int] = {}
        self.persisted: set[int] = set()
        self.failures: dict[int, Failure] = {}
        self.ran_on: dict[int, list[int]] = {}
        self._tries: dict[int, int] = {}
        self._deaths: dict[int, int] = {}
        self._avoid: dict[int, int] = {}
        self._isolated: set[int] = set()
        self._refusals: dict[int, int] = {}
        self._deferred: list[tuple[float, int]] = []
        # collocation
        self._need: dict[int, Amounts] = {}
        self._bound: dict[int, int] = {}
        self._leader: dict[int, int] = {}
        self._parked: dict[int, list[int]] = {}
        # ready
        self._queues: dict[Any, ReadyQueue] = {}
        self._simple: dict[tuple[int, int], ReadyQueue] = {}
        # ranks
        self.slots = {rank: [Slot(rank, number) for number in range(seat.slots)] for rank, seat in ledger.seats.items()}
        self._heard: dict[int, float] = {}
        self._suspects: set[int] = set()
        self._silent: set[int] = set()
        self._next_silence_check = 0.0
        # durations by code
        self._mean_s: dict[int, float] = {}
        # this turn
        self.log: list[Transition] = []
        self._commands: list[Command] = []
        self._touched: dict[int, Slot] = {}
        self._forget: dict[int, list[int]] = {}
        # the run
        self.open = 0
        self.in_flight = 0
        self.claimed = 0
        self.stale = 0
        self.now = 0.0
        self.closed = False
        self.stopping = ""
        self._recalled: set[int] = set()
        self._prepared = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            Submitted: self._on_submitted,
            Closed: self._on_closed,
            Finished: self._on_finished,
            Returned: self._on_returned,
            Unfetched: self._on_unfetched,
            Heard: self._on_heard,
            RankLost: self._on_rank_lost,
            ResourcesUpdated: self._on_resources_updated,
            Refused: self._on_refused,
            StopRequested: self._on_stop_requested,
        }

    # -- the turn ---------------------------------------------------------------------------------

    def handle(self, events: Iterable[Event], now: float) -> list[Command]:
        """Absorb ``events`` at time ``now`` (seconds, any origin) and return what to do.

        Raises:
            AllocationError: the strategy placed a task where it does not fit.
            AssertionError: the impossible happened; the message tells the task's story.
        """
        self.now = now
        for event in events:
            self._handlers[type(event)](event)
        self._look_for_silence()
        self._wake_deferred()
        self._refill_and_release()
        self._allocate()
        while self._is_stuck():
            self._give_up_on_ready()
            self._allocate()
        self._recall_for_idle()
        for rank, tasks in self._forget.items():
            self._commands.append(Forget(rank, tasks))
        self._forget = {}
        commands, self._commands = self._commands, []
        return commands

    def next_wakeup(self) -> float:
        """Return the time at which :meth:`handle` must be called again even if nothing happens."""
        wakeup = self._next_silence_check
        if self._deferred:
            wakeup = min(wakeup, self._deferred[0][0])
        if self.ledger.idle_slots and self.in_flight > self.claimed:
            wakeup = min(wakeup, self.now + LONG_S)
        return wakeup

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all tasks have ended, or the run was stopped and nothing runs."""
        if self.stopping:
            return not self.in_flight
        return self.closed and not self.open

    @property
    def status(self) -> str:
        if not self.is_over:
            return "running"
        if self.open:
            return "stopped"
        return "failed" if self.failures else "done"

    # -- absorb: submissions ------------------------------------------------------------------------

    def _on_submitted(self, event: Submitted) -> None:
        first = len(self.specs)
        count = len(event.specs)
        self.specs += event.specs
        self.state.extend(bytes(count))
        self.at_home.extend(bytes(count))
        self.attempts += [0] * count
        self.consumers_left += [0] * count
        self.children += [[] for _ in range(count)]
        self.missing += [0] * count
        self.open += count
        for number in range(first, first + count):
            spec = self.specs[number]
            if spec.group is not None:
                self._widen_group(spec)
            for task in spec.inputs:
                self.children[task].append(number)
                self.consumers_left[task] += 1
        for number in range(first, first + count):
            self._count_missing(number)
            if self.state[number] == WAITING and not self.missing[number]:
                self._move(number, Cause.INPUTS_DONE)
                self._enqueue(number)
        self._skip_after([task for task in range(first, first + count) if self._has_failed_input(task)])
        if first:  # what nobody needed any more may be needed again
            wanted = dict.fromkeys(each for spec in event.specs for each in spec.inputs if each < first)
            self._recompute([each for each in wanted if self.state[each] == DONE and not self.is_available(each)])

    def _count_missing(self, task: int) -> None:
        self.missing[task] = sum(not self.is_available(each) for each in self.specs[task].inputs)

    def _has_failed_input(self, task: int) -> bool:
        return any(self.state[each] in (FAILED, SKIPPED) for each in self.specs[task].inputs)

    def _widen_group(self, spec: TaskSpec) -> None:
        """The rank a collocated group is bound to must fit each of its members, one by one."""
        assert spec.group is not None
        need = self._need.setdefault(spec.group, {})
        for name, amount in spec.cost.items():
            need[name] = max(need.get(name, 0), amount)
        if isinstance(spec.pin, int):
            self._bound[spec.group] = spec.pin

    def _on_closed(self, event: Closed) -> None:
        self.closed = True

    def is_available(self, task: int) -> bool:
        """Whether the value of ``task`` can be had: it is done, and someone holds it."""
        return self.state[task] == DONE and bool(
            self.at_home[task] or self.holders.get(task) or task in self.persisted
        )

    # -- absorb: ends of calls ----------------------------------------------------------------------

    def is_current(self, task: int, attempt: int) -> bool:
        """Whether a report of this attempt still counts."""
        return self.state[task] == DISPATCHED and self.attempts[task] == attempt

    def _on_finished(self, event: Finished) -> None:
        state, attempts, slot_of = self.state, self.attempts, self._slot_of
        mean_s, specs, now = self._mean_s, self.specs, self.now
        for entry in event.entries:
            task = entry[0]
            if state[task] != DISPATCHED or attempts[task] != entry[1]:
                self.stale += 1
                continue
            slot = slot_of.pop(task)
            tasks = slot.tasks
            if tasks[0] == task:
                tasks.popleft()
            else:
                tasks.remove(task)
            self.in_flight -= 1
            slot.since = now
            self._touched[id(slot)] = slot
            if entry[2] == OK:
                code = specs[task].code
                mean = mean_s.get(code)
                duration = entry[6]
                mean_s[code] = duration if mean is None else mean + 0.2 * (duration - mean)
                self._done(task, entry, slot.rank)
            else:
                self._failed_once(task, entry, slot.rank)

    def _done(self, task: int, entry: Entry, rank: int) -> None:
        self._move(task, Cause.OK, rank)
        self.open -= 1
        if entry[3] is not None:
            self.at_home[task] = 1
        else:
            self.holders[task] = [rank]
            self.nbytes[task] = abs(entry[4])
            if entry[4] < 0:
                self.persisted.add(task)
        state, missing = self.state, self.missing
        for child in self.children[task]:
            if state[child] == WAITING:
                missing[child] -= 1
                if not missing[child]:
                    self._move(child, Cause.INPUTS_DONE)
                    self._enqueue(child)
        self._close_inputs(task, rank)

    def _close_inputs(self, task: int, rank: int = -1) -> None:
        """``task`` needs its inputs no more; ``rank`` has copies of those it fetched."""
        for each in self.specs[task].inputs:
            self.consumers_left[each] -= 1
            if self.at_home[each]:
                continue
            holders = self.holders.get(each)
            if holders is None:
                continue
            if rank >= 0 and rank not in holders and not self.specs[each].stays:
                holders.append(rank)
            if not self.consumers_left[each] and not self.specs[each].keep:
                for holder in self.holders.pop(each):
                    self._forget.setdefault(holder, []).append(each)

    def _failed_once(self, task: int, entry: Entry, rank: int) -> None:
        kind, message, traceback = entry[3]
        self.ran_on.setdefault(task, []).append(rank)
        if entry[2] == DIED:
            deaths = self._deaths[task] = self._deaths.get(task, 0) + 1
            self._isolated.add(task)
            may_retry = deaths < self.policy.crash_limit
        else:
            tries = self._tries[task] = self._tries.get(task, 0) + 1
            limit = self.specs[task].max_retries
            may_retry = tries <= (self.policy.max_retries if limit is None else limit)
        if may_retry and not self.stopping:
            self._avoid[task] = rank
            self._move(task, Cause.RETRY, rank, (kind, message))
            self._requeue(task)
        else:
            self._fail(task, Cause.ERROR, rank, kind, message, traceback)

    def _fail(self, task: int, cause: Cause, rank: int, kind: str, message: str, traceback: str = "") -> None:
        ranks = tuple(self.ran_on.get(task, ()))
        self.failures[task] = Failure(kind, message, traceback, self.attempts[task], ranks)
        self._move(task, cause, rank, (kind, message))
        self.open -= 1
        self._close_inputs(task)
        self._skip_after([child for child in self.children[task] if self.state[child] in (WAITING, READY)])
        if self.policy.stop_on_failure and not self.stopping:
            self._stop(f"function failed: {message}")

    def _skip_after(self, tasks: list[int]) -> None:
        """Skip ``tasks``, and all that depend on them."""
        for task in tasks:
            if self.state[task] not in (WAITING, READY):
                continue
            if self.state[task] == READY:
                self._dequeue(task)
            self._move(task, Cause.INPUT_FAILED)
            self.open -= 1
            self._close_inputs(task)
            tasks.extend(self.children[task])

    # -- absorb: what comes back ----------------------------------------------------------------------

    def _on_returned(self, event: Returned) -> None:
        for task, attempt in event.entries:
            if not self.is_current(task, attempt):
                self.stale += 1
                continue
            self._take_back(task, Cause.RETURNED)
            self._requeue(task)

    def _take_back(self, task: int, cause: Cause, detail: Any = None) -> Slot:
        slot = self._slot_of.pop(task)
        slot.tasks.remove(task)
        self.in_flight -= 1
        self._recalled.discard(task)
        self._touched[id(slot)] = slot
        self._move(task, cause, slot.rank, detail)
        return slot

    def _on_unfetched(self, event: Unfetched) -> None:
        for each, asked in event.missing:
            if not asked:
                self.persisted.discard(each)
            self._lose_value(each, asked)
        if not self.is_current(event.task, event.attempt):
            self.stale += 1
            return
        self._take_back(event.task, Cause.INPUT_LOST)
        self._count_missing(event.task)
        if not self.missing[event.task]:
            self._move(event.task, Cause.INPUTS_DONE)
            self._enqueue(event.task)
        else:
            self._recompute([each for each in self.specs[event.task].inputs if not self.is_available(each)])

    def _on_refused(self, event: Refused) -> None:
        if not self.is_current(event.task, event.attempt):
            return
        count = self._refusals[event.task] = self._refusals.get(event.task, 0) + 1
        slot = self._take_back(event.task, Cause.RETURNED, ("refused", event.reason))
        if count > MOST_REFUSALS:
            message = f"the resource tracker refused it {count} times, last on rank {slot.rank}: {event.reason}"
            self._fail(event.task, Cause.GIVEN_UP, slot.rank, REFUSED, message)
        else:
            self._deferred.append((self.now + REFUSAL_S * 2 ** min(count, 7), event.task))
            self._deferred.sort()

    def _wake_deferred(self) -> None:
        while self._deferred and self._deferred[0][0] <= self.now:
            task = self._deferred.pop(0)[1]
            if self.state[task] == READY:
                self._requeue(task)

    # -- absorb: ranks --------------------------------------------------------------------------------

    def _on_heard(self, event: Heard) -> None:
        for rank in event.ranks:
            self._heard[rank] = self.now
        for rank in self._suspects.intersection(event.ranks):
            self._suspects.discard(rank)
            if rank in self._silent:
                self._silent.discard(rank)
                self.ledger.restore(rank)
            self._log_rank(rank, "returned")

    def _look_for_silence(self) -> None:
        if self.now < self._next_silence_check:
            return
        limit = self.policy.silence_limit_s
        self._next_silence_check = self.now + limit / 8
        for rank, seat in self.ledger.seats.items():
            silence = self.now - self._heard.setdefault(rank, self.now)
            if not seat.is_alive or silence <= limit / 2:
                continue
            if rank not in self._suspects:
                self._suspects.add(rank)
                self._log_rank(rank, "suspect", f"silent for {silence:.0f} s")
                self._take_back_queued(rank)
            if silence > limit:
                self._silent.add(rank)
                self._lose_rank(rank, f"silent for {silence:.0f} s")

    def _take_back_queued(self, rank: int) -> None:
        """A suspect's queued tasks go elsewhere; the running ones may well be finished."""
        tasks = [(task, self.attempts[task]) for slot in self.slots[rank] for task in list(slot.tasks)[1:]]
        for task, _ in tasks:
            self._take_back(task, Cause.RANK_LOST)
            self._requeue(task)
        if tasks:
            self._commands.append(Recall(rank, tasks))

    def _on_rank_lost(self, event: RankLost) -> None:
        self._silent.discard(event.rank)
        self._suspects.discard(event.rank)
        if event.rank in self.ledger.seats:
            self._lose_rank(event.rank, event.reason)

    def _lose_rank(self, rank: int, reason: str) -> None:
        seat = self.ledger.seats[rank]
        if not seat.is_alive:
            return
        self._log_rank(rank, "lost", reason)
        self._commands.append(Announce(rank))
        recalled = []
        orphans = []
        for slot in self.slots[rank]:
            for position, task in enumerate(list(slot.tasks)):
                recalled.append((task, self.attempts[task]))
                self._take_back(task, Cause.RANK_LOST, reason)
                orphans.append(task)
                self.ran_on.setdefault(task, []).append(rank)
                if position == 0 and rank not in self._silent:
                    self._blame(task, rank, reason)
            if slot.claim is not None:
                self._release(slot)
            self._touched.pop(id(slot), None)
        self.ledger.remove(rank)
        self._unbind(rank)
        for task in orphans:
            if self.state[task] == READY:
                self._requeue(task)
        lost = [task for task, holders in self.holders.items() if rank in holders]
        for task in lost:
            self._lose_value(task, [rank])
        if rank in self._silent:
            self._commands.append(Recall(rank, recalled))

    def _blame(self, task: int, rank: int, reason: str) -> None:
        """``task`` ran on a rank that died: next time in a child, and not for ever."""
        self._isolated.add(task)
        deaths = self._deaths[task] = self._deaths.get(task, 0) + 1
        if deaths >= self.policy.crash_limit:
            message = f"its process died {deaths} times, last with rank {rank}: {reason}"
            self._fail(task, Cause.GIVEN_UP, rank, DEATH, message)

    def _unbind(self, rank: int) -> None:
        """Groups bound to a lost rank may be bound anew; their ready tasks queue up again."""
        for group in [group for group, bound in self._bound.items() if bound == rank]:
            del self._bound[group]
        for queue in list(self._queues.values()):
            if queue.cost.rank == rank and queue.tasks:
                tasks = list(queue.tasks)
                queue.tasks.clear()
                for task in tasks:
                    self._enqueue(task)

    def _lose_value(self, task: int, ranks: Sequence[int]) -> None:
        if self.at_home[task]:
            return
        left = [holder for holder in self.holders.pop(task, ()) if holder not in ranks]
        if left:
            self.holders[task] = left
        if left or task in self.persisted:
            return
        if self.state[task] == DONE and (self.consumers_left[task] or self.specs[task].keep):
            for child in self.children[task]:
                if self.state[child] == READY:
                    self._dequeue(child)
                    self._move(child, Cause.INPUT_LOST)
                    self._count_missing(child)
                elif self.state[child] == WAITING:
                    self._count_missing(child)
            self._recompute([task])

    def _recompute(self, tasks: list[int]) -> None:
        """Make ``tasks``' lost values again, and what they need for it that is gone as well."""
        for task in tasks:
            if self.state[task] != DONE or self.is_available(task):
                continue
            self._move(task, Cause.VALUE_LOST)
            self.open += 1
            for each in self.specs[task].inputs:
                self.consumers_left[each] += 1
                if self.state[each] == DONE and not self.is_available(each):
                    tasks.append(each)
        for task in tasks:
            if self.state[task] == WAITING:
                self._count_missing(task)
                if self._has_failed_input(task):
                    self._skip_after([task])
                elif not self.missing[task]:
                    self._move(task, Cause.INPUTS_DONE)
                    self._enqueue(task)

    def _on_resources_updated(self, event: ResourcesUpdated) -> None:
        try:
            self.ledger.update(event.rank, event.amounts)
        except AllocationError as error:
            self._log_rank(event.rank, "not updated", str(error))
            return
        self._log_rank(event.rank, "updated", event.amounts)

    def _on_stop_requested(self, event: StopRequested) -> None:
        if not self.stopping:
            self._stop(event.reason)

    def _stop(self, reason: str) -> None:
        """Dispatch nothing more, and ask for what has not started."""
        self.stopping = reason
        for rank, slots in self.slots.items():
            queued = [(task, self.attempts[task]) for slot in slots for task in list(slot.tasks)[1:]]
            if queued:
                self._commands.append(Recall(rank, queued))

    # -- release --------------------------------------------------------------------------------------

    def _refill_and_release(self) -> None:
        """Slots whose calls ended go on with the next tasks of their class, or give their claim back."""
        touched, self._touched = self._touched, {}
        leader = self._leader_of_queues() if touched else None
        for slot in touched.values():
            queue = slot.queue
            if queue is None or slot.claim is None:
                continue
            if not self.stopping and queue.tasks and self._may_inherit(queue, leader, slot):
                self._refill(slot, queue)
            if not slot.tasks:
                self._release(slot)

    def _leader_of_queues(self) -> ReadyQueue | None:
        return min((queue for queue in self._queues.values() if queue.tasks), key=ReadyQueue.order, default=None)

    def _may_inherit(self, queue: ReadyQueue, leader: ReadyQueue | None, slot: Slot) -> bool:
        """Whether the slot may go on without the strategy being asked: nobody with a better right waits."""
        if leader is None or not getattr(self.strategy, "inherits", False):
            return False
        assert slot.claim is not None
        if any(pool.free < 0 for pool, _ in slot.claim.bill):
            return False  # the rank has less than it had when the claim was taken
        return queue is leader or (queue.priority == leader.priority and leader.passed < self._patience())

    def _patience(self) -> int:
        return 16 + 4 * len(self.ledger.seats)

    def _refill(self, slot: Slot, queue: ReadyQueue) -> None:
        room = self._depth(queue[0]) - len(slot.tasks)
        if room < len(slot.tasks):
            return  # not worth a message yet
        share = -(-len(queue) // max(1, queue.slots))
        count = min(max(room, 0 if slot.tasks else 1), share)
        if count > 0:
            self._send(slot, [queue.tasks.popleft() for _ in range(count)], None)

    def _depth(self, task: int) -> int:
        """Return how many tasks like this one should be in flight at a slot."""
        mean = self._mean_s.get(self.specs[task].code)
        if mean is None or mean > LONG_S:
            return 1
        return min(self.policy.window, 2 + int(BATCH_S / max(mean, 1e-6)))

    def _release(self, slot: Slot) -> None:
        assert slot.claim is not None
        assert slot.queue is not None
        self.ledger.release(slot.claim)
        self.claimed -= 1
        slot.queue.slots -= 1
        slot.claim = slot.queue = None

    # -- allocate -------------------------------------------------------------------------------------

    def _enqueue(self, task: int, first: bool = False) -> None:
        """Put a READY task where the strategy finds it."""
        spec = self.specs[task]
        if spec.pin is None and spec.group is None and task not in self._avoid:
            key = (id(spec.cost), spec.priority)
            queue = self._simple.get(key)
            if queue is None:
                queue = self._simple[key] = self._queue(self.ledger.cost_class(spec.cost), spec.priority)
        else:
            found = self._queue_of_bound(task, spec)
            if found is None:
                return
            queue = found
        if first:
            queue.tasks.appendleft(task)
        else:
            queue.tasks.append(task)

    def _requeue(self, task: int) -> None:
        """A task came back from a rank: it is the next of its queue, unless an input got lost meanwhile."""
        if all(self.is_available(each) for each in self.specs[task].inputs):
            self._enqueue(task, first=True)
            return
        self._move(task, Cause.INPUT_LOST)
        self._count_missing(task)
        self._recompute([each for each in self.specs[task].inputs if not self.is_available(each)])

    def _queue(self, cost: CostClass, priority: int) -> ReadyQueue:
        key = (cost.number, priority)
        if key not in self._queues:
            self._queues[key] = ReadyQueue(cost, priority)
        return self._queues[key]

    def _queue_of_bound(self, task: int, spec: TaskSpec) -> ReadyQueue | None:
        """Return the queue of a task with wishes; None while its group waits for its first placement."""
        rank = spec.pin if isinstance(spec.pin, int) else None
        host = spec.pin if isinstance(spec.pin, str) else None
        need = None
        if spec.group is not None:
            rank = self._bound.get(spec.group, rank)
            need = self._need[spec.group]
            if rank is None:
                leader = self._leader.setdefault(spec.group, task)
                if leader != task:
                    self._parked.setdefault(spec.group, []).append(task)
                    return None
        avoid = None if rank is not None else self._avoid.get(task)
        cost = self.ledger.cost_class(spec.cost, rank, host, avoid, need)
        if avoid is not None and not self.ledger.could_fit(cost):
            cost = self.ledger.cost_class(spec.cost, rank, host, None, need)
        return self._queue(cost, spec.priority)

    def _dequeue(self, task: int) -> None:
        """Take a READY task out of wherever it waits; rare, so it may search."""
        for queue in self._queues.values():
            if task in queue.tasks:
                queue.tasks.remove(task)
                break
        for parked in self._parked.values():
            if task in parked:
                parked.remove(task)
        self._deferred = [entry for entry in self._deferred if entry[1] != task]
        group = self.specs[task].group
        if group is not None and self._leader.get(group) == task:
            self._next_leader(group)

    def _next_leader(self, group: int) -> None:
        self._leader.pop(group, None)
        for task in self._parked.pop(group, []):
            self._enqueue(task)

    def _allocate(self) -> None:
        if self.stopping or not self.ledger.idle_slots or not self._may_start_more():
            return
        ready = in_order(self._queues.values())
        if not ready:
            return
        if not self._prepared:
            self._prepare()
        ready = ready[: self._most_served(ready)]
        placed = 0
        queue = ready[0]
        for task, rank in self._placements(ready):
            if not queue.tasks or queue.tasks[0] != task:
                queue = self._queue_led_by(task, ready)
            self._place(task, rank, queue)
            placed += 1
            if not self._may_start_more():
                break
        self._count_passed(ready, placed)

    def _placements(self, ready: list[ReadyQueue]) -> Iterator[tuple[int, int]]:
        """Ask the strategy; whatever it raises is reported as its own."""
        try:
            yield from self.strategy.allocate(ready, self.view)
        except Exception as error:
            name = type(self.strategy).__name__
            raise AllocationError(f"the strategy {name} failed: {type(error).__name__}: {error}") from error

    def _queue_led_by(self, task: int, ready: list[ReadyQueue]) -> ReadyQueue:
        for queue in ready:
            if queue.tasks and queue.tasks[0] == task:
                return queue
        name = type(self.strategy).__name__
        raise AllocationError(f"the strategy {name} placed {task!r}, which is not the next task of any group")

    def _most_served(self, ready: list[ReadyQueue]) -> int:
        """A queue that was passed over too often is the last to be served: nobody younger overtakes it more."""
        patience = self._patience()
        for position, queue in enumerate(ready):
            if queue.passed >= patience:
                return position + 1
        return len(ready)

    def _count_passed(self, ready: list[ReadyQueue], placed: int) -> None:
        for queue in ready:
            if queue.tasks:
                queue.passed += placed

    def _prepare(self) -> None:
        self._prepared = True
        costs = ((spec.cost, 1.0) for spec in self.specs)
        self.view.prices = {**demand_and_supply(costs, self.ledger), **self._given_prices}
        prepare = getattr(self.strategy, "prepare", None)
        if prepare is not None:
            prepare(self.view)

    def _may_start_more(self) -> bool:
        most = self.policy.max_concurrency
        return most is None or self.claimed < most

    def _place(self, task: int, rank: int, queue: ReadyQueue) -> None:
        claim = self.ledger.claim(queue.cost, rank)
        queue.tasks.popleft()
        queue.passed = 0
        slot = self.slots[rank][claim.slot]
        slot.claim, slot.queue = claim, queue
        queue.slots += 1
        self.claimed += 1
        self._send(slot, [task], claim)

    def _send(self, slot: Slot, tasks: list[int], claim: Claim | None) -> None:
        slot.since = self.now
        sent = []
        for task in tasks:
            self.attempts[task] += 1
            self._move(task, Cause.PLACED, slot.rank)
            self._slot_of[task] = slot
            sent.append((task, self.attempts[task]))
        slot.tasks.extend(tasks)
        self.in_flight += len(tasks)
        self._commands.append(Dispatch(slot.rank, slot.number, claim, sent))
        if self._leader:
            for task in tasks:
                self._bind(task, slot.rank)

    def _bind(self, task: int, rank: int) -> None:
        """The first task of a collocated group to be placed binds the others to its rank."""
        group = self.specs[task].group
        if group is not None and group not in self._bound:
            self._bound[group] = rank
            self._next_leader(group)

    def _recall_for_idle(self) -> None:
        """Tasks that wait behind a long one are asked for again when a slot is idle."""
        if self.in_flight <= self.claimed or not self.ledger.idle_slots or self.stopping:
            return
        if any(queue.tasks for queue in self._queues.values()):
            return
        for rank, slots in self.slots.items():
            tasks = [
                (task, self.attempts[task])
                for slot in slots
                if len(slot.tasks) > 1 and self.now - slot.since >= LONG_S
                for task in list(slot.tasks)[1:]
                if task not in self._recalled
            ]
            if tasks:
                self._recalled.update(task for task, _ in tasks)
                self._commands.append(Recall(rank, tasks))

    def _is_stuck(self) -> bool:
        """Whether tasks are ready, fit nothing that is left, and wait for nothing: that would be a hang."""
        if self.in_flight or self.stopping or self._deferred:
            return False
        return any(queue.tasks for queue in self._queues.values())

    def _give_up_on_ready(self) -> None:
        for queue in list(self._queues.values()):
            for task in list(queue.tasks):
                if self.state[task] == READY:
                    self._dequeue(task)
                    self._fail(task, Cause.GIVEN_UP, -1, NO_ROOM, self._why_no_room(queue.cost))

    def _why_no_room(self, cost: CostClass) -> str:
        needs = format_amounts(cost.need)
        if self.ledger.could_fit(cost):
            return f"the strategy {type(self.strategy).__name__} places it nowhere, although it would fit ({needs})"
        if cost.rank is not None:
            return f"it is bound to rank {cost.rank}, which is lost or cannot hold what it needs ({needs})"
        if cost.host is not None:
            return f"it is bound to host {cost.host}, where no rank that is left can hold what it needs ({needs})"
        return f"no rank that is left can hold what it needs ({needs})"

    # -- for strategies, for the loop -------------------------------------------------------------------

    def expected_s(self, task: int) -> float:
        """Return how long ``task`` is expected to take: as others of its code did, else one second."""
        return self._mean_s.get(self.specs[task].code, 1.0)

    def inputs_elsewhere(self, task: int) -> Sequence[tuple[int, Sequence[int]]]:
        """Return ``(bytes, ranks that hold it)`` of each input of ``task`` that did not come home."""
        if not self.holders:
            return ()
        return [(self.nbytes[each], self.holders[each]) for each in self.specs[task].inputs if each in self.holders]

    def is_isolated(self, task: int) -> bool:
        """Whether the next attempt must run in a child process: it has a time limit, or killed its last one."""
        return self.specs[task].timeout_s is not None or task in self._isolated

    # -- the log ----------------------------------------------------------------------------------------

    def _move(self, task: int, cause: Cause, rank: int = -1, detail: Any = None) -> None:
        then = TABLE[self.state[task]][cause]
        if then < 0:
            raise AssertionError(
                f"task {task} cannot go on from {State(self.state[task]).name} by {cause.name}: "
                f"attempt {self.attempts[task]}, rank {rank}, ran on {self.ran_on.get(task)}, {detail}"
            )
        self.state[task] = then
        self.log.append((task, then, cause, self.attempts[task], rank, detail))

    def _log_rank(self, rank: int, what: str, detail: Any = None) -> None:
        self.log.append((-1, -1, -1, 0, rank, (what, detail)))
