"""Keeps account of the values that a rank holds: those in memory, and those that may be evicted. Pure.

The values themselves are in the rank's store: here are their numbers and sizes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from itertools import chain

from handoff_mpi.serialization import Payload
from handoff_mpi.worker.broadcast_tree import BroadcastTree
from handoff_mpi.worker.budget import UNLIMITED_NBYTES, Budget
from handoff_mpi.worker.events import Drop, Put, QueuedCall, Spill
from handoff_mpi.worker.outbox import Outbox
from handoff_mpi.worker.spilling import PORTION_NBYTES, choose_spilled

#: One eviction removes at least this share of the values in memory.
_MIN_SHARE = 1 / 16


class HeldValues:
    """The values that one rank holds.

    Args:
        outbox: takes the commands.
        broadcast_tree: who took values from here: a value that is dropped has none.
        store_nbytes: values that no call here needs are dropped once the store holds more than this.
        cache_nbytes: values that no call in the job needs are dropped once they take more than this.
        running, queues: the calls of each slot, in their order.

    Attributes:
        held: the values, and their sizes in bytes.
        spilled: those of them that are not in memory.
        budget: how many bytes may still come into memory.
    """

    def __init__(
        self,
        outbox: Outbox,
        broadcast_tree: BroadcastTree,
        store_nbytes: int,
        cache_nbytes: int,
        running: Sequence[QueuedCall | None] = (),
        queues: Sequence[deque[QueuedCall]] = (),
    ) -> None:
        self.held: dict[int, int] = {}
        self.spilled: set[int] = set()
        self.budget = Budget()
        self._outbox = outbox
        self._broadcast_tree = broadcast_tree
        self._store_nbytes = store_nbytes
        self._cache_nbytes = cache_nbytes
        self._running = running
        self._queues = queues
        self._in_memory: dict[int, int] = {}  # the values there, and their sizes in bytes
        self._in_memory_nbytes = 0
        self._wanted: dict[int, int] = {}  # held values that queued work needs: how many times
        self._copies: OrderedDict[int, None] = OrderedDict()  # other ranks hold these as well
        self._dead: OrderedDict[int, None] = OrderedDict()  # no call in the job needs these
        self._dead_nbytes = 0  # of those in memory

    # -- what comes and goes --------------------------------------------------------------------------

    def put(self, task: int, payload: Payload, nbytes: int) -> None:
        """Hold a value from now on."""
        self.drop(task)
        self.held[task] = nbytes
        self._in_memory[task] = nbytes
        self._in_memory_nbytes += nbytes
        self.budget.take(nbytes)
        self._outbox.commands.append(Put(task, payload))
        self.make_room()

    def put_copy(self, task: int, payload: Payload, nbytes: int) -> None:
        """Hold a copy of a value: it may go once no call here wants it."""
        self.put(task, payload, nbytes)
        self._copies[task] = None

    def drop(self, task: int) -> None:
        """Hold a value no more, if it is held."""
        if task not in self.held:
            return
        self._leave_memory(task)
        del self.held[task]
        self.spilled.discard(task)
        self._copies.pop(task, None)
        self._dead.pop(task, None)
        self._broadcast_tree.forget(task)
        self._outbox.commands.append(Drop(task))

    def _leave_memory(self, task: int) -> None:
        nbytes = self._in_memory.pop(task, 0)
        self._in_memory_nbytes -= nbytes
        self.budget.free(nbytes)
        if task in self._dead:
            self._dead_nbytes -= nbytes

    # -- what is needed -------------------------------------------------------------------------------

    def want(self, work: QueuedCall, task: int) -> None:
        """``work`` needs a held value: it stays until :meth:`unwant`."""
        work.wants.append(task)
        self._wanted[task] = self._wanted.get(task, 0) + 1

    def unwant(self, work: QueuedCall) -> None:
        """``work`` needs none of its values any more; those that no call in the job needs may be dropped."""
        if work.wants:
            for task in work.wants:
                self._wanted[task] -= 1
                if not self._wanted[task]:
                    del self._wanted[task]
            work.wants.clear()
        if self._dead_nbytes > self._cache_nbytes:
            self.make_room()

    def forget(self, tasks: Iterable[int]) -> None:
        """No call in the job needs these values any more: they may go once no call here wants them."""
        for task in tasks:
            if task not in self.held or task in self._dead:
                continue
            if task in self._in_memory:
                self._dead_nbytes += self._in_memory[task]
            elif task not in self._wanted:
                self.drop(task)  # its file would only take room
                continue
            self._copies.pop(task, None)
            self._dead[task] = None
        self.make_room()

    # -- what may go ----------------------------------------------------------------------------------

    def make_room(self) -> None:
        """Drop values that no call needs, the longest forgotten first, while they or the store exceed their limits.

        A few are kept, because a call may run again on another rank if the rank that holds its result dies.
        """
        if self._dead_nbytes > self._cache_nbytes:
            self._drop_unwanted(self._dead, self._dead_nbytes - self._cache_nbytes)
        if self._in_memory_nbytes > self._store_nbytes:
            self._drop_unwanted(chain(self._dead, self._copies), self._in_memory_nbytes - self._store_nbytes)

    def drop_unneeded(self, enough_nbytes: int = UNLIMITED_NBYTES) -> int:
        """Drop values that no call here needs, until as much memory is free; return how many bytes that frees."""
        before = self._in_memory_nbytes
        self._drop_unwanted(chain(self._dead, self._copies), enough_nbytes)
        return before - self._in_memory_nbytes

    def _drop_unwanted(self, tasks: Iterable[int], excess_nbytes: int) -> None:
        """Drop values, in this order, until as many bytes of memory are free."""
        chosen = []
        for task in tasks:
            if excess_nbytes <= 0:
                break
            if task not in self._wanted:
                chosen.append(task)
                excess_nbytes -= self._in_memory.get(task, 0)
        for task in chosen:
            self.drop(task)

    def spill(self, excess_nbytes: int, max_count: int, keeps_wanted: bool = False) -> int:
        """Move values out of memory that calls need later; return how many bytes that frees.

        See :func:`~handoff_mpi.worker.spilling.choose_spilled`.

        Args:
            excess_nbytes: how much less should be in use.
            max_count: how many values to move out at most.
            keeps_wanted: whether to keep all values that calls on this rank need.
        """
        choice = self._in_memory
        if keeps_wanted:
            choice = {task: nbytes for task, nbytes in choice.items() if task not in self._wanted}
        before = self._in_memory_nbytes
        for task in choose_spilled(choice, self._running, self._queues, excess_nbytes, max_count):
            self._outbox.commands.append(Spill(task, self._in_memory[task]))
            self._leave_memory(task)
            self.spilled.add(task)
        return before - self._in_memory_nbytes

    # -- what may come --------------------------------------------------------------------------------

    def reserve(self, nbytes: int = 0, keeps_wanted: bool = False) -> bool:
        """Have values leave memory until as much more may come, beside what calls promise; whether it may then.

        Args:
            nbytes: how much is about to come.
            keeps_wanted: whether to keep all values that calls on this rank need.
        """
        missing_nbytes = self.budget.missing(nbytes)
        if missing_nbytes > 0:
            missing_nbytes -= self.drop_unneeded(missing_nbytes)
        if missing_nbytes > 0 and self.budget.can_spill:
            # A choice looks at all values in memory: a good part of them leaves at once, so that there are few choices.
            least_nbytes = min(int(_MIN_SHARE * self._in_memory_nbytes), PORTION_NBYTES)
            missing_nbytes -= self.spill(max(missing_nbytes, least_nbytes), len(self._in_memory), keeps_wanted)
        return missing_nbytes <= 0

    def read(self, tasks: Iterable[int]) -> None:
        """Values are about to be read; those that are not in memory come into it, until memory is measured next."""
        nbytes = sum(self.held[task] for task in tasks if task in self.spilled)
        if nbytes:
            self.reserve(nbytes)
            self.budget.take(nbytes)
