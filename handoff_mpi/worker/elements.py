"""Calls a function for the elements of a lease, one after the other.

An element may take less than the step of Python that calls it. So each one costs a store and a load in the control
block, a look at the type of its value and at the clock; what costs more is done once a lease, or where an element has
left a *note*: it has printed, forked, changed the environment, or asked for a scratch directory. A look at all of that,
for code which leaves no note, follows each element that ends :data:`TICK_S` after the look before (what it has
changed is restored less often still), and only then is the time written into the control block.

Another thread may take what has ended, and stop the loop, at any time: see :meth:`ElementLoop.take`.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

from handoff_mpi.arrays.columns import IMMUTABLE, IMMUTABLE_KINDS, Packed, held, pack, snapshot
from handoff_mpi.arrays.element_input import Piece
from handoff_mpi.arrays.inputs import iterate, values_of
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.callbacks import end_if_forked
from handoff_mpi.coroutines import COROUTINE_TYPES, result_of
from handoff_mpi.messages import ErrorReport, Interval, LeaseElements, LeaseReport
from handoff_mpi.serialization import EncodingError, Payload, decode_input
from handoff_mpi.worker.element_control import END, INDEX, OVER, START, TICK_S, ElementControl
from handoff_mpi.worker.error_report import brief_message, place_of, release_frames
from handoff_mpi.worker.unpicklable import report_of_result

#: The report on no element.
NOTHING_ENDED = LeaseReport((), pack([]))
#: An index behind all.
_BEHIND = 1 << 62


class ElementCalls(NamedTuple):
    """The calls of the elements, without the elements.

    Attributes:
        code, args, kwargs, positions: see :func:`~handoff_mpi.dag.build_element_calls`.
        load: decodes the elements.
        inputs: the values of the inputs: that of an element may be one.
    """

    code: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    positions: Sequence[tuple[int, int]]
    load: Callable[[Payload], Any] = decode_input
    inputs: Sequence[Any] = ()


class ElementHooks(Protocol):
    """The steps of a loop that need what surrounds it; see :mod:`handoff_mpi.worker.lease_surroundings`."""

    #: Called before each element; None where nothing is to be done.
    prepare: Callable[[], object] | None

    def look(self) -> None:
        """An element has ended: restore what it has changed, attribute what it has printed."""

    def describe(self, error: BaseException) -> ErrorReport:
        """Return what is reported of an element that raised ``error``."""

    def lets_pass(self, error: BaseException) -> bool:
        """Whether ``error`` is to end the run, and is no failure of an element."""


class ElementLoop:
    """The elements of one lease.

    Args:
        elements: their intervals in ascending order, their inputs, and how often they were tried before.
        control: of the loop; None makes one.

    Attributes:
        attempt: 1 for the first try.
        notes: called in turn when the running element has ended.
        column: the values of the last report, for leases that follow this one; None where they may change.
    """

    def __init__(self, elements: LeaseElements, control: ElementControl | None = None) -> None:
        self._intervals, self._pieces, tries = elements
        self.attempt = tries + 1
        self.control = ElementControl() if control is None else control
        self.notes: list[Callable[[], object]] = []
        self._process = os.getpid()
        self._lock = threading.Lock()  # between the thread that calls and the one that takes
        self._unreported = IntervalSet(self._intervals)  # without those that failed
        self._values: list[Any] = []
        self._failures: dict[ErrorReport, IntervalSet] = {}
        self._described: dict[Hashable, tuple[str, ErrorReport]] = {}
        self._since = self._tick = 0.0
        self.column: Packed | None = None

    # -- by the thread that calls ---------------------------------------------------------------------

    def run(self, calls: ElementCalls, hooks: ElementHooks) -> LeaseReport:
        """Call for each element, and return the report on all that was not reported yet."""
        prepared = [self._prepare(calls, number) for number in range(len(self._intervals))]
        self._hooks = hooks
        self._begin_tick()
        self._since = self._tick
        _running.append(self)
        try:
            for (start, _), calls_of in zip(self._intervals, prepared, strict=True):
                if not self._run_interval(start, *calls_of):
                    break
        finally:
            _running.remove(self)
            self.control.cells[INDEX] = OVER
        self._begin_tick()
        return self._finish()

    def _prepare(self, calls: ElementCalls, number: int) -> tuple[Callable[..., Any], bool, Iterable[Any]]:
        """Return the code for the elements of an interval, and an iterable over their positional arguments.

        Between them is whether there is a single one: then the iterable has that argument, and otherwise tuples.
        """
        code = functools.partial(calls.code, **calls.kwargs) if calls.kwargs else calls.code
        start, stop = self._intervals[number]
        columns: list[Any] = [itertools.repeat(each) for each in calls.args]
        for place, source in calls.positions:
            piece = self._pieces[number][source]
            if type(piece) is int:  # the only element of its lease
                columns[place] = [calls.inputs[piece]]
                continue
            try:
                columns[place] = iterate(piece, 0, stop - start, calls.load)
            except EncodingError:
                columns[place] = [_decoded(piece, position, calls.load) for position in range(stop - start)]
                code = functools.partial(_call_if_decoded, code)
        if len(columns) == 1:
            return code, True, columns[0]
        return code, False, zip(*columns)  # noqa: B905 (to compare lengths takes longer; a broadcast one has none)

    def _run_interval(self, start: int, code: Callable[..., Any], is_single: bool, arguments: Iterable[Any]) -> bool:
        """Call for the elements from ``start`` on; return whether the next interval may begin."""
        cells, notes, append, immutable = self.control.cells, self.notes, self._values.append, IMMUTABLE
        prepare, usual = self._hooks.prepare, None
        due = self._tick + TICK_S
        for index, each in enumerate(arguments, start):
            cells[INDEX] = index
            if index >= cells[END]:  # read after the index was written; see ElementControl.stop
                return False
            try:
                if prepare is not None:
                    prepare()
                # Without a tuple between them, Python calls Python in two thirds of the time.
                value = code(each) if is_single else code(*each)
                kind = type(value)
                if kind is not usual:
                    if kind in immutable:
                        usual = kind  # to ask this of each value takes three times as long
                    else:
                        value = _settle(value)
            except BaseException as error:
                self._fail(index, error)
            else:
                append(value)
            if monotonic() >= due or notes:
                self._look(due)
                due = self._tick + TICK_S
        return True

    def _look(self, due: float) -> None:
        """The running element has left a note, or a tick has passed at ``due``."""
        while self.notes:
            self.notes.pop(0)()
        if monotonic() >= due:
            self._hooks.look()
            self._begin_tick()

    def _begin_tick(self) -> None:
        """Have the control block know the time: the next element begins then, or at most a tick later."""
        self._tick = monotonic()
        self.control.cells[START] = int(self._tick * 1e9)

    def _fail(self, index: int, error: BaseException) -> None:
        """Note that an element has failed: those that failed alike are one group, with one traceback."""
        end_if_forked(self._process, error)
        if self._hooks.lets_pass(error):
            raise error
        key = type(error), place_of(error)
        message = brief_message(error)
        described = self._described.get(key)
        if described is None:
            report = error.report if type(error) is _Unpicklable else self._hooks.describe(error)
            self._described[key] = message, report
        elif described[0] == message:
            _, report = described
        else:
            report = described[1]._replace(message=message, traceback="", output="")
        release_frames(error)
        with self._lock:
            self._unreported.discard(index, index + 1)
            self._failures.setdefault(report, IntervalSet()).add(index, index + 1)

    def _finish(self) -> LeaseReport:
        with self._lock:
            taken = self._take()
            left = tuple(self._unreported)
        report = _report(*taken) or NOTHING_ENDED
        if report.column[0] in IMMUTABLE_KINDS:
            _, values, *_ = taken
            self.column = held(values)
        return report._replace(left=left)

    # -- by any thread --------------------------------------------------------------------------------

    def take(self) -> LeaseReport | None:
        """Return the report on what has ended since the last one; None if nothing has."""
        with self._lock:
            taken = self._take()
        return _report(*taken)

    def _take(self) -> tuple[tuple[Interval, ...], list[Any], dict[ErrorReport, IntervalSet], float]:
        """Return the elements that have ended, their values, those that failed, and the seconds; under the lock."""
        # Elements run in ascending order, so that the values are those of the lowest that have not failed. The loop
        # appends one without the lock: what it appends meanwhile stays.
        values = self._values[:]
        del self._values[: len(values)]
        ended = tuple(self._unreported.take(len(values)))
        failures, self._failures = self._failures, {}
        since, self._since = self._since, max(self._since, self._tick)
        return ended, values, failures, self._since - since

    def stop(self) -> tuple[Interval, ...]:
        """Have no further element begin; return those that will not, as far as that is certain: others are reported."""
        with self._lock:  # else the last report, which may be on its way at once, would name them too
            first = self.control.stop()
            if first >= OVER:
                return ()
            left = tuple(self._unreported.within(first, _BEHIND))
            self._unreported.discard(first, _BEHIND)
        return left

    def end_if_forked(self) -> None:
        """End this process if an element has forked it: the loop continues in the one that it has begun in."""
        end_if_forked(self._process)


def _report(
    ended: tuple[Interval, ...], values: list[Any], failures: dict[ErrorReport, IntervalSet], busy_s: float
) -> LeaseReport | None:
    """Return the report on elements that have ended; None if there is none."""
    if not values and not failures:
        return None
    groups = tuple((tuple(indices), error) for error, indices in failures.items())
    return LeaseReport(ended, pack(values), groups, (), busy_s)


class _Undecodable:
    """An element that cannot be decoded on this rank, in the place of the element."""

    def __init__(self, error: EncodingError) -> None:
        self.error = error


def _call_if_decoded(code: Callable[..., Any], *arguments: Any) -> Any:
    for each in arguments:
        if type(each) is _Undecodable:
            raise each.error
    return code(*arguments)


def _decoded(piece: Piece, position: int, load: Callable[[Payload], Any]) -> Any:
    try:
        return values_of(piece, position, position + 1, load)[0]
    except EncodingError as error:
        return _Undecodable(error)


class _Unpicklable(Exception):
    """The value of an element cannot be pickled.

    Attributes:
        report: what is reported of that.
    """

    def __init__(self, report: ErrorReport) -> None:
        super().__init__(report.message)
        self.report = report


def _settle(value: Any) -> Any:
    """Return the value of an element as it is packed: that of a coroutine is its result."""
    if type(value) in COROUTINE_TYPES:
        value = result_of(value)
    try:
        return snapshot(value)
    except EncodingError as error:
        raise _Unpicklable(report_of_result(value, error)) from None


#: The loops that run in this process, the innermost last.
_running: list[ElementLoop] = []


def _note_fork() -> None:
    """A process has been forked, and is this one: it must not call for the elements that follow."""
    for loop in _running:
        loop.notes.append(loop.end_if_forked)


os.register_at_fork(after_in_child=_note_fork)
