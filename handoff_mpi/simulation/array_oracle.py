"""The part of the oracle of a simulated run that watches the elements of arrays.

Each element ends once. It begins again only after something has happened to it: it failed, its process died or was
ended while it or its value was there, or its rank was lost. What an earlier launch, or a part of a lease, has brought
home does not run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.dag import TaskSpec
from handoff_mpi.messages import DEATH, NO_ROOM, TIMEOUT
from handoff_mpi.scheduler import DISPATCHES, Cause, Policy, Scheduler, State
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.scheduler.events import Failure
from handoff_mpi.scheduler.undecided import MIN_HOLD_S
from handoff_mpi.simulation.outcomes import Outcomes
from handoff_mpi.simulation.run_dir import EarlierArrays
from handoff_mpi.simulation.running_lease import RunningLease
from handoff_mpi.simulation.workload import Element, Workload

_FAILS = (Cause.RETRY, Cause.UNDECIDED, Cause.ERROR)
_FINAL = (Cause.OK, Cause.ERROR, Cause.GIVEN_UP, Cause.DROPPED, Cause.INPUT_FAILED)


class ArrayOracle:
    """Sees the arrays of a run from outside, in all its launches.

    Args:
        load, policy: of the run.

    Attributes:
        raised, died: how often an element has failed in this launch, of its own faults or others, as rank 0 has judged.
        killed: how often an element has killed its process.
        spoiled: arrays of which calls failed because their host was bad.
        rank_deaths: how many ranks died.
        serial: the right values of all tasks, and of selections behind them.
    """

    def __init__(self, load: Workload, policy: Policy) -> None:
        self.raised: Counter[Element] = Counter()
        self.died: Counter[Element] = Counter()
        self.killed: Counter[Element] = Counter()
        self.spoiled: set[int] = set()
        self.rank_deaths = 0
        self._load = load
        self._policy = policy
        self.serial = load.serial()
        self._varies = load.find_varying()
        self._behind_windows, self._shaky = load.find_behind_windows(), load.find_shaky()
        self._launch = 0
        self._spared: dict[int, set[int]] = {}  # the elements of windowed arrays that earlier launches computed
        self._values: Mapping[int, ArrayValues] = {}
        self._incidents: Counter[Element] = Counter()
        self._timeouts: Counter[Element] = Counter()
        self._counted: set[tuple[int, int]] = set()  # number and attempt of leases that failed
        self._begun: dict[tuple[int, int], RunningLease] = {}  # by number and attempt
        self._dropped: set[int] = set()
        self._held: set[int] = set()  # leases whose failure is undecided
        self._returned: set[int] = set()  # leases that came back from a rank, for any cause
        self._doubts: dict[int, dict[int, tuple[float, int]]] = {}  # of an array, what may fail, since when and where

    def at_start(self, launch: int, values: Mapping[int, ArrayValues], earlier: Sequence[EarlierArrays]) -> None:
        """A launch begins with these values, which are right: those of the elements that ``earlier`` launches made."""
        for table in (self.raised, self.died, self._incidents, self._timeouts, self._spared):
            table.clear()
        self._begun.clear()
        self._counted.clear()
        self._dropped.clear()
        self._held.clear()
        self._returned.clear()
        self._doubts.clear()
        self._values, self._launch = values, launch
        self.serial = self._load.serial(launch)
        for array in values:
            shape = self._load.shape(array)
            if shape.comes is not None:
                self._spared[array] = self._find_spared(array, earlier)
                continue
            made = {index for each in earlier for index in each.made.get(array, ())}
            if array in self._behind_windows:  # whether these are what they were is known later
                assert not values[array].have, f"array {array} begins with {values[array].have}"
                self._spared[array] = set() if array in self._shaky else made
                continue
            known = {index for start, stop in values[array].have for index in range(start, stop)}
            is_right = known <= made if array in self._varies else known == made
            assert is_right, f"array {array} begins with {known}, not with {made}"
            self._look_at_values(array)

    def _find_spared(self, array: int, earlier: Sequence[EarlierArrays]) -> set[int]:
        """Return the elements of an array that need not run again, as they are the same and can be compared."""
        shape, spared = self._load.shape(array), set[int]()
        window = shape.window
        if array in self._varies | (self._behind_windows & self._shaky):
            return spared
        if window is None:  # once all have come it is known that each is the same
            roots = [each for each in self._values if self._load.shape(each).window is shape.root]
            whole = [each for each in earlier if each.whole.issuperset(roots)]
            made = {index for each in whole for index in each.made.get(array, ())}
            is_spared = array not in self._shaky and (shape.fold is None or len(made) == shape.count_in(self._launch))
            return made if is_spared else spared
        for launch, each in enumerate(earlier, 1):
            block, bound = each.covered.get(array, (1, 0))
            bound = min(bound, window.same_until(launch, self._launch) // block * block)
            count = window.count_in(self._launch)
            if count < bound:
                bound = count // block * block
            spared |= {index for index in each.made.get(array, ()) if index < bound}
        return spared

    def draw_element(self, array: int, index: int) -> str:
        """Return how an element ends: it fails as often as the workload says, as far as rank 0 knows, and then not."""
        element = array, index
        if self.died[element] < self._load.element_kills.get(element, 0):
            return "killed"
        return "raised" if self.raised[element] < self._load.element_raises.get(element, 0) else "ok"

    # -- calls ----------------------------------------------------------------------------------------

    def at_lease(self, scheduler: Scheduler, lease: RunningLease, attempt: int) -> None:
        """A lease begins: none of its elements has ended, and each knows how often it was tried before."""
        number = lease.work.task
        if not scheduler.tasks.is_current(number, lease.work.attempt):
            return
        self._begun[number, lease.work.attempt] = lease
        array = scheduler.arrays.of[lease.array]
        failed = IntervalSet(interval for intervals, _ in array.failures for interval in intervals)
        have = self._values[lease.array].have
        for index in lease.indices:
            element = lease.array, index
            assert index not in have, f"element {element} runs again, although its value is here"
            assert index not in failed, f"element {element} runs again, although it has failed for good"
            assert index not in self._spared.get(lease.array, ()), f"element {element} runs again after a resume"
            for source, each in self._load.shape(lease.array).elements_taken(lease.array, index, self._launch):
                is_there = each in self._values[source].have or self._is_made_by_leader(source, each)
                assert is_there, f"element {element} begins before {each} of {source}"
            right = self._incidents[element] + 1
            assert attempt == right, f"element {element} runs as attempt {attempt}, not {right}"

    def _is_made_by_leader(self, array: int, index: int) -> bool:
        """Whether a lease has computed an element, of whose end rank 0 has not heard yet: others may follow it."""
        return any(each.array == array and each.has_made(index) for each in self._begun.values())

    # -- turns ----------------------------------------------------------------------------------------

    def at_row(self, scheduler: Scheduler, now: float, row: tuple[Any, ...]) -> None:
        """Look at a transition of a lease."""
        number, _, cause, attempt, rank, detail = row
        if cause in DISPATCHES:
            array = scheduler.arrays.leases[number].array
            assert array not in self._dropped, f"elements of array {array} begin after too many have failed"
            if number not in self._returned:
                self._look_at_limit(scheduler, array, now)
            return
        self._note_doubts(scheduler, number, Cause(cause), rank, now)
        lease = self._begun.pop((number, attempt), None) if cause != Cause.GIVEN_UP else None
        if cause == Cause.RANK_LOST:
            self._incidents.update(_leased(scheduler, number))
        elif cause in (Cause.RETRACTED, Cause.INPUT_LOST):
            assert lease is None, f"lease {number} of {lease} was given back, and had begun"
        elif cause == Cause.OK and lease is not None:
            self._look_for_begun(scheduler, lease, now)
        elif cause in _FAILS:
            self._count_failure(scheduler, number, attempt, detail.kind)
            if lease is not None:  # its process has died, and with it the values that it had not reported
                lost = lease.indices[lease.reported : lease.end - 1]
                self._incidents.update((lease.array, index) for index in lost)

    def _note_doubts(self, scheduler: Scheduler, number: int, cause: Cause, rank: int, now: float) -> None:
        """Elements of a lease may fail for good, or have, or were tried elsewhere, or came back for another cause."""
        doubts = self._doubts.setdefault(scheduler.arrays.leases[number].array, {})
        elements = [index for _, index in _leased(scheduler, number)]
        is_held = number in self._held
        (self._held.add if cause == Cause.UNDECIDED else self._held.discard)(number)
        (self._returned.discard if cause in _FINAL else self._returned.add)(number)
        if cause in (Cause.RETRY, Cause.UNDECIDED) and not is_held:
            doubts.update(dict.fromkeys(elements, (now, rank)))
        elif cause in (*_FINAL, Cause.RETRY):
            for index in elements:
                doubts.pop(index, None)

    def forgive(self) -> None:
        """Attempts that failed on a rank or host do not count: what may fail for good is not known here."""
        self._doubts.clear()

    def _look_at_limit(self, scheduler: Scheduler, number: int, now: float) -> None:
        """Elements begin: no more than may fail have failed, or may soon."""
        array = scheduler.arrays.of[number]
        most = array.spec.max_failures
        have = self._values[number].have
        doubts, forgiven = self._doubts.get(number, {}).items(), scheduler.probation.of_rank
        doubted = [
            index
            for index, (since, rank) in doubts
            if now < since + MIN_HOLD_S and index not in have and rank not in forgiven
        ]
        is_within = most is None or array.failed + len(doubted) <= most
        assert is_within, f"elements of {number} begin, although {array.failed} failed, and {doubted} may"

    def _count_failure(self, scheduler: Scheduler, number: int, attempt: int, kind: str) -> None:
        """Elements have failed, which counts once, also where the scheduler decides otherwise later."""
        if (number, attempt) not in self._counted:
            self._counted.add((number, attempt))
            table = self.died if kind in (DEATH, TIMEOUT) else self.raised
            for counter in (table, self._incidents, *([self._timeouts] if kind == TIMEOUT else [])):
                counter.update(_leased(scheduler, number))

    def _look_for_begun(self, scheduler: Scheduler, lease: RunningLease, now: float) -> None:
        """A lease has ended well: its elements that have begun are not among those that wait."""
        todo = scheduler.arrays.of[lease.array].todo
        for index in lease.begun(now):
            assert index not in todo, f"element {(lease.array, index)} has begun, and was given back"

    def at_turn_end(self, scheduler: Scheduler) -> None:
        """Each element that is counted as done has a value, and the limits of failures hold."""
        for number, array in scheduler.arrays.of.items():
            have = self._values[number].have
            assert array.done == len(have), f"{array.done} elements of {number} count as done, {len(have)} have values"
            if array.has_too_many_failures:
                self._dropped.add(number)
        for doubts in self._doubts.values() if scheduler.probation.of_rank else ():
            for index in [each for each, (_, rank) in doubts.items() if rank in scheduler.probation.of_rank]:
                del doubts[index]  # attempts there do not count, once another one has failed there, too

    def at_pull(self, scheduler: Scheduler, number: int, count: int) -> None:
        """So many elements of a windowed array have come: those of them that have not ended fit its window."""
        array, window = scheduler.arrays.of.get(number), self._load.shape(number).window
        assert window is not None
        ended = 0 if array is None else len(self._values[number].have) + array.failed + array.skipped
        assert count - ended <= window.size, f"{count} elements of {number} have come, and {ended} have ended"

    def at_failure(self, scheduler: Scheduler, number: int) -> None:
        """Elements of a lease have failed for good: for their own faults alone, after all their tries."""
        array = scheduler.arrays.leases[number].array
        for intervals, failure in scheduler.arrays.failures_of(number):
            for start, stop in intervals:
                for index in range(start, stop):
                    self._look_at_failure(scheduler, (array, index), failure)

    def _look_at_failure(self, scheduler: Scheduler, element: Element, failure: Failure) -> None:
        load, kind = self._load, failure.kind
        spec = load.specs[element[0]]
        is_dropped = element[0] in self._dropped or scheduler.arrays.of[element[0]].has_too_many_failures
        if is_dropped and self._incidents[element]:
            return  # it is not tried again, however often it might be
        if is_dropped:
            assert kind == NO_ROOM, f"{element} has not begun, and failed with its array: {failure.message}"
        if kind == NO_ROOM:
            left = ranks_left(scheduler, spec)
            assert not left, f"{element} would fit ranks {left}, and was given up: {failure.message}"
        elif kind == TIMEOUT:
            assert spec.timeout_s is not None
        elif kind == DEATH:
            assert self.killed[element] + self.rank_deaths >= self._policy.crash_limit or self._is_spoiled(element)
        else:
            own = load.element_errors.get(element, "ValueError")
            assert kind in ("ValueError", own), kind
            tries = {"TypeError": 0, "ImportError": 1}.get(own, self._policy.max_retries)
            failures = load.element_raises.get(element, 0) + self._timeouts[element]
            has_died = self.killed[element] + self.rank_deaths >= self._policy.crash_limit
            is_own = has_died or failures > min(tries, self._policy.max_retries)
            assert is_own or self._is_spoiled(element), f"element {element} failed too early"

    def _is_spoiled(self, element: Element) -> bool:
        return element[0] in self.spoiled

    # -- the end --------------------------------------------------------------------------------------

    def at_end(self, scheduler: Scheduler) -> None:
        """The run is over: each element has ended, or the array tells why it did not."""
        if self._varies:
            have = {number: values.have for number, values in self._values.items()}
            self.serial = self._load.serial(self._launch, have)
        for number, array in scheduler.arrays.of.items():
            state = State(scheduler.tasks.state[number])
            self._look_at_values(number)
            self._look_at_parts(number, array)
            if state == State.DONE:
                is_needed = scheduler.tasks.is_available(number)  # else an earlier launch did all that takes it
                has_all = array.done == array.count or not is_needed
                assert has_all, f"array {number} is done, and not all elements have values"
            elif state == State.FAILED:
                left = array.count - array.done - array.failed - array.skipped
                assert not left or scheduler.stopping or not array.failures, f"{left} elements of {number} were left"
        if not scheduler.stopping:
            Outcomes(self._load, scheduler, self._values, self._launch).check()

    def _look_at_parts(self, number: int, array: Array) -> None:
        """Each element has ended once, and has failed if the last attempt did and too many have."""
        failed = IntervalSet(interval for intervals, _ in array.failures for interval in intervals)
        assert len(failed) == array.failed == sum(stop - start for each, _ in array.failures for start, stop in each)
        for interval in failed:
            assert not self._values[number].have.within(*interval), f"an element of {number} ended twice"
        if array.has_too_many_failures:
            raised = {
                index
                for table in (self.raised, self.died)
                for (of, index), count in table.items()
                if of == number and count
            }
            skipped = [index for index in raised if index not in failed and index not in self._values[number].have]
            assert not skipped, f"elements {skipped} of {number} raised, and count as skipped"

    def _look_at_values(self, number: int) -> None:
        values, right = self._values[number], self.serial.own[number]
        for start, stop in values.have:
            assert values.values(start, stop) == [*right[start:stop]], f"{start}:{stop} of {number} have wrong values"


def ranks_left(scheduler: Scheduler, spec: TaskSpec) -> list[int]:
    """Return the ranks that a task would fit: each rank can hold any, unless its cores were withdrawn.

    A group may be bound to one whose cores were, and claim some though one of its tasks does not.
    """
    states = [each for each in scheduler.ledger.rank_states.values() if spec.pin in (None, each.rank)]
    present = [each for each in states if each.is_present]
    has_group = spec.group is not None
    claims = has_group or "cpu" in spec.cost
    left = [each.rank for each in present if not claims or each.group.pools["cpu"].capacity]
    return left if not has_group or len(left) == len(present) else []


def _leased(scheduler: Scheduler, number: int) -> Iterator[Element]:
    lease = scheduler.arrays.leases[number]
    for start, stop in lease.intervals:
        yield from ((lease.array, index) for index in range(start, stop))
