"""Runs each rank of a run, or a check, of the command line: rank 0 leads, the others serve; and ends them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
import time
import traceback
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from handoff_mpi import signals
from handoff_mpi.console import print_message, print_stderr
from handoff_mpi.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_FITS_NOWHERE,
    EXIT_STOPPED,
    EXIT_USAGE,
    DAGFailed,
    HandoffError,
    Interrupted,
    LauncherLost,
    RankLostInSetup,
    RanksMissing,
    TransportError,
)
from handoff_mpi.launch import script_end
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.joining import mpi_job
from handoff_mpi.launch.output_mode import output_of_command
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.progress_mode import mode_of_command
from handoff_mpi.launch.rank_end import end_rank
from handoff_mpi.launch.segments import remove_segments
from handoff_mpi.launch.serving import serve
from handoff_mpi.launch.signals import words_of_signal
from handoff_mpi.launch.start_line import resume_text, shown_path
from handoff_mpi.process_context import this_process
from handoff_mpi.process_exit import exit_process, flush_output
from handoff_mpi.results.run_dir import make_run_dir
from handoff_mpi.results.run_lock import lock_run_dir
from handoff_mpi.results.status_file import read_status, write_status
from handoff_mpi.results.supervision import has_supervisor, own_supervisor, read_joined
from handoff_mpi.runtime.backoff import clock
from handoff_mpi.runtime.choices import LIVE, NONE, ProgressMode
from handoff_mpi.runtime.options import READ_EARLY, RunOptions, defaults_set, options_of
from handoff_mpi.worker.child_process import no_launcher_in_environment

if TYPE_CHECKING:  # of rank 0 alone
    from handoff_mpi.dag import DAG
    from handoff_mpi.launch.dag_file import DagFile
    from handoff_mpi.results import Results

#: Loading dag.py may take this long before something is said.
SLOW_LOADING_S = 30.0
#: Exit handlers get this long in a rank whose main thread is still in a call.
SHORT_HANDLERS_S = 3.0
#: With fault tolerance rank 0 waits so long for the ranks of its host to leave before it: a launcher may hang if a rank
#: is killed when rank 0 has left.
_LAST_S = 15.0
_EXIT_POLL_INTERVAL_S = 0.005


def run_rank0(job: Job, target: str, args: list[str], chosen: dict[str, Any]) -> int:
    """Rank 0: load the DAG, run it, tell how it went."""
    this_process.of(OwnJobs).enter(job)
    _listen_to_signals(job, chosen.get("run_dir"))
    if "run_dir" in chosen:
        own_supervisor().note_joined(Path(chosen["run_dir"]))
    try:
        file, dag = load(job, target, args)
        if dag is None:
            _write_verdict(chosen, "helped", EXIT_DONE)
            return EXIT_DONE
        options = completed(chosen, file.path, dag)
        is_quiet = options.quiet
        report, options.report = options.report, NONE  # it is made below, behind the summary
        options.progress = _progress(job, options)
        options.output = output_of_command(options, owns_terminal=not job.is_mpi)
        if job.is_mpi and job.size > 1 and not job.has_fault_tolerance and not is_quiet:
            print_message(_what_this_mpi_costs(options))
        results = _execute(job, dag, options)
    except DAGFailed as error:
        results = error.results
    except LauncherLost as error:
        _leave_lost_job(error)
    except RankLostInSetup as error:
        print_message(str(error))
        end(job, error.exit_code)  # without a verdict: the supervisor, if there is one, launches it again
    except TransportError as error:
        end_rank(error)  # as a rank that dies: the others end too, and the run is launched again
    except HandoffError as error:
        print_message(str(error))
        return error.exit_code
    except KeyboardInterrupt:  # dag.py has put Python's own handler back
        print_message("interrupted; the same command resumes, if the run had begun")
        return EXIT_STOPPED
    except BaseException as error:
        return failed(error)
    if not is_quiet:
        print_stderr(results.summary())
        _tell_what_explains(job, results)
        _tell_how_to_resume(job, results)
        _tell_of_report(job, results, report)
    job.summary = job.latest_summary
    if not has_supervisor():
        _report_at_end(job, results, report)
    return results.exit_code


def _execute(job: Job, dag: DAG, options: RunOptions) -> Results:
    from handoff_mpi.launch.run import execute_on  # other ranks do without

    return execute_on(job, dag, options)


def _tell_what_explains(job: Job, results: Results) -> None:
    """Tell the command that explains why functions of a run failed."""
    if results.run_dir is not None and results.status == "failed":
        print_stderr(f"  why: handoff-mpi explain {shlex.quote(shown_path(results.run_dir, job.directory))}")


def _tell_how_to_resume(job: Job, results: Results) -> None:
    """Tell the command that resumes a run with work left; of one that was stopped a supervisor tells it."""
    is_told = has_supervisor() and results.status == "stopped"
    if results.run_dir is not None and results.exit_code != EXIT_DONE and not is_told:
        shown = shown_path(results.run_dir, job.directory)
        print_stderr(f"  to resume: {resume_text(shown, job.resumed_by)}")


def _tell_of_report(job: Job, results: Results, choice: str) -> None:
    """Tell the command that makes the report, where none is made by itself."""
    from handoff_mpi.launch.end_report import can_make_report

    if results.run_dir is None or choice == NONE or _is_report_wanted(results, choice) or not can_make_report():
        return
    shown = shown_path(results.run_dir, job.directory)
    print_stderr(f"  report: handoff-mpi report {shlex.quote(shown)}")


def _is_report_wanted(results: Results, choice: str) -> bool:
    from handoff_mpi.launch.end_report import is_wanted

    return is_wanted(choice, results.status, sum(results.counts().values()), results.duration_s)


def _report_at_end(job: Job, results: Results, choice: str) -> None:
    if results.run_dir is not None and _is_report_wanted(results, choice):
        from handoff_mpi.launch.end_report import make_report

        make_report(results.run_dir, sum(results.counts().values()), lambda: bool(job.stop_reason))


def _progress(job: Job, options: RunOptions) -> ProgressMode:
    """Return how rank 0 shows progress; the supervisor draws the live view of the ranks that it launches."""
    if has_supervisor() and options.progress == LIVE and not options.quiet:
        return LIVE
    return mode_of_command(options, owns_terminal=not job.is_mpi)


def _what_this_mpi_costs(options: RunOptions) -> str:
    costs = "this MPI does not survive a rank's death"
    if options.isolation == "auto":  # measured: 20,000 no-ops on 3 ranks, and a chain of 3,000
        costs += ", so functions are called in child processes, where a short call takes two to four times as long"
    return f"{costs}; `run -n N` or `mpirun --with-ft ulfm` (Open MPI 5) avoids that"


def failed(error: BaseException) -> int:
    """Tell of what nobody expected, sys.exit in a handler of dag.py's, say; the other ranks are yet to be dismissed."""
    traceback.print_exception(error)
    return EXIT_FAILED


