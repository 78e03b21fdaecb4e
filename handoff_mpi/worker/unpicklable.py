"""Reports a result that cannot be pickled: which part of it, why, and what to return in its place."""

from __future__ import annotations

from types import AsyncGeneratorType, GeneratorType
from typing import Any

from handoff_mpi.dag.retry_on import lineage_of
from handoff_mpi.messages import UNPICKLABLE, ErrorReport
from handoff_mpi.serialization import EncodingError, why_not_encodable
from handoff_mpi.worker.error_report import MAX_MESSAGE_CHARS, shorten

#: By type, the remedy for a result that cannot be pickled.
_REMEDIES = {
    GeneratorType: "; return list(...) of it",
    AsyncGeneratorType: "; return [item async for item in ...] of it",
}


def report_of_result(value: Any, error: EncodingError) -> ErrorReport:
    """Return what is reported of a result that cannot be pickled: by what is in it, or for lack of memory or room."""
    lineage, place = lineage_of(error), ""
    if not isinstance(error.__cause__, (MemoryError, OSError)):
        lineage, place = (UNPICKLABLE, *lineage), _place_in_result(value)
    message = f"its result {error}{place}{_REMEDIES.get(type(value), '')}"
    return ErrorReport(UNPICKLABLE, shorten(message, MAX_MESSAGE_CHARS), "", lineage)


def _place_in_result(value: Any) -> str:
    """Return which part of a result is the innermost that cannot be pickled, in words that follow; "" if it is all."""
    from handoff_mpi.dag.parts import find_innermost, parts_of

    try:
        place = find_innermost(parts_of(value), why_not_encodable)
    except (Exception, SystemExit):  # the value's own code takes it apart
        return ""
    return f", inside {place}" if place else ""
