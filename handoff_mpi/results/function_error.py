"""Why a function, or an element of an array, failed for good."""

from __future__ import annotations

from typing import Any

from handoff_mpi.errors import TaskError


class FunctionError(TaskError):
    """Why a function failed for good.

    Attributes:
        attempts: how often it was tried; of an element, without attempts that were lost while another element ran.
        ranks: where each attempt that failed ran.
        place: "file:line" of the innermost line of the user's code; empty where that is not known.
        output: the last lines that the last attempt printed, where output is captured and functions that failed are not
            very many; :meth:`Results.output` has all of it.
    """

    def __init__(
        self,
        message: str,
        kind: str,
        traceback: str,
        attempts: int,
        ranks: tuple[int, ...],
        place: str = "",
        output: str = "",
    ) -> None:
        super().__init__(message, kind, traceback)
        self.attempts = attempts
        self.ranks = ranks
        self.place = place
        self.output = output

    def __reduce__(self) -> tuple[Any, ...]:
        told = (self.args[0], self.kind, self.traceback, self.attempts, self.ranks, self.place, self.output)
        return type(self), told
