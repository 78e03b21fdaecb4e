"""Ends a process as Python would, within bounds: its exit handlers, what its functions have left running, itself.

With fault tolerance on, a rank leaves MPI_Finalize out and so ends by ``os._exit``, which skips exit handlers; a child
process that has a handler, or a thread, that never ends would hold its rank. Here each step has a limit.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from handoff_mpi.descendants import KILL_TIMEOUT_S, TERMINATE_TIMEOUT_S, TRACKER_TIMEOUT_S, end_descendants
from handoff_mpi.speech import say

#: Threads that were left running get this long to end, and with the exit handlers this long together.
THREADS_TIMEOUT_S = 3.0
HANDLERS_TIMEOUT_S = 8.0
_DESCENDANTS_TIMEOUT_S = TERMINATE_TIMEOUT_S + KILL_TIMEOUT_S + TRACKER_TIMEOUT_S
#: A process that ends in this way has ended after this long, whatever its handlers do.
EXIT_TIMEOUT_S = HANDLERS_TIMEOUT_S + _DESCENDANTS_TIMEOUT_S + 1.0


def exit_process(code: int, handlers_timeout_s: float = HANDLERS_TIMEOUT_S) -> NoReturn:
    """End this process with status ``code``, from any thread and though other threads run.

    Runs the exit handlers, ends the processes that were left running, and writes out what was printed.
    """
    finish(lambda: _leave(code), handlers_timeout_s)
    _leave(code)


def finish(give_up: Callable[[], object], handlers_timeout_s: float = HANDLERS_TIMEOUT_S) -> None:
    """Run the exit handlers and end the processes that were left running; the caller ends the process.

    Args:
        give_up: ends the process, from another thread, if the exit handlers take longer than ``handlers_timeout_s``
            seconds; the processes that were left running have ended by then.
    """
    has_ended = threading.Event()

    def watch() -> None:
        if not has_ended.wait(handlers_timeout_s):
            say(f"exit handlers have not ended within {handlers_timeout_s:g} s; the process ends without them")
            end_descendants()
            give_up()

    _end_by_alarm(EXIT_TIMEOUT_S)
    threading.Thread(target=watch, name="handoff-exit", daemon=True).start()
    run_exit_handlers(min(THREADS_TIMEOUT_S, handlers_timeout_s / 2))
    has_ended.set()
    end_descendants()
    _end_by_alarm(0)


def run_exit_handlers(threads_timeout_s: float) -> None:
    """Do what Python does at its end: run threading's handlers, wait for threads, run the handlers of atexit.

    Threads are waited for until ``threads_timeout_s`` seconds are over.
    """
    for handler in reversed(getattr(threading, "_threading_atexits", [])):  # concurrent.futures and loky use them
        _attempt(handler)
    end = time.monotonic() + threads_timeout_s
    for thread in threading.enumerate():
        if not thread.daemon and thread not in (threading.main_thread(), threading.current_thread()):
            thread.join(max(0.0, end - time.monotonic()))
    _attempt(atexit._run_exitfuncs)


def flush_output() -> None:
    """Write out what was printed. A function may have closed the streams, or put anything into their place."""
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
    except BaseException:  # Python goes on with the next one too
        try:
            traceback.print_exc()
        except Exception:
            pass  # a function has closed stderr


def _end_by_alarm(seconds: float) -> None:
    """Have the kernel end this process after ``seconds``: a handler may hold the interpreter. 0 takes that back."""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    except ValueError:
        pass  # only the main thread may do that; few programs have a handler of their own
    signal.setitimer(signal.ITIMER_REAL, seconds)
