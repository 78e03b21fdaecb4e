"""Which values a rank holds, which of them it wants or may forget, and which of them leave its memory. Pure.

The values themselves are in the shell's store: here are their numbers and sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from handoff_mpi.encoding import Payload
from handoff_mpi.worker.events import Drop, Put, Spill, Work
from handoff_mpi.worker.outbox import Outbox
from handoff_mpi.worker.spilling import choose_spilled
from handoff_mpi.worker.takers import Takers


class Holdings:
    """The values that one rank holds.

    Args:
        outbox: takes the commands.
        takers: who took values from here: a value that is dropped has none.
        store_nbytes: values nobody needs any more are dropped once the store holds more than this.

    Attributes:
        held: the values, and their sizes in bytes.
        spilled: those of them that are not in memory.
    """

    def __init__(self, outbox: Outbox, takers: Takers, store_nbytes: int) -> None:
        self.held: dict[int, int] = {}
        self.spilled: set[int] = set()
        self._outbox = outbox
        self._takers = takers
        self._store_nbytes = store_nbytes
        self._in_memory_nbytes = 0
        self._wanted: dict[int, int] = {}  # held values that queued work needs: how many times
        self._forgettable: dict[int, None] = {}

    def put(self, task: int, payload: Payload, nbytes: int) -> None:
        """Hold a value from now on."""
        self.drop(task)
        self.held[task] = nbytes
        self._in_memory_nbytes += nbytes
        self._outbox.commands.append(Put(task, payload))
        self.make_room()

    def put_copy(self, task: int, payload: Payload, nbytes: int) -> None:
        """Hold a copy of a value: it may go once nobody here wants it."""
        self.put(task, payload, nbytes)
        self._forgettable[task] = None

    def drop(self, task: int) -> None:
        """Hold a value no more, if it is held."""
        nbytes = self.held.pop(task, None)
        if nbytes is not None:
            self._forgettable.pop(task, None)
            self._takers.forget(task)
            if task in self.spilled:
                self.spilled.discard(task)
            else:
                self._in_memory_nbytes -= nbytes
            self._outbox.commands.append(Drop(task))

    def want(self, work: Work, task: int) -> None:
        """``work`` needs a held value: it stays until :meth:`unwant`."""
        work.wants.append(task)
        self._wanted[task] = self._wanted.get(task, 0) + 1

    def unwant(self, work: Work) -> None:
        """``work`` needs none of its values any more."""
        for task in work.wants:
            self._wanted[task] -= 1
            if not self._wanted[task]:
                del self._wanted[task]
        work.wants.clear()

    def forget(self, tasks: Iterable[int]) -> None:
        """Nobody in the job will ask for these values any more: they may go once nobody here wants them."""
        for task in tasks:
            if task in self.held:
                self._forgettable[task] = None
                if task in self.spilled and task not in self._wanted:
                    self.drop(task)  # its file would only take room
        self.make_room()

    def make_room(self) -> None:
        """Drop values nobody needs, the longest forgotten first, once the store holds too much."""
        if self._in_memory_nbytes <= self._store_nbytes:
            return
        for task in self._unneeded():
            self.drop(task)
            if self._in_memory_nbytes <= self._store_nbytes:
                break

    def drop_unneeded(self) -> int:
        """Drop all values that nobody needs; return how many bytes of memory that frees."""
        before = self._in_memory_nbytes
        for task in self._unneeded():
            self.drop(task)
        return before - self._in_memory_nbytes

    def _unneeded(self) -> list[int]:
        return [task for task in self._forgettable if task not in self._wanted]

    def spill(self, running: Sequence[Work | None], queues: Iterable[Iterable[Work]], excess_nbytes: int) -> None:
        """Move values out of memory that are needed later; see :func:`~handoff_mpi.worker.spilling.choose_spilled`."""
        in_memory = {task: nbytes for task, nbytes in self.held.items() if task not in self.spilled}
        for task in choose_spilled(in_memory, running, queues, excess_nbytes):
            self.spilled.add(task)
            self._in_memory_nbytes -= in_memory[task]
            self._outbox.commands.append(Spill(task, in_memory[task]))
