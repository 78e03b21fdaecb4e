"""The table of tasks: where each stands, whose values it waits for, and who holds its own.

Readiness is counted, never searched for: a task has a number of missing inputs, and becomes ready when it
falls to nought. Every change of state goes through :meth:`TaskTable.move`, and so into the transition log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import ErrorReport
from handoff_mpi.scheduler.events import Failure, ValueLocation
from handoff_mpi.scheduler.lifecycle import DISPATCHED, DONE, FAILED, READY, SKIPPED, TABLE, WAITING, Cause, State
from handoff_mpi.scheduler.ready import ReadyTasks
from handoff_mpi.scheduler.tracebacks import MAX_OUTPUTS, Tracebacks
from handoff_mpi.scheduler.transitions import FailedAttempt, RankRecord, Transition, how_lost

#: No more holders of a value are named to who wants it, but for the first; a thousand ranks may hold one.
MAX_NAMED = 3


class TaskTable:
    """The state of each task, by number.

    Args:
        ready: where tasks go that have become ready.
        specs: filled by :meth:`add`.

    Attributes:
        state: a :class:`State` for each.
        attempts: how often each was dispatched; the number of its current attempt.
        missing: how many inputs each still waits for; of one that was sent ahead, waited for when it was.
        children: who takes its value; an empty tuple, shared, where nobody does.
        consumers_left: how many of those have not ended yet.
        at_rank0: whether the value rests at rank 0.
        holders: ranks that hold a value that did not come home.
        held: rank to those values, the other way round.
        nbytes: the size of such a value.
        persisted: tasks whose value lies in a file.
        lost_with: the ranks that held a value last that nobody holds now.
        failures: why tasks failed for good.
        lease_failures: the same of leases, in the last turn.
        ran_on: the ranks of a task's attempts that failed, in order.
        releasable: rank to values there that nobody needs any longer; their sender empties it.
        open, skips: how many have not ended, and how many were skipped, without leases.
        log: the transitions since it was last emptied.
        leases: the numbers that stand for leases of arrays, one after the other.
        selections: the numbers that stand for some elements of an array; their changes are not logged.
    """

    def __init__(self, ready: ReadyTasks, specs: list[TaskSpec]) -> None:
        self.specs = specs
        self.state, self.at_rank0 = bytearray(), bytearray()
        self.attempts: list[int] = []
        self.missing: list[int] = []
        self.children: list[list[int] | tuple[()]] = []
        self.consumers_left: list[int] = []
        self.holders: dict[int, list[int]] = {}
        self.held: dict[int, dict[int, None]] = {}
        self.nbytes: dict[int, int] = {}
        self.persisted: set[int] = set()
        self.lost_with: dict[int, tuple[int, ...]] = {}
        self.failures: dict[int, Failure] = {}
        self.lease_failures: dict[int, Failure] = {}
        self.ran_on: dict[int, list[int]] = {}
        self.releasable: dict[int, list[int]] = {}
        self.open = self.skips = 0
        self.log: list[Transition] = []
        self._ready = ready
        self._tracebacks = Tracebacks()
        self.leases: set[int] = set()
        self.selections: set[int] = set()
        self._set_aside: list[int] = []

    # -- what is known --------------------------------------------------------------------------------

    def is_available(self, task: int) -> bool:
        """Whether the value of ``task`` can be had: it is done, and someone holds it."""
        return self.state[task] == DONE and bool(
            self.at_rank0[task] or self.holders.get(task) or task in self.persisted
        )

    def is_current(self, task: int, attempt: int) -> bool:
        """Whether a report of this attempt still counts."""
        return self.state[task] == DISPATCHED and self.attempts[task] == attempt

    def whom_to_ask(self, task: int, rank: int) -> tuple[int, ...]:
        """Return ranks that hold the value of ``task``, in the order in which ``rank`` should ask them.

        A few are enough, others first for other ranks; the oldest holder is among them.
        """
        holders = self.holders.get(task, [])
        count = len(holders)
        if count <= 1:
            return tuple(holders)
        named = [holders[(rank + step) % count] for step in range(min(count, MAX_NAMED))]
        if holders[0] not in named:
            named.append(holders[0])
        return tuple(named)

    def inputs_elsewhere(self, task: int) -> Sequence[tuple[int, Sequence[int]]]:
        """Return ``(bytes, ranks that hold it)`` of each input of ``task`` that did not come home."""
        holders = self.holders
        if not holders:
            return ()
        return [(self.nbytes[each], holders[each]) for each in self.specs[task].inputs if each in holders]

    def lost_inputs(self, task: int) -> list[int]:
        """Return the inputs of ``task`` that are unavailable (no longer, or not yet)."""
        return [each for each in self.specs[task].inputs if not self.is_available(each)]

    def nbytes_to_fetch(self, task: int) -> int:
        """Return how many bytes the inputs of ``task`` have that did not come home."""
        return sum(self.nbytes[each] for each in self.specs[task].inputs if each in self.holders)

    # -- changes of state -----------------------------------------------------------------------------

    def move(self, task: int, cause: Cause, rank: int = -1, detail: object = None) -> None:
        """Change a task's state as the table of the lifecycle says.

        Raises:
            AssertionError: the table knows no such change; the message tells the task's story.
        """
        state = self.state
        then = TABLE[state[task]][cause]
        if then < 0:
            raise AssertionError(
                f"task {task} cannot continue from {State(state[task]).name} by {cause.name}: "
                f"attempt {self.attempts[task]}, rank {rank}, ran on {self.ran_on.get(task)}, {detail}"
            )
        state[task] = then
        self.log.append((task, then, cause, self.attempts[task], rank, detail))

    def log_rank(self, rank: int, record: RankRecord) -> None:
        """Log what happened to a rank, or to a claim there."""
        self.log.append((-1, -1, -1, 0, rank, record))

    def take_log(self) -> list[Transition]:
        """Return the log and empty it."""
        log, self.log = self.log, []
        return log

    def add(
        self,
        specs: Sequence[TaskSpec],
        restored: Mapping[int, ValueLocation] | None = None,
        selections: Sequence[TaskSpec] = (),
    ) -> None:
        """Take in tasks, whose numbers follow those there already, and selections of arrays behind them.

        ``restored`` were done by an earlier launch.
        """
        first, new = len(self.specs), range(len(self.specs), len(self.specs) + len(specs))
        self._append([*specs, *selections] if selections else specs)
        for number in range(new.stop, len(self.specs)):
            self.selections.add(number)
            self.missing[number] = 1
        for task, rest in (restored or {}).items():
            self.restore(task, rest)
        ready: list[int] = []  # from the start, as they take no values
        for task in new:
            inputs = self.specs[task].inputs
            if not inputs and self.state[task] == WAITING:
                self.state[task] = READY
                ready.append(task)
            elif not (first or restored):  # nothing is done yet, so it waits for them all
                self.missing[task] = len(inputs)
            else:
                self._ready.put_all(ready)
                ready.clear()
                self.ready_or_waiting(task)
        self._ready.put_all(ready)
        if first:  # a value that nobody needed may be needed again
            wanted = dict.fromkeys(each for spec in specs for each in spec.inputs if each < first)
            self.recompute([each for each in wanted if self.state[each] == DONE and not self.is_available(each)])

    def _append(self, specs: Sequence[TaskSpec]) -> None:
        first, count = len(self.specs), len(specs)
        self.specs += specs
        self.state.extend(bytes(count))
        self.at_rank0.extend(bytes(count))
        self.attempts += [0] * count
        self.consumers_left += [0] * count
        self.children += [()] * count
        self.missing += [0] * count
        self.open += count
        for task in range(first, first + count):
            spec = self.specs[task]
            if spec.group is not None:
                self._ready.groups.widen(task)
            for each in spec.inputs:
                children = self.children[each]
                if children:
                    children.append(task)
                else:
                    self.children[each] = [task]
                self.consumers_left[each] += 1
        self._ready.requeue_outgrown()

    def restore(self, task: int, rest: ValueLocation) -> None:
        self.move(task, Cause.RESTORED)
        self.open -= 1
        self.at_rank0[task] = rest == ValueLocation.HOME
        if rest == ValueLocation.FILE:
            self.persisted.add(task)
        for each in self.specs[task].inputs:
            self.consumers_left[each] -= 1

    def ready_or_waiting(self, task: int) -> None:
        """Count what a WAITING task waits for: it is ready if that is nothing, and skipped if it will not come."""
        missing = self.missing[task] = len(self.lost_inputs(task)) if self.specs[task].inputs else 0
        if self.state[task] != WAITING:
            return
        if not missing:
            self.move(task, Cause.INPUTS_DONE)
            self._ready.put(task)
        elif self._has_failed_input(task):
            self.skip([task])

    def done(self, task: int, rank: int, is_inline: bool, nbytes: int, is_persisted: bool) -> None:
        """A dispatched task ended well on ``rank``: its children may be ready now.

        Its value, of ``nbytes`` bytes, came to rank 0 if it ``is_inline``; else it is on ``rank``, and also lies in a
        file if it ``is_persisted``.
        """
        self.move(task, Cause.OK, rank)
        self.open -= 1
        if is_inline:
            self.at_rank0[task] = 1
        else:
            self._let_go(task)
            self.holders[task] = []
            self._hold(task, rank)
            self.nbytes[task] = nbytes
            if is_persisted:
                self.persisted.add(task)
        if self.children[task]:
            self.supply(task)
        if self.specs[task].inputs:
            self.close_inputs(task, rank)
        if not (self.at_rank0[task] or self.consumers_left[task]) and self.children[task]:
            self._forget(task)  # all that took it were sent ahead, and told of before

    def supply(self, task: int) -> None:
        """The value of ``task`` is there: children that waited for nothing else are ready."""
        state, missing = self.state, self.missing
        for child in self.children[task]:
            if state[child] == WAITING:
                missing[child] -= 1
                if not missing[child]:
                    self.move(child, Cause.INPUTS_DONE)
                    self._ready.put(child)

    def _hold(self, task: int, rank: int) -> None:
        self.holders[task].append(rank)
        self.held.setdefault(rank, {})[task] = None

    def _let_go(self, task: int) -> list[int]:
        """Nobody holds the value of ``task`` any more, as far as is known; return who did."""
        ranks = self.holders.pop(task, [])
        for rank in ranks:
            del self.held[rank][task]
        return ranks

    def close_inputs(self, task: int, rank: int = -1) -> None:
        """``task`` no longer needs its inputs; ``rank`` has copies of those it fetched."""
        for each in self.specs[task].inputs:
            self.consumers_left[each] -= 1
            if self.at_rank0[each] or each not in self.holders:
                continue
            if rank >= 0 and each not in self.held.get(rank, ()) and not self.specs[each].stays:
                self._hold(each, rank)
            if not self.consumers_left[each]:
                self._forget(each)

    def drop_consumer(self, task: int) -> None:
        """One that was counted among the consumers of ``task`` does not need its value."""
        self.consumers_left[task] -= 1
        if not (self.consumers_left[task] or self.at_rank0[task]) and task in self.holders:
            self._forget(task)

    def _forget(self, task: int) -> None:
        """Nobody needs the value of ``task`` any more: its holders may drop it, unless it was to be kept."""
        if not self.specs[task].keep:
            for holder in self._let_go(task):
                self.releasable.setdefault(holder, []).append(task)

    def fail(self, task: int, cause: Cause, rank: int, error: ErrorReport) -> None:
        """A task has failed for good; so have all that depend on it."""
        ranks = tuple(self.ran_on.get(task, ()))
        traceback = self._tracebacks.kept(error)
        output = error.output if len(self.failures) < MAX_OUTPUTS else ""
        tried = self.attempts[task], ranks
        failure = Failure(error.kind, error.message, traceback, *tried, error.place, output)
        (self.lease_failures if task in self.leases else self.failures)[task] = failure
        self.move(task, cause, rank, FailedAttempt(error.kind, error.message))
        self.open -= 1
        self.close_inputs(task)
        children = [child for child in self.children[task] if self.state[child] in (WAITING, READY)]
        self.skip([child for child in children if child not in self.selections] if self.selections else children)

    def skip(self, tasks: list[int]) -> None:
        """Skip ``tasks``, and all that depend on them."""
        for task in tasks:
            if self.state[task] in (WAITING, READY):
                if task in self.leases or task in self.selections:
                    self._set_aside.append(task)
                if task not in self.selections:  # it may have a value although its array has none
                    self.drop(task)
                    tasks.extend(self.children[task])

    def drop(self, task: int) -> None:
        """Skip a task that nothing depends on, or that the caller looks after."""
        if self.state[task] == READY:
            self._ready.remove(task)
        if task in self.selections:
            self.state[task] = SKIPPED
        else:
            self.move(task, Cause.INPUT_FAILED)
            self.skips += task not in self.leases
        self.open -= 1
        self.close_inputs(task)

    def _has_failed_input(self, task: int) -> bool:
        return any(self.state[each] in (FAILED, SKIPPED) for each in self.specs[task].inputs)

    def requeue(self, task: int) -> None:
        """A READY task came back from a rank: it is the next of its queue, unless an input got lost meanwhile."""
        lost = self.lost_inputs(task)
        self.missing[task] = len(lost)
        if not lost:
            self._ready.put(task, first=True)
            return
        if self._has_failed_input(task):
            self.skip([task])
            return
        self.move(task, Cause.INPUT_LOST)
        self.recompute(lost)

    # -- arrays ---------------------------------------------------------------------------------------

    def add_lease(self, spec: TaskSpec, free: list[int]) -> int:
        """Return the number of a READY task that stands for elements of an array.

        Args:
            spec: what the scheduler must know of it.
            free: numbers of earlier tasks of this specification, all ended; one of them is taken if there is one.
        """
        if free:
            task = free.pop()
            self.open += 1
            for each in spec.inputs:
                self.consumers_left[each] += 1
        else:
            task = len(self.specs)
            self._append([spec])
        self.state[task] = READY
        self.leases.add(task)
        return task

    def add_waiting_lease(self, spec: TaskSpec) -> int:
        """Return the number of a task that stands for elements of an array, and waits for its inputs."""
        task = self.add_lease(spec, [])
        self.state[task] = WAITING
        return task

    def set_dispatched(self, lease: int) -> None:
        """``lease`` is a part of another one, which is dispatched."""
        self.attempts[lease] += 1
        self.state[lease] = DISPATCHED

    def end_lease(self, task: int, rank: int) -> None:
        """All elements of a dispatched lease have ended, and none of them failed."""
        self.move(task, Cause.OK, rank)
        self.open -= 1
        if self.specs[task].inputs:
            self.close_inputs(task, rank)

    def failure_of(self, task: int) -> Failure:
        """Return why a task, or in this turn a lease, has failed for good."""
        return self.lease_failures[task] if task in self.leases else self.failures[task]

    def take_set_aside(self) -> list[int]:
        """Return the leases that were skipped since this was last asked, and selections whose arrays were."""
        found, self._set_aside = self._set_aside, []
        return found

    def complete(self, task: int) -> None:
        """All elements of an array have values: its children may be ready now."""
        self.move(task, Cause.ELEMENTS_DONE)
        self.open -= 1
        self.at_rank0[task] = 1
        self.supply(task)
        self.close_inputs(task)

    # -- lost values ----------------------------------------------------------------------------------

    def lose_value(self, task: int, ranks: Sequence[int]) -> None:
        """``ranks`` no longer hold the value of ``task``; if nobody does and it is wanted, it is made again."""
        if self.at_rank0[task]:
            return
        holders = self.holders.get(task, [])
        for rank in ranks:
            if task in self.held.get(rank, ()):
                del self.held[rank][task]
                holders.remove(rank)
        if holders:
            return
        self.holders.pop(task, None)
        if task in self.persisted:
            return
        self._make_again(task, ranks)

    def lose_home_value(self, task: int) -> None:
        """The value of ``task`` is no longer at rank 0; if it is wanted, it is made again."""
        if self.at_rank0[task]:
            self.at_rank0[task] = 0
            self._make_again(task, (0,))

    def _make_again(self, task: int, ranks: Sequence[int]) -> None:
        """Nobody holds the value of ``task`` any more, those that did were ``ranks``: make it again if it is wanted."""
        self.lost_with[task] = tuple(ranks)
        if self.state[task] == DONE and (self.consumers_left[task] or self.specs[task].keep):
            for child in self.children[task]:
                if self.state[child] == READY and not self._ready.is_set_aside(child):
                    self._ready.remove(child)
                    self.move(child, Cause.INPUT_LOST)
                if self.state[child] == WAITING:
                    self.missing[child] = len(self.lost_inputs(child))
            self.recompute([task])

    def recompute(self, tasks: list[int]) -> None:
        """Make ``tasks``' lost values again, and those of their inputs that are lost as well."""
        for task in tasks:
            if self.state[task] != DONE or self.is_available(task):
                continue
            if task in self.selections:
                self.state[task] = WAITING
            else:
                self.move(task, Cause.VALUE_LOST, detail=how_lost(self.lost_with.pop(task, None)))
            self.open += 1
            for each in self.specs[task].inputs:
                self.consumers_left[each] += 1
                if self.state[each] == DONE and not self.is_available(each):
                    tasks.append(each)
        for task in tasks:
            if self.state[task] == WAITING:
                self.ready_or_waiting(task)
