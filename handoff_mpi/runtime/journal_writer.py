"""Writes the records of the coordinator into the journal, one a turn; see :mod:`handoff_mpi.results.history`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import ObjectDigests
from handoff_mpi.messages import DEATH, DIED, OK, RAISED, RANK_LOSS, VALUE_LOSS, Entry, Interval, LeaseReport
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.results.journal import JournalPort
from handoff_mpi.results.store import Key
from handoff_mpi.scheduler import DISPATCHES, Cause, Transition
from handoff_mpi.scheduler.array_state import Lease
from handoff_mpi.scheduler.arrays import Arrays
from handoff_mpi.scheduler.transitions import (
    Blamed,
    Forgiven,
    Lost,
    ProbationBegun,
    ProbationEnded,
    RankRecord,
    Returned,
    Suspected,
)
from handoff_mpi.worker.error_report import shorten

_TASKS_PER_RECORD = 10_000
#: Different tracebacks of a launch that are kept, and characters of each.
_MAX_TRACEBACKS, _MAX_CHARS = 1000, 16_000
#: Characters of the message of elements that are tried again: very many may fail in different ways.
MAX_RETRIED_CHARS = 300
_NO_CODES: Mapping[str, list[bytes]] = {}
_NO_ELEMENTS: Mapping[int, Sequence[tuple[int, Sequence[Interval]]]] = {}
_NO_REASONS: Mapping[str, list[int]] = {}
_NOTHING_REPLACED: tuple[Collection[int], Mapping[int, IntervalSet]] = (), {}
#: Causes of which a call is made again though the function did not fail.
INCIDENTS: dict[int, str] = {Cause.RANK_LOST: RANK_LOSS, Cause.VALUE_LOST: VALUE_LOSS}
#: Causes of which a task comes back that was sent to a rank, but not called there; a tuple, see ``DISPATCHES``.
_RETRIES = (Cause.RETRY, Cause.DEVICE_LOST)
_RETURNS = (Cause.RETRACTED, Cause.INPUT_LOST)
_OF_RANKS: dict[type, str] = {Suspected: "suspect", Returned: "returned", Lost: "lost"}


class JournalWriter:
    """Gathers what a turn learns, and writes it before anything acts on it.

    Args:
        journal: where to.
        plan: the run's tables.
        key_of: the key under which a task's value is written.
        arrays: of the scheduler; None where there are none.
    """

    def __init__(
        self, journal: JournalPort, plan: Plan, key_of: Callable[[int], Key], arrays: Arrays | None = None
    ) -> None:
        self._journal = journal
        self._plan = plan
        self._key_of = key_of
        self._arrays = arrays
        self._leases: Mapping[int, Lease] = {} if arrays is None else arrays.leases
        self._done: list[object] = []
        self._failed: list[object] = []
        self._tracebacks: dict[str, int] = {}
        #: Elements that failed in this turn and are tried again, those alike together: one record each would be many.
        self._retried: dict[tuple[int, int, int, str], tuple[str, IntervalSet]] = {}

    def begin(
        self,
        about: Mapping[str, object],
        fingerprint: Callable[[Hashable], bytes | None],
        restored: Iterable[int],
        elements: Mapping[int, Sequence[tuple[int, Sequence[Interval]]]] = _NO_ELEMENTS,
        codes: Mapping[str, list[bytes]] = _NO_CODES,
        accepted: Sequence[tuple[Hashable, bytes, bytes]] = (),
        again: Mapping[str, list[int]] = _NO_REASONS,
        replaced: tuple[Collection[int], Mapping[int, IntervalSet]] = _NOTHING_REPLACED,
        named: Collection[int] = (),
    ) -> None:
        """Write what the run is and its table of tasks.

        Args:
            elements: elements of arrays that earlier launches computed: array to (launch, intervals).
            codes: the digests of the codes of each name.
            accepted: (id, fingerprint, the earlier one that it goes by) of changes that the user accepts.
            again: why tasks run again that an earlier launch has done, and which ones.
            replaced: the tasks, and elements of other arrays, whose earlier values count no more, by ``--rerun``.
            named: those of them that the user has named.

        Raises:
            JournalError: it cannot be written.
        """
        self._journal.append(("run", dict(about)))
        plan = self._plan
        costs: dict[int, dict[str, object]] = {}
        for first in range(0, len(plan), _TASKS_PER_RECORD):
            rows = []
            for task in range(first, min(len(plan), first + _TASKS_PER_RECORD)):
                spec, name = plan.specs[task], plan.ids[task]
                # Equal costs share one mapping in a plan: its identity tells them apart.
                cost = costs.get(id(spec.cost))
                if cost is None:
                    cost = costs[id(spec.cost)] = _shown(spec.cost)
                rows.append((plan.sent_id(task), fingerprint(name), plan.code_names[spec.code], spec.needs, cost))
            self._journal.append(("tasks", first, rows))
        if codes:
            self._journal.append(("codes", dict(codes)))
        if accepted:
            self._journal.append(("accepted", list(accepted)))
        if again:
            self._journal.append(("again", dict(again)))
        if any(replaced):
            self._journal.append(("rerun_named", [*named]))
            elements_replaced = {number: each.intervals() for number, each in replaced[1].items()}
            self._journal.append(("replaced", [*replaced[0]], elements_replaced))
        for number, array in plan.arrays.items():
            digests = [each.digests(ObjectDigests()) for each in array.elements]
            self._journal.append(("array", number, array.count, digests))
            spec = plan.specs[number]
            if spec.needs != spec.inputs or spec.element_inputs:
                self._journal.append(("array_inputs", number, [*spec.inputs]))
            if number in elements:
                self._journal.append(("restored_elements", number, [*elements[number]]))
        self._note_bound()
        self.restored(restored)
        self._journal.commit()

    def _note_bound(self) -> None:
        """Note which tasks are pinned, and which are collocated."""
        pins: dict[int | str, list[int]] = {}
        groups: dict[int, list[int]] = {}
        for task, spec in enumerate(self._plan.specs):
            if spec.pin is not None:
                pins.setdefault(spec.pin, []).append(task)
            if spec.group is not None:
                groups.setdefault(spec.group, []).append(task)
        if pins or groups:
            self._journal.append(("bound", pins, list(groups.values())))

    def finished(self, rank: int, entries: Sequence[Entry]) -> None:
        """Note calls that ended and still count."""
        for task, attempt, status, value, nbytes, started, duration, is_persisted in entries:
            if status == OK:
                key = self._key_of(task) if is_persisted else None
                self._done.append((task, attempt, rank, started, duration, nbytes, value, key))
            else:
                number = self._number_of(value.traceback)
                self._failed.append((task, attempt, rank, status, value.kind, value.message, started, duration, number))

    def elements_ended(self, rank: int, array: int, report: LeaseReport, started: float, duration: float) -> None:
        """Note elements of an array that have values; failures follow when they are final."""
        if report.ended:
            self._journal.append(("elements", array, rank, report.ended, report.column, started, duration))

    def elements_pulled(self, array: int, block: int, covered: int, digests: bytes, is_last: bool) -> None:
        """Note digests of elements of a windowed array.

        Args:
            block: the number of the block that the first of the digests is of.
            covered: how many elements have digests by now.
            digests: the last one may be of a part of a block.
            is_last: whether no more elements come.
        """
        pulled = self._plan.arrays[array].pulled
        length = 0 if pulled is None else pulled.block
        self._journal.append(("pulled", array, length, block, covered, digests, is_last))

    def restored(self, tasks: Iterable[int]) -> None:
        """Note tasks that an earlier launch has done."""
        found = list(tasks)
        if found:
            self._journal.append(("restored", found))

    def elements_restored(self, array: int, epoch: int, intervals: Sequence[Interval]) -> None:
        """Note elements of a windowed array that an earlier launch has computed."""
        self._journal.append(("restored_elements", array, [(epoch, [*intervals])]))

    def _number_of(self, traceback: str) -> int:
        """Return the number of a traceback, which is written once; -1 if there is none, or too many."""
        if not traceback:
            return -1
        number = self._tracebacks.get(traceback)
        if number is None:
            if len(self._tracebacks) >= _MAX_TRACEBACKS:
                return -1
            number = self._tracebacks[traceback] = len(self._tracebacks)
            self._journal.append(("traceback", number, _shortened(traceback)))
        return number

    def persisted(self, task: int) -> None:
        """Note that the value of a task lies in a file by now."""
        self._journal.append(("persisted", task, self._key_of(task)))

    def turn(self, log: Iterable[Transition], now: float) -> None:
        """Write what this turn, at the time ``now``, learnt and decided.

        Raises:
            JournalError: it cannot be written.
        """
        sent, leased, incidents, forgiven, returned = [], [], [], [], []
        leases = self._leases
        for task, _, cause, attempt, rank, detail in log:
            if leases and task in leases:
                if cause in DISPATCHES:
                    lease = leases[task]
                    leased.append((task, lease.array, rank, lease.intervals.intervals()))
                else:
                    self._note_lease(task, cause, rank, detail)
            elif cause in DISPATCHES:
                sent.append((task, attempt, rank))
            elif cause in _RETURNS and rank >= 0:
                returned.append(task)
            elif detail is None:
                continue
            elif task < 0:
                if isinstance(detail, Forgiven):
                    forgiven.append(detail)
                else:
                    self._note_rank(rank, detail, now)
            elif cause in (Cause.GIVEN_UP, Cause.ERROR):  # the failure that the run reports in the end
                self._failed.append((task, attempt, rank, RAISED, *detail))
            elif (kind := INCIDENTS.get(cause)) is not None:
                incidents.append((task, attempt, rank, kind, detail))
        if returned:
            self._journal.append(("returned", returned))
        if sent or self._done or self._failed or incidents:
            self._journal.append(("turn", sent, self._done, self._failed, incidents, now))
            self._done, self._failed = [], []
        if leased:
            self._journal.append(("leased", leased))
        if self._retried:
            self._note_retried()
        for each in forgiven:
            if each.task in leases:
                continue
            self._journal.append(("forgiven", *each))
        self._journal.commit()

    def _note_retried(self) -> None:
        """Note the elements that failed in this turn and are tried again."""
        for (array, rank, attempt, kind), (message, elements) in self._retried.items():
            self._journal.append(("elements_retried", array, rank, elements.intervals(), attempt, kind, message))
        self._retried.clear()

    def _note_lease(self, number: int, cause: int, rank: int, detail: Any) -> None:
        """Note the elements of a lease that failed, for good or in one attempt: other changes of it are not kept."""
        if detail is not None and (cause in _RETRIES or cause in INCIDENTS):
            lease = self._leases[number]
            kind, message = detail if cause in _RETRIES else (INCIDENTS[cause], detail)
            alike = lease.array, rank, lease.incidents, kind
            _, retried = self._retried.setdefault(alike, (shorten(message, MAX_RETRIED_CHARS), IntervalSet()))
            retried.update(lease.intervals)
        if self._arrays is not None and cause in (Cause.GIVEN_UP, Cause.ERROR, Cause.DROPPED):
            lease = self._leases[number]
            for elements, failure in self._arrays.failures_of(number):
                how = failure.attempts, failure.kind, failure.message, self._number_of(failure.traceback)
                self._journal.append(("elements_failed", lease.array, rank, elements, *how, lease.incidents))

    def _note_rank(self, rank: int, record: RankRecord, now: float) -> None:
        if isinstance(record, Blamed):
            if record.task in self._leases:
                return
            self._failed.append((record.task, record.attempt, rank, DIED, DEATH, record.reason))
        elif isinstance(record, (ProbationBegun, ProbationEnded)):
            self._journal.append(("probation", isinstance(record, ProbationBegun), *record))
        elif isinstance(record, (Suspected, Returned, Lost)):
            reason = "" if isinstance(record, Returned) else record.reason
            self._journal.append(("rank", rank, _OF_RANKS[type(record)], reason, now))

    def end(self, status: str, exit_code: int, is_cut_short: bool) -> None:
        """Write that the launch has ended in order, and close the journal.

        Args:
            is_cut_short: whether calls were left running that got no time to end.

        Raises:
            JournalError: it cannot be written.
        """
        self._journal.append(("end", status, exit_code, is_cut_short))
        self._journal.close()


def _shown(cost: Mapping[str, int]) -> dict[str, object]:
    """Return a cost as users write it."""
    return {name: plain_number(amount) for name, amount in cost.items()}


def _shortened(traceback: str) -> str:
    """Return a traceback without its middle where it is long: its ends tell most."""
    if len(traceback) <= _MAX_CHARS:
        return traceback
    half = _MAX_CHARS // 2
    return f"{traceback[:half]}\n... {len(traceback) - 2 * half} characters left out ...\n{traceback[-half:]}"
