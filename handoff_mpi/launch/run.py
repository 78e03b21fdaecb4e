"""Runs a DAG on the ranks of a job, in stages: a run is checked, begun and carried out, and has results then."""

from __future__ import annotations

from handoff_mpi.console import print_message
from handoff_mpi.coroutines import running_loop_hidden
from handoff_mpi.dag import DAG
from handoff_mpi.errors import DAGFailed
from handoff_mpi.launch.begun_run import BegunRun
from handoff_mpi.launch.checked_run import CheckedRun
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.run_files import open_files
from handoff_mpi.launch.run_in_progress import RunInProgress
from handoff_mpi.results import Results
from handoff_mpi.runtime import gc_control
from handoff_mpi.runtime.choices import ALWAYS
from handoff_mpi.runtime.options import RunOptions


def execute_on(job: Job, dag: DAG, options: RunOptions) -> Results:
    """Run ``dag`` on the ranks of ``job``, which serve already; on rank 0.

    Raises:
        DAGError, UsageError, Unsatisfiable: before anything starts.
        DAGFailed: functions failed, unless ``options.check`` is False.
    """
    with job.running() as own:
        results = _execute(own, dag, options)
    if options.report == ALWAYS and results.run_dir is not None:
        from handoff_mpi.launch.end_report import make_report

        make_report(results.run_dir, sum(results.counts().values()), lambda: bool(job.stop_reason))
    if options.check and results.errors:  # raised here: no frame of the traceback holds the run's tables
        raise DAGFailed(results.first_failures(), results)
    return results


def _execute(job: Job, dag: DAG, options: RunOptions) -> Results:
    with gc_control.paused():
        checked = CheckedRun(job, dag, options)
    try:
        with running_loop_hidden():
            return _carry_out(checked)
    finally:
        checked.close()


def _carry_out(checked: CheckedRun) -> Results:
    with open_files(checked.options) as files:
        history = files.read_history()
        for note in (files.note, *history.notes):
            if note:
                print_message(note)
        checked.tell_notices()
        with gc_control.paused():
            begun = BegunRun(checked, files, history)
            checked.kinds.forget_columns()
        run = RunInProgress(begun)
        results = run.carry_out()
    checked.job.latest_summary = run.summary
    return results
