"""A run as a Chrome trace, which Perfetto (https://ui.perfetto.dev) opens, and as a table like Nextflow's.

Both are written piece by piece, so that a run of a million calls needs no more memory than its story.

The trace has a process for each rank and a thread for each of its slots. A call is a slice; the time that it waited on
its rank is a slice of the process's last thread, "waiting"; an arrow goes from a call to each call on another slot that
took its value. Times are in microseconds from the start of the run. One more process, "run", shows the launches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from handoff_mpi.formatting import one_line
from handoff_mpi.results.story import DONE, OUTCOMES, Story

#: Process of the launches; those of ranks follow it.
_RUN_PID, _FIRST_PID = 1, 2
_WAITING_TID = 1_000_000
#: Arrows are drawn for this many values at most: each is two events.
MAX_ARROWS = 200_000
#: A wait on a rank that is shorter is not worth a slice.
_MIN_WAIT_S = 1e-4
_ROWS = 1000


def trace_pieces(story: Story) -> Iterator[bytes]:
    """Yield a Chrome trace in JSON, piece by piece."""
    yield b'{"displayTimeUnit":"ms","traceEvents":[\n'
    is_first = True
    for event in _events(story):
        text = event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))
        yield (text if is_first else ",\n" + text).encode()
        is_first = False
    yield b"\n]}\n"


def _events(story: Story) -> Iterator[dict[str, object] | str]:
    yield from _names(story)
    yield from _launches(story)
    yield from _calls(story)
    yield from _waits(story)
    yield from _arrows(story)


def _micros(story: Story, time_s: float) -> float:
    return round((time_s - story.started_s) * 1e6, 1)


def _names(story: Story) -> Iterator[dict[str, object]]:
    yield _name("process_name", _RUN_PID, 0, f"run {one_line(story.run_dir.name, 80)}")
    yield _name("thread_name", _RUN_PID, 1, "launches")
    calls = story.calls
    lanes: dict[int, int] = {}
    for launch in story.launches:
        for rank, slots in launch.slots.items():
            lanes[rank] = max(lanes.get(rank, 0), slots)
    used = np.zeros(int(calls.rank.max(initial=-1)) + 1, np.int64)
    np.maximum.at(used, calls.rank, story.lanes + 1)
    for rank in np.flatnonzero(used).tolist():
        lanes[rank] = max(lanes.get(rank, 0), int(used[rank]))
    for rank, count in sorted(lanes.items()):
        hosts = dict.fromkeys(one_line(each.hosts[rank], 60) for each in story.launches if rank in each.hosts)
        yield _name("process_name", _FIRST_PID + rank, 0, f"rank {rank} ({', then '.join(hosts)})")
        yield {"ph": "M", "name": "process_sort_index", "pid": _FIRST_PID + rank, "args": {"sort_index": rank + 1}}
        for lane in range(count):
            yield _name("thread_name", _FIRST_PID + rank, lane + 1, f"slot {lane}")
        yield _name("thread_name", _FIRST_PID + rank, _WAITING_TID, "waiting")


def _name(what: str, pid: int, tid: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _launches(story: Story) -> Iterator[dict[str, object]]:
    for launch in story.launches:
        begin, end = _micros(story, launch.started_s), _micros(story, launch.stopped_s)
        about = {"functions": launch.functions, "done before": launch.restored, "verdict": launch.verdict}
        slice_ = {"ph": "X", "name": f"launch {launch.epoch}", "cat": "launch", "pid": _RUN_PID, "tid": 1}
        yield {**slice_, "ts": begin, "dur": max(0.0, round(end - begin, 1)), "args": about}
        for event in launch.rank_events:
            at = end if event.time_s is None else _micros(story, event.time_s)
            mark = {"ph": "i", "s": "p", "name": f"rank {event.rank} {event.what}", "cat": "rank"}
            reason = {"reason": one_line(event.reason, 300)}
            yield {**mark, "pid": _FIRST_PID + event.rank, "tid": 1, "ts": at, "args": reason}


def _columns(story: Story) -> tuple[list[str], list[Any]]:
    """Return the names of codes in JSON, and the columns that slices need, as lists of Python's numbers."""
    calls = story.calls
    names = [json.dumps(one_line(name, 120)) for name in story.tasks.names]
    ts = np.round((calls.started - story.started_s) * 1e6, 1)
    dur = np.round(np.maximum(calls.duration, 0.0) * 1e6, 1)
    # Slices of a thread must not overlap, not by the microseconds by which clocks are read early or late either.
    order = np.lexsort((calls.started, story.lanes, calls.rank))
    is_same = (calls.rank[order][1:] == calls.rank[order][:-1]) & (story.lanes[order][1:] == story.lanes[order][:-1])
    before, after = order[:-1][is_same], order[1:][is_same]
    dur[before] = np.maximum(np.minimum(dur[before], np.round(ts[after] - ts[before], 1)), 0.0)
    return names, [ts, dur, calls.rank + _FIRST_PID, story.lanes.astype(np.int32) + 1]


