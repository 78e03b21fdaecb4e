"""Derives the books of a scheduler and the table of ranks from scratch, and compares."""

from __future__ import annotations

from handoff_mpi.allocation import MEMORY, PROBATION, SUSPECT, Ledger
from handoff_mpi.allocation.invariants import check_invariants
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.membership import Membership, MemberState
from handoff_mpi.scheduler import Scheduler, State
from handoff_mpi.scheduler.queues import ReadyQueue


def check(scheduler: Scheduler) -> None:
    """Derive the scheduler's books from scratch and compare.

    Raises:
        AssertionError: they do not agree.
    """
    check_invariants(scheduler.ledger)
    short = {rank for rank, reasons in scheduler.ledger.cordoned.items() if MEMORY in reasons}
    assert short == set(scheduler.memory_pressure.ranks)
    shunned = {rank for rank, reasons in scheduler.ledger.cordoned.items() if PROBATION in reasons}
    assert shunned == set(scheduler.probation.of_rank)
    rank_states = scheduler.ledger.rank_states.values()
    living = [rank_state.rank for rank_state in rank_states if rank_state.is_present and rank_state.slots]
    assert not living or not shunned.issuperset(living), "the last rank is on probation"
    state, specs = scheduler.tasks.state, scheduler.specs
    flying = [task for slots in scheduler.slots.of_rank.values() for slot in slots for task in slot.tasks]
    assert len(flying) == len(set(flying)) == scheduler.slots.in_flight
    assert set(flying) == {task for task in range(len(specs)) if state[task] == State.DISPATCHED}
    claimed = sum(slot.claim is not None for slots in scheduler.slots.of_rank.values() for slot in slots)
    assert claimed == scheduler.slots.claimed
    most = scheduler.policy.max_concurrency
    assert most is None or claimed <= most
    assert all(slot.claim is not None for slots in scheduler.slots.of_rank.values() for slot in slots if slot.tasks)
    queued = list(scheduler.ready.everywhere())
    assert len(queued) == len(set(queued)), "a task is queued twice"
    offered = {task for task in range(len(specs)) if state[task] == State.READY} - scheduler.ready.exhausted
    assert set(queued) == offered
    check_arrays(scheduler)
    check_order(scheduler)
    final = (State.DONE, State.FAILED, State.SKIPPED)
    assert scheduler.tasks.open == sum(each not in final for each in state)
    has_refusals = bool(scheduler.ready.held or scheduler.ready.offered)  # a task that was sent ahead may be refused
    left = [0] * len(specs)
    for task, spec in enumerate(specs):
        for each in spec.inputs:
            left[each] += state[task] not in final
        if state[task] == State.WAITING:
            missing = sum(not scheduler.tasks.is_available(each) for each in spec.inputs)
            assert scheduler.tasks.missing[task] == missing > 0, f"task {task} waits for {missing} inputs"
        elif state[task] == State.READY and not (scheduler.ready.is_set_aside(task) or has_refusals):
            assert not scheduler.tasks.lost_inputs(task), f"task {task} is offered without all its inputs"
    for number, indices in scheduler.arrays.waiting.held.items():
        for each in [each for index in indices for each in scheduler.arrays.of[number].spec.handles[index]]:
            left[each] += 1
    assert left == scheduler.tasks.consumers_left
    holds = {(task, rank) for task, ranks in scheduler.tasks.holders.items() for rank in ranks}
    assert holds == {(task, rank) for rank, tasks in scheduler.tasks.held.items() for task in tasks}


def check_arrays(scheduler: Scheduler) -> None:
    """Each element of an array waits, is leased, has ended, or will not be computed.

    Raises:
        AssertionError: it does not.
    """
    arrays, state = scheduler.arrays, scheduler.tasks.state
    leases = {number: lease for number, lease in arrays.leases.items() if not lease.has_ended}
    for number, array in arrays.of.items():
        awaited = IntervalSet(array.awaited.within(0, array.count))
        parts = [IntervalSet(elements) for elements, _ in array.failures] + [array.todo.copy(), awaited]
        parts += [lease.intervals for lease in leases.values() if lease.array == number]
        together = IntervalSet(interval for part in parts for interval in part)
        assert len(together) == sum(map(len, parts)), f"an element of array {number} is in two places"
        assert len(together) + array.done + array.skipped == array.count
        assert array.leases == {each for each, lease in leases.items() if lease.array == number}
        if state[number] in (State.READY, State.WAITING):
            may_be_skipped = array.spec.tree is not None and array.bereft  # or fails, if nothing is there to fold
            is_open = array.todo or array.awaited or array.leases or may_be_skipped or array.is_open
            assert is_open, f"array {number} has ended, and does not know"
            may_begin = bool(array.todo) and number not in arrays.pauses.paused
            assert may_begin != (number in scheduler.ready.exhausted)
        is_available = scheduler.tasks.is_available(number)  # else an earlier launch did what takes it
        assert not is_available or array.done == array.count
        assert number not in arrays.ending or not array.todo
        assert all(lease in scheduler.slots.of_task for lease in array.in_flight)
        doubted = [lease for lease in arrays.pauses.leases_in_doubt() if leases[lease].array == number]
        assert array.doubted == sum(len(leases[lease].intervals) for lease in doubted)
        is_settled = number in arrays.pauses.paused or not array.must_pause or arrays.pauses.next_due <= 0
        assert is_settled, f"array {number} is not paused"


def check_membership(membership: Membership, ledger: Ledger) -> None:
    """Compare the table of ranks with what the scheduler has made of its events.

    Raises:
        AssertionError: it does not.
    """
    for rank, rank_state in ledger.rank_states.items():
        state = membership.state(rank)
        takes_part = state not in (MemberState.UNREACHABLE, MemberState.LOST)
        assert rank_state.is_present == takes_part, f"rank {rank} is {state.value}"
        is_cordoned = SUSPECT in ledger.cordoned.get(rank, ())
        assert is_cordoned == (state == MemberState.SUSPECT) or not takes_part, f"rank {rank} is {state.value}"


def check_order(scheduler: Scheduler) -> None:
    """The first queue of each family is the one that a sort of all queues finds; who owns a reservation waits.

    Raises:
        AssertionError: it is not.
    """
    ready = scheduler.ready
    firsts: dict[int, ReadyQueue] = {}
    for queue in ready.all_queues():
        if queue.kind is not None:
            firsts.setdefault(id(queue.kind.family), queue)
    assert {id(queue) for queue in ready.free.firsts()} == {id(queue) for queue in firsts.values()}
    owned = [queue.reservation for queue in ready.every_queue() if queue.reservation is not None]
    assert all(reservation in owned for reservation in scheduler.ledger.reservations.all)
