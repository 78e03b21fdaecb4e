"""Keeps in columns where and when each call ran, while a run continues; and emits the telemetry of it."""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

from handoff_mpi import telemetry
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.formatting import show
from handoff_mpi.messages import OK, Entry, ErrorReport, LeaseReport
from handoff_mpi.resources import Amounts
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.results.event_log import EventPort, NoEvents
from handoff_mpi.results.failure_groups import group_key
from handoff_mpi.results.launches import Done
from handoff_mpi.results.records import Incident, RecordTable, note_probation
from handoff_mpi.runtime.announcements import Announcer
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.element_records import ElementRecords
from handoff_mpi.runtime.journal_writer import INCIDENTS
from handoff_mpi.runtime.loss_printer import LossPrinter
from handoff_mpi.runtime.losses import Losses
from handoff_mpi.runtime.record_table import make_table
from handoff_mpi.scheduler import Cause, Failure, Scheduler
from handoff_mpi.scheduler import transitions as log
from handoff_mpi.scheduler.device_losses import MAX_DEVICE_ERRORS
from handoff_mpi.telemetry import events

#: What the scheduler's log says of a rank, and the telemetry event and the name of the recorded event that tell it.
_RANK_EVENTS: dict[type, tuple[events.Event, str]] = {
    log.Lost: (events.RANK_LOST, "rank.lost"),
    log.Suspected: (events.RANK_SUSPECT, "rank.suspect"),
    log.Returned: (events.RANK_RETURNED, "rank.returned"),
    log.MemoryNormal: (events.RANK_MEMORY_NORMAL, "rank.memory_normal"),
    log.MemoryHigh: (events.RANK_MEMORY_HIGH, "rank.memory_high"),
}
#: (whether it is a host, whether its probation begins) to the event that tells it.
_PROBATION_EVENTS = {
    (False, True): events.RANK_PROBATION_START,
    (False, False): events.RANK_PROBATION_STOP,
    (True, True): events.HOST_PROBATION_START,
    (True, False): events.HOST_PROBATION_STOP,
}
#: Of a sample of a host's use, what ``status.json`` shows.
SHOWN_OF_USAGE = ("cpu_percent", "memory_used_mb", "gpu_percent")
#: The cause of a transition that has no detail, and is news.
_SKIPS = int(Cause.INPUT_FAILED)
#: (task, rank, seconds, status) of a call that has ended.
EndedCall: TypeAlias = "tuple[int, int, float, int]"


