"""The values of a simulated rank, in memory and in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from handoff_mpi.results.store import Key
from handoff_mpi.serialization import PLAIN, Payload
from handoff_mpi.simulation.context import SimulationContext, Traits
from handoff_mpi.simulation.run_dir import plain_value
from handoff_mpi.worker.machine import Worker


class SimulatedValues:
    """Holds the values of one rank.

    Args:
        around: the launch.
        machine: knows which values calls want soon.
        traits: of the rank.

    Attributes:
        sees_files: whether the rank sees the run-dir.
        must_keep_wanted: whether no value that a call wants may be moved out of memory: one event alone is handled, so
            that the call has not come since.
    """

    def __init__(self, around: SimulationContext, machine: Worker, traits: Traits) -> None:
        self.sees_files = traits.sees_files
        self.must_keep_wanted = False
        self._around = around
        self._machine = machine
        self._checkpoints = traits.checkpoints
        self._in_memory: dict[int, int] = {}
        self._spilled: dict[int, int] = {}
        self._file_keys: dict[int, Key] = {}

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield each value in the store, by task."""
        yield from self._in_memory.items()
        yield from self._spilled.items()

    def are_filed(self, keys: Iterable[tuple[int, Key]]) -> None:
        """Take in that the values of these tasks lie in files of an earlier launch, under these keys."""
        self._file_keys.update(keys)

    def get(self, task: int, is_held: bool) -> Payload | None:
        """Return a value, from the store if it ``is_held`` there, else from its file; None if it is unavailable."""
        value = None
        if is_held:
            value = self._in_memory.get(task, self._spilled.get(task))
        elif self.sees_files:
            value = self._around.run_dir.files.get(self._file_keys.get(task, self._key(task)))
        return None if value is None else (PLAIN, value)

    def put(self, task: int, payload: Payload) -> None:
        """Put a value into memory."""
        self._in_memory[task] = plain_value(payload)

    def drop(self, task: int) -> None:
        """Drop a value; a fault does so too, and tells nobody."""
        self._in_memory.pop(task, None)
        self._spilled.pop(task, None)

    def spill(self, task: int, nbytes: int) -> None:
        """Move a value out of memory.

        Raises:
            AssertionError: a call that runs, or is the next to, wants it in memory.
        """
        machine = self._machine
        soon = [work for work in machine.running if work is not None]
        soon += [queue[0] for queue in machine.queues if queue]
        is_wanted = any(task in work.wants for work in soon) and self.must_keep_wanted
        assert not is_wanted, f"task {task} is wanted, and moved out of memory"
        if task in self._in_memory:
            self._around.fault_counts["spill"] += 1
            self._spilled[task] = self._in_memory.pop(task)

    def is_worth_writing(self, nbytes: int, duration: float) -> bool:
        """Whether a value that need not outlast the run is written all the same."""
        return self._around.rng.random() < self._checkpoints

    def write(self, task: int, payload: Payload, nbytes: int) -> str:
        """Write a value to its file, which always succeeds."""
        self._around.run_dir.put(self._key(task), payload)
        return ""

    def checkpoint(self, task: int, payload: Payload, nbytes: int) -> bool:
        """Write a value that need not outlast the run."""
        return not self.write(task, payload, nbytes)

    def _key(self, task: int) -> Key:
        return str(self._around.number), task


class AmpleMemory:
    """The memory of a simulated rank: faults alone make it short."""

    can_spill = True

    def came_in(self, nbytes: int) -> None:
        """A value is in memory, which is measured when a fault says so."""

    def spilled(self) -> None:
        """A value was moved out."""

    def give_up_spilling(self, error: OSError) -> None:
        """Nothing keeps a simulated rank from moving values out."""
        raise AssertionError(error)
