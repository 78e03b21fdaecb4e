"""Why an array has failed: the first failure of its elements stands for all."""

from __future__ import annotations

from collections.abc import Sequence

from handoff_mpi.dag.task_spec import ArraySpec
from handoff_mpi.messages import ErrorReport, Interval
from handoff_mpi.scheduler.events import Failure

#: The kind of failure of an array whose elements were skipped, as an input was lost that cannot be made again.
SKIPPED_ELEMENTS = "skipped-elements"
#: The kind of failure of an array that folds values, none of which exists.
NOTHING_TO_FOLD = "nothing-to-fold"


def why_failed(
    spec: ArraySpec,
    failures: Sequence[tuple[tuple[Interval, ...], Failure]],
    skipped: int,
    failed: int,
    has_too_many: bool,
) -> ErrorReport:
    """Return why an array failed.

    Args:
        failures: its elements that failed, and why.
        skipped, failed: how many elements were skipped, and failed.
        has_too_many: whether that were more than may fail.
    """
    if not failures and spec.tree is not None:
        return ErrorReport(NOTHING_TO_FOLD, "all elements that it takes failed, or were skipped")
    if not failures:
        return ErrorReport(SKIPPED_ELEMENTS, f"{skipped:,} of {spec.count:,} elements were skipped")
    intervals, first = min(failures, key=lambda each: min(each[0]))
    start, _ = min(intervals)
    if spec.tree is not None:
        low, high = spec.tree.folded(start)
        message = f"folding values {low}:{high} failed: {first.message}"
    else:
        count = f"{failed:,} of {spec.count:,} elements failed"
        limit = f" (max_failures is {spec.max_failures:,})" if has_too_many else ""
        message = f"{count}{limit}, the first one at index {start}: {first.kind}: {first.message}"
    return ErrorReport(first.kind, message, first.traceback, (), first.place, -1, first.output, start)
