"""Counts the bytes that may still enter a rank's memory, before they arrive instead of measuring them afterwards. Pure.

The driver measures the memory in use, but only a few times a second, and a few calls can fill the rest in between. So
the machine counts what is about to come: the buffers of a value that is on its way here, and the result of a call,
which it expects to be as large as the largest result of the same code so far.
"""

from __future__ import annotations

from handoff_mpi.worker.events import QueuedCall

#: A limit that nothing exceeds.
UNLIMITED_NBYTES = 1 << 62
#: Smaller buffers are not counted while they are in transit.
_MIN_COUNTED_NBYTES = 64 * 1024


def counted_nbytes(nbytes: int) -> int:
    """Return what a buffer on its way counts."""
    return nbytes if nbytes >= _MIN_COUNTED_NBYTES else 0


class Budget:
    """The memory that a rank may still fill.

    Attributes:
        room_nbytes: how many bytes, by the last measurement and what came and left since. What is on its way here is
            subtracted, what running calls promise is not.
        can_spill: whether values can be moved out of memory.
        largest_nbytes: the size of the largest value so far.
        arriving_nbytes: how many bytes are on their way here; memory for them is set aside.
    """

    def __init__(self) -> None:
        self.room_nbytes = UNLIMITED_NBYTES
        self.can_spill = False
        self.largest_nbytes = 0
        self.arriving_nbytes = 0
        self._promised_nbytes = 0
        self._expected: dict[object, int] = {}  # the codes of a call to the size of their largest result

    def measured(self, room_nbytes: int, can_spill: bool) -> None:
        """The driver has measured how many bytes may come."""
        self.room_nbytes = room_nbytes - self.arriving_nbytes
        self.can_spill = can_spill

    def missing(self, nbytes: int) -> int:
        """Return how many bytes must leave memory before ``nbytes`` may come beside those that calls promise."""
        return nbytes + self._promised_nbytes - self.room_nbytes

    def take(self, nbytes: int) -> None:
        """A value has come into memory."""
        self.room_nbytes -= nbytes
        self.largest_nbytes = max(self.largest_nbytes, nbytes)

    def free(self, nbytes: int) -> None:
        """A value has left memory."""
        self.room_nbytes += nbytes

    # -- on their way ---------------------------------------------------------------------------------

    def expect(self, nbytes: int) -> None:
        """Memory is set aside for a buffer that is on its way."""
        self.arriving_nbytes += nbytes
        self.room_nbytes -= nbytes

    def arrived(self, nbytes: int) -> None:
        """Buffers have come; who keeps them calls :meth:`take`."""
        nbytes = min(nbytes, self.arriving_nbytes)
        self.arriving_nbytes -= nbytes
        self.room_nbytes += nbytes

    # -- promised -------------------------------------------------------------------------------------

    def begin(self, work: QueuedCall, copied_nbytes: int) -> None:
        """A call begins: its result will come into memory, and so will copies of its inputs."""
        codes, *_ = work.call_template
        work.promised_nbytes = self._expected.get(codes, 0) + copied_nbytes
        self._promised_nbytes += work.promised_nbytes

    def end(self, work: QueuedCall) -> None:
        """A call has ended, well or not, or does not begin after all."""
        self._promised_nbytes -= work.promised_nbytes
        work.promised_nbytes = 0

    def learn(self, work: QueuedCall, nbytes: int) -> None:
        """The result of a call took ``nbytes``."""
        codes, *_ = work.call_template
        self._expected[codes] = max(self._expected.get(codes, 0), nbytes)
