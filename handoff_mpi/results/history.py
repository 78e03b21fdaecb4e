"""The history of earlier launches in their journal: for resume, and for reading a run's values later.

The records of a segment, beside the journal's own header; tasks go by their number in that launch:

- ``("run", about)``: what the run is, a dict;
- ``("tasks", first, [(id, fingerprint or None, name, inputs, cost)])``: the table of tasks, from number ``first`` on;
- ``("turn", sent, done, failed, incidents, time_s)``: what one turn of the scheduler learnt, and its time. ``sent``
  is (task, attempt, rank); ``done`` (task, attempt, rank, started, duration, nbytes, payload or None, key of the
  value's file or None); ``failed`` (task, attempt, rank, status, kind, message, started, duration, number of the
  traceback or -1), without the last three where the scheduler itself fails the function; ``incidents`` (task, attempt,
  rank, kind, reason), which are no failures. Format 2 has neither ``time_s`` nor the last three of ``failed``;
- ``("returned", [task])``: sent by an earlier turn, they came back without having been called (a resume does not count
  on that: an input of theirs may have killed the rank that encoded it);
- ``("traceback", number, text)``: a traceback that failed attempts refer to;
- ``("restored", [task])``: done by an earlier launch;
- ``("again", {reason: [task]})``: why tasks run that an earlier launch had done;
- ``("rerun_named", [task])``: ``--rerun`` names these functions and arrays, or elements of them; earlier versions have
  that in a reason alone, see :func:`~handoff_mpi.results.replaced.named_in_words`;
- ``("replaced", [task], {array: intervals})``: by ``--rerun``, their earlier values count no more: those of whole
  functions and arrays, and of elements;
- ``("bound", {rank or host: [task]}, [[task]])``: which tasks are pinned where, and which are collocated;
- ``("persisted", task, key)``: the value of a task that was done lies in a file by now;
- ``("array", task, count, digests)``: the task is an array of so many elements; digests of each of its inputs;
- ``("array_inputs", task, [task])``: the tasks whose values all elements of the array take; some take others, too;
- ``("elements", task, rank, intervals, column, started, duration)``: values of elements of an array;
- ``("pulled", task, length of a block, number of a block, covered, digests, is_last)``: elements of a windowed array
  have come; the digests of that block and the following ones, and how many elements now have one;
- ``("elements_failed", task, rank, intervals, attempts, kind, message, traceback, last)``: elements of an array that
  failed for good, after so many attempts of their own, with the number of a traceback or -1, and of the last attempt;
- ``("elements_retried", task, rank, intervals, attempt, kind, message)``: elements of an array that failed alike in one
  turn, and are tried again;
- ``("leased", [(lease, task, rank, intervals)])``: elements of arrays were sent to ranks; what the lease had before has
  ended, or waits;
- ``("restored_elements", task, [(launch, intervals)])``: elements that earlier launches computed;
- ``("rank", rank, what, reason, time_s)``: what became of a rank; format 2 has no ``time_s``;
- ``("probation", begins, host or rank, ranks, reason)``: a host or rank is given only probes, or is trusted again;
- ``("forgiven", task, deaths)``: so many deaths were the fault of a rank or host, not of the task;
- ``("end", status, exit_code, is_cut_short)``: the launch ended in order, but perhaps left calls running that got no
  time to end.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from handoff_mpi.arrays.columns import Packed
from handoff_mpi.messages import DIED, Interval
from handoff_mpi.results.array_history import ArrayLaunch
from handoff_mpi.results.journal_format import Record
from handoff_mpi.results.journal_reader import Segment, read_journal
from handoff_mpi.results.launches import Done, History, Identity, Launch
from handoff_mpi.results.records import Incident, note_probation
from handoff_mpi.results.replaced import made_of, named_in_words
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.store import Key


def read_history(run_dir: Path | Directory) -> History:
    """Return what the journal of ``run_dir`` tells; an empty history if there is none.

    Raises:
        UsageError: somebody else could have written it.
        JournalError: it cannot be read, or another version wrote it.
    """
    contents = read_journal(run_dir)
    history = history_of(contents.segments)
    history.notes += contents.notes
    return history


def history_of(segments: Iterable[Segment]) -> History:
    """Return what the segments of a journal tell, one for each launch, in order."""
    history = History()
    for segment in segments:
        reader = _Reader(history, Launch(segment.epoch, python=".".join(segment.python.split(".")[:2])))
        history.launches.append(reader.launch)
        for record in segment.records:
            reader.take(record)
        reader.end()
    return history


class _Reader:
    """Takes in the records of one launch."""

    def __init__(self, history: History, launch: Launch) -> None:
        self.launch = launch
        self._history = history
        self._in_flight: set[int] = set()
        self._arrays: dict[int, ArrayLaunch] = {}
        self._leased: dict[int, tuple[int, Sequence[Interval]]] = {}
        self._failed: set[tuple[int, int]] = set()
        self._tells_of_retries = False  # earlier versions tell of the last attempts of elements alone
        self._tracebacks: dict[int, str] = {}
        self._named: set[int] = set()  # by --rerun
        self._tells_named = False  # earlier versions do it in words
        self._outdated: dict[Identity, list[ArrayLaunch]] = {}  # of arrays of this launch, what others may have changed
        self._is_cut_short = True  # until it says otherwise

    def take(self, record: Record) -> None:
        handler = getattr(self, f"_take_{record[0]}", None)
        if handler is not None:
            handler(*record[1:])

    def _take_run(self, about: dict[str, object]) -> None:
        self.launch.about = about

    def _take_tasks(self, first: int, tasks: list[Any]) -> None:
        self.launch.tasks[first:] = tasks
        for id, fingerprint, *_ in tasks if self._history.accepted else ():
            self._history.accepted.pop((id, fingerprint), None)  # it goes by its own: --rerun replaced the accepted one

    def _take_codes(self, codes: dict[str, list[bytes]]) -> None:
        self.launch.codes = codes

    def _take_accepted(self, changes: list[tuple[Hashable, bytes, bytes]]) -> None:
        for id, fingerprint, earlier in changes:
            self._history.accepted[id, fingerprint] = earlier
            self._history.accepted_marks.add((id, earlier))

    def _take_again(self, reasons: dict[str, list[int]]) -> None:
        self.launch.again.update(task for tasks in reasons.values() for task in tasks)
        self._named.update(named_in_words(reasons))

    def _take_rerun_named(self, tasks: list[int]) -> None:
        self._named, self._tells_named = {*tasks}, True

    def _take_replaced(self, tasks: list[int], elements: dict[int, Sequence[Interval]]) -> None:
        rows, replaced = self.launch.tasks, {*tasks, *elements}
        named = self._named & replaced
        if not self._tells_named:  # what an earlier launch had not done has no reason
            named.update(task for task in replaced if replaced.isdisjoint(rows[task][3]))
        ids, gone = {rows[task][0] for task in named.intersection(tasks)}, set(map(self.launch.identity, tasks))
        for table in (self._history.done, self._history.arrays):
            gone.update(each for each in table if each[0] in ids)  # with other code, too
        changed = {rows[task][0] for task in named}.union(map(self.launch.identity, elements))
        self._leave_outdated(gone, changed)
        for identity in gone:
            self._history.done.pop(identity, None)
            self._history.arrays.pop(identity, None)
        of = {rows[task][0] if task in named else self.launch.identity(task): each for task, each in elements.items()}
        for identity, launches in self._history.arrays.items() if of else ():
            for each in launches:
                each.replaced.update(of.get(identity[0], of.get(identity, ())))

    def _leave_outdated(self, gone: set[Identity], changed: set[Hashable]) -> None:
        """Drop what earlier launches made, by their own inputs, of what is replaced now.

        Functions of this launch are not among it. Of its arrays it is known when their elements are, see ``outdated``.

        Args:
            gone: what is replaced.
            changed: of what anything is, the ids where that is so with any code and arguments.
        """
        history, rows = self._history, self.launch.tasks
        here = set(map(self.launch.identity, range(len(rows))))
        # Of the same functions this launch itself tells.
        others = [each for each in history.launches[:-1] if each.arrays or each.tasks != rows]
        for earlier, _, found in made_of(others, gone | changed, here, history.accepted_marks):
            for identity in set(map(earlier.identity, found)).difference(gone):
                launches = history.arrays.get(identity, [])
                if identity in here:
                    self._outdated.setdefault(identity, []).extend(e for e in launches if e.epoch == earlier.epoch)
                    continue
                is_any = history.done.pop(identity, None) is not None
                left = [each for each in launches if each.epoch != earlier.epoch]
                if is_any or len(left) < len(launches):
                    history.dropped.setdefault(identity, []).append(self.launch.epoch)
                launches[:] = left
                if not launches:
                    history.arrays.pop(identity, None)

    def _take_traceback(self, number: int, text: str) -> None:
        self._tracebacks[number] = text

    def _take_turn(
        self, sent: list[Any], done: list[Any], failed: list[Any], incidents: list[Any], time_s: float = 0.0
    ) -> None:
        for task, attempt, rank, started, duration, nbytes, payload, key in done:
            self._in_flight.discard(task)
            self.launch.restored.discard(task)
            self._done(task, Done(attempt, rank, started, duration, nbytes, payload, key, self.launch.epoch))
        for incident in incidents:
            self._note_incident(*incident)
        for task, attempt, rank, status, kind, message, *times in failed:
            identity = self.launch.identity(task)
            known = self._history.failed.get(identity)
            traceback = self._tracebacks.get(times[2], "") if times else known[4] if known else ""
            self._history.failed[identity] = (attempt, rank, kind, message, traceback)
            self.launch.failed.add(task)
            if (task, attempt) in self._failed:
                continue  # its rank died as well: one attempt fails once
            self._failed.add((task, attempt))
            self._in_flight.discard(task)
            if not (task in self._arrays and self._arrays[task].failed):  # whose failures have records of their own
                self._note_incident(task, attempt, rank, kind, message)
            if times:
                self.launch.failed_calls.setdefault(task, []).append((rank, times[0], times[1]))
            if status == DIED:
                self._history.deaths[identity] = self._history.deaths.get(identity, 0) + 1
        self._in_flight.update(task for task, _, _ in sent)

    def _note_incident(self, task: int, attempt: int, rank: int, kind: str, reason: str) -> None:
        told = self._history.incidents.setdefault(self.launch.identity(task), [])
        if not told or (told[-1].launch, told[-1].attempt) != (self.launch.epoch, attempt):
            told.append(Incident(self.launch.epoch, attempt, rank, kind, reason))

    def _note_elements(self, task: int, attempt: int, rank: int, kind: str, reason: str, calls: int) -> None:
        """So many calls of elements of an array failed."""
        incident = Incident(self.launch.epoch, attempt, rank, kind, reason, calls)
        self._history.incidents.setdefault(self.launch.identity(task), []).append(incident)

    def _done(self, task: int, done: Done) -> None:
        identity = self.launch.identity(task)
        known = self._history.done.get(identity)
        if known is None or known.epoch != done.epoch or done.has_value or not known.has_value:
            self._history.done[identity] = done
        for table in (self._history.failed, self._history.deaths):
            table.pop(identity, None)

    def _take_restored(self, tasks: list[int]) -> None:
        self.launch.restored.update(tasks)

    def _take_array(self, task: int, count: int, digests: list[Any]) -> None:
        array = self._arrays[task] = ArrayLaunch(self.launch.epoch, count, digests)
        self.launch.arrays.append(task)
        for earlier in self._outdated.get(self.launch.identity(task), ()):
            earlier.replaced.update(earlier.unlike(digests))
        self._history.arrays.setdefault(self.launch.identity(task), []).append(array)

    def _take_array_inputs(self, task: int, inputs: list[int]) -> None:
        self._arrays[task].shared = {*inputs}

    def _take_elements(
        self, task: int, rank: int, elements: Sequence[Interval], column: Packed, started: float, duration: float
    ) -> None:
        array = self._arrays[task]
        array.parts.append((elements, rank, column))
        array.count = max(array.count, *(stop for _, stop in elements))  # of a windowed array

    def _take_pulled(self, task: int, block: int, first: int, covered: int, digests: bytes, is_last: bool) -> None:
        self._arrays[task].pulled(block, first, covered, digests, is_last)

    def _take_elements_failed(
        self,
        task: int,
        rank: int,
        elements: Sequence[Interval],
        attempts: int,
        kind: str,
        message: str,
        traceback: int,
        last: int = 0,
    ) -> None:
        last = last or attempts  # of earlier versions
        failed = elements, rank, attempts, kind, message, self._tracebacks.get(traceback, ""), last
        array = self._arrays[task]
        array.failed.append(failed)
        array.count = max(array.count, *(stop for _, stop in elements))
        count = _count(elements)
        calls = count if self._tells_of_retries else count * max(1, attempts)
        self._note_elements(task, last, rank, kind, message, calls)

    def _take_elements_retried(
        self, task: int, rank: int, elements: Sequence[Interval], attempt: int, kind: str, message: str
    ) -> None:
        self._tells_of_retries = True
        self._note_elements(task, attempt, rank, kind, message, _count(elements))

    def _take_leased(self, leases: list[tuple[int, int, int, Sequence[Interval]]]) -> None:
        for lease, task, _, elements in leases:
            self._leased[lease] = task, elements

    def _take_restored_elements(self, task: int, taken: list[tuple[int, Sequence[Interval]]]) -> None:
        array, launches = self._arrays[task], self._history.arrays[self.launch.identity(task)]
        array.restored += taken
        for epoch, intervals in taken:
            for each in launches:
                for interval in intervals if each.epoch == epoch else ():
                    each.replaced.discard(*interval)  # it takes what it took
        array.count = max([array.count, *(stop for _, intervals in taken for _, stop in intervals)])  # windowed

    def _take_persisted(self, task: int, key: Key) -> None:
        done = self._history.done.get(self.launch.identity(task))
        if done is not None:
            done.key = key

    def _take_rank(self, rank: int, what: str, reason: str, time_s: float = 0.0) -> None:
        if what == "lost":
            self.launch.lost_ranks[rank] = reason
        elif what == "returned":
            self.launch.lost_ranks.pop(rank, None)

    def _take_probation(self, begins: bool, place: int | str, ranks: tuple[int, ...], reason: str) -> None:
        note_probation(self.launch.probation, begins, place, reason)

    def _take_forgiven(self, task: int, deaths: int) -> None:
        identity = self.launch.identity(task)
        left = self._history.deaths.pop(identity, 0) - deaths
        if left > 0:
            self._history.deaths[identity] = left

    def _take_end(self, status: str, exit_code: int, is_cut_short: bool) -> None:
        self.launch.ended = (status, exit_code)
        self._is_cut_short = is_cut_short

    def end(self) -> None:
        """The launch has ended, in order or not."""
        if self._is_cut_short:
            self._history.suspects.update(map(self.launch.identity, self._in_flight))
            for task, elements in self._leased.values():
                self._arrays[task].suspect(elements)
        for identity in self._history.suspects & self._history.done.keys():
            self._history.suspects.discard(identity)


def _count(elements: Sequence[Interval]) -> int:
    return sum(stop - start for start, stop in elements)
