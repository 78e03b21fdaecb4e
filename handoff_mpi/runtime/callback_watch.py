"""Reports user code that keeps a rank from its work: a tracker, store, strategy or handler that does not return."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from handoff_mpi.callbacks import call, call_here
from handoff_mpi.console import print_message
from handoff_mpi.formatting import duration_text

#: A callback that has not returned after this long is reported, and again each time that it has lasted twice as long.
FIRST_REPORT_S = 10.0
WATCH_INTERVAL_S = 2.0
_WATCH_END_TIMEOUT_S = 1.0
#: ``call_here`` runs the functions of a DAG, which have timeouts and reports of their own; ``call`` runs callbacks.
_CALL_HERE, _CALL = call_here.__code__, call.__code__
#: A strategy is called by the scheduler and by the base classes of strategies, without ``call``.
_ASK_STRATEGIES = ("handoff_mpi.scheduler.", "handoff_mpi.allocation.")


class CallbackWatch(threading.Thread):
    """Looks every few seconds at the stack of the main thread.

    The main thread does nothing for it, so that callbacks cost the same with and without a watch. A watch cannot end
    a callback: only its author knows how.

    Args:
        who: the rank, in words.
        meanwhile: what does not happen until the callback returns.
        say: prints a line.
        interval_s: seconds between two looks.
        first_report_s: seconds after which a callback is reported.
    """

    def __init__(
        self,
        who: str,
        meanwhile: str,
        say: Callable[[str], object] = print_message,
        interval_s: float = WATCH_INTERVAL_S,
        first_report_s: float = FIRST_REPORT_S,
    ) -> None:
        super().__init__(name="handoff-callback-watch", daemon=True)
        self._who = who
        self._meanwhile = meanwhile
        self._say = say
        self._interval_s = interval_s
        self._first_report_s = self._report_s = first_report_s
        self._is_over = threading.Event()
        self._seen: FrameType | None = None
        self._lasted_s = 0.0

    def run(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._look()
        self._seen = None

    def close(self) -> None:
        """Look no more."""
        self._is_over.set()
        self.join(_WATCH_END_TIMEOUT_S)

    def _look(self) -> None:
        found = find_callback(sys._current_frames().get(threading.main_thread().ident or 0))
        outer = found[0] if found else None
        if outer is None or outer is not self._seen:  # no other call gets the frame while it is held here
            self._seen, self._lasted_s, self._report_s = outer, 0.0, self._first_report_s
            return
        self._lasted_s += self._interval_s
        if found and self._lasted_s >= self._report_s:
            self._report_s *= 2
            self._say(self._report(*found))

    def _report(self, outer: FrameType, inner: FrameType) -> str:
        where = f"{inner.f_code.co_filename}, line {inner.f_lineno}"
        waited = f"{self._who} has waited for {duration_text(self._lasted_s)}"
        return f"{waited} until {_name(outer)} returns ({where}): {self._meanwhile}; give what it waits for a timeout"


@contextmanager
def watched(is_needed: bool, who: str, meanwhile: str) -> Iterator[None]:
    """Watch the main thread within ``with``, where ``is_needed``."""
    if not is_needed:
        yield
        return
    watch = CallbackWatch(who, meanwhile)
    watch.start()
    try:
        yield
    finally:
        watch.close()


def find_callback(frame: FrameType | None) -> tuple[FrameType, FrameType] | None:
    """Return the outermost and the innermost frame of the callback that a stack is in; None if it is in none.

    A callback without frames, such as one in C, is the frame that calls it.

    Args:
        frame: the innermost frame of the stack.
    """
    user: list[FrameType] = []
    while frame is not None:
        if frame.f_code is _CALL_HERE:
            return None
        if frame.f_code is _CALL:
            return (user[-1], user[0]) if user else (frame, frame)
        module = str(frame.f_globals.get("__name__", ""))
        if not module.startswith("handoff_mpi."):
            user.append(frame)
        elif user and module.startswith(_ASK_STRATEGIES):
            return user[-1], user[0]
        else:
            user.clear()
        frame = frame.f_back
    return None


def _name(frame: FrameType) -> str:
    if frame.f_code is _CALL:
        return "a callback"
    owner = frame.f_locals.get("self")
    name = frame.f_code.co_name
    return f"{type(owner).__name__}.{name}" if owner is not None else name
