"""Calls code of the user: functions of a DAG, and strategies, trackers, stores, telemetry handlers.

Such code may raise anything, call ``sys.exit``, or fork. :func:`call` turns all its exceptions into one, and ends a
process that the code has forked when the code returns: it would continue as a second copy of this rank.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from handoff_mpi.coroutines import COROUTINE_TYPES, result_of
from handoff_mpi.process_exit import flush_output

Answer = TypeVar("Answer")

_MAX_MESSAGE_CHARS = 500


class CallbackFailed(Exception):
    """Code of the user raised; the message shows the exception in one line, ``__cause__`` is the exception itself."""


def call(function: Callable[..., Answer], *args: object) -> Answer:
    """Call ``function`` and return its answer.

    Raises:
        CallbackFailed: it raised any exception, SystemExit included.
        KeyboardInterrupt: the user at the terminal has interrupted this process.
    """
    process = os.getpid()
    try:
        answer = function(*args)
    except BaseException as error:
        end_if_forked(process, error)
        if is_interrupt(error):
            raise
        raise CallbackFailed(in_words(error)) from error
    end_if_forked(process)
    return answer


def call_here(
    code: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object], process: int | None = None
) -> Any:
    """Call a function of the user's DAG; its exceptions propagate. A coroutine that it returns is run to its end.

    A process that it forked ends here: it would otherwise continue as this one does, at the same work.

    Args:
        process: the id of this process, if it is known: to ask for it twice takes as long as a short function does.
    """
    if process is None:
        process = os.getpid()
    try:
        value = code(*args, **kwargs)
        if type(value) in COROUTINE_TYPES:
            value = result_of(value)
    except BaseException as error:
        if os.getpid() != process:
            end_fork(error)
        raise
    if os.getpid() != process:
        end_fork(None)
    return value


def is_interrupt(error: BaseException) -> bool:
    """Whether ``error`` is an interrupt by the user at the terminal: where Python's own handler raises it."""
    return issubclass(type(error), KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def end_if_forked(process: int, error: BaseException | None = None) -> None:
    """End this process, as a separate program would end, if it was forked from ``process``."""
    if os.getpid() != process:
        end_fork(error)


def end_fork(error: BaseException | None) -> NoReturn:
    """End a forked process as a separate program would end: with the exit status of ``error``."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        status = 1
        try:
            frames = error.__traceback__
            while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("handoff_mpi."):
                frames = frames.tb_next  # the fork and the error are the user's: omit this package's frames
            traceback.print_exception(type(error), error, frames)
        except BaseException:
            pass  # the exception's own code makes its message, and may raise
    flush_output()
    os._exit(status & 0xFF)


def in_words(error: BaseException) -> str:
    """Return kind and message of ``error`` in one line."""
    kind = type(error).__name__
    said = " ".join(message_of(error).split())
    if len(said) > _MAX_MESSAGE_CHARS:
        said = said[:_MAX_MESSAGE_CHARS] + " [...]"
    return f"{kind}: {said}" if said else kind


def message_of(error: BaseException) -> str:
    """Return the message of ``error``, which is the user's code too: it may raise, or give no plain string."""
    try:
        said = f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else str(error)
        return str.__str__(said)
    except BaseException:
        return "(its message cannot be shown)"


def shown(value: object) -> str:
    """Return ``repr(value)`` in short; it is the user's code too, and may raise."""
    try:
        text = repr(value)
    except BaseException:
        return f"an object of {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + " [...]"
