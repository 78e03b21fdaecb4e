"""The leases that a simulated rank computes, element by element, as the workload and the faults have it.

What becomes of each element is drawn when the lease begins, with the time at which it ends. So the clock has one event
for a lease and some for its parts, however many elements it has, and which element runs follows from the time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.inputs import values_of
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import DEATH, DIED, OK, ErrorReport, Interval, LeaseReport
from handoff_mpi.runtime.call_io import CallIO
from handoff_mpi.simulation.context import SimulationContext
from handoff_mpi.simulation.running_lease import NEVER_S, RunningLease
from handoff_mpi.simulation.workload import Inputs
from handoff_mpi.worker.call_spec import Outcome
from handoff_mpi.worker.elements import NOTHING_ENDED
from handoff_mpi.worker.events import ElementBegun, PartEnded, QueuedCall
from handoff_mpi.worker.part_sender import PART_INTERVAL_S


class SimulatedLeases:
    """The leases of one rank.

    Args:
        around: the launch.
        rank: its own.
        call_io: takes results.
        is_own: whether the rank itself runs a call.
        kills: told that a call kills its process, in which element; returns whether that is the rank's own.
    """

    def __init__(
        self,
        around: SimulationContext,
        rank: int,
        call_io: CallIO,
        is_own: Callable[[QueuedCall], bool],
        kills: Callable[[QueuedCall, int], bool],
    ) -> None:
        self._around = around
        self._clock = around.clock
        self._rank = rank
        self._call_io = call_io
        self._is_own = is_own
        self._kills = kills
        self._running: dict[QueuedCall, RunningLease] = {}

    def begin(self, work: QueuedCall, inputs: Inputs) -> None:
        """Begin a lease."""
        assert work.elements is not None
        intervals, pieces, tries = work.elements
        indices = [index for interval in intervals for index in range(*interval)]
        rows = [row for interval, row in zip(intervals, pieces, strict=True) for row in _rows(interval, row, inputs)]
        number, load = work.id, self._around.load
        assert isinstance(number, int)
        if load.shape(number).has_indices:
            assert [row[0] for row in rows] == indices, f"lease {work.task} got the inputs of others"
            rows = [row[1:] for row in rows]
        shared = inputs[: len(load.takes(number))]
        lease = RunningLease(work, shared, self._is_own(work), rows, indices, [], [], 0)
        spoiled, now = self._around.spoils(self._rank, lease.array), self._clock.now
        for index in indices:
            fate, duration = self._around.draw_element(lease.array, index, work.timeout_s is not None)
            now += duration
            lease.ends.append(now)
            lease.fates.append(spoiled or fate)
            if lease.fates[-1] == "killed" or duration >= NEVER_S:
                break
        lease.end = len(lease.ends)
        self._running[work] = lease
        self._around.note_lease(lease, tries + 1)
        self._plan_end(lease)
        self._plan_part(lease)

    def _plan_end(self, lease: RunningLease) -> None:
        lease.serial += 1
        if lease.ends[lease.end - 1] < NEVER_S:
            self._clock.at(lease.ends[lease.end - 1], "lease_end", self._rank, lease.work, lease.serial)

    def _plan_part(self, lease: RunningLease) -> None:
        """A child sends parts by itself, at certain times; for a rank's own leases, the machine asks."""
        if not lease.is_own and lease.reported < lease.end - 1:
            begun = lease.work.started
            ticks = (lease.ends[lease.reported] - begun) // PART_INTERVAL_S + 1
            due = begun + ticks * PART_INTERVAL_S
            if due < lease.ends[lease.end - 1]:
                self._clock.at(due, "lease_part", self._rank, lease.work)

    # -- parts ----------------------------------------------------------------------------------------

    def part(self, work: QueuedCall) -> bool:
        """It is time for a child to send a part; return whether it does."""
        lease = self._running.get(work)
        if lease is None:
            return False
        part = self._take(lease)
        if part is not None:
            self._call_io.note(PartEnded(work, part))
        self._plan_part(lease)
        return part is not None

    def take_part(self, work: QueuedCall) -> None:
        """Have the machine learn what has ended of a lease."""
        lease = self._running.get(work)
        if lease is not None and lease.is_own:
            part = self._take(lease)
            if part is not None:
                self._call_io.note(PartEnded(work, part))

    def stop(self, work: QueuedCall) -> None:
        """Have no further element of a lease begin."""
        lease = self._running.get(work)
        if lease is None:
            return
        first = min(lease.end, lease.ended(self._clock.now) + 1)
        left = tuple(IntervalSet((index, index + 1) for index in lease.indices[first:]))
        part = ((self._take(lease) if lease.is_own else None) or NOTHING_ENDED)._replace(left=left)
        del lease.indices[first:]
        if first < lease.end:
            lease.end = first
            self._plan_end(lease)
        if lease.is_own or left:
            self._call_io.note(PartEnded(work, part))

    def _take(self, lease: RunningLease) -> LeaseReport | None:
        """Return the report on what has ended since the last one; None if nothing has."""
        first, lease.reported = lease.reported, lease.ended(self._clock.now)
        places = [place for place in range(first, lease.reported) if lease.fates[place] != "killed"]
        if not places:
            return None
        right = [place for place in places if lease.fates[place] == "ok"]
        good = [lease.indices[place] for place in right]
        value = self._around.load.element_value
        values = [value(lease.array, lease.indices[each], lease.inputs, lease.arguments[each]) for each in right]
        busy_s = lease.ends[places[-1]] - (lease.ends[first - 1] if first else lease.work.started)
        return LeaseReport(_intervals(good), pack(values), self._failures(lease, places), (), busy_s)

    def _failures(self, lease: RunningLease, places: list[int]) -> tuple[tuple[tuple[Interval, ...], ErrorReport], ...]:
        alike: dict[str, list[int]] = {}
        for place in places:
            if lease.fates[place] == "raised":
                index = lease.indices[place]
                kind = self._around.load.element_errors.get((lease.array, index), "ValueError")
                alike.setdefault(kind, []).append(index)
        return tuple((_intervals(each), ErrorReport(kind, "raised", "", (kind,))) for kind, each in alike.items())

    # -- ends -----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Have the machine know which elements run that have a timeout."""
        now = self._clock.now
        for work, lease in self._running.items():
            place = lease.ended(now)
            if work.timeout_s is not None and place < lease.end and work.element != lease.indices[place]:
                since = lease.ends[place - 1] if place else work.started
                self._call_io.note(ElementBegun(work, lease.indices[place], since))

    def kill(self, work: QueuedCall) -> None:
        """End the element that has used up its time, unless it has ended meanwhile."""
        lease, now = self._running.get(work), self._clock.now
        if lease is None:
            return
        place = lease.ended(now)
        if place < lease.end and lease.indices[place] == work.element:
            lease.ends[place:], lease.fates[place:], lease.end = [now], ["killed"], place + 1
            self._plan_end(lease)

    def end(self, work: QueuedCall, serial: int) -> bool:
        """A lease ends, if that is planned still; return whether its rank takes note of that."""
        lease = self._running.get(work)
        if lease is None or lease.serial != serial:
            return False
        del self._running[work]
        lease.has_ended = True
        duration = self._clock.now - work.started
        if lease.fates[lease.end - 1] == "killed":
            index = lease.indices[lease.end - 1]
            if not work.is_overdue and self._kills(work, index):
                return False
            error = ErrorReport(DEATH, "killed", "", (DEATH,), element=index)
            self._call_io.end(work, Outcome(DIED, None, error, duration), work.started)
            return True
        report = self._take(lease) or NOTHING_ENDED
        self._call_io.end(work, Outcome(OK, None, None, duration, report), work.started)
        return True


def _rows(interval: Interval, pieces: Sequence[Any], inputs: Inputs) -> list[tuple[Any, ...]]:
    """Return the arguments of the elements of an interval, from a piece of each input of the array."""
    count = interval[1] - interval[0]
    columns = [[inputs[piece]] if isinstance(piece, int) else values_of(piece, 0, count) for piece in pieces]
    return [
        tuple([tuple(each) if isinstance(each, list) else each for each in row]) for row in zip(*columns, strict=True)
    ]


def _intervals(indices: list[int]) -> tuple[Interval, ...]:
    return tuple(IntervalSet((index, index + 1) for index in indices))
