"""Ends a process as Python would, but with time limits: exit handlers, leftover threads and processes, then itself.

With fault tolerance on, a rank leaves MPI_Finalize out and so ends by ``os._exit``, which skips exit handlers; a child
process that has a handler, or a thread, that never ends would hold its rank. Here each step has a limit.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from handoff_mpi import signals
from handoff_mpi.console import print_message
from handoff_mpi.descendants import KILL_TIMEOUT_S, TERMINATE_TIMEOUT_S, TRACKER_TIMEOUT_S, end_descendants

#: Exit handlers get this long.
HANDLERS_TIMEOUT_S = 8.0
#: Threads that were left running get this long to end before that; the long time where Python would wait for ever.
SHORT_THREADS_TIMEOUT_S = 3.0
THREADS_TIMEOUT_S = 30.0
#: C libraries get this long where Python itself cannot end.
FINALISE_TIMEOUT_S = 5.0
_DESCENDANTS_TIMEOUT_S = TERMINATE_TIMEOUT_S + KILL_TIMEOUT_S + TRACKER_TIMEOUT_S
#: A handler that holds the interpreter has the kernel end the process this long after all else should have ended.
ALARM_MARGIN_S = 1.0


def exit_process(
    code: int, handlers_timeout_s: float | None = None, threads_timeout_s: float | None = None
) -> NoReturn:
    """End this process with status ``code``, from any thread and though other threads run.

    Runs the exit handlers, ends the processes that were left running, and writes out what was printed.
    """
    finish(lambda: _leave(code), handlers_timeout_s, threads_timeout_s)
    _leave(code)


def exit_python(code: int, finalise: Callable[[], object], threads_timeout_s: float | None = None) -> NoReturn:
    """End this process as any Python program ends, with status ``code``, so that C libraries run their exit code.

    Runs the exit handlers and ends the processes that were left running before. Called by the main thread.

    Args:
        finalise: does what the C libraries must do at the end (MPI_Finalize), where Python does not come to that: when
            threads or exit handlers have not ended in time.
        threads_timeout_s: how long threads that were left running may take to end; by default ``THREADS_TIMEOUT_S``.
    """
    threads_timeout_s = THREADS_TIMEOUT_S if threads_timeout_s is None else threads_timeout_s

    def give_up() -> NoReturn:
        last = threading.Thread(target=finalise, daemon=True)
        last.start()
        last.join(FINALISE_TIMEOUT_S)
        _leave(code)

    finish(give_up, None, threads_timeout_s)
    left = [thread.name for thread in _threads()]
    if left:  # Python would wait for them
        names = ", ".join(left)
        print_message(
            f"threads that were left running ({names}) have not ended within {threads_timeout_s:g} s; they are ended"
        )
        give_up()
    signals.ignore_to_the_end()
    sys.exit(code)


def finish(
    give_up: Callable[[], object], handlers_timeout_s: float | None = None, threads_timeout_s: float | None = None
) -> None:
    """Run the exit handlers and end the processes that were left running; the caller ends the process.

    Args:
        give_up: ends the process, from another thread, if the exit handlers take longer than ``handlers_timeout_s``
            seconds (by default ``HANDLERS_TIMEOUT_S``); the processes that were left running have ended by then.
        threads_timeout_s: how long threads that were left running may take to end before the handlers are run; by
            default ``SHORT_THREADS_TIMEOUT_S``.
    """
    handlers_s = HANDLERS_TIMEOUT_S if handlers_timeout_s is None else handlers_timeout_s
    threads_s = SHORT_THREADS_TIMEOUT_S if threads_timeout_s is None else threads_timeout_s
    has_ended = threading.Event()

    def watch() -> None:
        if not has_ended.wait(handlers_s):
            print_message(f"exit handlers have not ended within {handlers_s:g} s; the process ends without them")
            end_descendants()
            give_up()

    _end_by_alarm(threads_s + handlers_s + _DESCENDANTS_TIMEOUT_S + ALARM_MARGIN_S)
    _end_threads(threads_s)
    threading.Thread(target=watch, name="handoff-exit", daemon=True).start()
    _attempt(atexit._run_exitfuncs)
    has_ended.set()
    end_descendants()
    _end_by_alarm(0)


def _end_threads(timeout_s: float) -> None:
    """Do what Python does before the handlers of atexit, within bounds: call threading's own, and wait for threads."""
    caller = threading.current_thread()

    def end() -> None:
        for handler in reversed(getattr(threading, "_threading_atexits", [])):  # concurrent.futures and loky use them
            _attempt(handler)
        for thread in _threads():
            if thread is not caller:
                thread.join()

    ending = threading.Thread(target=end, name="handoff-exit", daemon=True)
    ending.start()
    ending.join(timeout_s)


def _threads() -> list[threading.Thread]:
    """Return the threads that Python would wait for."""
    spared = (threading.main_thread(), threading.current_thread())
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in spared]


def flush_output() -> None:
    """Flush stdout and stderr. A function may have closed the streams, or replaced them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # the outcome of a call does not depend on who reads what it printed


def _leave(code: int) -> NoReturn:
    flush_output()
    os._exit(code)


def _attempt(handler: Callable[[], object]) -> None:
    try:
        handler()
    except BaseException:  # Python continues with the next handler too
        try:
            traceback.print_exc()
        except Exception:
            pass  # a function has closed stderr


def _end_by_alarm(seconds: float) -> None:
    """Make the kernel end this process after ``seconds``: a handler may hold the interpreter. 0 cancels that."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    except ValueError:
        pass  # only the main thread may set handlers; few programs have one for SIGALRM
    signal.setitimer(signal.ITIMER_REAL, seconds)
