"""Makes the results of a run from the tables of its machine, its recorder and its stores."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from handoff_mpi.callbacks import shown
from handoff_mpi.console import print_message
from handoff_mpi.dag import Plan
from handoff_mpi.errors import ValueUnavailable
from handoff_mpi.formatting import counted, show
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.messages import Interval
from handoff_mpi.results import Results
from handoff_mpi.results.array_result import ArrayResult, FailedElements
from handoff_mpi.results.function_error import FunctionError
from handoff_mpi.results.records import count_elements
from handoff_mpi.results.results import PreparedResults
from handoff_mpi.results.store import MemoryStore
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.coordinator import Coordinator
from handoff_mpi.scheduler import Failure, Scheduler, State
from handoff_mpi.scheduler.array_state import Array

#: Of the functions that ran when a run was stopped, so many are named.
_MAX_NAMED = 5


def make_results(run: BegunRun, coordinator: Coordinator) -> Results:
    """Return the results of the run, which is not done where its journal could not be written."""
    checked, recorder = run.checked, run.recorder
    scheduler, trouble = checked.scheduler, coordinator.trouble
    why_stopped = _why_stopped(run, coordinator)
    status = "stopped" if trouble and scheduler.status == "done" else scheduler.status
    prepared = PreparedResults(
        dag_id=checked.dag.id,
        run=run.name,
        status="stopped" if status == "running" else status,
        errors=_errors(checked.plan, scheduler),
        run_dir=run.files.path,
        launch=run.about["launch"],
        duration_s=clock() - checked.started_s,
        stopped_because=why_stopped or trouble,
        hosts={each.rank: each.host for each in checked.job.capabilities},
        slots={rank: len(slots) for rank, slots in scheduler.slots.of_rank.items()},
        lost_ranks=recorder.losses.reasons(),
        lost_ranks_before=run.lost_ranks_before,
        stopped_on_failure=scheduler.stopped_on_failure,
        probation=dict(recorder.probation),
        capacity=run.capacity,
        arrays=_arrays(run),
        origins=run.origins,
        output_mode=run.about["output"],
    )
    _take_payloads(run, prepared)
    _take_kept(run, prepared)
    if isinstance(run.home, MemoryStore):
        run.home.clear()  # the results have its values, and the records of a large run need as much memory
    prepared.records = recorder.table(scheduler)
    prepared.counts = _counts(run, prepared)
    return Results(prepared)


def _counts(run: BegunRun, prepared: PreparedResults) -> dict[str, int]:
    """Return how many calls are in each state: the figures that everything shows of a run that has ended."""
    counts = prepared.records.counts()
    for task, array in run.checked.scheduler.arrays.of.items():
        array.have.update(run.resumed.array_values[task].have)  # some came after its last turn
        state = prepared.records.states[task]
        count_elements(counts, state, array.count, array.done, array.failed, array.skipped)
    return counts


def _why_stopped(run: BegunRun, coordinator: Coordinator) -> str:
    plan, scheduler, running = run.checked.plan, run.checked.scheduler, coordinator.running_at_stop
    if scheduler.stopped_on_failure and scheduler.tasks.failures:
        return f"function {show(plan.ids[next(iter(scheduler.tasks.failures))])} failed"
    if not (scheduler.stopping and running):
        return scheduler.stopping
    cut_off = [task for task in running if not State(scheduler.tasks.state[task]).is_final]
    functions = [task for task in cut_off if task not in plan.arrays]
    encodings = _encodings(plan, scheduler, coordinator, cut_off)
    unfinished = [f"{_named(plan, functions)} did not end"] if functions else []
    unfinished += [*filter(None, (_elements_left(run, task) for task in cut_off if task in plan.arrays))][:_MAX_NAMED]
    all_ended = " (it ended)" if len(running) == 1 else " (all of them ended)"
    left = f" ({', '.join(unfinished)}{encodings})" if unfinished else all_ended
    return f"{scheduler.stopping} while {_named(plan, running)} ran{left}"


def _elements_left(run: BegunRun, task: int) -> str:
    """Return in words how many elements of an array are left, nothing if none is."""
    array, values = run.checked.scheduler.arrays.of[task], run.resumed.array_values[task]
    left = array.count - len(values) - array.failed - array.skipped  # it does not know of the last that have values
    what = f"{counted(left, 'element')} of {shown(run.checked.plan.ids[task])} {'is' if left == 1 else 'are'} left"
    return what if left > 0 else ""


def _encodings(plan: Plan, scheduler: Scheduler, coordinator: Coordinator, tasks: Sequence[int]) -> str:
    """Return in words which ranks encode inputs of ``tasks``, which takes long."""
    ids, told = plan.ids, ""
    for task in [task for task in tasks[:_MAX_NAMED] if task in coordinator.encodings]:
        attempt, value, rank, since = coordinator.encodings[task]
        if scheduler.tasks.attempts[task] == attempt:
            told += f"; rank {rank} has been encoding {plan.shown_source(value)} for {shown(ids[task])}"
            told += f" for {clock() - since:.0f} s"
    return told


def _named(plan: Plan, tasks: Sequence[int]) -> str:
    ids = [shown(plan.ids[task]) for task in tasks[:_MAX_NAMED]]
    more = f" and {len(tasks) - len(ids):,} more" if len(tasks) > len(ids) else ""
    return ", ".join(ids) + more


def _errors(plan: Plan, scheduler: Scheduler) -> dict[Hashable, FunctionError]:
    return {
        plan.ids[task]: FunctionError(
            f"{show(plan.ids[task])}: {failure.kind}: {failure.message}",
            failure.kind,
            failure.traceback,
            failure.attempts,
            failure.ranks,
            failure.place,
            failure.output,
        )
        for task, failure in sorted(scheduler.tasks.failures.items())
        if task not in scheduler.arrays.of or not _tells_of_elements(scheduler.arrays.of[task])
    }


def _tells_of_elements(array: Array) -> bool:
    """Whether the failures of an array are those of its elements, which users see."""
    return bool(array.failures) and not array.spec.is_fold and array.input_error is None


def _arrays(run: BegunRun) -> dict[Hashable, ArrayResult]:
    plan, arrays = run.checked.plan, run.checked.scheduler.arrays.of
    return {plan.ids[task]: make_array_result(run, task) for task, array in arrays.items() if not array.spec.is_fold}


def make_array_result(run: BegunRun, task: int) -> ArrayResult:
    """Return the result of an array, which has ended."""
    plan, scheduler = run.checked.plan, run.checked.scheduler
    array, values = scheduler.arrays.of[task], run.resumed.array_values[task]
    values.count = array.count  # of a windowed array, it is known by now
    failures = [_failed_elements(intervals, failure) for intervals, failure in array.failures]
    why_missing, lacks = _why_missing(scheduler, task), _may_lack_elements(array)
    return ArrayResult(plan.ids[task], values, failures, why_missing, run.origins, lacks)


def _may_lack_elements(array: Array) -> bool:
    """Whether the iterables of a windowed array were not read to their end, as far as is known."""
    ended_early = array.is_open or array.input_error is not None or array.has_too_many_failures
    return array.spec.window is not None and ended_early


def _failed_elements(intervals: Sequence[Interval], failure: Failure) -> FailedElements:
    how = failure.attempts, failure.ranks, failure.place, failure.output
    return FailedElements(intervals, failure.kind, failure.message, failure.traceback, *how)


def _why_missing(scheduler: Scheduler, task: int) -> str:
    """Return why elements of an array have neither a value nor an error, as a clause."""
    array = scheduler.arrays.of[task]
    if array.bereft and not array.has_too_many_failures:
        return "was skipped: an element that it takes failed"
    if scheduler.tasks.state[task] == State.SKIPPED:
        return "was skipped: a function it depends on failed"
    if array.has_too_many_failures:
        return f"did not run: more than {array.spec.max_failures:,} elements failed (max_failures)"
    failure = scheduler.tasks.failures.get(task)
    return "did not run" if failure is None or array.failures else f"did not run: {failure.kind}: {failure.message}"


def _take_payloads(run: BegunRun, prepared: PreparedResults) -> None:
    plan, at_rank0 = run.checked.plan, run.checked.scheduler.tasks.at_rank0
    lost = []
    for task, id in enumerate(plan.ids):
        if task in plan.arrays:
            values = run.resumed.array_values[task]
            if plan.arrays[task].tree is not None and values.count and values.is_complete:
                prepared.take_fold(id, values)
        elif at_rank0[task]:
            try:
                prepared.payloads[id] = run.home.get((run.name, task))
            except (KeyError, ValueUnavailable) as error:
                prepared.lost[id] = str(error)
                lost.append(task)
    if lost:
        what = f"result_store has lost the values of {_named(plan, lost)} at the end of the run"
        print_message(f"{what}; all others are there")


def _take_kept(run: BegunRun, prepared: PreparedResults) -> None:
    for task in sorted(run.checked.scheduler.tasks.persisted):
        id, key = run.checked.plan.ids[task], run.key_of(task)
        if prepared.run_dir is None:
            prepared.payloads[id] = run.files.kept.get(key)
        else:
            prepared.persisted[id] = key
