"""Attaches handlers to named events of a run, after Erlang's ``:telemetry``.

This module holds the table of handlers of one process and calls them; it measures nothing itself and knows no
scheduler. Handlers run in the thread that emits, between two turns of its work, so they must be quick. The events of
a run (:mod:`handoff_mpi.telemetry.events`) are emitted on rank 0, which schedules, also those about other ranks.
"""

from __future__ import annotations

import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias, runtime_checkable

from handoff_mpi.callbacks import CallbackFailed, call, shown
from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.process_context import Settings, this_process
from handoff_mpi.signatures import HANDLER, find_problem_of_call
from handoff_mpi.suggestions import did_you_mean
from handoff_mpi.telemetry.events import EVENTS, Event


@runtime_checkable
class TelemetryHandler(Protocol):
    """Receives events, on rank 0, in the thread that schedules."""

    def __call__(self, event: Event, measurements: dict[str, Any], metadata: dict[str, Any], config: Any, /) -> object:
        """Take in one event; both dicts are the handler's own copies, and what it returns is ignored."""
        ...


#: The older name of :class:`TelemetryHandler`.
HandlerFunction: TypeAlias = TelemetryHandler


@dataclass(frozen=True, slots=True, eq=False)
class Attached:
    """One handler attached to one event, as :func:`list_handlers` shows it.

    Attributes:
        handler_id: the name it was attached by, and is detached by.
        event: the event it is called for.
        handler: what is called.
        config: handed to it with each call, as it is.
    """

    handler_id: str
    event: Event
    handler: TelemetryHandler
    config: Any


class _Table(dict[Event, tuple[Attached, ...]]):
    """Every known event and who is attached to it, in the order of attachment."""

    def __missing__(self, event: Event) -> NoReturn:
        raise UsageError(_unknown(event))


class Handlers(Settings):
    """The handlers of this process; a part of the process context.

    Tuples are replaced, never changed: :func:`execute` reads them without the lock, and what it iterates over stays
    whole while handlers attach and detach. The lock is held for the replacing alone, never for a call.

    Attributes:
        of_event: event to what is attached to it.
        of_id: the name of a handler to what it is attached to.
        lock: of both tables.
    """

    def __init__(self) -> None:
        self.of_event = _Table((event, ()) for event in EVENTS)
        self.of_id: dict[str, tuple[Attached, ...]] = {}
        self.lock = threading.Lock()

    def restorer(self) -> Callable[[], object]:
        with self.lock:
            of_event, of_id = dict(self.of_event), dict(self.of_id)

        def restore() -> None:
            with self.lock:
                self.of_event.update(of_event)
                self.of_id = of_id

        return restore


_handlers = this_process.of(Handlers)
_DOTTED = {".".join(event): event for event in EVENTS}


def attach(handler_id: str, event: Sequence[str], handler: TelemetryHandler, config: Any = None) -> None:
    """Have ``handler(event, measurements, metadata, config)`` called whenever ``event`` happens.

    ``event`` is the whole name of an event, or the beginning of one: it stands for all events that begin so, as
    ``("handoff", "rank")`` does for all that happens to ranks.

    A handler that raises anything is detached with a RuntimeWarning, and the run continues. A handler
    may attach and detach others and itself; that takes effect with the next event.

    Raises:
        UsageError: ``handler_id`` is taken, there is no such event, or ``handler`` cannot be called.
    """
    attach_many(handler_id, [event], handler, config)


def attach_many(
    handler_id: str, events: Iterable[Sequence[str]], handler: TelemetryHandler, config: Any = None
) -> None:
    """Attach one handler to several events, named as for :func:`attach`; to all of them or, where this raises, to none.

    Raises:
        UsageError: as :func:`attach`; or there is no event in ``events``.
    """
    if not isinstance(handler_id, str) or not handler_id:
        raise UsageError(f"a telemetry handler is named by a non-empty string, not {show(handler_id)}")
    if not callable(handler):
        raise UsageError(f"telemetry handler {show(handler_id)} cannot be called: {shown(handler)}")
    problem = find_problem_of_call(handler, "handler", HANDLER)
    if problem:
        hint = "; it is a class: give an object of it" if isinstance(handler, type) else ""
        raise UsageError(f"telemetry handler {show(handler_id)}: {problem}{hint}")
    known = _known_events(handler_id, events)
    entries = tuple(Attached(handler_id, event, handler, config) for event in known)
    with _handlers.lock:
        if handler_id in _handlers.of_id:
            raise UsageError(f"a telemetry handler {show(handler_id)} is already attached; detach it first")
        _handlers.of_id[handler_id] = entries
        for entry in entries:
            _handlers.of_event[entry.event] += (entry,)


