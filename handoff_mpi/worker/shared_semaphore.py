"""A counter that a rank raises and its child, or the rank, lowers: a semaphore of the kernel."""

from __future__ import annotations

import os


class SharedSemaphore:
    """A number of tokens that two processes share; none waits for one.

    Args:
        descriptor: of tokens that another process has made; None makes new ones.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def give(self, count: int) -> None:
        """Put ``count`` more there."""
        os.eventfd_write(self._descriptor, count)

    def take(self) -> bool:
        """Take one; whether there was one."""
        try:
            os.eventfd_read(self._descriptor)
        except BlockingIOError:
            return False
        return True

    def take_all(self) -> int:
        """Take all that are there; return how many."""
        count = 0
        while self.take():
            count += 1
        return count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
