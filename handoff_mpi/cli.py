"""The command line: ``run``, ``check``, ``doctor``, ``--version``, and what reads runs (:mod:`handoff_mpi.verbs`)."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import handoff_mpi
from handoff_mpi import signals
from handoff_mpi.console import print_message
from handoff_mpi.descendants import mark_descendants
from handoff_mpi.errors import EXIT_DONE, EXIT_USAGE, HandoffError, UsageError
from handoff_mpi.flags import (
    OF_THE_SUPERVISOR,
    READING_VERBS,
    RESUMED_BY,
    options_given,
    parse,
    reading_verb,
    relaunches_given,
    requeues_given,
    without_flags,
)
from handoff_mpi.formatting import id_text, show
from handoff_mpi.launch import rank_main
from handoff_mpi.launch.environment import is_under_launcher, rank_by_launcher
from handoff_mpi.launch.job import Job
from handoff_mpi.launch.joining import local_job
from handoff_mpi.launch.output_mode import output_of_command
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.launch.progress_mode import mode_of_command, terminal_of_stderr
from handoff_mpi.launch.signals import stop_before_the_start
from handoff_mpi.launch.start_line import ResumeCommand, shown_path
from handoff_mpi.launch.unused_tasks import tell_of_unused_tasks
from handoff_mpi.process_context import this_process
from handoff_mpi.process_exit import exit_python
from handoff_mpi.python_path import ModuleName
from handoff_mpi.results.array_index import claim_for_index, refuse_other_index
from handoff_mpi.results.run_dir import use_run_dir
from handoff_mpi.results.run_lock import lock_for_supervisor
from handoff_mpi.results.secure_files import Directory
from handoff_mpi.results.status_file import read_status
from handoff_mpi.results.summary import SCHEMA, read_summary
from handoff_mpi.results.supervision import has_supervisor, own_supervisor, take_mark
from handoff_mpi.resume_command import resume_command
from handoff_mpi.runtime.choices import LIVE, NONE
from handoff_mpi.runtime.option_fields import PREFIX
from handoff_mpi.runtime.options import RunOptions

#: Rank 0 has this long to say what is wrong.
_FLUSH_TIMEOUT_S = 3.0
#: Errors of a disk that takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
#: Of what ``check --json`` prints.
_CHECK_SCHEMA = 1


def program() -> NoReturn:
    """The command: :func:`main` in a process of its own."""
    exit_python(main(), _finalise)


def _finalise() -> None:
    if "handoff_mpi.comm.mpi" in sys.modules:
        from handoff_mpi.comm import mpi

        mpi.finalise()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if handoff_mpi.exit_watch is not None:
        handoff_mpi.exit_watch.stop()  # the command line ends its ranks itself
    take_mark()
    if rank_by_launcher():
        return _main_of_others(arguments)
    if arguments[:1] == ["run"] and not is_under_launcher():
        stop_before_the_start()
    try:
        return _dispatch(arguments)
    except HandoffError as error:
        print_message(str(error))
        return error.exit_code


def _dispatch(arguments: list[str]) -> int:
    own, given = _split_at_dashes(arguments)
    options = parse(own)
    try:
        Path.cwd()
    except OSError as error:
        what = f"the directory this is called in cannot be used: {error.strerror}"
        raise UsageError(f"{what}; run it from another directory") from error
    if options.verb in READING_VERBS:
        options.dag_args = given
        return _print_of_runs(options)
    return _VERBS[options.verb](options, own, given)


def _print_of_runs(options: argparse.Namespace) -> int:
    """Run a command that reads runs and prints; return the exit code.

    The reader of stdout may leave (``| head``), the encoding of stdout may be ASCII, and its disk may be full.

    Raises:
        HandoffError: the command cannot do it, or its output cannot be written.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = reading_verb(options.verb).main(options)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, SystemExit) as error:
        is_pipe = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)
        if not is_pipe:  # rich turns one into SystemExit
            raise
        _drop_stdout()
        return EXIT_DONE
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        _drop_stdout()
        what = f"cannot write the output of {options.verb}: {error.strerror}"
        raise UsageError(f"{what}; free space, or write it elsewhere") from error


