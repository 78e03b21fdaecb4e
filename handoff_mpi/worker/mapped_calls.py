"""Calls the function of a pool's map for one element, and returns what it raises as a value.

The caller of ``pool.map`` expects the exception of its function itself, not a report of it. So an exception is pickled
where it was raised, beside the report, and travels as the value of its element: :class:`Raised`. Nothing is tried
again, as in any pool. Once the function has raised in a process, the same exception stands for the elements that follow
there: the map raises, and their values are not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from handoff_mpi.coroutines import COROUTINE_TYPES, result_of
from handoff_mpi.errors import TaskError
from handoff_mpi.messages import ErrorReport
from handoff_mpi.serialization import EncodingError, Payload, decode, decode_writable, encode, reason_of
from handoff_mpi.worker.context import current_task
from handoff_mpi.worker.error_report import describe, release_frames


class RemoteTraceback(Exception):
    """The cause of an exception that a function has raised on a rank: shown, it is the traceback there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


class Raised:
    """An exception that the function of a map has raised, on its way to rank 0.

    Args:
        error: the exception.
    """

    __slots__ = ("_payload", "_report", "_why_not")

    def __init__(self, error: Exception) -> None:
        self._report: tuple[Any, ...] = tuple(describe(error))
        self._payload: Payload | None = None
        self._why_not = ""
        try:
            payload = encode(error)
            decode(payload)  # many classes of exceptions can be pickled, and not unpickled
        except EncodingError as problem:
            self._why_not = reason_of(problem)
        except Exception as problem:  # code of the exception's class
            self._why_not = str(problem)
        else:
            self._payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._report, self._payload, self._why_not)

    def error(self, name: str) -> BaseException:
        """Return the exception, with the traceback on its rank as its cause; where that is not possible, a TaskError.

        Args:
            name: of the element, for messages.
        """
        report, why_not = ErrorReport(*self._report), self._why_not
        if self._payload is not None:
            try:
                error = decode_writable(self._payload)
            except Exception as problem:
                why_not = str(problem)
            else:
                if isinstance(error, BaseException):
                    error.__cause__ = RemoteTraceback(report.traceback)
                    return error
                why_not = f"it is unpickled as {type(error).__name__}"
        remedy = f"give {report.kind} a __reduce__ that pickle can use, or raise a built-in exception"
        why = f"the exception itself cannot be sent: {why_not}; {remedy}"
        return TaskError(f"{name}: {report.kind}: {report.message} ({why})", report.kind, report.traceback)


def _received(report: tuple[Any, ...], payload: Payload | None, why_not: str) -> Raised:
    raised = Raised.__new__(Raised)
    raised._report, raised._payload, raised._why_not = report, payload, why_not
    return raised


class Failures:
    """The exception that a function has raised in this process, in the map that is being computed."""

    __slots__ = ("_map", "latest")

    def __init__(self) -> None:
        self.latest: Raised | None = None
        self._map: Hashable = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Failures, ()

    def of_this_map(self) -> Raised | None:
        """Return it; None if it is of an earlier map."""
        if self._map != _current_map():
            self.latest = None
        return self.latest

    def take(self, error: Exception) -> Raised:
        """Keep an exception for the elements that follow, and return it as a value."""
        self.latest, self._map = Raised(error), _current_map()
        release_frames(error)
        return self.latest


def _current_map() -> Hashable:
    element: Any = current_task().id
    array: Hashable = element[0]
    return array


def mapped(function: Callable[..., Any], is_star: bool = False) -> Callable[..., Any]:
    """Return the code that computes an element of a map of ``function``.

    Args:
        is_star: whether an element is a tuple of arguments.
    """
    return partial(_call_star if is_star else _call, function, Failures())


def _call(function: Callable[..., Any], failures: Failures, *arguments: Any) -> Any:
    if failures.latest is not None and (known := failures.of_this_map()) is not None:
        return known
    try:
        value = function(*arguments)
        if type(value) in COROUTINE_TYPES:
            value = result_of(value)
    except Exception as error:
        return failures.take(error)
    return value


def _call_star(function: Callable[..., Any], failures: Failures, arguments: Any) -> Any:
    return _call(function, failures, *arguments)
