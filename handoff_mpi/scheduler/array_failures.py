"""Why elements have failed, and why an array has: the first failure of its elements stands for all."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import ErrorReport, Interval, LeaseReport
from handoff_mpi.scheduler.array_state import Array, Lease
from handoff_mpi.scheduler.events import Failure

#: The kind of failure of an array whose elements were skipped, as an input was lost that cannot be made again.
SKIPPED_ELEMENTS = "skipped-elements"
#: The kind of failure of an array that folds values, none of which exists.
NOTHING_TO_FOLD = "nothing-to-fold"

#: Elements, and the message of their exceptions.
Messages: TypeAlias = "list[tuple[tuple[Interval, ...], str]]"


def group_failures(report: LeaseReport) -> list[tuple[Messages, ErrorReport]]:
    """Return which elements of a report have failed alike: by the same exception at the same place."""
    groups: dict[tuple[str, str], tuple[Messages, ErrorReport]] = {}
    for intervals, error in report.failures:
        error = ErrorReport(*error)
        groups.setdefault((error.kind, error.place), ([], error))[0].append((intervals, error.message))
    return [*groups.values()]


def failures_of(lease: Lease, failure: Failure) -> list[tuple[tuple[Interval, ...], Failure]]:
    """Return why each element of a lease has failed: they share all of ``failure`` but its message."""
    known = IntervalSet(interval for intervals, _ in lease.messages for interval in intervals)
    if known != lease.intervals or not any(message == failure.message for _, message in lease.messages):
        # they failed in another way than before: with their rank, say
        return [(tuple(lease.intervals.intervals()), failure)]
    return [(intervals, replace(failure, message=message)) for intervals, message in lease.messages]


def why_failed(array: Array) -> ErrorReport:
    """Return why an array failed whose elements have all ended."""
    spec, failures, error = array.spec, array.failures, array.input_error
    if error is not None:
        return error
    if not failures and spec.is_fold:
        return ErrorReport(NOTHING_TO_FOLD, "all elements that it takes failed, or were skipped")
    if not failures:
        return ErrorReport(SKIPPED_ELEMENTS, f"{array.skipped:,} of {array.count:,} elements were skipped")
    intervals, first = min(failures, key=lambda each: min(each[0]))
    start, _ = min(intervals)
    if spec.tree is not None:
        low, high = spec.tree.folded(start)
        message = f"folding values {low}:{high} failed: {first.message}"
    else:
        some = f"{array.failed:,} of {array.count:,} elements failed"
        limit = f" (max_failures is {spec.max_failures:,})" if array.has_too_many_failures else ""
        message = f"{some}{limit}, the first one at index {start}{f': {first.message}' if first.message else ''}"
    return ErrorReport(first.kind, message, first.traceback, (), first.place, -1, first.output, start)