class Recorder:
    """Keeps when and where each task ran last, and tells telemetry handlers.

    Args:
        plan: the run's tables.
        dag_id: the DAG's id.
        hosts: rank to host name.
        elements: the records of elements of arrays.

    Attributes:
        ended: the calls that have ended; the caller counts them and takes them out.
        undone: the same of tasks that go back because a rank or a value was lost.
        skipped: the same of tasks that cannot run, because another failed.
        retries: how many attempts failed and were repeated, those of elements one by one.
        losses: the ranks that were lost, and what runs again because of it.
        elements: as given.
        events: takes in what happens besides calls that end well.
        usage: host to the last sample of its use, see :mod:`handoff_mpi.runtime.host_usage`.
    """

    def __init__(
        self, plan: Plan, dag_id: Hashable, hosts: dict[int, str], elements: ElementRecords | None = None
    ) -> None:
        self._loss_printer = LossPrinter(hosts)
        self._told_short: set[int] = set()
        self.events: EventPort = NoEvents()
        self.usage: dict[str, dict[str, float]] = {}
        self._plan = plan
        self.elements = elements or ElementRecords(plan, None)
        self._id = self.elements.id_of
        self._dag_id = dag_id
        self._hosts = hosts
        self._ranks = array("i")
        self._started = array("d")
        self._durations = array("d")
        self._nbytes = array("q")
        self._long: dict[int, tuple[int, int, float]] = {}  # calls that still run: task to (attempt, rank, start)
        self._is_called = bytearray()  # in this launch, by task
        self._earlier: dict[int, list[tuple[int, float]]] = {}
        self.ended: deque[EndedCall] = deque()
        self.undone: deque[int] = deque()
        self.skipped: deque[int] = deque()
        self.retries = 0
        self.losses = Losses()
        self._incidents: dict[int, list[Incident]] = {}
        self._told: set[str] = set()
        self.launch = 1
        self.probation: dict[str, str] = {}
        self.announcer: Announcer | None = None
        self._errors: dict[int, ErrorReport] = {}  # of failed attempts, until it is known what becomes of them

    def grow(self) -> None:
        """Make room for tasks that were submitted."""
        more = len(self._plan) - len(self._ranks)
        self._ranks += array("i", [-1]) * more
        self._started += array("d", [-1.0]) * more
        self._durations += array("d", [0.0]) * more
        self._nbytes += array("q", [0]) * more
        self._is_called.extend(bytes(more))

    def restored(self, task: int, done: Done) -> None:
        """Note a task that an earlier launch did."""
        self._ranks[task] = done.rank
        self._started[task] = done.started
        self._durations[task] = done.duration
        self._nbytes[task] = done.nbytes

    def note_earlier_incidents(self, task: int, incidents: Sequence[Incident]) -> None:
        """Note what befell a task in earlier launches."""
        self._incidents[task] = [*incidents]

    def finished(self, rank: int, entries: Sequence[Entry]) -> None:
        """Note calls that ended on ``rank`` and still count."""
        ranks, starts, durations, sizes = self._ranks, self._started, self._durations, self._nbytes
        ended, long, is_called = self.ended, self._long, self._is_called
        announced: dict[int, tuple[int, int, float]] = {}
        for task, _, status, value, nbytes, started, duration, _ in entries:
            ended.append((task, rank, duration, status))
            if is_called[task]:
                self._earlier.setdefault(task, []).append((ranks[task], durations[task]))
            is_called[task] = 1
            if long and task in long:
                announced[task] = long.pop(task)
            ranks[task] = rank
            starts[task] = started
            durations[task] = duration
            if nbytes:
                sizes[task] = nbytes
            if status:
                self._errors[task] = value
        if telemetry.are_attached():
            for entry in entries:
                self._tell(rank, entry, announced)

    def elements_ended(self, rank: int, array: int, report: LeaseReport, started: float, duration: float) -> None:
        """Note elements of an array that ended on ``rank`` and still count."""
        self._long.pop(array, None)
        self._ranks[array] = rank
        if started and self._started[array] < 0:
            self._started[array] = started
        self.elements.ended(array, rank, report)
        self._durations[array] = self.elements.busy_s[array][rank]

    def lease_failed(self, lease: int, error: ErrorReport) -> None:
        """Note why a lease failed, which still counts."""
        self._long.pop(self.elements.task_of(lease), None)
        self._errors[lease] = error

    def started(self, rank: int, task: int, attempt: int, started: float) -> None:
        """Note a long call that is still running."""
        self._long[task] = (attempt, rank, started)
        telemetry.execute(events.FUNCTION_START, {"system_time": started}, self._about(task, attempt, rank))

    def longest_calls(self, count: int) -> list[tuple[int, int, int, float]]:
        """Return (task, attempt, rank, start) of the calls that have run longest, the longest first."""
        calls = [(task, *about) for task, about in list(self._long.items())]
        return heapq.nsmallest(count, calls, key=lambda call: call[3])

    def host_of(self, rank: int) -> str:
        """Return the host of a rank."""
        return self._hosts.get(rank, "")

    def _about(self, task: int, attempt: int, rank: int) -> dict[str, object]:
        return {
            "function_id": self._id(task),
            "node": rank,
            "host": self._hosts.get(rank, ""),
            "attempt": attempt,
            "dag_id": self._dag_id,
        }

    def _tell(self, rank: int, entry: Entry, announced: Mapping[int, tuple[int, int, float]]) -> None:
        task, attempt, status, value, nbytes, started, duration, _ = entry
        about = self._about(task, attempt, rank)
        announced_attempt, _, _ = announced.get(task, (0, 0, 0.0))
        if announced_attempt != attempt:
            telemetry.execute(events.FUNCTION_START, {"system_time": started}, about)
        if status == OK:
            telemetry.execute(events.FUNCTION_STOP, {"duration": duration}, {**about, "nbytes": nbytes})
        else:
            about.update(kind=value.kind, reason=value.message, traceback=value.traceback)
            telemetry.execute(events.FUNCTION_EXCEPTION, {"duration": duration}, about)

    def transitions(self, scheduler: Scheduler) -> None:
        """Take in the scheduler's log of this turn."""
        rows = scheduler.tasks.take_log()
        news = [row for row in rows if row[5] is not None or row[2] == _SKIPS]  # most have none
        if news:
            self._take_news(scheduler, news)
        self.events.flush()

    def _take_news(self, scheduler: Scheduler, news: Sequence[log.Transition]) -> None:
        before = self.losses.reasons()
        reassigned: list[int] = []
        recomputed: list[int] = []
        for task, _, cause, attempt, rank, detail in news:
            attempt = self.elements.attempt_of(task, attempt)
            if detail is None:
                self._tell_skipped(task)
            elif task < 0:
                self._on_rank_record(rank, detail)
            elif cause in (Cause.RETRY, Cause.DEVICE_LOST):
                self._on_retry(scheduler, task, attempt, rank, detail)
            elif cause == Cause.UNDECIDED:
                self._announce_undecided(task, attempt, rank, detail.message)
            elif cause in INCIDENTS:
                (reassigned if cause == Cause.RANK_LOST else recomputed).append(task)
                self._on_incident(task, cause, attempt, rank, detail)
            elif self.elements.tells_failures_of(task):
                continue
            elif cause == Cause.ERROR or cause == Cause.GIVEN_UP:
                self._note_incident(task, attempt, rank, *detail)
                self._announce_end(task, scheduler.tasks.failure_of(task))
            elif cause == Cause.DROPPED:  # its attempt was noted when it was to be tried again
                self._announce_end(task, scheduler.tasks.failure_of(task))
            elif cause == Cause.RETRACTED:
                self._tell_refused(scheduler, task, rank, detail.reason)
        lost = {rank: why for rank, why in self.losses.reasons().items() if rank not in before}
        if lost:
            self._loss_printer.tell(lost, *(list(map(self._id, each)) for each in (reassigned, recomputed)))
        self.losses.end_turn()
        self.elements.end_turn()

    def _on_retry(self, scheduler: Scheduler, task: int, attempt: int, rank: int, why: log.FailedAttempt) -> None:
        self.retries += self.elements.count(task)
        self._note_incident(task, attempt, rank, *why)
        due = scheduler.ready.deferred.get(task)
        delay_s = 0.0 if due is None else due - scheduler.now
        about = {**self._about(task, attempt, rank), "kind": why.kind, "reason": why.message, "delay": delay_s}
        telemetry.execute(events.FUNCTION_RETRY, _now(), about)
        self._note_retry(task, attempt, rank, why.kind, why.message, delay_s)
        self._announce(task, attempt, rank, why.kind, why.message, delay_s)

    def _on_incident(self, task: int, cause: int, attempt: int, rank: int, reason: str) -> None:
        """``task`` runs again, because of the loss of its rank or of its value."""
        if not self.elements.is_lease(task):
            self.undone.append(task)
        self._long.pop(self.elements.task_of(task), None)
        rank = rank if rank >= 0 else self._ranks[task]
        is_rank_lost = cause == Cause.RANK_LOST
        if not self.elements.has_any(task):
            return  # none of its elements has begun, and they wait for others again
        repeat = self.losses.reassign if is_rank_lost else self.losses.recompute
        repeat(self._id(task), self.elements.count(task), rank)
        self._note_incident(task, attempt, rank, INCIDENTS[cause], reason)
        event = events.FUNCTION_REASSIGN if is_rank_lost else events.FUNCTION_RECOMPUTE
        telemetry.execute(event, _now(), {**self._about(task, attempt, rank), "reason": reason})
        name = "function.reassigned" if is_rank_lost else "function.recomputed"
        self._note(name, reason, task=task, rank=rank, attempt=attempt, reason=reason)

    def _note(self, event: str, like: Hashable = None, *, task: int = -1, rank: int = -1, **fields: object) -> None:
        """Have an event of a task, or of a rank, or of both recorded."""
        about: dict[str, object] = {}
        if task >= 0:
            spec = self._plan.specs[self.elements.task_of(task)]
            about = {"id": self._id(task), "name": self._plan.code_names[spec.code]}
        if rank >= 0:
            about |= {"rank": rank, "host": self.host_of(rank)}
        self.events.add(event, clock(), like, **about, **fields)

    def _note_retry(self, task: int, attempt: int, rank: int, kind: str, reason: str, delay_s: float) -> None:
        error = self._errors.get(task)
        place = "" if error is None else error.place
        about: dict[str, object] = {"kind": kind, "reason": reason, "place": place, "delay_s": round(delay_s, 3)}
        self._note("function.retry", group_key(kind, place, reason), task=task, rank=rank, attempt=attempt, **about)

    def used(self, rank: int, sample: Mapping[str, float], now: float) -> None:
        """Note how much of the host of ``rank`` is in use."""
        host = self.host_of(rank)
        self.usage[host] = {name: sample[name] for name in SHOWN_OF_USAGE if name in sample}
        self.events.add("host.usage", now, host=host, **sample)

    def _announce(self, task: int, attempt: int, rank: int, kind: str, reason: str, delay_s: float | None) -> None:
        """Announce an attempt that failed; one whose failure was undecided so far was announced then."""
        error = self._errors.pop(task, None) or self.elements.error_of(task, kind, reason)
        if error is not None and self.announcer is not None:
            self.announcer.attempt_failed(task, attempt, rank, error, delay_s)

    def _announce_undecided(self, task: int, attempt: int, rank: int, reason: str) -> None:
        """Announce an attempt that was the last one, unless its rank or host is to blame."""
        error = self._errors.pop(task, None)
        if error is not None and self.announcer is not None:
            self.announcer.attempt_failed(task, attempt, rank, error._replace(message=reason), None)

    def _announce_end(self, task: int, failure: Failure) -> None:
        self._errors.pop(task, None)
        like = group_key(failure.kind, failure.place, failure.message)
        about: dict[str, object] = {"kind": failure.kind, "reason": failure.message, "place": failure.place}
        attempt = self.elements.attempt_of(task, failure.attempts)
        about |= {"attempt": attempt, "traceback": failure.traceback}
        last = failure.ranks[-1] if failure.ranks else -1
        self._note("function.failed", like, task=task, rank=last, **about)
        if self.announcer is not None:
            rank = failure.ranks[-1] if failure.ranks else -1
            error = ErrorReport(failure.kind, failure.message, failure.traceback, (), failure.place, -1, failure.output)
            self.announcer.function_failed(task, attempt, rank, error)

    def _tell_skipped(self, task: int) -> None:
        if self.elements.is_lease(task):
            return  # its elements are counted with their array
        self.skipped.append(task)
        about = {"function_id": self._id(task), "dag_id": self._dag_id}
        about["reason"] = "a function it depends on failed"
        telemetry.execute(events.FUNCTION_SKIPPED, _now(), about)
        self._note("function.skipped", about["reason"], task=task, reason=about["reason"])

    def _note_incident(self, task: int, attempt: int, rank: int, kind: str, reason: str) -> None:
        incident = Incident(self.launch, attempt, rank, kind, reason, self.elements.count(task))
        self._incidents.setdefault(self.elements.task_of(task), []).append(incident)

    def wants_claims(self) -> bool:
        """Whether anyone wants to hear of claims."""
        if not telemetry.are_attached():
            return False
        return telemetry.has_handlers(events.RESOURCE_CLAIMED) or telemetry.has_handlers(events.RESOURCE_RELEASED)

    def transferred(self, target: int, transfers: Sequence[tuple[int, int, int, float]]) -> None:
        """Tell of values that went from rank to rank."""
        for task, source, nbytes, duration in transfers:
            about = {"function_id": self._id(task), "source": source, "target": target, "dag_id": self._dag_id}
            telemetry.execute(events.TRANSFER_STOP, {"duration": duration, "nbytes": nbytes}, about)

    def _tell_refused(self, scheduler: Scheduler, task: int, rank: int, reason: str) -> None:
        about = self._about_claim(rank, scheduler.specs[task].cost, task)
        telemetry.execute(events.RESOURCE_REFUSED, _now(), {**about, "reason": reason})
        self._note("resource.refused", (rank, reason), task=task, rank=rank, amounts=about["amounts"], reason=reason)

    def _about_claim(self, rank: int, cost: Amounts, task: int) -> dict[str, object]:
        amounts = {name: plain_number(amount) for name, amount in cost.items()}
        id = self._id(task) if task >= 0 else None
        return {"node": rank, "host": self._hosts.get(rank, ""), "amounts": amounts, "function_id": id}

    def _on_rank_record(self, rank: int, record: log.RankRecord) -> None:
        handler = _ON_RANK.get(type(record))
        if handler is not None:
            handler(self, rank, record)
        event, name = _RANK_EVENTS.get(type(record), (None, ""))
        if event is not None:
            reason = getattr(record, "reason", "")
            why: dict[str, Any] = {} if isinstance(record, log.Returned) else {"reason": reason}
            telemetry.execute(event, _now(), {"node": rank, "host": self.host_of(rank), **why})
            self._note(name, (name, rank), rank=rank, **why)

    def _on_claimed(self, rank: int, record: log.Claimed) -> None:
        telemetry.execute(events.RESOURCE_CLAIMED, _now(), self._about_claim(rank, record.amounts, record.task))

    def _on_released(self, rank: int, record: log.Released) -> None:
        telemetry.execute(events.RESOURCE_RELEASED, _now(), self._about_claim(rank, record.amounts, -1))

    def _on_updated(self, rank: int, record: log.Updated) -> None:
        amounts = {name: plain_number(amount) for name, amount in record.amounts.items()}
        about = {"node": rank, "host": self.host_of(rank), "amounts": amounts}
        telemetry.execute(events.RESOURCE_UPDATED, _now(), about)
        self._note("resource.updated", rank, rank=rank, amounts=amounts)

    def _on_not_updated(self, rank: int, record: log.NotUpdated) -> None:
        self._tell_once(f"update_node_resources({rank}, ...) changes nothing: {record.reason}")

    def _on_lost(self, rank: int, record: log.Lost) -> None:
        self.losses.lost(rank, record.reason, clock())

    def _on_returned(self, rank: int, record: log.Returned) -> None:
        if self.losses.returned(rank, clock()):
            print_message(f"rank {rank} ({self.host_of(rank)}) has returned")

    def _on_probation(self, rank: int, record: log.ProbationBegun | log.ProbationEnded) -> None:
        begins = isinstance(record, log.ProbationBegun)
        place, ranks, reason = record
        known = len(self.probation)
        name = note_probation(self.probation, begins, place, reason)
        if len(self.probation) > known:
            print_message(f"{name} is on probation: {reason}")
        about: dict[str, object] = {"host": place, "nodes": ranks}
        if not isinstance(place, str):
            about = {"node": place, "host": self._hosts.get(place, "")}
        telemetry.execute(_PROBATION_EVENTS[isinstance(place, str), begins], _now(), {**about, "reason": reason})
        change = "probation_start" if begins else "probation_stop"
        if isinstance(place, str):
            self._note(f"host.{change}", place, host=place, ranks=list(ranks), reason=reason)
        else:
            self._note(f"rank.{change}", place, rank=place, reason=reason)

    def _on_device_withdrawn(self, rank: int, record: log.DeviceWithdrawn) -> None:
        host, uuid, reason = record
        print_message(f"device {uuid} of {host} is withdrawn, as it has failed {MAX_DEVICE_ERRORS} calls: {reason}")
        telemetry.execute(events.DEVICE_WITHDRAWN, _now(), {"host": host, "device": uuid, "reason": reason})
        self._note("device.withdrawn", uuid, host=host, device=uuid, reason=reason)

    def _on_let_go(self, rank: int, record: log.LetGo) -> None:
        self._tell_once(f"{record.reason}: it continues with one call at a time")

    def _tell_once(self, text: str) -> None:
        if text not in self._told:  # a function may say so each time it is called
            self._told.add(text)
            print_message(text)

    def _on_memory_high(self, rank: int, record: log.MemoryHigh) -> None:
        if rank not in self._told_short:  # it may come and go; events.jsonl has each time
            self._told_short.add(rank)
            who = f"rank {rank} ({self.host_of(rank)})"
            print_message(f"{who} is short of memory: {record.reason}; it gets no new functions meanwhile")

    def _on_refused_for_long(self, rank: int, record: log.RefusedForLong) -> None:
        task, count, reason = record
        who = f"function {show(self._id(task))}" + (f" and {count - 1:,} more wait" if count > 1 else " waits")
        print_message(f"{who} for the resource tracker, which refuses what is needed (last on rank {rank}: {reason})")

    def table(self, scheduler: Scheduler) -> RecordTable:
        """Return the records of all tasks."""
        columns = self._ranks, self._started, self._durations, self._nbytes
        table = make_table(self._plan, scheduler.tasks, columns, self._incidents, self._hosts)
        table.earlier = self._earlier | self.elements.on_other_ranks(self._ranks)
        return table


def _now() -> dict[str, float]:
    return {"system_time": clock()}


#: The class of a record of a rank or claim to its handler; a table of the class, because bound methods are cycles.
_ON_RANK: dict[type, Callable[[Recorder, int, Any], None]] = {
    log.Claimed: Recorder._on_claimed,
    log.Released: Recorder._on_released,
    log.Updated: Recorder._on_updated,
    log.NotUpdated: Recorder._on_not_updated,
    log.Lost: Recorder._on_lost,
    log.Returned: Recorder._on_returned,
    log.ProbationBegun: Recorder._on_probation,
    log.ProbationEnded: Recorder._on_probation,
    log.DeviceWithdrawn: Recorder._on_device_withdrawn,
    log.LetGo: Recorder._on_let_go,
    log.MemoryHigh: Recorder._on_memory_high,
    log.RefusedForLong: Recorder._on_refused_for_long,
}
