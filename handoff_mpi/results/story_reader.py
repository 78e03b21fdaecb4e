"""Reads what happened in a run, all launches of it, from its run-dir: of one that ended, was killed, or still runs.

Values are passed over, and records are read one by one, so a million calls take about 250 MB and some seconds. Where a
rank told neither start nor end of a call, because it died or the run was killed, both follow from other events: a rank
works on what it was sent first, as many calls at a time as it has slots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from handoff_mpi import messages
from handoff_mpi.errors import JournalError, UntrustedFile, UsageError
from handoff_mpi.formatting import one_line
from handoff_mpi.results.journal_format import Record
from handoff_mpi.results.journal_reader import Segment, stream_journal
from handoff_mpi.results.lease_tally import LeaseTally
from handoff_mpi.results.records import note_probation
from handoff_mpi.results.run_status import RUNNING as RUNNING_RUN
from handoff_mpi.results.run_status import find_states, is_ended
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.status_file import read_status
from handoff_mpi.results.story import (
    CUT_OFF,
    DIED,
    DONE,
    DONE_STATE,
    FAILED,
    FAILED_STATE,
    MAX_LABEL,
    RANK_LOST,
    RUNNING,
    RUNNING_STATE,
    TIMED_OUT,
    WAITING_STATE,
    Failure,
    LaunchStory,
    RankEvent,
    Story,
)
from handoff_mpi.results.story_tables import CallColumns, TaskTable, mark_skipped

_OUTCOMES = {messages.RAISED: FAILED, messages.TIMED_OUT: TIMED_OUT, messages.DIED: DIED}
#: Reasons of failures that are counted apart; the others of a kind count as one.
_MAX_FAILURES = 20_000
_MAX_MESSAGE = 2_000
_COPY = "copy it into a directory of your own, if you trust its owner, and read the copy"
_NAN = float("nan")


def read_story(run_dir: str | Path) -> Story:
    """Return what happened in the run that has its files in ``run_dir``.

    Raises:
        UsageError: there is no run, or somebody else could have written its files.
        JournalError: the journal cannot be read, or another version wrote it.
    """
    path = Path(os.path.abspath(run_dir))  # noqa: PTH100 (Path.absolute keeps ..)
    try:
        with open_directory(path) as directory:
            status = read_status(directory)
            is_running = not is_ended(status) and find_states([path])[path][0] == RUNNING_RUN
            reader = StoryReader(status, is_running)
            for segment, records in stream_journal(directory, reader.notes):
                reader.read(segment, records)
            return reader.story(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{path} holds no run: {error.strerror}; name the run-dir of a run") from error
    except UntrustedFile as error:
        raise UntrustedFile(error.what, error.repair, _COPY) from error
    except OSError as error:
        raise JournalError(
            f"the run-dir {path} cannot be read: {error.strerror}; check its mode and its owner"
        ) from error


class StoryReader:
    """Takes in one launch after the other.

    Args:
        status: what ``status.json`` holds.
        is_running: whether the run is still running.
    """

    def __init__(self, status: dict[str, object], is_running: bool) -> None:
        self.notes: list[str] = []
        self._status = status
        self._is_running = is_running
        self._columns = CallColumns()
        self._table = TaskTable()
        self._tally = LeaseTally(self._columns.elements)
        self._launches: list[LaunchStory] = []
        self._failures: dict[Failure, int] = {}
        self._failure_counts: list[int] = []
        self._values_lost: list[tuple[int, int]] = []
        self._given_up: dict[int, int] = {}

    def read(self, segment: Segment, records: Iterator[Record]) -> None:
        """Read one launch to its end."""
        self._table.begin()
        self._tally.begin()
        launch = LaunchStory(segment.epoch)
        self._launches.append(launch)
        # By the number of the task in this launch, in the order in which they were sent.
        self._in_flight: dict[int, tuple[int, int, float]] = {}
        self._counts: dict[int, int] = {}  # of elements of arrays
        self._elements: dict[int, int] = {}  # of them, how many have no value
        self._growing: set[int] = set()  # arrays of which more elements may come
        self._failed: set[tuple[int, int]] = set()
        self._rows_lost: dict[tuple[int, int], int] = {}  # of attempts whose rank was lost
        self._tracebacks: dict[int, str] = {}
        self._now = segment.started_s
        self._has_times = False
        self._first_row = len(self._columns.task)
        for record in records:
            handler = getattr(self, f"_take_{record[0]}", None)
            if handler is not None:
                handler(*record[1:])
        if not len(self._table.here):  # it died before it had begun, or was refused
            self._launches.pop()
            self._tally.drop()
            return
        launch.version, launch.python = segment.version, segment.python
        self._tally.end()
        self._end_launch(launch, segment)

    @property
    def _launch(self) -> LaunchStory:
        return self._launches[-1]

    # -- records --------------------------------------------------------------------------------------

    def _take_run(self, about: dict[str, Any]) -> None:
        launch = self._launch
        launch.about = about
        launch.hosts, launch.slots = dict(about.get("hosts", {})), dict(about.get("slots", {}))
        launch.capacity = dict(about.get("capacity", {}))

    def _take_tasks(self, first: int, rows: list[Any]) -> None:
        self._table.take(rows)

    def _take_restored(self, tasks: list[int]) -> None:
        self._launch.restored += len(tasks)
        for task in tasks:
            self._table.state[self._table.here[task]] = DONE_STATE

    def _take_traceback(self, number: int, text: str) -> None:
        self._tracebacks[number] = text

    def _take_turn(
        self, sent: list[Any], done: list[Any], failed: list[Any], incidents: list[object], time_s: float = _NAN
    ) -> None:
        in_flight, here, state = self._in_flight, self._table.here, self._table.state
        launch, add = len(self._launches) - 1, self._columns.add
        self._has_times = time_s == time_s
        if self._has_times:
            self._now = time_s
        elif done:
            self._now = max(self._now, done[-1][3] + done[-1][4])
        for task, attempt, rank, started, duration, nbytes, *_ in done:
            _, _, sent_s = in_flight.pop(task, (0, 0, _NAN))
            number = here[task]
            add(number, launch, attempt, rank, started, duration, sent_s, DONE, nbytes)
            state[number] = DONE_STATE
        if incidents:
            self._take_incidents(incidents)
        for entry in failed:
            self._take_failed(*entry)
        for task, attempt, rank in sent:
            in_flight[task] = (attempt, rank, time_s)

    def _take_array(self, task: int, count: int, digests: object) -> None:
        self._growing.discard(task)
        self._elements[task] = self._counts[task] = count
        if not count:
            self._note_elements(task, [])

    def _take_pulled(self, task: int, block: int, first: int, covered: int, digests: bytes, is_last: bool) -> None:
        """Elements of a windowed array have come, or no more come of one that takes such."""
        self._growing.add(task)
        self._grow(task, covered)
        if is_last:
            self._growing.discard(task)
        self._note_elements(task, [])

    def _grow(self, task: int, count: int) -> None:
        """An array has at least so many elements."""
        more = max(0, count - self._counts[task])
        self._elements[task] += more
        self._counts[task] += more

    def _take_restored_elements(self, task: int, taken: list[tuple[int, list[tuple[int, int]]]]) -> None:
        self._note_elements(task, [interval for _, intervals in taken for interval in intervals])

    def _take_elements(
        self, task: int, rank: int, elements: list[tuple[int, int]], column: object, started: float, duration: float
    ) -> None:
        """A rank has computed elements of an array: its lease is a call, and counts once, at its end."""
        number, row = self._table.here[task], -1
        if started:
            row = len(self._columns.task)
            self._columns.add(number, len(self._launches) - 1, 1, rank, started, duration, _NAN, DONE, 0)
            self._now = max(self._now, started + duration)
        self._tally.ended(number, rank, elements, row)
        self._note_elements(task, elements)

    def _take_leased(self, leases: list[tuple[int, int, int, list[tuple[int, int]]]]) -> None:
        for lease, task, rank, elements in leases:
            self._tally.leased(lease, self._table.here[task], rank, elements)

    def _take_elements_retried(
        self, task: int, rank: int, elements: list[tuple[int, int]], attempt: int, kind: str, message: str
    ) -> None:
        failure = self._number_of(kind, message, "", 0)
        self._tally.retried(self._table.here[task], rank, elements, attempt, kind, failure)

    def _take_elements_failed(
        self,
        task: int,
        rank: int,
        elements: list[tuple[int, int]],
        attempts: int,
        kind: str,
        message: str,
        traceback: int,
        last: int = 0,
    ) -> None:
        failure = self._number_of(kind, message, self._tracebacks.get(traceback, ""), 0)
        self._tally.failed(self._table.here[task], rank, elements, last or attempts, failure)

    def _note_elements(self, task: int, elements: list[tuple[int, int]]) -> None:
        """So many more elements of an array have values."""
        is_growing = task in self._growing
        if is_growing:
            self._grow(task, max((stop for _, stop in elements), default=0))
        self._elements[task] -= sum(stop - start for start, stop in elements)
        is_open = is_growing or self._elements[task] > 0  # it is done when no more elements come
        self._table.state[self._table.here[task]] = RUNNING_STATE if is_open else DONE_STATE

    def _take_returned(self, tasks: list[int]) -> None:
        for task in tasks:
            self._in_flight.pop(task, None)

    def _take_incidents(self, incidents: list[Any]) -> None:
        lost: dict[int, list[int]] = {}
        for task, _, _, kind, _ in incidents:
            if kind == messages.VALUE_LOSS:
                self._values_lost.append((len(self._launches) - 1, self._table.here[task]))
                self._table.state[self._table.here[task]] = WAITING_STATE
            elif task in self._in_flight:
                lost.setdefault(self._in_flight[task][1], []).append(task)
        for rank, tasks in lost.items():
            self._cut_off(rank, tasks, self._now, RANK_LOST)

    def _take_failed(
        self,
        task: int,
        attempt: int,
        rank: int,
        status: int,
        kind: str,
        message: str,
        started: float | None = None,
        duration: float = 0.0,
        traceback: int = -1,
    ) -> None:
        is_known = (task, attempt) in self._failed
        number = self._table.here[task]
        # The scheduler itself fails a function without times: that is the end of it, or its process or rank died.
        is_final = is_known or attempt == 0 or (started is None and self._has_times)
        if status == messages.RAISED and is_final:
            self._table.state[number] = FAILED_STATE
        if is_known:
            return
        self._failed.add((task, attempt))
        has_own_failures = rank < 0 and self._tally.failed_elements(number) > 0
        text = self._tracebacks.get(traceback, "")
        failure = self._number_of(kind, message, text, 0 if has_own_failures else 1)
        lost = self._rows_lost.get((task, attempt))
        if lost is not None:
            self._columns.outcome[lost], self._columns.failure[lost] = _OUTCOMES.get(status, FAILED), failure
            return
        if attempt == 0 or rank < 0:
            self._given_up[number] = failure  # it was never called, or is an array, whose elements were
            return
        _, _, sent_s = self._in_flight.pop(task, (0, -1, _NAN))
        is_derived = started is None
        if started is None:
            started = sent_s if sent_s == sent_s else self._now
            duration = max(0.0, self._now - started)
        launch, outcome = len(self._launches) - 1, _OUTCOMES.get(status, FAILED)
        self._columns.add(number, launch, attempt, rank, started, duration, sent_s, outcome, 0, failure, is_derived)

    def _number_of(self, kind: str, message: str, traceback: str, count: int) -> int:
        """Return the number of a reason, for which ``count`` more calls failed."""
        failure = Failure(kind, message[:_MAX_MESSAGE], traceback)
        if failure not in self._failures and len(self._failures) >= _MAX_FAILURES:
            failure = Failure(kind, "(further messages are not told apart)", "")
        number = self._failures.setdefault(failure, len(self._failures))
        if number == len(self._failure_counts):
            self._failure_counts.append(0)
        self._failure_counts[number] += count
        return number

    def _take_rank(self, rank: int, what: str, reason: str, time_s: float | None = None) -> None:
        launch = self._launch
        launch.rank_events.append(RankEvent(time_s, rank, what, reason))
        if what == "lost":
            launch.lost_ranks[rank] = reason
        elif what == "returned":
            launch.lost_ranks.pop(rank, None)

    def _take_probation(self, begins: bool, place: int | str, ranks: tuple[int, ...], reason: str) -> None:
        note_probation(self._launch.probation, begins, place, reason)

    def _take_end(self, status: str, exit_code: int, is_cut_short: bool) -> None:
        self._launch.ended = (status, exit_code)

    # -- the end of a launch, and of all --------------------------------------------------------------

    def _end_launch(self, launch: LaunchStory, segment: Segment) -> None:
        columns, status = self._columns, self._status
        launch.started_s = float(launch.about.get("started_s") or segment.started_s)
        launch.functions = len(self._table.here)
        stops = np.array(columns.started[self._first_row :]) + np.array(columns.duration[self._first_row :])
        launch.stopped_s = max(launch.started_s, self._now, stops.max(initial=0.0))
        if status.get("launch") == launch.epoch:
            if launch.ended is None:
                launch.is_running = status.get("status") == "running" and self._is_running
                launch.stopped_s = max(launch.stopped_s, _real(status.get("time_s")))
            launch.stopped_s = max(launch.stopped_s, launch.started_s + _real(status.get("duration_s")))
        state, here = self._table.state, self._table.here
        if not launch.is_running:
            for task in self._elements:
                if state[here[task]] == RUNNING_STATE:
                    state[here[task]] = WAITING_STATE
        by_rank: dict[int, list[int]] = {}
        for task, (_, rank, _) in self._in_flight.items():
            by_rank.setdefault(rank, []).append(task)
        for rank, tasks in by_rank.items():
            self._cut_off(rank, tasks, launch.stopped_s, RUNNING if launch.is_running else CUT_OFF)

    def _cut_off(self, rank: int, tasks: list[int], time_s: float, outcome: int) -> None:
        """Add the calls that ``rank`` was making at ``time_s``, of the tasks it was sent: as many as it has slots."""
        columns, here = self._columns, self._table.here
        flights = [(*self._in_flight.pop(task), task) for task in tasks]
        flights.sort(key=lambda flight: flight[2] if flight[2] == flight[2] else 0.0)
        free = self._ends_of_slots(rank, max(1, self._launch.slots.get(rank, 1)))
        for (attempt, _, sent_s, task), free_s in zip(flights, free, strict=False):
            started = min(time_s, max(free_s, sent_s if sent_s == sent_s else self._launch.started_s))
            if outcome == RANK_LOST:
                self._rows_lost[task, attempt] = len(columns.task)
            elif outcome == RUNNING:
                self._table.state[here[task]] = RUNNING_STATE
            launch, duration = len(self._launches) - 1, time_s - started
            columns.add(here[task], launch, attempt, rank, started, duration, sent_s, outcome, is_derived=True)

    def _ends_of_slots(self, rank: int, slots: int) -> list[float]:
        """Return when the last calls of a rank in this launch ended, one a slot, earliest first; 0 for none."""
        columns = self._columns
        ends = [0.0] * slots
        for row in range(len(columns.rank) - 1, self._first_row - 1, -1):
            if columns.rank[row] == rank:
                slots -= 1
                ends[slots] = columns.started[row] + columns.duration[row]
                if not slots:
                    break
        return sorted(ends)

    def story(self, run_dir: Path) -> Story:
        """Return all launches together.

        Raises:
            UsageError: there is none.
        """
        if not self._launches:
            said = self._status.get("status")
            why = f" that has begun (its status is {one_line(str(said), MAX_LABEL)})" if said else ""
            raise UsageError(f"{run_dir} holds no run{why}; name the run-dir of one")
        newest = self._launches[-1]
        if newest.is_running:  # what it is just writing is no damage
            self.notes = [note for note in self.notes if f"{newest.epoch:06}.journal: its launch died" not in note]
        tasks = self._table.finish()
        if (tasks.state == FAILED_STATE).any():
            mark_skipped(tasks)
        calls = self._columns.sorted()
        return Story(
            run_dir,
            newest.about.get("dag_id"),
            self._launches,
            tasks,
            calls,
            list(self._failures),
            self._failure_counts,
            self._values_lost,
            self._status,
            [one_line(note, 500) for note in self.notes],
            self._counts_of_elements(),
            self._given_up,
            self._tally.attempts,
            self._tally.failures,
            {task: failed for task in self._table.here if (failed := self._tally.failed_elements(task))},
            self._tally.taken_back,
        )

    def _counts_of_elements(self) -> dict[int, tuple[int, int]]:
        here, left = self._table.here, self._elements
        return {int(here[task]): (count, count - left[task]) for task, count in self._counts.items()}


def _real(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and value == value else 0.0
