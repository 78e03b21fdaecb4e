"""Calls optional features of Linux; on other systems these functions do nothing, and their callers do not need them."""

from __future__ import annotations

import ctypes

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


def signal_at_parents_end(number: int) -> bool:
    """Ask Linux to signal this process when its parent has ended; return whether that is available."""
    return _prctl(_PR_SET_PDEATHSIG, number)


def sharpen_timers() -> bool:
    """Reduce this thread's timer slack: its short sleeps last 50 microseconds too long by default."""
    return _prctl(_PR_SET_TIMERSLACK, 1000)


def give_back_freed_memory() -> None:
    """Make the C library return freed memory to the system: memory that it keeps counts as used by this process."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # not glibc


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, value) == 0)
    except (OSError, AttributeError):
        return False
