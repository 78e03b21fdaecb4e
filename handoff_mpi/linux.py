"""What Linux does for a process that asks; elsewhere nothing happens, and what asks can do without."""

from __future__ import annotations

import ctypes

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29


def signal_at_parents_end(number: int) -> bool:
    """Have this process sent a signal when its parent is gone; return whether that can be had."""
    return _prctl(_PR_SET_PDEATHSIG, number)


def sharpen_timers() -> bool:
    """Have this thread's short sleeps end when they should: they last 50 microseconds longer otherwise."""
    return _prctl(_PR_SET_TIMERSLACK, 1000)


def give_back_freed_memory() -> None:
    """Have the C library return to the system what was freed: it keeps it for later, and it counts as in use."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # another C library


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, value) == 0)
    except (OSError, AttributeError):
        return False
