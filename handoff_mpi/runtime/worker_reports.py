"""Takes in what workers report: it stores values that arrived inline, and makes events for the scheduler of the rest.

This is the first half of a turn of :mod:`handoff_mpi.runtime.coordinator`; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handoff_mpi.arrays.filed_columns import FiledColumn
from handoff_mpi.comm import Envelope, RankFailed
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import DAGError
from handoff_mpi.formatting import show
from handoff_mpi.membership import Membership
from handoff_mpi.messages import (
    BYE,
    CHECK_PROCESS,
    CONSTANT,
    DISPATCH,
    ELEMENTS,
    ENCODING,
    FETCH,
    FILES,
    FINISHED,
    FREE_VALUES,
    HEARTBEAT,
    INPUT_UNAVAILABLE,
    LOST,
    MEMORY,
    NOT_FOUND,
    OK,
    PROCESS_STATUS,
    REDIRECT,
    RETRACT,
    RETRACTED,
    STOP,
    TRANSFERRED,
    UPDATE,
    USAGE,
    VALUE,
    Attempt,
    Entry,
    ErrorReport,
    LeaseReport,
)
from handoff_mpi.resources import parse_resources
from handoff_mpi.results.store import ResultStore
from handoff_mpi.runtime.announcements import input_in_words
from handoff_mpi.runtime.coordinator_ports import CoordinatorSettings, Loss, RecorderPort, SenderPort
from handoff_mpi.runtime.dispatcher import Dispatcher
from handoff_mpi.runtime.journal_writer import JournalWriter
from handoff_mpi.runtime.kept_values import KeptValues
from handoff_mpi.scheduler import (
    ElementsEnded,
    Event,
    Finished,
    MemoryTold,
    Persisted,
    RankLost,
    ResourcesUpdated,
    Retracted,
    Scheduler,
    Unfetched,
)
from handoff_mpi.scheduler.lifecycle import DISPATCHED
from handoff_mpi.serialization import NOTHING, Payload

#: Kinds of messages that are for the worker of rank 0, if it has one.
_FOR_WORKERS = frozenset(
    {DISPATCH, CONSTANT, FILES, RETRACT, FREE_VALUES, LOST, CHECK_PROCESS, STOP, FETCH, VALUE, NOT_FOUND, REDIRECT}
)


class WorkerReports:
    """Turns the messages of workers into the scheduler's events.

    Args:
        transport: drops what is under way to a rank that is lost.
        scheduler: knows which reports still count.
        plan: the run's tables.
        recorder: keeps records.
        home: the store of values that arrived inline.
        kept_values: the values that rank 0 brings and serves.
        dispatcher: sends.
        membership: the table of ranks.
        journal_writer: writes the journal; None if there is none.
        settings: of the run.

    Attributes:
        events: for the next turn of the scheduler, in order.
        encodings: task to (attempt, input, rank, since) of the last input that took that rank long to encode.
    """

    def __init__(
        self,
        transport: SenderPort,
        scheduler: Scheduler,
        plan: Plan,
        recorder: RecorderPort,
        home: ResultStore,
        kept_values: KeptValues,
        dispatcher: Dispatcher,
        membership: Membership,
        journal_writer: JournalWriter | None,
        settings: CoordinatorSettings,
    ) -> None:
        self.events: list[Event] = []
        self.encodings: dict[int, tuple[int, int, int, float]] = {}
        self.journal_writer = journal_writer
        self._transport = transport
        self._scheduler = scheduler
        self._plan = plan
        self._recorder = recorder
        self._home = home
        self._kept_values = kept_values
        self._dispatcher = dispatcher
        self._settings = settings
        self._membership = membership
        self._late: list[Event] = []  # losses that messages report
        self._lost: list[int] = []
        self._now = 0.0

    def take_events(self) -> list[Event]:
        """Return the events at hand; the next turn begins with none."""
        events, self.events = self.events, []
        return events

    def take_lost(self) -> list[int]:
        """Return the ranks that were lost since this was called last."""
        lost, self._lost = self._lost, []
        return lost

    def lose(self, loss: Loss) -> list[RankLost]:
        """Send nothing more to a lost rank, and return the event of its loss; none if it was known to be lost."""
        news = self._membership.lose(*loss)
        if news:
            self._lost.append(loss.rank)
            self._transport.drop(loss.rank)
        return news

    def absorb(self, arrived: Sequence[Envelope | RankFailed], now: float) -> list[Envelope]:
        """Turn what arrived by the time ``now`` into events; return what is for rank 0's own worker."""
        self._now = now
        mine: list[Envelope] = []
        number, lost = self._settings.number, self._membership.lost
        current: list[Envelope | RankFailed] = []
        heard = set()
        for each in arrived:
            if isinstance(each, RankFailed):
                current.append(each)
            elif each.number == number and each.source not in lost:  # else late: its host was cut off, and is back, say
                current.append(each)
                heard.add(each.source)
        returned = self._membership.hear(heard, now)  # before losses that arrived with these messages
        for each in current:
            if isinstance(each, RankFailed):
                self._late += self.lose(Loss(each.rank, each.reason))
                continue
            kind, _, *fields = each.message
            handler = _ON.get(kind)
            if handler is not None:
                handler(self, each.source, *fields)
            elif kind in _FOR_WORKERS and not self._takes(each):
                mine.append(each)
        self.events += returned
        self.events += self._late  # what a rank said before it died counts
        self._late.clear()
        return mine

    def _takes(self, each: Envelope) -> bool:
        """Take in a message about a value that rank 0 itself brings or serves; return whether it is one."""
        if each.kind == FETCH:
            return self._takes_fetch(each.source, *each.fields)
        if each.kind == VALUE:
            request_id, head = each.fields
            return self._takes_value(request_id, (*head, *each.buffers))
        return each.kind == NOT_FOUND and self._takes_not_found(*each.fields)

    def _takes_fetch(
        self, source: int, request_id: int, task: int, codec: object, codes: object, via: int, *_: object
    ) -> bool:
        if codec is None and self._dispatcher.has_array(task):
            self._dispatcher.serve_array(source, request_id, task, via)
            return True
        is_for_a_file = self._is_for_a_file(task, codec)
        if is_for_a_file:
            self._kept_values.serve_file(source, request_id, task)
        return is_for_a_file

    def _is_for_a_file(self, task: int, codec: object) -> bool:
        """Whether a value is asked for as it lies in a file; with a codec it is for rank 0's worker, to encode it."""
        return not self._settings.has_own_worker or (codec is None and task in self._scheduler.tasks.persisted)

    def _takes_value(self, request_id: int, payload: Payload) -> bool:
        if not self._kept_values.awaits(request_id):
            return False
        task = self._kept_values.on_value(request_id, payload)
        if task is not None:
            self.events.append(Persisted(task))
            if self.journal_writer is not None:
                self.journal_writer.persisted(task)
        return True

    def _takes_not_found(self, request_id: int, reason: object) -> bool:
        if not self._kept_values.awaits(request_id):
            return False
        self.events.append(self._kept_values.on_not_found(request_id))
        return True

    def _on_finished(self, source: int, entries: list[Entry]) -> None:
        current = self._keep_values(entries)
        if self._scheduler.arrays.leases:
            current = self._take_out_leases(source, current)
        self._recorder.finished(source, current)
        if self.journal_writer is not None:
            self.journal_writer.finished(source, current)
        self.events.append(Finished(source, entries))
        self._kept_values.finished(source, current)

    def _keep_values(self, entries: list[Entry]) -> list[Entry]:
        """Store what arrived inline, before anything acts on it; return the entries that still count."""
        scheduler, home, run = self._scheduler, self._home, self._settings.run
        state, attempts, leases = scheduler.tasks.state, scheduler.tasks.attempts, scheduler.arrays.leases
        has_old_files = bool(self._dispatcher.file_keys)
        current = []
        for entry in entries:
            task, attempt, status, value, _, _, _, _ = entry
            if state[task] == DISPATCHED and attempts[task] == attempt:
                current.append(entry)
                if status == OK:
                    if has_old_files:
                        self._dispatcher.forget_old_file(task)
                    if task in leases:
                        continue
                    if value is not None:  # one None is kept for all
                        home.put((run, task), NOTHING if value == NOTHING else value)
                elif value.input >= 0:
                    current[-1] = entries[entries.index(entry)] = self._with_input_named(*entry)
        return current

    def _take_out_leases(self, source: int, entries: list[Entry]) -> list[Entry]:
        """Take in what leases report; return the other entries."""
        leases, others = self._scheduler.arrays.leases, []
        for entry in entries:
            task, _, status, value, _, started, duration, _ = entry
            if task not in leases:
                others.append(entry)
            elif status == OK:
                self._keep_elements(source, leases[task].array, LeaseReport(*value), started, duration)
            else:
                self._recorder.lease_failed(task, ErrorReport(*value))
        return others

    def _keep_elements(self, source: int, array: int, report: LeaseReport, started: float, duration: float) -> None:
        """Store the values of elements, before anything acts on them."""
        self._recorder.elements_ended(source, array, report, started, duration)
        if report.ended:
            frozen = self._plan.arrays[array]
            column = self._dispatcher.keep_column(report.column, frozen.window is not None)
            self._dispatcher.array_values[array].put(report.ended, column)
            if frozen.pulled is not None:
                frozen.pulled.ended(report.ended)
            if isinstance(column, FiledColumn):
                report = report._replace(column=column.plain)
        if self.journal_writer is not None:
            self.journal_writer.elements_ended(source, array, report, started, duration)

    def _on_elements(self, source: int, task: int, attempt: int, report: LeaseReport) -> None:
        lease = self._scheduler.arrays.leases.get(task)
        if lease is not None and self._scheduler.tasks.is_current(task, attempt):
            self._keep_elements(source, lease.array, LeaseReport(*report), 0.0, 0.0)
        self.events.append(ElementsEnded(source, task, attempt, report))

    def _with_input_named(self, task: int, attempt: int, status: int, error: ErrorReport, *rest: Any) -> Entry:
        """Return the entry of a call that did not get one of its inputs, with a message that says which."""
        lease = self._scheduler.arrays.leases.get(task)
        call = (task, error) if lease is None else (lease.array, error, lease.first)
        named = error._replace(message=input_in_words(self._plan, *call), input=-1)
        return (task, attempt, status, named, *rest)

    def _on_heartbeat(self, source: int, started: Sequence[tuple[int, int, float]]) -> None:
        for task, attempt, since in started:
            if self._scheduler.tasks.is_current(task, attempt):
                arrays = self._scheduler.arrays
                self._recorder.started(source, arrays.task_of(task), arrays.attempt(task), since)

    def _on_retracted(self, source: int, attempts: Sequence[Attempt]) -> None:
        self.events.append(Retracted(source, attempts))

    def _on_input_unavailable(
        self, source: int, task: int, attempt: int, missing: Sequence[tuple[int, Sequence[int]]]
    ) -> None:
        self.events.append(Unfetched(source, task, attempt, missing))
        self._kept_values.rewrite(missing)

    def on_update(self, source: int, rank: int, resources: dict[str, object]) -> None:
        """Have the resources of ``rank`` changed, as the user gave them; one line says what is wrong with them."""
        try:
            self.events.append(ResourcesUpdated(rank, parse_resources(resources)))
        except DAGError as error:
            print_message(f"update_node_resources({rank}, {show(resources)}): {error}")

    def _on_memory(self, source: int, is_short: bool, words: str) -> None:
        self.events.append(MemoryTold(source, is_short, words))

    def _on_transferred(self, source: int, transfers: Sequence[tuple[int, int, int, float]]) -> None:
        self._recorder.transferred(source, transfers)

    def _on_usage(self, source: int, sample: Mapping[str, float]) -> None:
        self._recorder.used(source, sample, self._now)

    def _on_process_status(self, source: int, rank: int, is_gone: bool, reason: str) -> None:
        if is_gone:
            self._late += self.lose(Loss(rank, reason))
        else:
            self._membership.find_alive(rank, self._now)

    def _on_encoding(self, source: int, reports: Sequence[tuple[int, int, int, int, float]]) -> None:
        for task, attempt, value, rank, since in reports:
            if self._scheduler.tasks.is_current(task, attempt):
                self.encodings[task] = (attempt, value, rank, since)

    def _on_bye(self, source: int) -> None:
        self._membership.leave(source)


#: A table of the class, not of each object: bound methods would be reference cycles.
_ON: dict[str, Callable[..., None]] = {
    FINISHED: WorkerReports._on_finished,
    HEARTBEAT: WorkerReports._on_heartbeat,
    RETRACTED: WorkerReports._on_retracted,
    INPUT_UNAVAILABLE: WorkerReports._on_input_unavailable,
    UPDATE: WorkerReports.on_update,
    MEMORY: WorkerReports._on_memory,
    TRANSFERRED: WorkerReports._on_transferred,
    USAGE: WorkerReports._on_usage,
    PROCESS_STATUS: WorkerReports._on_process_status,
    ENCODING: WorkerReports._on_encoding,
    ELEMENTS: WorkerReports._on_elements,
    BYE: WorkerReports._on_bye,
}