def _drop_stdout() -> None:
    """Let the end of Python flush the rest of stdout into nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main_of_others(arguments: list[str]) -> int:
    """Rank 0 alone speaks of bad usage; others must not leave before it has, or the launcher would end it."""
    if arguments and arguments[0] in READING_VERBS:
        return EXIT_DONE  # rank 0 alone reads
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parse(_split_at_dashes(arguments)[0])
    except SystemExit as error:
        return _let_rank_0_speak(error.code)
    except UsageError as error:
        return _let_rank_0_speak(error.exit_code)
    try:
        return _dispatch(arguments)
    except HandoffError as error:
        return _let_rank_0_speak(error.exit_code)


def _let_rank_0_speak(code: object) -> int:
    time.sleep(_FLUSH_TIMEOUT_S)
    return code if isinstance(code, int) else EXIT_USAGE


def _split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _run(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    chosen = options_given(given)
    if given.json:
        _capture_output(chosen)
    if given.n is not None:
        return _launch(given, own, args, RunOptions(**chosen))
    _refuse_launching(own, "run")
    stdout = _own_stdout() if given.json else None
    if not is_under_launcher():
        mark_descendants()
        if not chosen.get("quiet"):
            tell_of_unused_tasks("run -n {} starts a rank for each")
        local = local_job()
        local.resumed_by = resume_command(own, args)
        return _lead(local, given, args, chosen, stdout)
    if rank_by_launcher():
        rank_main.ignore_signals()
    if "run_dir" in chosen:
        own_supervisor().note_arrived(chosen["run_dir"])
    job = rank_main.join(RunOptions(**chosen).join_limit)
    this_process.of(OwnJobs).enter(job)
    if job.rank == 0:
        job.resumed_by = _given(given.resumed_by) or resume_command(own, args, is_launched=True)
        rank_main.end(job, _lead(job, given, args, chosen, None if has_supervisor() else stdout))
    rank_main.run_worker(job)
    return EXIT_DONE


def _lead(job: Job, given: argparse.Namespace, args: list[str], chosen: dict[str, object], out: TextIO | None) -> int:
    """Rank 0 runs the DAG; return the exit code, and print the summary as data to ``out`` if there is one."""
    code = rank_main.tell_refusal(chosen, rank_main.run_rank0(job, _target(given), args, chosen))
    if out is not None:
        _print_summary(job.summary, code, out)
    return code


def _print_summary(summary: dict[str, object] | None, code: int, out: TextIO) -> None:
    """Print one object in any case: of a run that was refused, or lost, there is no summary."""
    told = summary or {"schema": SCHEMA, "status": "refused" if code == EXIT_USAGE else "lost", "exit_code": code}
    print(json.dumps(told, default=repr), file=out, flush=True)


def _own_stdout() -> TextIO:
    """Return stdout for this module alone; what all others print goes to stderr: a program reads the former."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def _capture_output(chosen: dict[str, object]) -> None:
    """Have what functions print captured.

    Raises:
        UsageError: there is to be no summary.
    """
    if chosen.get("record") == NONE:
        raise UsageError(f"--json prints the summary, and --record {NONE} makes none; give one of the two")
    if chosen.get("output", "auto") == "auto":
        chosen["output"] = "capture"


def _given(command: str | None) -> ResumeCommand | None:
    """Return what gives the command that the supervisor has made."""
    return None if command is None else lambda run_dir, is_later=False: command


def _target(given: argparse.Namespace) -> str:
    return ModuleName(given.target) if given.is_module else str(given.target)


def _launch(given: argparse.Namespace, own: list[str], args: list[str], options: RunOptions) -> int:
    from handoff_mpi.launch.hosts import parse_hosts
    from handoff_mpi.launch.own_ranks import refuse_to_launch
    from handoff_mpi.launch.supervisor import LaunchSpec, supervise
    from handoff_mpi.launch.viewer_process import OwnViewer, drawn

    refuse_to_launch("run", given.n)
    extra, most = _words(given.mpirun_args), relaunches_given(given.max_relaunches)
    requeues = requeues_given(given.max_requeues)
    if given.hosts is not None:
        parse_hosts(given.hosts)  # refused before there is a run-dir
    assert options.run_dir is not False, "no flag and no variable says that"
    with use_run_dir(options.run_dir) as run_dir, _locked_for_supervisor(run_dir):
        resumed_by = resume_command(own, args)(shown_path(run_dir.path, str(Path.cwd())))
        is_live = mode_of_command(options, owns_terminal=True) == LIVE
        told = ["--output", output_of_command(options, owns_terminal=True), RESUMED_BY, resumed_by]
        told += ["--progress", LIVE] if is_live else []
        passed = [*without_flags(own, OF_THE_SUPERVISOR), "--run-dir", str(run_dir.path), *told]
        again = without_flags([word for word in passed if word != "--fresh"], ("--rerun",))
        order = LaunchSpec(
            ranks=given.n,
            arguments=[*passed, "--", *args],
            again=[*again, "--", *args],
            run_dir=run_dir,
            grace_period_s=options.grace_period,
            heartbeat_timeout_s=options.heartbeat_timeout,
            join_limit_s=options.join_limit,
            most=most,
            max_requeues=requeues,
            hosts=given.hosts,
            extra=extra,
        )
        with drawn(run_dir.path, terminal_of_stderr() if is_live else None):
            code = supervise(order)
        this_process.of(OwnViewer).end()
        if given.json:
            _print_summary(read_summary(run_dir), code, sys.stdout)
        _report_at_end(run_dir, options.report)
        return code