def load(job: Job, target: str, args: list[str]) -> tuple[DagFile, DAG | None]:
    """Load dag.py, set the ranks up, and build the DAG; None where ``build`` was asked for help.

    Raises:
        UsageError, DAGError: something of it failed.
    """
    from handoff_mpi.launch.dag_file import load_dag_file

    with _explained(job):
        with _loading(job):
            file = load_dag_file(target, args)
        if file.setup is not None:
            job.run_setup(file.setup)
        with _loading(job), file.top_level.noting():
            dag = file.build()
        job.top_level = file.top_level
        return file, dag


@contextlib.contextmanager
def _loading(job: Job) -> Iterator[None]:
    """Code of dag.py that makes the DAG runs here: a signal may break it off, as nothing has begun that would have to
    end well; and what it starts is not a rank of this job, and must not take itself for one.
    """
    job.is_loading = True
    try:
        with no_launcher_in_environment() if job.is_mpi else contextlib.nullcontext():
            yield
    finally:
        job.is_loading = False


@contextlib.contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Say what may be the matter if loading dag.py takes long where other ranks wait for it."""
    said = "dag.py is still being loaded: on rank 0 alone, so a collective call of MPI in it would wait for ever"
    timer = threading.Timer(SLOW_LOADING_S, print_message, [said])
    timer.daemon = True
    if job.size > 1:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def completed(chosen: dict[str, Any], path: Path, dag: DAG) -> RunOptions:
    """Complete what the command line says by what dag.py, loaded by now, has set with ``handoff.start``.

    Ids on it are text. Where no function has that text for its id, those are meant whose id is written like it.
    """
    for name in ("keep", "rerun", "accept_changes"):
        if isinstance(chosen.get(name), list):
            chosen[name] = [id for text in chosen[name] for id in _ids_written(text, dag)]
    late = defaults_set(READ_EARLY)
    if late:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in late)
        print_message(f"{path}: handoff.start cannot set {', '.join(late)} of a run of the command line; {flags} can")
    usual = RunOptions()
    return options_of({**{name: getattr(usual, name) for name in READ_EARLY}, **chosen})


def _ids_written(text: str, dag: DAG) -> list[Hashable]:
    if text in dag:
        return [text]
    return [each.id for each in dag if not isinstance(each.id, str) and str(each.id) == text] or [text]


def tell_refusal(chosen: dict[str, Any], code: int) -> int:
    """Write the exit code of a run that never started into the status file of its run-dir, if it was named one.

    A supervisor launches a run without a verdict again: it must not where the run was stopped before it had begun.
    """
    was_stopped = code == EXIT_STOPPED and has_supervisor() and _has_not_begun(chosen)
    if was_stopped or code in (EXIT_USAGE, EXIT_FITS_NOWHERE):
        _write_verdict(chosen, "refused", code)
    return code


def _has_not_begun(chosen: dict[str, Any]) -> bool:
    """Whether rank 0 has joined in the run-dir, which is still there, but has written no status into it."""
    return "run_dir" in chosen and bool(read_joined(chosen["run_dir"])) and not read_status(chosen["run_dir"])


def _write_verdict(chosen: dict[str, Any], status: str, code: int) -> None:
    if "run_dir" not in chosen:
        return
    try:
        run_dir = make_run_dir(chosen["run_dir"])
        with lock_run_dir(run_dir, own_supervisor()):
            write_status(run_dir, status=status, exit_code=code)
    except HandoffError:
        pass  # the run-dir may be just what was refused, or in use by a run whose status it holds


def _listen_to_signals(job: Job, run_dir: Path | None) -> None:
    """Let USR1 stop the run with its grace period, TERM and INT without; a second signal ends this rank at once."""

    def stop(number: int, frame: Any) -> None:
        if job.stop_reason:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        why = own_supervisor().read_stop(run_dir) if run_dir is not None and number == signal.SIGUSR1 else ""
        job.stop_reason = why or words_of_signal(number)
        if number != signal.SIGUSR1 and job.is_mpi:
            job.grace_period_s = 0.0
        if job.is_loading:
            raise Interrupted(f"{job.stop_reason} before the run had begun; the same command begins it")

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signals.handle(number, stop)


def ignore_signals() -> None:
    """The launcher passes them on to all ranks, and it is rank 0 that decides what they mean."""
    signals.ignore(signal.SIGINT)
    signals.ignore(signal.SIGUSR1)


def join(join_limit: float) -> Job:
    """Join the job of the world; a collective call. If ranks are missing, all ranks end.

    Raises:
        StartupError: ranks run another version, or MPI is not the launcher's own.
    """
    try:
        return mpi_job(join_limit=join_limit)
    except RanksMissing as error:
        print_message(str(error))
        script_end.end_unjoined(error.exit_code, is_started=True)  # in MPI_Finalize this one would wait for them
        raise


def _leave_lost_job(error: LauncherLost) -> NoReturn:
    """End rank 0 of a job whose launcher has ended: there is nobody to take leave of."""
    print_message(str(error))
    remove_segments()
    os._exit(error.exit_code)


def run_worker(job: Job) -> None:
    """Another rank: serve until rank 0 ends the job."""
    from handoff_mpi.comm import mpi

    ignore_signals()
    if job.has_fault_tolerance:
        job.leave = _leave_at_once  # else the launcher ends what still runs when rank 0 leaves
    try:
        serve(job)
    except BaseException as error:
        end_rank(error)
    job.see_off()
    flush_output()
    mpi.leave(EXIT_DONE)


def _leave_at_once() -> None:
    """End this process though a call runs in it, from another thread than that of the call."""
    exit_process(EXIT_DONE, handlers_timeout_s=SHORT_HANDLERS_S, threads_timeout_s=0.0)


def end(job: Job, code: int) -> NoReturn:
    """Rank 0 leaves last: a status other than 0 would have the launcher end ranks that are still flushing."""
    from handoff_mpi.comm import mpi

    job.dismiss()
    job.see_off()
    if job.has_fault_tolerance:
        end_s = clock() + _LAST_S
        while job.lives_here() and clock() < end_s:
            time.sleep(_EXIT_POLL_INTERVAL_S)
    flush_output()
    mpi.leave(code)
