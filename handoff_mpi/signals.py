"""Installs signal handlers for this process alone: neither its forked processes nor the programs that it starts
inherit them.

A forked process would otherwise take a signal that is to end it (``multiprocessing`` sends TERM) for one that is to end
the run; a program would ignore what the rank that started it ignores, since ignored signals stay so through exec.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_handlers: dict[int, Callable[[int, object], object]] = {}
_forking = threading.local()


def handle(number: int, handler: Callable[[int, object], object]) -> None:
    """Call ``handler(number, frame)`` at a signal in this process; only in the main thread.

    Raises:
        ValueError: this is another thread.
    """
    signal.signal(number, handler)
    _handlers[int(number)] = handler


def ignore(number: int) -> None:
    """Ignore a signal in this process; in the main thread.

    Raises:
        ValueError: this is another thread.
    """
    handle(number, _do_nothing)
    signal.siginterrupt(number, False)  # as where the kernel ignores it


def ignore_to_the_end() -> None:
    """Keep ignoring the ignored signals while Python ends: it removes its handlers before C libraries end."""
    for number, handler in _handlers.items():
        if handler is _do_nothing and signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_IGN)


def _do_nothing(number: int, frame: object) -> None:
    """Do nothing, where SIG_IGN would be inherited through exec."""


def _block() -> None:
    """Before a fork: keep signals waiting, so that one that comes at once does not meet the parent's handler."""
    if _handlers:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _unblock() -> None:
    if hasattr(_forking, "mask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)
        del _forking.mask


def _restore_defaults() -> None:
    """In a forked process: give up the handlers of its parent, unless a function has replaced them."""
    for number, handler in _handlers.items():
        if signal.getsignal(number) is handler:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
    _handlers.clear()
    _unblock()


os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_restore_defaults)
