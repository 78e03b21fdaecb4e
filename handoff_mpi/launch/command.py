"""What each rank does for a run, or a check, of the command line: rank 0 leads, the others serve; and how they end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handoff_mpi.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_FITS_NOWHERE,
    EXIT_STOPPED,
    EXIT_USAGE,
    DAGFailed,
    HandoffError,
    Interrupted,
    JobLost,
    TransportError,
)
from handoff_mpi.launch import job as jobs
from handoff_mpi.launch.job import Job
from handoff_mpi.process_exit import flush_output
from handoff_mpi.results.run_dir import lock_run_dir, make_run_dir, note_joined, write_status
from handoff_mpi.runtime.options import RunOptions, defaults_set, options_of
from handoff_mpi.speech import say, tell
from handoff_mpi.worker.runners import no_launcher_in_environment

if TYPE_CHECKING:  # of rank 0 alone
    from handoff_mpi.dag import DAG
    from handoff_mpi.launch.loading import DagFile

#: Options that dag.py cannot set: the supervisor, or another launch of the same run, goes by them before it is loaded.
_BEFORE_LOADING = ("run_dir", "fresh", "rerun", "drain")
#: Loading dag.py may take this long before something is said.
SLOW_LOADING_S = 30.0
#: Threads that are left running at the end have this long to end.
LEAVE_S = 30.0
_FINALISE_S = 5.0


def lead(job: Job, target: str, args: list[str], chosen: dict[str, Any]) -> int:
    """Rank 0: load the DAG, run it, tell how it went."""
    jobs.current = job
    _listen_to_signals(job)
    if "run_dir" in chosen:
        note_joined(Path(chosen["run_dir"]))
    try:
        file, dag = load(job, target, args)
        if dag is None:
            _write_verdict(chosen, "helped", EXIT_DONE)
            return EXIT_DONE
        if job.is_mpi and job.size > 1 and not job.survives_death:
            hint = "this MPI does not survive a rank's death; `run -n N` or `mpirun --with-ft ulfm` does (Open MPI 5)"
            say(hint)
        results = job.execute(dag, completed(chosen, file.path, dag))
    except DAGFailed as error:
        results = error.results
    except JobLost as error:
        say(str(error))
        os._exit(error.exit_code)  # there is nobody to take leave of
    except TransportError as error:
        jobs.end_rank(error)  # as a rank that dies: the others end too, and the run is launched again
    except HandoffError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:  # dag.py has put Python's own handler back
        say("interrupted; the same command resumes, if the run had begun")
        return EXIT_STOPPED
    except BaseException as error:
        return failed(error)
    tell(results.summary())
    return results.exit_code


def failed(error: BaseException) -> int:
    """Tell of what nobody expected, sys.exit in a handler of dag.py's, say; the other ranks are yet to be dismissed."""
    import traceback

    traceback.print_exception(error)
    return EXIT_FAILED


def load(job: Job, target: str, args: list[str]) -> tuple[DagFile, DAG | None]:
    """Load dag.py, set the ranks up, and build the DAG; None where ``build`` was asked for help.

    Raises:
        UsageError, DAGError: something of it failed.
    """
    from handoff_mpi.launch.loading import load_dag_file

    with _explained(job):
        with _loading(job):
            file = load_dag_file(target, args)
        if file.setup is not None:
            job.run_setup(file.setup)
        with _loading(job):
            return file, file.build()


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
    timer = threading.Timer(SLOW_LOADING_S, say, [said])
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
    for name in ("keep", "rerun"):
        if isinstance(chosen.get(name), list):
            chosen[name] = [id for text in chosen[name] for id in _ids_written(text, dag)]
    late = defaults_set(_BEFORE_LOADING)
    if late:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in late)
        say(f"{path}: handoff.start cannot set {', '.join(late)} of a run of the command line; {flags} can")
    usual = RunOptions()
    return options_of({**{name: getattr(usual, name) for name in _BEFORE_LOADING}, **chosen})


def _ids_written(text: str, dag: DAG) -> list[Hashable]:
    if text in dag:
        return [text]
    return [each.id for each in dag if not isinstance(each.id, str) and str(each.id) == text] or [text]


def tell_refusal(chosen: dict[str, Any], code: int) -> int:
    """Write the exit code of a run that never started into the status file of its run-dir, if it was named one."""
    if code in (EXIT_USAGE, EXIT_FITS_NOWHERE):
        _write_verdict(chosen, "refused", code)
    return code


def _write_verdict(chosen: dict[str, Any], status: str, code: int) -> None:
    if "run_dir" not in chosen:
        return
    try:
        run_dir = make_run_dir(chosen["run_dir"])
        with lock_run_dir(run_dir):
            write_status(run_dir, status=status, exit_code=code)
    except HandoffError:
        pass  # the run-dir may be just what was refused, or in use by a run whose status it holds


def _listen_to_signals(job: Job) -> None:
    """USR1 asks to stop and drain; TERM and INT leave no time for it. A second one ends this rank at once."""

    def stop(number: int, frame: Any) -> None:
        if job.stop_reason:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        job.stop_reason = f"signal {signal.Signals(number).name}"
        if number != signal.SIGUSR1 and job.is_mpi:
            job.drain_s = 0.0
        if job.is_loading:
            raise Interrupted(f"{job.stop_reason} before the run had begun; the same command begins it")

    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def ignore_signals() -> None:
    """The launcher passes them on to all ranks, and it is rank 0 that decides what they mean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def serve(job: Job) -> None:
    """Another rank: serve until rank 0 ends the job."""
    from handoff_mpi.comm import mpi

    ignore_signals()
    if job.survives_death:
        job.leave = _leave_at_once  # else the launcher ends what still runs when rank 0 leaves
    try:
        job.serve()
    except BaseException as error:
        jobs.end_rank(error)
    flush_output()
    bound_the_end(EXIT_DONE)
    mpi.leave(EXIT_DONE)


def _leave_at_once() -> None:
    """End this process though a call runs in it, from another thread than that of the call."""
    flush_output()
    os._exit(EXIT_DONE)


def end(job: Job, code: int) -> None:
    """Rank 0 leaves last: a status other than 0 would have the launcher end ranks that are still flushing."""
    from handoff_mpi.comm import mpi

    job.dismiss()
    flush_output()
    bound_the_end(code)
    mpi.leave(code)


def bound_the_end(code: int) -> None:
    """Python waits at its end for threads: for those that dag.py or its functions have left running, not for ever."""
    timer = threading.Timer(LEAVE_S, _leave_threads_behind, [code])
    timer.daemon = True
    timer.start()


def _leave_threads_behind(code: int) -> None:
    left = [each.name for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    if not left:
        return  # they have ended; what goes on is the end of MPI
    say(f"threads that were left running ({', '.join(left)}) have not ended within {LEAVE_S:g} s, and are ended")
    flush_output()
    if "handoff_mpi.comm.mpi" in sys.modules:
        from handoff_mpi.comm import mpi

        last = threading.Thread(target=mpi.finalise, daemon=True)
        last.start()
        last.join(_FINALISE_S)
    os._exit(code)
