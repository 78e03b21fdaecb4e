"""The simulated run-dir: what outlasts a launch. The real reader of histories reads its journal.

The real coordinator writes it through the ports of a journal and of a store. What a launch takes over from it is found
as in real runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from handoff_mpi.dag import Plan
from handoff_mpi.launch.resume import Resumed, resume
from handoff_mpi.results.history import history_of
from handoff_mpi.results.journal_reader import Segment
from handoff_mpi.results.launches import History
from handoff_mpi.results.store import Key
from handoff_mpi.serialization import PLAIN, Payload, decode_input
from handoff_mpi.simulation.network import Clock

#: A host that dies takes with it what was written this long before and is not on disk yet.
UNSYNCED_S = 1.0


@dataclass(slots=True)
class EarlierArrays:
    """The arrays of one launch, as its journal tells.

    Attributes:
        made: the elements that it has computed, by array.
        covered: the length of a block of a windowed array, and how many elements can be compared, by array.
        whole: the windowed arrays of which all elements have come.
    """

    made: dict[int, set[int]] = field(default_factory=dict)
    covered: dict[int, tuple[int, int]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)


def plain_value(payload: Payload) -> Any:
    """Return a value of the simulation; that of an array is a tuple."""
    kind, value, *_ = payload
    if kind == PLAIN:
        return value
    listed: Any = decode_input(payload)
    return tuple(listed)


class SimulatedJournal:
    """The segment of one launch: what is committed outlasts the launch.

    Args:
        clock: tells when a record is committed.
        epoch: the number of the launch.

    Attributes:
        records: those that are committed, and when.
    """

    def __init__(self, clock: Clock, epoch: int) -> None:
        self.epoch = epoch
        self.records: list[tuple[float, tuple[Any, ...]]] = []
        self._clock = clock
        self._pending: list[tuple[object, ...]] = []
        self._count_of_first = 0

    def append(self, record: tuple[object, ...]) -> bool:
        """Take in a record, which is nowhere before it is committed."""
        self._pending.append(record)
        return True

    def commit(self) -> None:
        """Write what was appended; the first commit survives every fault."""
        now = self._clock.now
        self.records += [(now, record) for record in self._pending]
        self._pending.clear()
        self._count_of_first = self._count_of_first or len(self.records)

    def close(self) -> None:
        """Write what was appended."""
        self.commit()

    def tear(self, since: float) -> None:
        """Lose what was committed after ``since``."""
        while len(self.records) > self._count_of_first and self.records[-1][0] > since:
            self.records.pop()


class SimulatedRunDir:
    """The journal and the value files of one run; it is the store of values that must outlast the run.

    Attributes:
        files: key to value, of files that can be read.
        damaged: keys of files that cannot be read any more.
    """

    def __init__(self) -> None:
        self.files: dict[Key, int] = {}
        self.damaged: set[Key] = set()
        self._segments: list[SimulatedJournal] = []

    # -- writing --------------------------------------------------------------------------------------

    def begin(self, clock: Clock) -> SimulatedJournal:
        """Start the segment of a new launch."""
        self._segments.append(SimulatedJournal(clock, len(self._segments) + 1))
        return self._segments[-1]

    def tear(self, now: float) -> None:
        """Lose what is not on disk yet: the host of rank 0 died."""
        self._segments[-1].tear(now - UNSYNCED_S)

    def put(self, key: Key, payload: Payload) -> None:
        """Write a value's file."""
        self.files[key] = plain_value(payload)
        self.damaged.discard(key)

    def get(self, key: Key) -> Payload:
        """Read a value's file.

        Raises:
            KeyError: it cannot be read.
        """
        return (PLAIN, self.files[key])

    def delete(self, key: Key) -> None:
        """Remove a value's file."""
        self.files.pop(key, None)

    def damage(self, key: Key) -> None:
        """From now on the file can be read by nobody."""
        del self.files[key]
        self.damaged.add(key)

    # -- reading --------------------------------------------------------------------------------------

    def history(self) -> History:
        """Return what the journal tells."""
        return history_of(Segment(each.epoch, [record for _, record in each.records]) for each in self._segments)

    def resume(self, plan: Plan) -> Resumed:
        """Return what the next launch takes over, as real launches find it out; all functions are as they were."""
        return resume(self.history(), plan, lambda id: b"", self.files.__contains__)

    def spared(self) -> dict[int, Key | None]:
        """Return the tasks that a later launch must not run, and the keys of the files that let it: a dumb twin."""
        spared: dict[int, Key | None] = {}
        for segment in self._segments:
            done_here: set[int] = set()
            for _, (kind, *fields) in segment.records:
                if kind == "turn":
                    _, done, *_ = fields
                    for task, *_, payload, key in done:
                        if task not in done_here:
                            done_here.add(task)
                            spared.pop(task, None)  # it may have another value now
                        if payload is not None:
                            assert payload[0] == PLAIN
                            spared[task] = None
                        elif key is not None and spared.get(task, key) is not None:
                            spared[task] = key
                elif kind == "persisted":
                    task, key = fields
                    spared[task] = key
        return {task: key for task, key in spared.items() if key is None or key in self.files}

    def earlier_arrays(self) -> list[EarlierArrays]:
        """Return the elements of arrays that each launch has computed: another twin."""
        earlier = []
        for segment in self._segments:
            found = EarlierArrays()
            for _, (kind, *fields) in segment.records:
                if kind == "elements":
                    array, _, intervals, *_ = fields
                    made = found.made.setdefault(array, set())
                    made.update(index for interval in intervals for index in range(*interval))
                elif kind == "pulled":
                    array, block, _, covered, _, is_last = fields
                    found.covered[array] = block, covered
                    if is_last:
                        found.whole.add(array)
            earlier.append(found)
        return earlier

    def in_flight(self) -> set[int]:
        """Return the tasks that were in flight when a launch ended, and were never done: another twin."""
        suspects: set[int] = set()
        done: set[int] = set()
        for segment in self._segments:
            flying: set[int] = set()
            for _, (kind, *fields) in segment.records:
                if kind == "turn":
                    sent, ended, failed = ({task for task, *_ in entries} for entries in fields[:3])
                    flying = (flying - ended - failed) | sent
                    done |= ended
                elif kind == "end":
                    flying.clear()
            suspects |= flying
        return suspects - done
