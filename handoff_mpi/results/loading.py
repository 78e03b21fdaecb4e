"""Reading the results of a run from its run-dir, later and in any process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handoff_mpi.errors import UsageError
from handoff_mpi.results.history import Done, History, Launch, read_history
from handoff_mpi.results.records import Setback, TaskRecord
from handoff_mpi.results.results import FunctionError, Results
from handoff_mpi.results.run_dir import read_status


def load(run_dir: str | Path) -> Results:
    """Return the results of the run in ``run_dir``, as its journal tells them: of a run that goes on, or died, too.

    Values of classes of ``dag.py`` need that file to be importable.

    Raises:
        UsageError: there is no run, or its files are somebody else's.
        JournalError: the journal cannot be read, or another version wrote it.
    """
    run_dir = Path(run_dir).absolute()
    history = read_history(run_dir)
    launch = next((each for each in reversed(history.launches) if each.tasks), None)
    if launch is None:
        raise UsageError(f"{run_dir} holds no run")
    about = launch.about
    status, reason = _status(run_dir, launch)
    results = Results(
        about.get("dag_id"),
        str(about.get("run", run_dir.name)),
        status,
        {},
        run_dir,
        float(read_status(run_dir).get("duration_s") or 0.0),
        reason,
        dict(about.get("hosts", {})),
        dict(about.get("slots", {})),
        lost_ranks=dict(history.lost_ranks),
    )
    for task in range(len(launch.tasks)):
        _take(results, history, launch, task)
    return results


def _status(run_dir: Path, launch: Launch) -> tuple[str, str]:
    if launch.ended is not None:
        return launch.ended[0], "see its summary"
    return "stopped", "it goes on, or it died; the same command resumes it"


def _take(results: Results, history: History, launch: Launch, task: int) -> None:
    """Take one function's record, value and error into ``results``."""
    id = launch.tasks[task][0]
    identity = launch.identity(task)
    done, failed = history.done.get(identity), history.failed.get(identity)
    setbacks = history.setbacks.get(identity, ())
    results._records.append(_record(results, launch, task, done, failed, setbacks))
    if done is not None and done.payload is not None:
        results._payloads[id] = done.payload
    elif done is not None and done.key is not None:
        results._persisted[id] = done.key
    elif done is None and failed is not None:
        attempt, rank, kind, message = failed
        results.errors[id] = FunctionError(f"{id!r}: {kind}: {message}", kind, "", attempt, (rank,))


def _state_left(launch: Launch) -> str:
    """Return the state of a task that neither was done nor failed: a run that failed has left none waiting."""
    return "skipped" if launch.ended is not None and launch.ended[0] == "failed" else "waiting"


def _record(
    results: Results, launch: Launch, task: int, done: Done | None, failed: Any, setbacks: Sequence[Setback]
) -> TaskRecord:
    id, _, name, inputs, cost = launch.tasks[task]
    attempts, rank = (done.attempt, done.rank) if done is not None else failed[:2] if failed is not None else (0, None)
    return TaskRecord(
        id=id,
        name=name,
        state="done" if done is not None else "failed" if failed is not None else _state_left(launch),
        rank=rank,
        host=None if rank is None else results.hosts.get(rank),
        started_s=None if done is None else done.started,
        stopped_s=None if done is None else done.started + done.duration,
        attempts=attempts,
        inputs=tuple(launch.tasks[each][0] for each in inputs),
        cost=cost,
        nbytes=0 if done is None else done.nbytes,
        error="" if done is not None or failed is None else failed[3].split("\n")[0],
        setbacks=tuple(setbacks),
    )
