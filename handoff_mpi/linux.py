"""Calls optional features of Linux; on other systems these functions do nothing, and their callers do not need them."""

from __future__ import annotations

import ctypes

_PR_SET_PDEATHSIG = 1
_PR_SET_TIMERSLACK = 29
_SYNC_FILE_RANGE_WRITE = 2


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


def begin_write_out(fd: int) -> None:
    """Have the system begin to write a file to the disk, so that an fsync has less to wait for."""
    start = to_its_end = ctypes.c_int64(0)
    try:
        ctypes.CDLL(None).sync_file_range(fd, start, to_its_end, _SYNC_FILE_RANGE_WRITE)
    except (OSError, AttributeError):
        pass


def _prctl(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(option, value) == 0)
    except (OSError, AttributeError):
        return False