@contextlib.contextmanager
def _locked_for_supervisor(run_dir: Directory) -> Iterator[None]:
    refuse_other_index(run_dir)  # says more than that another process holds the lock
    with lock_for_supervisor(run_dir):
        claim_for_index(run_dir)
        yield


def _report_at_end(run_dir: Directory, choice: str) -> None:
    """Make the report of a run that the supervisor has seen to its end, unless a signal says not to wait for it."""
    from handoff_mpi.launch.end_report import is_wanted, make_report

    told = read_status(run_dir)
    functions, duration_s = told.get("functions"), told.get("duration_s")
    if not (isinstance(functions, int) and isinstance(duration_s, float)):
        return  # it never began, or was lost
    if is_wanted(choice, str(told.get("status")), functions, duration_s):
        arrived: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signals.handle(number, lambda number, frame: arrived.append(number))
        make_report(run_dir.path, functions, lambda: bool(arrived))


def _refuse_launching(own: list[str], verb: str) -> None:
    if any(word.partition("=")[0] in ("--hosts", "--mpirun-args") for word in own):
        raise UsageError(f"--hosts and --mpirun-args are for `{verb} -n N`, which launches mpirun itself")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--mpirun-args {show(text)} cannot be split into words: {error}") from error


def _doctor(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    """Look at the machine and its MPI."""
    from handoff_mpi.doctor.report import Report
    from handoff_mpi.doctor.runner import run_checks, run_checks_with_ranks

    run_dir = given.run_dir or os.environ.get(f"{PREFIX}RUN_DIR") or None
    report = Report(given.json, given.lines)
    if given.n is not None:
        return run_checks_with_ranks(given.n, run_dir, report, given.hosts, _words(given.mpirun_args))
    _refuse_launching(own, "doctor")
    return run_checks(run_dir, report)


def _check(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    """Validate, and say what fits where; nothing runs."""
    chosen = options_given(given)
    if given.n is not None:
        from handoff_mpi.launch.checking import check_with_ranks

        passed = [*without_flags(own, OF_THE_SUPERVISOR), "--", *args]
        return check_with_ranks(given.n, given.hosts, _words(given.mpirun_args), passed)
    _refuse_launching(own, "check")
    job = local_job() if not is_under_launcher() else rank_main.join(RunOptions(**chosen).join_limit)
    if job.rank:
        rank_main.run_worker(job)
    from handoff_mpi.launch.admission import describe_fit, find_fits
    from handoff_mpi.launch.earlier_launches import forecast_resume

    code, told = EXIT_DONE, ""
    try:
        this_process.of(OwnJobs).enter(job)
        file, dag = rank_main.load(job, _target(given), args)
        if dag is not None:
            options = rank_main.completed(chosen, file.path, dag)
            fits = find_fits(job.ledger(options), dag, options, job.setup)
            forecast = forecast_resume(dag, options, job.directory)
            about = {"dag_id": id_text(dag.id), "ranks": job.size, "fits": [fit.to_json() for fit in fits]}
            about["resume"] = None if forecast is None else forecast.to_json()
            lines = [describe_fit(dag, fits), *(() if forecast is None else forecast.lines())]
            told = _checked(EXIT_DONE, **about) if given.json else "\n".join(lines)
    except HandoffError as error:
        print_message(str(error))
        code = error.exit_code
        told = _checked(code, problem=str(error)) if given.json else ""
    except BaseException as error:
        code = rank_main.failed(error)
    if told:
        print(told, flush=True)
    if job.is_mpi:
        rank_main.end(job, code)
    return code


def _checked(code: int, **about: object) -> str:
    """Return what ``check --json`` prints."""
    return json.dumps({"schema": _CHECK_SCHEMA, "exit_code": code, **about}, default=repr)


_VERBS: dict[str, Callable[[argparse.Namespace, list[str], list[str]], int]] = {
    "run": _run,
    "check": _check,
    "doctor": _doctor,
}
