"""Reading the results of a run from its run-dir, later and in any process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.errors import EXIT_STOPPED, JournalError, UntrustedFile, UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.results.array_history import values_of_last
from handoff_mpi.results.array_result import ArrayResult, FailedElements
from handoff_mpi.results.column_file import ColumnFiles
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.history import read_history
from handoff_mpi.results.launches import Done, History, Launch
from handoff_mpi.results.origins import Origins
from handoff_mpi.results.printed_output import PrintedOutput
from handoff_mpi.results.records import RecordTable, count_elements
from handoff_mpi.results.results import PreparedResults, Results
from handoff_mpi.results.run_dir import VALUES
from handoff_mpi.results.run_status import final_counts
from handoff_mpi.results.secure_files import open_directory
from handoff_mpi.results.status_file import read_status
from handoff_mpi.suggestions import did_you_mean

_MAX_LISTED = 10_000
_UNDECIDED = "; its value of launch {} counts again if all elements of arrays with a window prove to be the same"
_COPY = "copy it into a directory of your own, if you trust its owner, and load the copy"


def load(run_dir: str | Path) -> Results:
    """Return the results of the run in ``run_dir``, from its journal: also of a run that is running, or that died.

    Values of classes of other modules need these to be importable; asking for one says which directory that takes.

    Raises:
        UsageError: there is no run, or its files are somebody else's.
        JournalError: the journal cannot be read, or another version wrote it.
    """
    run_dir = _path_of(run_dir)
    history, told = _read(run_dir)
    launch = next((each for each in reversed(history.launches) if each.tasks), None)
    if launch is None:
        raise UsageError(f"{run_dir} holds no run{_near_run(run_dir)}")
    about = launch.about
    status, reason = _status(launch)
    hosts = dict(about.get("hosts", {}))
    prepared = PreparedResults(
        dag_id=about.get("dag_id"),
        run=str(about.get("run", run_dir.name)),
        status=status,
        run_dir=run_dir,
        launch=launch.epoch,
        duration_s=float(told.get("duration_s") or 0.0),
        stopped_because=reason,
        hosts=hosts,
        slots=dict(about.get("slots", {})),
        capacity=dict(about.get("capacity", {})),
        lost_ranks=dict(launch.lost_ranks),
        probation=dict(launch.probation),
        lost_ranks_before=history.lost_ranks_before(launch.epoch),
        stopped_on_failure=status == "stopped" and launch.ended not in (None, ("stopped", EXIT_STOPPED)),
        records=_table(launch, hosts),
        origins=Origins(str(about.get("host", "")), *about.get("imports", ())),
        output_mode=str(about.get("output", "off")),
        counts=final_counts(told, launch.epoch) if launch.ended is not None else {},
    )
    stale = _stale(history, launch)
    for task in range(len(launch.tasks)):
        _take(prepared, history, launch, task, task in stale)
    for task, epoch in _undecided(history, launch, stale).items():
        prepared.undecided[prepared.records.ids[task]] = _UNDECIDED.format(epoch)
    printed = PrintedOutput(prepared.run_dir, prepared.output_mode)
    columns = ColumnFiles(run_dir / VALUES)
    of_arrays = {task: _take_array(prepared, history, launch, task, printed, columns) for task in launch.arrays}
    prepared.counts = prepared.counts or _counts(prepared.records, of_arrays)
    printed.add_to(prepared.errors)
    return Results(prepared)


def _near_run(run_dir: Path) -> str:
    """Return which run-dir beside it may have been meant."""
    try:
        beside = [entry.name for entry in itertools.islice(run_dir.parent.iterdir(), _MAX_LISTED) if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(run_dir.name, [name for name in beside if name != run_dir.name], shown=one_line)


def _path_of(run_dir: Any) -> Path:
    """Return the absolute path.

    Raises:
        UsageError: it is not the path of anything.
    """
    try:
        path = os.fsdecode(run_dir)
    except TypeError:
        path = ""
    if not path or "\0" in path:
        raise UsageError(f"load takes the path of a run-dir, not {show(run_dir)}")
    return Path(path).absolute()


def _read(run_dir: Path) -> tuple[History, dict[str, Any]]:
    """Return what journal and ``status.json`` tell; an empty history where there is no such directory."""
    try:
        with open_directory(run_dir) as directory:
            return read_history(directory), read_status(directory)
    except (FileNotFoundError, NotADirectoryError):
        return History(), {}
    except UntrustedFile as error:
        raise UntrustedFile(error.what, error.repair, _COPY) from error
    except OSError as error:
        raise JournalError(
            f"the run-dir {run_dir} cannot be read: {error.strerror}; see that you may read it"
        ) from error


def _table(launch: Launch, hosts: dict[int, str]) -> RecordTable:
    """Return the records of tasks of which nothing has become."""
    count = len(launch.tasks)
    # A run that failed has left none waiting.
    state = "skipped" if launch.ended is not None and launch.ended[0] == "failed" else "waiting"
    ids, _, names, inputs, costs = (list(column) for column in zip(*launch.tasks, strict=True))
    return RecordTable(
        ids=ids,
        names=names,
        inputs=inputs,
        costs=costs,
        states=[state] * count,
        attempts=[0] * count,
        ranks=[-1] * count,
        started=[-1.0] * count,
        durations=[0.0] * count,
        nbytes=[0] * count,
        hosts=hosts,
        arrays=frozenset(launch.arrays),
        knows_times=not launch.arrays,
    )


def _status(launch: Launch) -> tuple[str, str]:
    if launch.ended is not None:
        return launch.ended[0], "its summary told why" if launch.ended[0] == "stopped" else ""
    return "stopped", "it is running, or it died; the same command resumes it"


def _stale(history: History, launch: Launch) -> set[int]:
    """Return the tasks whose values are of earlier launches, which the last one has not taken over.

    It meant to make them again, as something that they take was to run again, or may have had other elements.
    """
    done = {task: history.done.get(launch.identity(task)) for task in range(len(launch.tasks))}
    old = {task for task, each in done.items() if each is not None and each.epoch != launch.epoch}
    return old - launch.restored


def _undecided(history: History, launch: Launch, stale: Collection[int]) -> dict[int, int]:
    """Return the tasks of which it is not known whether values of earlier launches count, and the newest such launch.

    They depend on all elements of windowed arrays, or fold these, and the launch has not compared all of them.
    """
    found = {task: history.done[launch.identity(task)].epoch for task in stale}
    for task in launch.arrays:
        *earlier, last = history.arrays[launch.identity(task)]
        made = [each.epoch for each in earlier if each.has_any]
        if made and not last.has_any:
            found[task] = made[-1]
    return {task: epoch for task, epoch in found.items() if task not in launch.again}


def _take(prepared: PreparedResults, history: History, launch: Launch, task: int, is_stale: bool) -> None:
    """Take what became of one function into ``prepared``."""
    table, identity = prepared.records, launch.identity(task)
    done = None if is_stale else history.done.get(identity)
    failed = history.failed.get(identity) if task in launch.failed else None
    if identity in history.incidents:
        table.incidents[task] = history.incidents[identity]
    calls = launch.failed_calls.get(task, [])
    if done is not None:
        _take_done(prepared, task, done, task in launch.restored)
    elif failed is not None:
        attempt, rank, kind, message, traceback = failed
        id = table.ids[task]
        table.states[task], table.attempts[task], table.ranks[task] = "failed", attempt, rank
        if calls:
            (_, table.started[task], table.durations[task]), calls = calls[-1], calls[:-1]
        table.errors[task] = message.split("\n")[0]
        prepared.errors[id] = FunctionError(f"{show(id)}: {kind}: {message}", kind, traceback, attempt, (rank,))
    if calls:
        table.earlier[task] = [(rank, duration) for rank, _, duration in calls]


def _take_array(
    prepared: PreparedResults,
    history: History,
    launch: Launch,
    task: int,
    printed: PrintedOutput,
    columns: ColumnFiles,
) -> tuple[int, int, int]:
    """Take what became of the elements of one array into ``prepared``.

    Returns:
        How many it has, how many are done and how many failed.
    """
    table, launches = prepared.records, history.arrays[launch.identity(task)]
    id, values = table.ids[task], values_of_last(launches, columns.column)
    if launches[-1].is_fold:
        if values.count and values.is_complete:  # one whose elements have not all come has none yet
            table.states[task] = "done"
            prepared.take_fold(id, values)
        return values.count, len(values), len(IntervalSet(part for each in launches[-1].failed for part in each[0]))
    failures: list[FailedElements] = []
    for intervals, rank, attempts, kind, message, traceback, last in launches[-1].failed:
        output = printed.last_lines((id, intervals[0][0]), last) if traceback else ""  # few have one
        failures.append(FailedElements(intervals, kind, message, traceback, attempts, (rank,), output=output))
    if failures:
        prepared.errors.pop(id, None)  # they tell more
    elif values.is_complete and not launches[-1].is_open:
        table.states[task] = "done"
    missing = "was skipped: a function it depends on failed" if table.states[task] == "skipped" else "did not run"
    if table.states[task] == "waiting":
        missing += prepared.undecided.get(id, "")
    result = prepared.arrays[id] = ArrayResult(id, values, failures, missing, prepared.origins, launches[-1].is_open)
    counts = result.counts()
    return len(result), counts["done"], counts["failed"]


def _counts(table: RecordTable, of_arrays: Mapping[int, tuple[int, int, int]]) -> dict[str, int]:
    """Return how many calls are in each state, of a launch that has not told it.

    Args:
        of_arrays: how many elements an array has, how many are done and how many failed.
    """
    counts = table.counts()
    for task, (count, done, failed) in of_arrays.items():
        count_elements(counts, table.states[task], count, done, failed, 0)
    return counts


def _take_done(prepared: PreparedResults, task: int, done: Done, was_restored: bool) -> None:
    table = prepared.records
    table.states[task], table.ranks[task] = "done", done.rank
    table.attempts[task] = 0 if was_restored else done.attempt
    table.started[task], table.durations[task] = done.started, done.duration
    table.nbytes[task] = done.nbytes
    if done.payload is not None:
        prepared.payloads[table.ids[task]] = done.payload
    elif done.key is not None:
        prepared.persisted[table.ids[task]] = done.key
