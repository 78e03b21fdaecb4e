"""The windowed arrays of a run: rank 0 takes in what threads have pulled, and offers it to the scheduler.

An earlier launch may have computed some of them. As it is not known which elements the iterables will give, each block
of them is compared when it has come: where an earlier launch has a digest of a block, its elements wait for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from handoff_mpi.arrays.columns import ColumnError
from handoff_mpi.arrays.digests import NO_DIGEST
from handoff_mpi.arrays.intervals import Interval
from handoff_mpi.arrays.values import ArrayValues
from handoff_mpi.arrays.windows import ElementWindow
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.dag.fingerprint import ObjectDigests
from handoff_mpi.formatting import counted, show
from handoff_mpi.messages import ErrorReport
from handoff_mpi.results.array_history import EarlierElements
from handoff_mpi.runtime.element_puller import ElementPuller
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.window_consumers import Compared, Decided, Undecided, WindowConsumers, window_consumers
from handoff_mpi.scheduler import ElementsPulled, Restored
from handoff_mpi.scheduler.array_state import Array
from handoff_mpi.serialization import reason_of
from handoff_mpi.worker.error_report import describe

#: At most so many elements are taken in in one turn.
MAX_TAKEN = 1 << 15
#: Seconds between two digests of a block that is not complete.
DIGEST_INTERVAL_S = 1.0
_NEVER = float("inf")
#: The kind of failure of an array with an element that cannot be sent to a rank.
_UNSENDABLE = "EncodingError"


class WindowedArray:
    """The elements of one windowed array, on their way from its iterables to the scheduler.

    Args:
        number: of the array.
        label: names it in messages.
        window: the elements that have not ended.
        puller: pulls them.
        values: of the array, which take over those of earlier launches.
        earlier: what those have computed, in order.
        journal_writer: writes the digests of elements into the journal.
        consumers: the arrays that take its elements.
        undecided: what earlier launches have computed, where it depends on folds of other windowed arrays: elements
            are offered once it is known whether these are the same. None of them could begin before, unless it takes
            no elements of the arrays between.
    """

    def __init__(
        self,
        number: int,
        label: str,
        window: ElementWindow,
        puller: ElementPuller,
        values: ArrayValues,
        earlier: Sequence[EarlierElements],
        journal_writer: JournalWriter,
        consumers: WindowConsumers | None,
        undecided: Undecided | None = None,
    ) -> None:
        self.number = number
        self.puller = puller
        self._label = label
        self._window = window
        self._values = values
        self._undecided = undecided
        self._journal_writer = journal_writer
        self._consumers = consumers
        self._digest_object = ObjectDigests()
        self._error: ErrorReport | None = None
        self._offered = 0
        self._looked_at = 0  # the number of elements that were judged, or are to be with the rest of their block
        self._judged = 0  # the end of the last block that was compared
        self._is_last = False
        self._released = 0
        self._begin(earlier)
        self._digests: list[bytes] = []
        self._blocks = 0  # whose digests are in the journal
        self._recorded = 0
        self._next_record = 0.0

    def _begin(self, earlier: Sequence[EarlierElements]) -> None:
        """Take in what earlier launches have computed, which counts if it is the same."""
        self._earlier = [each for each in earlier if each.block == self._window.block]
        self._has_said = not earlier
        if earlier and not self._earlier:
            self._say_again("its window was another one in earlier launches, so all of its elements run again")

    @property
    def is_undecided(self) -> bool:
        """Whether it, or a consumer, waits until folds are known on which it depends."""
        return self._undecided is not None or (self._consumers is not None and self._consumers.are_undecided)

    def decide(self, decided: Decided, arrays: Mapping[int, Array]) -> list[ElementsPulled | Restored]:
        """Take over what depends on folds of other arrays, as these are known; return the events of it."""
        events: list[ElementsPulled | Restored] = []
        earlier = None if self._undecided is None else self._undecided.decide(decided)
        if earlier is not None:
            self._undecided = None
            self._begin(earlier)
        if self._consumers is not None and self._undecided is None:
            if earlier is not None:
                self._consumers.begin(earlier)
            events += self._consumers.decide(decided, arrays)
        if earlier is not None and arrays[self.number].is_open:
            events += self._offer(arrays)
            if self._is_last:
                self._record(_NEVER, is_last=True)
        return events

    def take(self, arrays: Mapping[int, Array], now: float) -> list[ElementsPulled | Restored]:
        """Take in what was pulled; return the events of it.

        Args:
            arrays: where the elements of arrays stand, by number.
        """
        array = arrays[self.number]
        if not array.is_open:
            self.puller.close()
            return []
        self._release(array)
        events = self._take_news(arrays) if self.puller.has_news else []
        is_last = bool(events) and isinstance(events[-1], ElementsPulled) and events[-1].is_last
        if self._digests or is_last or (now >= self._next_record and self._recorded < self._window.count):
            self._record(now, is_last)
            events = events or [ElementsPulled(self.number, self._offered)]  # a turn writes the record
        own = array.done + array.failed + array.skipped
        self.puller.allow(own if self._consumers is None else self._consumers.ended(arrays, array))
        return events

    @property
    def same_launches(self) -> Mapping[int, set[int]]:
        """Of each fold of its elements that was taken over, the launches in which its value was the same."""
        return {} if self._consumers is None else self._consumers.same_launches

    def closed_folds(self, arrays: Mapping[int, Array]) -> Collection[int]:
        """Return the folds of its elements that were taken over, or are not."""
        return () if self._consumers is None else self._consumers.closed_folds(arrays)

    def finish(self) -> None:
        """Have the journal know all elements that have come: the run has ended, and may be resumed."""
        if self._recorded < self._window.count:
            self._record(_NEVER, is_last=False)

    def _release(self, array: Array) -> None:
        """Forget elements that failed for good."""
        for intervals, _ in array.failures[self._released :]:
            self._window.ended(intervals)
        self._released = len(array.failures)

    def _take_news(self, arrays: Mapping[int, Array]) -> list[ElementsPulled | Restored]:
        is_over = self.puller.is_over  # before: what comes after it is taken too
        elements = self.puller.take(MAX_TAKEN)
        count, block = self._window.count, self._window.block
        if self._error is None:
            self._add(elements)
        for stop in range(count - count % block + block, self._window.count + 1, block):
            self._digests.append(self._digest(stop))
        self._is_last = self._error is not None or (is_over and len(elements) < MAX_TAKEN)
        return [] if self._undecided is not None else self._offer(arrays)

    def _offer(self, arrays: Mapping[int, Array]) -> list[ElementsPulled | Restored]:
        """Offer the elements that have come; return the events of it."""
        restored: list[Interval] = []
        events: list[ElementsPulled | Restored] = []
        count, block = self._looked_at, self._window.block
        while count < self._window.count:
            count = min(self._window.count, count - count % block + block)
            restored += self._judge(arrays, events, count, is_last=False)
        self._looked_at = count
        if self._is_last:
            restored += self._judge(arrays, events, count, is_last=True)
            if self._error is None and self.puller.error is not None:
                self._error = self._why_ended(self.puller.error)
            if self._error is None and self._consumers is not None:
                events += self._consumers.close(self._offered, arrays)
            self.puller.close()
        events.append(ElementsPulled(self.number, self._offered, restored, self._is_last, self._error))
        return events

    def _why_ended(self, error: BaseException) -> ErrorReport:
        """Return what is reported of an exception of the iterables."""
        report, count = describe(error), self._window.count
        when = f"after {counted(count, 'element')}, and more may have been meant" if count else "before an element came"
        why = f": {report.message}" if report.message else ""
        return report._replace(message=f"its iterables raised {when}{why}")

    def _add(self, elements: list[object]) -> None:
        """Take in elements; where one cannot be sent to a rank, those before it."""
        try:
            self._window.add(elements)
        except ColumnError as error:
            first = min(error.errors)
            self._window.add(elements[:first])
            what = f"element {self._window.count:,} cannot be sent to a rank, and no further ones were read"
            self._error = ErrorReport(_UNSENDABLE, f"{what}: {reason_of(error.errors[first])}")

    def _digest(self, stop: int) -> bytes:
        return self._window.digest(stop, self._digest_object)

    def _judge(
        self, arrays: Mapping[int, Array], events: list[ElementsPulled | Restored], count: int, is_last: bool
    ) -> list[Interval]:
        """Offer elements whose block need not be compared any more; return those that an earlier launch has computed.

        Args:
            arrays: where the elements of arrays stand, by number.
            events: is given those of consumers.
            count: how many elements there are, those of later blocks left out.
            is_last: whether no more elements come.
        """
        block = self._window.block
        if count == self._offered:
            return []
        low = (count - 1) // block * block
        restored: list[Interval] = []
        if low >= self._judged and self._earlier:
            wanted = max([min(low + block, each.covered) for each in self._earlier])
            if count < wanted and not is_last:
                return []
            compared = self._compare(low, count)
            for epoch, intervals in compared.taken.items():
                restored += intervals
                self._journal_writer.elements_restored(self.number, epoch, intervals)
            if self._consumers is not None:
                events += self._consumers.restore(compared, arrays)
            self._judged = low + block
        self._window.ended(restored)
        self._offered = count
        return restored

    def _compare(self, low: int, count: int) -> Compared:
        """Take over elements of the block that begins at ``low``, those of the newest launch first."""
        found, same = dict[int, Sequence[Interval]](), dict[int, Interval]()
        others: list[bytes] = []
        for each in reversed(self._earlier):
            stop = min(low + self._window.block, each.covered)
            if not low < stop <= count:
                continue
            digest = self._digest(stop)
            if digest == each.digest(low):
                same[each.epoch] = (low, stop)
                intervals = self._values.take(each.values, low, stop)
                if intervals:
                    found[each.epoch] = intervals
            elif any(each.values.have.within(low, stop)):
                others.append(digest)
        if others and not found:
            has_none = NO_DIGEST in others
            changed = "its iterables give other elements than in an earlier launch"
            why = "its elements cannot be compared with those of an earlier launch" if has_none else changed
            self._say_again(f"{why} from element {low:,} on, so they run again")
        return Compared(count, found, same)

    def _say_again(self, why: str) -> None:
        """Say once that elements run again."""
        if not self._has_said:
            self._has_said = True
            print_message(f"array {self._label}: {why}")

    def _record(self, now: float, is_last: bool) -> None:
        """Have the journal know the elements that were pulled."""
        block, count = self._window.block, self._window.count
        digests = b"".join(self._digests)
        covered = (self._blocks + len(self._digests)) * block
        if count > covered and (is_last or now >= self._next_record):
            digests += self._digest(count)
            covered = count
        has_ended = is_last and self._error is None
        self._journal_writer.elements_pulled(self.number, self._blocks, covered, digests, has_ended)
        self._blocks += len(self._digests)
        self._digests.clear()
        self._recorded = covered
        self._next_record = now + DIGEST_INTERVAL_S


class FoldsTakenOver:
    """Has all that depends on folds of windowed arrays be taken over as these are known.

    Args:
        take_over: called with the folds that are known to be what they were, and the launches in which each was that;
            takes over what depends on these alone, and returns the event of it.
    """

    def __init__(self, take_over: Callable[[Mapping[int, Collection[int]]], Restored]) -> None:
        self._take_over = take_over
        self._known = self._closed = 0  # the number of folds

    def take(self, windowed: Collection[WindowedArray], arrays: Mapping[int, Array]) -> list[ElementsPulled | Restored]:
        """Return the events of what can be taken over, after what was taken in in this turn.

        Args:
            windowed: the windowed arrays.
            arrays: where the elements of arrays stand, by number.
        """
        events: list[ElementsPulled | Restored] = []
        decided = _decided(windowed, arrays)
        while len(decided.folds) > self._closed:  # folds of what is decided may be known at once
            self._closed = len(decided.folds)
            for each in windowed:
                if each.is_undecided and each.number in arrays:
                    events += each.decide(decided, arrays)
            decided = _decided(windowed, arrays)
        if len(decided.same) > self._known:
            self._known = len(decided.same)
            events.append(self._take_over(decided.same))
        return events


def _decided(windowed: Collection[WindowedArray], arrays: Mapping[int, Array]) -> Decided:
    """Return the folds of which it is known whether they are what they were."""
    closed = {fold for each in windowed if each.number in arrays for fold in each.closed_folds(arrays)}
    same = {fold: launches for each in windowed for fold, launches in each.same_launches.items()}
    return Decided(closed, same)


class WindowedArrays:
    """The windowed arrays of a run; the loop of rank 0 asks them in each turn.

    Args:
        plan: the run's tables.
        arrays: of the scheduler, by number.
        values: of arrays, by number.
        earlier: array to what earlier launches have computed.
        journal_writer: writes the journal.
        take_over_later: as of :class:`FoldsTakenOver`.
        undecided: what earlier launches have computed of arrays that depend on folds of others, by number.
    """

    def __init__(
        self,
        plan: Plan,
        arrays: Mapping[int, Array],
        values: Mapping[int, ArrayValues],
        earlier: Mapping[int, Sequence[EarlierElements]],
        journal_writer: JournalWriter,
        take_over_later: Callable[[Mapping[int, Collection[int]]], Restored],
        undecided: Mapping[int, Undecided],
    ) -> None:
        self._arrays = arrays
        self._folds = FoldsTakenOver(take_over_later)
        self._is_rung = False
        self._is_closed = False
        self._lock = threading.Lock()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._of: list[WindowedArray] = []
        for number, frozen in plan.arrays.items():
            if frozen.pulled is not None and frozen.source is not None:
                puller = ElementPuller(frozen.source.begin, frozen.pulled.size, self._ring)
                label, before = show(plan.ids[number]), earlier.get(number, ())
                consumers = window_consumers(number, plan, values, earlier, journal_writer, undecided)
                its = puller, values[number], before, journal_writer, consumers, undecided.get(number)
                self._of.append(WindowedArray(number, label, frozen.pulled, *its))

    def start(self) -> None:
        """Begin to pull elements."""
        for each in self._of:
            each.puller.start()

    def events(self, now: float) -> list[ElementsPulled | Restored]:
        """Return what has come since the last time."""
        if self._is_rung:
            self._is_rung = False
            with suppress(BlockingIOError):
                os.read(self._read, 1024)
        found = [event for each in self._of if each.number in self._arrays for event in each.take(self._arrays, now)]
        return found + self._folds.take(self._of, self._arrays)

    def finish(self) -> None:
        """Note what has come until the end of the run."""
        for each in self._of:
            each.finish()

    def _ring(self) -> None:
        """Wake the loop; called in another thread."""
        with self._lock:
            if not self._is_closed:
                self._is_rung = True
                with suppress(BlockingIOError):  # it is full of rings
                    os.write(self._write, b"\0")

    def fileno(self) -> int:
        """Return a descriptor that is readable when elements have come."""
        return self._read

    def close(self) -> None:
        """Pull no more; a thread that is blocked in the user's code is not waited for."""
        for each in self._of:
            each.puller.close()
        with self._lock:
            self._is_closed = True
            os.close(self._read)
            os.close(self._write)


def windowed_arrays(
    plan: Plan,
    arrays: Mapping[int, Array],
    values: Mapping[int, ArrayValues],
    earlier: Mapping[int, Sequence[EarlierElements]],
    journal_writer: JournalWriter,
    take_over_later: Callable[[Mapping[int, Collection[int]]], Restored],
    undecided: Mapping[int, Undecided],
) -> WindowedArrays | None:
    """Return the windowed arrays of a run; None if it has none."""
    if all(frozen.window is None for frozen in plan.arrays.values()):
        return None
    return WindowedArrays(plan, arrays, values, earlier, journal_writer, take_over_later, undecided)