def _rows(columns: list[Any], count: int) -> Iterator[tuple[Any, ...]]:
    for first in range(0, count, _ROWS):
        yield from zip(*(column[first : first + _ROWS].tolist() for column in columns), strict=True)


def _calls(story: Story) -> Iterator[str]:
    calls, tasks = story.calls, story.tasks
    names, columns = _columns(story)
    more = [calls.task, calls.attempt, calls.launch, calls.outcome, calls.nbytes, tasks.name[calls.task], calls.failure]
    for ts, dur, pid, tid, task, attempt, launch, outcome, nbytes, name, failure in _rows(
        [*columns, *more], len(calls)
    ):
        args = f'{{"id":{json.dumps(tasks.label(task))},"attempt":{attempt},"outcome":"{OUTCOMES[outcome]}"'
        if nbytes:
            args += f',"nbytes":{nbytes}'
        if len(story.launches) > 1:
            args += f',"launch":{story.launches[launch].epoch}'
        if failure >= 0:
            why = story.failures[failure]
            args += f',"error":{json.dumps(one_line(f"{why.kind}: {why.message}", 300))}'
        colour = "" if outcome == DONE else ',"cname":"terrible"'
        place = f'"pid":{pid},"tid":{tid},"ts":{ts},"dur":{dur}'
        yield f'{{"ph":"X","name":{names[name]},"cat":"call",{place}{colour},"args":{args}}}}}'


def _waits(story: Story) -> Iterator[str]:
    """Yield what calls waited for on their ranks, and before another attempt, as asynchronous slices: they overlap."""
    calls, waits = story.calls, story.waits
    if not waits.has_sent:
        return
    names, (ts, _, pid, _) = _columns(story)
    kinds = (("transfer", waits.transfer, 0.0), ("queue", waits.queue, waits.transfer))
    for kind, waited, after in kinds:
        long = np.flatnonzero(waited >= _MIN_WAIT_S)
        ends = np.round(ts[long] - np.broadcast_to(after, len(calls))[long] * 1e6, 1)
        begins = np.round(ends - waited[long] * 1e6, 1)
        name = story.tasks.name[calls.task[long]]
        for row, begin, end, process, code in _rows([long, begins, ends, pid[long], name], len(long)):
            head = f'"cat":"{kind}","name":{names[code]},"id":{row},"pid":{process},"tid":{_WAITING_TID}'
            yield f'{{"ph":"b",{head},"ts":{begin}}}'
            yield f'{{"ph":"e",{head},"ts":{end}}}'