def detach(handler_id: str) -> None:
    """Take a handler off all its events.

    A call that another thread has begun continues to its end.

    Raises:
        UsageError: no handler is attached by that name.
    """
    with _handlers.lock:
        entries = _handlers.of_id.get(handler_id)
        if entries is not None:
            _remove(entries)
            return
        hint = did_you_mean(handler_id, _handlers.of_id)
    raise UsageError(f"no telemetry handler {show(handler_id)} is attached{hint}")


def list_handlers(event_prefix: Sequence[str] = ()) -> list[Attached]:
    """Return what is attached to the events that begin with ``event_prefix``; all that is, for ``()``.

    In the order of :data:`EVENTS`, then of attachment; a handler of several events is there once for each.
    """
    prefix = tuple(event_prefix)
    return [entry for event in EVENTS if event[: len(prefix)] == prefix for entry in _handlers.of_event[event]]


def has_handlers(event: Event) -> bool:
    """Return whether anyone wants to hear of ``event``: one dictionary lookup, to be asked before measuring.

    Raises:
        UsageError: there is no such event.
    """
    return _handlers.of_event[event] != ()


def are_attached() -> bool:
    """Return whether anyone wants to hear of any event; quicker than to ask for several events."""
    return bool(_handlers.of_id)


def execute(event: Event, measurements: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Tell the handlers of ``event``, in the order they were attached, in this thread.

    Each gets its own shallow copies of ``measurements`` and ``metadata``, to keep or to change. A handler that raises
    anything, SystemExit too, is detached; a process that it forks ends where it returns.

    Raises:
        UsageError: there is no such event.
        KeyboardInterrupt: the user at the terminal has interrupted a handler.
    """
    for entry in _handlers.of_event[event]:
        try:
            call(entry.handler, event, dict(measurements), dict(metadata), entry.config)
        except CallbackFailed as error:
            assert error.__cause__ is not None
            _drop(entry, error.__cause__)


def _known_events(handler_id: str, events: Iterable[Sequence[str]]) -> list[Event]:
    # A string is a sequence of strings too: ("h", "a", ...) would be a puzzling name in the message.
    names = [(event,) if isinstance(event, str) else tuple(event) for event in events]
    if not names:
        raise UsageError(f"telemetry handler {show(handler_id)} is attached to no event")
    known: list[Event] = []
    for name in names:
        begun = [event for event in EVENTS if name and event[: len(name)] == name]
        found = [name] if name in _handlers.of_event else begun
        if not found:
            raise UsageError(_unknown(name))
        known += found
    return list(dict.fromkeys(known))


def _unknown(event: Event) -> str:
    hint = did_you_mean(".".join(map(str, event)), _DOTTED, shown=lambda name: show(_DOTTED[name]))
    return f"there is no telemetry event {show(event)}{hint or '; telemetry.EVENTS holds all'}"


def _remove(entries: tuple[Attached, ...]) -> None:
    """Take entries of one id out of both tables; the caller holds the lock."""
    del _handlers.of_id[entries[0].handler_id]
    table = _handlers.of_event
    for entry in entries:
        table[entry.event] = tuple(other for other in table[entry.event] if other is not entry)


def _place_of(error: BaseException) -> tuple[str, int]:
    """Return the file and the line where ``error`` was raised, in code of the user's: ``sys.exit`` is wrapped."""
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [each for each in frames if not str(each[0].f_globals.get("__name__", "")).startswith("handoff_mpi.")]
    frame, line = (own or frames)[-1]
    return frame.f_code.co_filename, line


def _drop(entry: Attached, error: BaseException) -> None:
    """Detach the handler that raised, and say so."""
    with _handlers.lock:
        entries = _handlers.of_id.get(entry.handler_id, ())
        # It may be detached, or its name given to another: by itself, or by a thread that saw it raise too.
        if any(other is entry for other in entries):
            _remove(entries)
    filename, line = _place_of(error)
    # str(error) is the user's code too, and may raise; this may not.
    what = traceback.format_exception_only(type(error), error)[-1].strip()
    message = (
        f"telemetry handler {show(entry.handler_id)} is detached: at {entry.event!r} it raised {what} "
        f"({filename}:{line})"
    )
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        # Where warnings are made errors, this one would end the run it must not disturb.
        print(f"RuntimeWarning: {message}", file=sys.stderr)
