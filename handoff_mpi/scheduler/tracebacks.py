"""Keeps the tracebacks of equal failures, which may be as many as there are tasks, in bounded memory."""

from __future__ import annotations

from handoff_mpi.messages import ErrorReport

#: So many failures of one kind and place keep a traceback of their own.
MAX_OWN_TRACEBACKS = 100
#: So many failures keep the last lines of their output.
MAX_OUTPUTS = 1000


class Tracebacks:
    """The tracebacks that are kept, by kind and place of the failure."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def kept(self, error: ErrorReport) -> str:
        """Return the traceback to keep for ``error``: its own, or the first one of many equal failures."""
        if not error.place:
            return error.traceback
        key = error.kind, error.place
        self._counts[key] = self._counts.get(key, 0) + 1
        first = self._first.setdefault(key, error.traceback)
        return error.traceback if self._counts[key] <= MAX_OWN_TRACEBACKS else first
