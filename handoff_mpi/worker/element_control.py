"""The control block of a lease: which element runs and since when, and at which one the loop stops.

The loop writes the index before each element, and then reads the end. A thread of the same process, or the rank of the
child process that the loop runs in, reads the index and writes the end. So a death or a time-out is charged to the
element that was running, and the elements behind it can be taken from a loop that is in a long call. The time is
written less often, as a store takes a tenth of what the loop takes for an element: an element began then, or at most a
tick later.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import TypeAlias

from handoff_mpi.worker.shared_memory import Descriptor

#: Places in a control block, which holds integers.
INDEX = 0
START = 1
END = 2
#: The index before the first element begins, and once the last one has ended.
NOT_BEGUN = -1
OVER = 1 << 62
#: Where an element ends this long after the time was written, the time is written again before the next one begins.
TICK_S = 0.001

_NBYTES = mmap.PAGESIZE
#: A store of one processor is visible to all others long before this.
_VISIBLE_S = 1e-5

Cells: TypeAlias = "list[int] | memoryview[int]"


class ElementControl:
    """The control block of a lease that runs in this process.

    Attributes:
        cells: index, start (as ``time.monotonic_ns`` gives it) and end; plain, so that the loop gets at them at once.
    """

    _pause_s = 0.0

    def __init__(self) -> None:
        self.cells: Cells = [NOT_BEGUN, 0, OVER]

    def running(self) -> tuple[int, float]:
        """Return the index of the element that runs, -1 if none does, and a time by which it had begun, in seconds.

        It had begun a tick before that time, or later.
        """
        index, start = self.cells[INDEX], self.cells[START]
        return (-1 if index in (NOT_BEGUN, OVER) else index), start / 1e9 + TICK_S

    def stop(self) -> int:
        """Have no further element begin; return an index: none from there on has begun, or will."""
        self.cells[END] = self.cells[INDEX] + 1
        if self._pause_s:
            time.sleep(self._pause_s)
        # The loop may have passed to the next element meanwhile. It has not passed to another one: it reads the end
        # after it has written the index.
        return max(self.cells[END], self.cells[INDEX] + 1)


class SharedControl(ElementControl):
    """The control block of the leases of a child process, one at a time: both processes map it.

    Args:
        descriptor: of the block that the other process has made; None makes a new one.
    """

    _pause_s = _VISIBLE_S

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("elements", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _NBYTES)
        self._memory = mmap.mmap(descriptor, _NBYTES)  # which has a descriptor of its own
        self._descriptor = Descriptor(descriptor)
        self._shared = self.cells = memoryview(self._memory).cast("q")

    def fileno(self) -> int:
        """Return the descriptor, for the other process."""
        return self._descriptor.number

    def was_passed(self) -> None:
        """The other process has the descriptor."""
        self._descriptor.close()

    def begin(self) -> None:
        """A lease is about to be sent to the child, which is idle."""
        self.cells[INDEX], self.cells[START], self.cells[END] = NOT_BEGUN, 0, OVER

    def close(self) -> None:
        """Unmap the block; what was last written can still be read."""
        self._descriptor.close()
        if not self._memory.closed:
            self.cells = [self._shared[place] for place in (INDEX, START, END)]
            self._shared.release()
            self._memory.close()