def _arrows(story: Story) -> Iterator[str]:
    """Yield arrows from calls to those on other slots that took their values."""
    calls, tasks, final = story.calls, story.tasks, story.final_call
    users = np.repeat(np.arange(len(tasks), dtype=np.int32), np.diff(tasks.starts))
    makes, uses = final[tasks.inputs], final[users]
    is_known = (makes >= 0) & (uses >= 0)
    makes, uses = makes[is_known], uses[is_known]
    is_apart = (calls.rank[makes] != calls.rank[uses]) | (story.lanes[makes] != story.lanes[uses])
    is_apart &= calls.outcome[makes] == DONE
    makes, uses = makes[is_apart], uses[is_apart]
    if len(makes) > MAX_ARROWS:  # the largest values
        chosen = np.sort(np.argpartition(-calls.nbytes[makes], MAX_ARROWS)[:MAX_ARROWS])
        makes, uses = makes[chosen], uses[chosen]
    _, (ts, dur, pid, tid) = _columns(story)
    # An arrow begins within the slice, or Perfetto joins it to none, and by clocks of two hosts not after its end.
    begins = np.minimum(np.round(ts[makes] + dur[makes] * 0.999, 1), ts[uses])
    fits = begins >= ts[makes]
    makes, uses, begins = makes[fits], uses[fits], begins[fits]
    columns = [begins, pid[makes], tid[makes], ts[uses], pid[uses], tid[uses]]
    for number, (begin, pid_a, tid_a, end, pid_b, tid_b) in enumerate(_rows(columns, len(makes)), 1):
        head = f'"cat":"value","name":"value","id":{number}'
        yield f'{{"ph":"s",{head},"pid":{pid_a},"tid":{tid_a},"ts":{begin}}}'
        yield f'{{"ph":"f","bp":"e",{head},"pid":{pid_b},"tid":{tid_b},"ts":{end}}}'


# -- the table -------------------------------------------------------------------------------------------

#: Nextflow's columns that apply, in its order, and then two of our own.
COLUMNS = (
    *("task_id", "hash", "native_id", "name", "status", "exit", "submit", "start", "complete", "duration"),
    *("realtime", "cpus", "memory", "process", "attempt", "hostname", "error_action", "launch", "nbytes"),
)
_STATUS = {"done": "COMPLETED", "cut off": "ABORTED", "rank lost": "ABORTED", "running": "RUNNING"}


def table_pieces(story: Story) -> Iterator[bytes]:
    """Yield a table of all calls, a row a call, in the columns of Nextflow's trace file; ``-`` where none applies.

    Times are in milliseconds (``submit``, ``start``, ``complete``: since the epoch), memory in bytes.
    """
    yield ("\t".join(COLUMNS) + "\n").encode()
    calls, tasks = story.calls, story.tasks
    columns = [calls.task, calls.attempt, calls.rank, calls.launch, calls.outcome, calls.sent, calls.started]
    columns += [calls.duration, calls.nbytes]
    last = story.final_call
    for number, row in enumerate(_rows(columns, len(calls))):
        task, attempt, rank, launch, outcome, sent, started, duration, nbytes = row
        cost = tasks.costs[tasks.cost[task]]
        stopped, submitted = started + duration, sent if sent == sent else started
        word = OUTCOMES[outcome]
        fields = [
            task + 1,
            "-",
            f"rank{rank}",
            tasks.label(task),
            _STATUS.get(word, "FAILED"),
            0 if outcome == DONE else "-",
            _ms(submitted),
            _ms(started),
            "-" if word == "running" else _ms(stopped),
            _ms(stopped - submitted),
            _ms(duration),
            cost.get("cpu", 1),
            _bytes(cost.get("memory")),
            one_line(tasks.name_of(task), 120),
            attempt,
            one_line(story.host(launch, rank), 80) or "-",
            "-" if outcome == DONE or word == "running" else "RETRY" if last[task] != number else "IGNORE",
            story.launches[launch].epoch,
            nbytes,
        ]
        yield ("\t".join(map(str, fields)) + "\n").encode("utf-8", "backslashreplace")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _bytes(memory: object) -> int | str:
    return round(memory * 10**6) if isinstance(memory, (int, float)) else "-"
