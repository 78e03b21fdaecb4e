"""How far a run has come: the fields that ``status.json`` has while the run is running.

The fields are gathered once a second at most. What is counted by function name is kept up to date by the tasks that
ended since the last time; nothing looks at all tasks again, except C code that counts states. Slots are looked at
one by one.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from handoff_mpi.dag import Plan
from handoff_mpi.formatting import id_text, one_line
from handoff_mpi.messages import OK
from handoff_mpi.resources import Capability
from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.results.failure_groups import FailureGroup
from handoff_mpi.runtime.element_counts import ElementCounts
from handoff_mpi.runtime.name_counts import OfName, counts_of_arrays
from handoff_mpi.runtime.recorder import SHOWN_OF_USAGE, Recorder
from handoff_mpi.runtime.slowest import Slowest
from handoff_mpi.scheduler import Scheduler, State

#: Of the format, in ``status.json``.
SCHEMA = 1
#: At most so many names, hosts, running calls, slowest calls and kinds of failures are listed; the rest of names and
#: hosts is summed up.
MAX_NAMES, MAX_HOSTS, MAX_CALLS, MAX_SLOWEST, MAX_FAILURES = 50, 100, 10, 10, 20
#: Of the functions that were skipped, the first ones and the last one are listed.
MAX_SKIPPED = 10
OTHERS = "(others)"
#: The rate is that of the last seconds; while longer calls run, that of the mean time of so many of them.
RATE_WINDOW_S, MAX_RATE_WINDOW_S, RATE_WINDOW_CALLS = 30.0, 3600.0, 3
#: For the time left, the time that so many running calls have taken so far counts.
MAX_TIMED_CALLS = 1000
#: The longest open path is estimated for DAGs up to this size, and again after this many seconds.
MAX_PATH_TASKS, PATH_INTERVAL_S = 20_000, 10.0
#: The time left is unknown while a larger share of the open functions is of names of which none has ended.
MAX_UNKNOWN_SHARE = 0.05
_MAX_ID_CHARS, _MAX_REASON_CHARS = 100, 200

#: (task, attempt, rank, start) of a running call.
_Call: TypeAlias = "tuple[int, int, int, float]"
_T = TypeVar("_T")
_DISPATCHED, _DONE = int(State.DISPATCHED), int(State.DONE)
_FAILED, _SKIPPED = int(State.FAILED), int(State.SKIPPED)


class Progress:
    """Gathers the fields.

    Args:
        plan: the run's tables.
        scheduler: the machine.
        recorder: knows which tasks have ended and which calls take long.
        capabilities: of all ranks.
        failures: returns the groups of functions that failed for good, each with (what failed, how many, the first id).
        restored: the tasks that earlier launches did.

    Attributes:
        restored: the tasks that earlier launches did and that are not counted yet.
        own_calls: returns (task, attempt, rank, start) of calls in this process, which its loop does not report.
    """

    def __init__(
        self,
        plan: Plan,
        scheduler: Scheduler,
        recorder: Recorder,
        capabilities: Sequence[Capability],
        failures: Callable[[], Iterable[FailureGroup]] = tuple,
        restored: Iterable[int] = (),
    ) -> None:
        self._plan = plan
        self._scheduler = scheduler
        self._recorder = recorder
        self._failures = failures
        self.own_calls: Callable[[], Iterable[tuple[int, int, int, float]]] = tuple
        self._names: list[OfName] = []
        self._name_of: dict[str, int] = {}
        self._name_of_code: list[int] = []
        self._known_tasks = 0
        self._known_failures = 0
        self._is_counted = bytearray()
        self._undecided: list[int] = []  # their calls have ended, and the scheduler takes that in at its next turn
        self.restored = list(restored)
        self._elements = ElementCounts(scheduler.arrays.of, recorder.elements)
        self._slowest = Slowest(MAX_SLOWEST)
        self._skipped: list[int] = []
        self._ended: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()  # in one process a thread asks too
        self._beat = 0
        self._path_s: float | None = None
        self._next_path = 0.0
        self._hosts: dict[str, list[Capability]] = {}
        for each in capabilities:
            self._hosts.setdefault(each.host, []).append(each)

    def fields(self, now: float) -> dict[str, object]:
        """Return the fields.

        Args:
            now: seconds since the epoch.
        """
        with self._lock:
            counts, running = self._look()
            calls = self._running_calls()
            return {
                **self._known(now, counts, running),
                "rate_per_s": self._rate(counts, running, now),
                **self._time_left(running, calls, now),
                "longest": self._longest(calls),
            }

    def final_fields(self, now: float, counts: Mapping[str, int]) -> dict[str, object]:
        """Return the fields of a run that has ended, without those that hold at a moment: running calls, the time left,
        the use of hosts.

        Args:
            counts: of its results.
        """
        with self._lock:
            last, _ = self._look()
            known = self._known(now, {**last, "running": 0, "ready": 0, **counts}, [])
        if counts and self._plan.arrays:  # windowed ones may have had no elements, or none in this launch
            known["functions"] = sum(counts.values())
        for row in known["hosts"].values():
            for name in SHOWN_OF_USAGE:
                row.pop(name, None)
        return known

    def _look(self) -> tuple[dict[str, int], list[int]]:
        """Take in what is new; return the counts, and the tasks that run."""
        self._beat += 1
        self._learn_tasks()
        self._count_ended()
        return self.counts(), self._scheduler.running()

    def _known(self, now: float, counts: dict[str, int], running: list[int]) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "beat": self._beat,
            "time_s": now,
            "counts": counts,
            "by_name": self._by_name(running),
            "hosts": self._by_host(),
            "lost_ranks": dict(itertools.islice(self._recorder.losses.reasons().items(), MAX_HOSTS)),
            "probation": dict(itertools.islice(self._recorder.probation.items(), MAX_HOSTS)),
            "failures": self._failure_groups(),
            "skipped_ids": [self._label(task) for task in self._skipped],
            "losses": self._losses(),
            "slowest": self._slowest_calls(),
            **(self._elements.functions(self._plan.call_count) if self._elements else {}),
            **({"may_grow": True} if self._elements.growing() else {}),
        }

    # -- functions ------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Return how many functions are in which state, and how many calls were repeated, by cause."""
        scheduler, losses = self._scheduler, self._recorder.losses
        state = scheduler.tasks.state
        if self._elements:
            state = state[: len(self._plan)]  # behind them are leases
        counts = {each.name.lower(): state.count(each) for each in State}
        self._elements.add_to(counts, state)
        dispatched = counts.pop("dispatched")
        running = min(dispatched, len(scheduler.running()))
        ready = counts["ready"] + dispatched - running
        repeated = {"retries": self._recorder.retries, "reassigned": losses.reassigned, "recomputed": losses.recomputed}
        return {**counts, "running": running, "ready": ready, **repeated}

    def _learn_tasks(self) -> None:
        """Count tasks that were submitted since the last time."""
        plan, specs = self._plan, self._plan.specs
        for name in plan.code_names[len(self._name_of_code) :]:
            number = self._name_of.setdefault(one_line(name, _MAX_ID_CHARS), len(self._name_of))
            if number == len(self._names):
                self._names.append(OfName())
            self._name_of_code.append(number)
        new = specs[self._known_tasks :] if self._known_tasks else specs
        for code, count in Counter([spec.code for spec in new]).items():
            self._names[self._name_of_code[code]].total += count
        for spec in new:
            if spec.array is not None:
                self._names[self._name_of_code[spec.code]].total += spec.array.count - 1
        self._is_counted.extend(bytes(len(new)))
        self._known_tasks = len(specs)

    def _count_ended(self) -> None:
        """Count what has ended since the last time, and take back what was lost."""
        recorder, state = self._recorder, self._scheduler.tasks.state
        specs, name_of_code, names = self._plan.specs, self._name_of_code, self._names
        is_counted, slowest = self._is_counted, self._slowest
        undecided, self._undecided = self._undecided, []
        for task, rank, duration, status in _taken(recorder.ended):
            of_name = names[name_of_code[specs[task].code]]
            of_name.calls += 1
            of_name.busy_s += duration
            if duration > slowest.threshold_s:
                slowest.add(task, duration, rank, status != OK)
            if state[task] == _DONE and not is_counted[task]:
                is_counted[task] = 1
                of_name.done += 1
            elif state[task] == _DISPATCHED:
                self._undecided.append(task)
        for task in undecided:
            if state[task] == _DONE and not is_counted[task]:
                is_counted[task] = 1
                self._of(task).done += 1
            elif state[task] == _DISPATCHED:
                self._undecided.append(task)
        restored: Sequence[int] = ()
        if 0 < self._known_tasks <= len(state):  # before, nobody knows their names, or they are not submitted yet
            restored, self.restored = self.restored, []
        for task in itertools.chain(restored, _taken(recorder.undone)):
            is_done = state[task] == _DONE
            if is_counted[task] != is_done and task not in self._elements:
                is_counted[task] = is_done
                self._of(task).done += 1 if is_done else -1
        for task, ended in self._elements.new(state):
            self._of(task).add(ended)
        failures = self._scheduler.tasks.failures
        for task in itertools.islice(failures, self._known_failures, None):
            self._of(task).failed += task not in self._elements
        self._known_failures = len(failures)
        blocks = self._elements.folds_of_blocks() if recorder.skipped else {}
        for task in _taken(recorder.skipped):
            self._of(task).skipped += task not in self._elements
            if task in blocks:
                continue  # its fold is named
            if len(self._skipped) == MAX_SKIPPED:
                self._skipped.pop()  # the last one may be what the run is for
            self._skipped.append(task)

    def _of(self, task: int) -> OfName:
        return self._names[self._name_number(task)]

    def _name_number(self, task: int) -> int:
        return self._name_of_code[self._plan.specs[task].code]

    def _by_name(self, running: Sequence[int]) -> dict[str, dict[str, Any]]:
        name_of, of_running, rows = self._name_number, Counter(running), dict[str, dict[str, Any]]()
        growing = set(self._elements.growing())
        running_of_name, names_growing = Counter(map(name_of, running)), {*map(name_of, growing)}
        elements = self._elements
        of_arrays = counts_of_arrays(self._scheduler.arrays.of, elements.known, name_of, elements.folds_of_blocks())
        for name, number in self._name_of.items():
            each, own = replace(self._names[number]), of_arrays.get(number, {})
            mean_s = each.mean_s
            for part in own.values():
                each.less(part)
            if each.total:
                own_running = sum(of_running[task] for part in own.values() for task in part.tasks)
                may_grow = number in names_growing and not own
                rows[name] = each.row(running_of_name[number] - own_running, may_grow, mean_s)
            for array, part in own.items():
                label = self._label(array)
                label = f"{name} {label}" if label in rows or (label in self._name_of and label != name) else label
                may_grow = not growing.isdisjoint(part.tasks)
                rows[label] = part.row(sum(of_running[task] for task in part.tasks), may_grow, mean_s)
        return _with_rest(rows, MAX_NAMES, lambda row: (row["running"] > 0, row["done"] < row["total"], row["total"]))

    # -- time -----------------------------------------------------------------------------------------

    def _rate(self, counts: Mapping[str, int], running: Sequence[int], now: float) -> float:
        """Return how many functions ended a second lately."""
        ended = counts["done"] + counts["failed"]
        self._ended.append((now, ended))
        usual_s = max((self._of(task).mean_s or 0.0 for task in running), default=0.0)
        window_s = min(MAX_RATE_WINDOW_S, max(RATE_WINDOW_S, RATE_WINDOW_CALLS * usual_s))
        while len(self._ended) > 2 and now - self._ended[0][0] > window_s:
            self._ended.popleft()
        then, before = self._ended[0]
        return max(0.0, (ended - before) / (now - then)) if now > then else 0.0

    def _time_left(self, running: Sequence[int], calls: Sequence[_Call], now: float) -> dict[str, float | None]:
        """Return an estimate of the seconds that are left, and a lower bound; None where they are unknown.

        While more than a few open functions have names of which no call has ended, only the lower bound is known: it
        counts no time for them.
        """
        if not self._elements.are_known():
            return {"eta_s": None, "eta_at_least_s": None}
        left = [each for each in self._names if each.open > 0]
        unknown = sum(each.open for each in left if each.mean_s is None)
        if unknown <= MAX_UNKNOWN_SHARE * sum(each.open for each in left):
            eta_s = self._eta(left, running, calls, now)
            return {"eta_s": eta_s, "eta_at_least_s": eta_s}
        least_s = self._eta([each for each in left if each.mean_s is not None], running, calls, now)
        return {"eta_s": None, "eta_at_least_s": least_s or None}

    def _eta(self, left: Sequence[OfName], running: Sequence[int], calls: Sequence[_Call], now: float) -> float | None:
        """Estimate the seconds that open functions of some names need: their work divided by the number of busy slots,
        or the longest open path if that takes longer.
        """
        usual_s = sum(each.busy_s for each in self._names) / max(1, sum(each.calls for each in self._names))
        work_s = sum(each.open * (usual_s if each.mean_s is None else each.mean_s) for each in left)
        if not running or not work_s:
            return None if work_s else 0.0
        share_s = max(0.0, work_s - self._spent_s(left, calls, now)) / len(running)
        path_s = self._longest_path(calls, now)
        return share_s if path_s is None else max(share_s, path_s)

    def _spent_s(self, left: Sequence[OfName], calls: Sequence[_Call], now: float) -> float:
        """Return the seconds that running calls of some names have taken so far, each at most the mean of its name."""
        names = {id(each) for each in left}
        spent_s = 0.0
        for task, _, _, started in calls:
            of_name = self._of(task)
            if id(of_name) in names and of_name.mean_s is not None:
                spent_s += min(max(0.0, now - started), of_name.mean_s)
        return spent_s

    def _longest_path(self, calls: Sequence[_Call], now: float) -> float | None:
        """Return the seconds of the longest path of open functions, by the means of their names; None for large DAGs.

        The tasks are visited in reverse order, as for the b-levels of list scheduling: inputs have smaller numbers.
        """
        if self._known_tasks > MAX_PATH_TASKS:
            return None
        if now >= self._next_path:
            self._next_path = now + PATH_INTERVAL_S
            specs, state = self._plan.specs, self._scheduler.tasks.state
            started = {task: since for task, _, _, since in calls}
            below = [0.0] * len(specs)
            longest = 0.0
            for task in range(len(specs) - 1, -1, -1):
                if state[task] in (_DONE, _FAILED, _SKIPPED):
                    continue
                level = below[task] + (self._of(task).mean_s or 0.0)
                longest = max(longest, level - (now - started[task] if task in started else 0.0))
                for each in specs[task].needs:
                    below[each] = max(below[each], level)
            self._path_s = longest
        age_s = now - (self._next_path - PATH_INTERVAL_S)
        return None if self._path_s is None else max(0.0, self._path_s - age_s)

    # -- ranks ----------------------------------------------------------------------------------------

    def _by_host(self) -> dict[str, dict[str, object]]:
        rows = {one_line(host, _MAX_ID_CHARS): self._host(host, ranks) for host, ranks in self._hosts.items()}
        return _with_rest(rows, MAX_HOSTS, lambda row: (row["busy"] > 0, row["slots"]))

    def _host(self, host: str, ranks: Sequence[Capability]) -> dict[str, object]:
        of_rank, losses = self._scheduler.slots.of_rank, self._recorder.losses
        slots = [slot for each in ranks if not losses.is_lost(each.rank) for slot in of_rank.get(each.rank, ())]
        claims = [slot.claim for slot in slots if slot.claim is not None]
        offered = ranks[0].offered()
        row = {
            "ranks": sum(not losses.is_lost(each.rank) for each in ranks),
            "lost": sum(losses.is_lost(each.rank) for each in ranks),
            "slots": len(slots),
            "busy": sum(1 for slot in slots if slot.tasks),
            "cores": offered.get("cpu", 0),
            "memory_mb": offered.get("memory", 0),
            "gpus": max(each.offered().get("gpu", 0) for each in ranks),
            "gpus_claimed": sum(claim.cost.amounts.get("gpu", 0) for claim in claims) / UNIT,
        }
        return {**row, **self._recorder.usage.get(host, {})}

    def _longest(self, calls: Sequence[_Call]) -> list[dict[str, object]]:
        """Return those of ``calls`` that have run longest, the longest first."""
        longest = sorted(calls, key=lambda call: call[3])[:MAX_CALLS]
        return [
            {**self._about(task, rank), "attempt": attempt, "started_s": started}
            for task, attempt, rank, started in longest
        ]

    def _running_calls(self) -> list[_Call]:
        """Return the running calls that are known, among them the longest ones."""
        own = [(*self._recorder.elements.call(*call[:2]), *call[2:]) for call in self.own_calls()]
        return list({call[0]: call for call in (*own, *self._recorder.longest_calls(MAX_TIMED_CALLS))}.values())

    def _slowest_calls(self) -> list[dict[str, object]]:
        """Return the calls of this launch that have ended and took longest, the longest first."""
        return [
            {**self._about(call.task, call.rank), "duration_s": call.duration_s, "failed": call.has_failed}
            for call in self._slowest.calls()
        ]

    def _about(self, task: int, rank: int) -> dict[str, object]:
        name = self._plan.code_names[self._plan.specs[task].code]
        return {"id": self._label(task), "name": name, "rank": rank, "host": self._recorder.host_of(rank)}

    def _label(self, task: int) -> str:
        return _text(self._plan.ids[task])

    def _losses(self) -> list[dict[str, object]]:
        host_of = self._recorder.host_of
        return [loss.to_json(host_of(loss.rank), _text) for loss in list(self._recorder.losses.newest)]

    def _failure_groups(self) -> list[dict[str, object]]:
        groups = itertools.islice((group for group in self._failures() if group.count), MAX_FAILURES)
        return [
            {
                "what": one_line(group.what, _MAX_REASON_CHARS),
                "message": one_line(group.message, _MAX_REASON_CHARS),
                "count": group.count,
                "first": _text(group.ids[0]),
            }
            for group in groups
        ]


def _text(id: Hashable) -> str:
    return one_line(id_text(id), _MAX_ID_CHARS)


def _taken(queue: deque[_T]) -> Iterator[_T]:
    """Remove and yield the items that are in a queue now; another thread may append more."""
    for _ in range(len(queue)):
        yield queue.popleft()


def _with_rest(
    rows: dict[str, dict[str, Any]], max_rows: int, importance: Callable[[dict[str, Any]], Any]
) -> dict[str, dict[str, object]]:
    """Return the most important rows, and the sums of all others in one row."""
    if len(rows) <= max_rows:
        return rows
    order = sorted(rows, key=lambda name: importance(rows[name]), reverse=True)
    rest: dict[str, Any] = {}
    for name in order[max_rows - 1 :]:
        for field, value in rows[name].items():
            if isinstance(value, (int, float)) and field not in ("mean_s", "cpu_percent", "gpu_percent"):
                rest[field] = rest.get(field, 0) + value
    return {**{name: rows[name] for name in order[: max_rows - 1]}, OTHERS: rest}
