"""The command line: ``run``, ``check``, ``doctor`` and ``--version``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import handoff_mpi
from handoff_mpi.descendants import mark_descendants
from handoff_mpi.errors import EXIT_DONE, EXIT_USAGE, HandoffError, UsageError
from handoff_mpi.launch import command
from handoff_mpi.launch import job as jobs
from handoff_mpi.launch.environment import is_under_launcher, rank_by_launcher
from handoff_mpi.launch.signals import stop_before_the_start
from handoff_mpi.process_exit import exit_python
from handoff_mpi.python_path import ModuleName
from handoff_mpi.results.run_dir import lock_for_supervisor, note_arrived, take_mark, use_run_dir
from handoff_mpi.runtime.options import CHECKPOINTS, ISOLATIONS, ON_FAILURE, RESULTS_ON, RunOptions
from handoff_mpi.speech import say
from handoff_mpi.version import VERSION

_PREFIX = "HANDOFF_"
#: Flags of `run` that the ranks are not told.
_OF_THE_SUPERVISOR = ("-n", "--max-relaunches", "--hosts", "--mpirun-args")
_MOST_RELAUNCHES = 3
#: What a variable says that stands for a flag without a value.
_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
#: Rank 0 has this long to say what is wrong.
_SPEECH_S = 3.0


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
        say(str(error))
        return error.exit_code


def _dispatch(arguments: list[str]) -> int:
    own, given = _split_at_dashes(arguments)
    _refuse_dashes(own)
    options = _parser().parse_args(own)
    try:
        Path.cwd()
    except OSError as error:
        what = f"the directory this is called in cannot be used: {error.strerror}"
        raise UsageError(f"{what}; call it elsewhere") from error
    return int(options.function(options, own, given))


def _main_of_others(arguments: list[str]) -> int:
    """Rank 0 alone speaks of bad usage; others must not leave before it has, or the launcher would end it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            _parser().parse_args(_split_at_dashes(arguments)[0])
    except SystemExit as error:
        return _let_rank_0_speak(error.code)
    try:
        return _dispatch(arguments)
    except HandoffError as error:
        return _let_rank_0_speak(error.exit_code)


def _let_rank_0_speak(code: Any) -> int:
    time.sleep(_SPEECH_S)
    return code if isinstance(code, int) else EXIT_USAGE


def _split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _refuse_dashes(words: list[str]) -> None:
    """argparse drops the value ``--`` of an option, and leaves it without any.

    Raises:
        UsageError: an option has that value.
    """
    for word in words:
        flag, _, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        if flag.startswith("-") and value == "--":
            raise UsageError(f"{word}: -- stands before the arguments of dag.py; give {flag} another value")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handoff-mpi", description="Run a DAG of Python functions as one MPI job.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"handoff_mpi {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{run,check,doctor}")
    about = "Run the DAG of a Python file on all ranks."
    run = verbs.add_parser("run", allow_abbrev=False, help="run a DAG", description=about)
    run.add_argument("-n", type=int, metavar="N", help="launch N ranks under mpirun (outside a launcher)")
    run.add_argument(
        "--max-relaunches",
        type=int,
        metavar="N",
        help=f"with -n: how often a job that died is launched again ({_MOST_RELAUNCHES})",
    )
    run.add_argument(
        "--hosts",
        metavar="H1,H2:4",
        default=os.environ.get("HANDOFF_HOSTS") or None,
        help="with -n: the hosts to run on, with how many ranks each (in a Slurm job: all of its nodes)",
    )
    run.add_argument(
        "--mpirun-args",
        metavar="WORDS",
        default=os.environ.get("HANDOFF_MPIRUN_ARGS", ""),
        help="with -n: more words for mpirun, as one argument",
    )
    run.set_defaults(function=_run)
    check = verbs.add_parser("check", allow_abbrev=False, help="validate a DAG, and say what fits where")
    check.set_defaults(function=_check)
    for verb in (run, check):
        verb.add_argument("target", metavar="dag.py[:name]", help="holds `dag`, or `build(args)`; args follow --")
        verb.add_argument(
            "-m", dest="is_module", action="store_true", help="name a module, package.module[:name], instead"
        )
        _add_options(verb)
    _add_doctor(verbs)
    return parser


def _add_doctor(verbs: Any) -> None:
    about = "look at this machine and its MPI, and say what to do about it"
    doctor = verbs.add_parser("doctor", help=about, description=f"{about[0].upper()}{about[1:]}.")
    doctor.add_argument("-n", type=int, metavar="N", help="launch N ranks under mpirun, and look at them all")
    doctor.add_argument("--run-dir", metavar="DIR", help="where runs will keep their files (default: handoff-runs/)")
    doctor.add_argument("--json", action="store_true", help="print the findings as data")
    doctor.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    doctor.set_defaults(function=_doctor)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of ``execute`` that can be written on a command line, under the same name."""
    add = parser.add_argument
    add("--allocation-strategy", metavar="NAME", help="first_available, load_balanced, cost_optimized, ...")
    add("--max-retries", metavar="N", type=int, help="tries after an exception or a time-out")
    add("--on-failure", choices=ON_FAILURE, help="what to do once a function failed")
    add("--max-concurrency", metavar="N", type=int, help="most calls at once")
    add("--isolation", choices=ISOLATIONS, help="calls in the ranks or in child processes")
    add("--slots", metavar="N", type=int, help="calls at once on each rank")
    add("--rank0-computes", action="store_const", const=True, help="rank 0 runs functions too")
    add("--resources", metavar="NAME=AMOUNT", action="append", type=_amount, help="a pool of the whole job")
    add("--prices", metavar="NAME=PRICE", action="append", type=_amount, help="for cost_optimized")
    add("--keep", metavar="ID", action="append", help="keep this function's value, or 'all'")
    add("--results-on", choices=RESULTS_ON, help="which ranks get the results")
    add("--crash-limit", metavar="N", type=int, help="deaths of its process after which a function is failed")
    add("--silence-limit", metavar="S", type=float, help="seconds of silence after which a rank's work moves")
    add("--join-limit", metavar="S", type=float, help="seconds for all ranks to join, after the last that arrived")
    add("--drain", metavar="S", type=float, help="seconds running calls get once the run is stopped")
    add("--deadline", metavar="S|TIME", help="when it must have ended: seconds from its start, or an ISO time")
    add("--tracker-timeout", metavar="S", type=float, help="seconds a function waits at most for the resource tracker")
    add("--cache-size", metavar="SIZE", help="memory on each rank for values that no function needs any more")
    add("--run-dir", metavar="DIR", help="where the run's files go (default: a new one under handoff-runs/)")
    add("--checkpoint", choices=CHECKPOINTS, help="which large values are written down for a run that resumes")
    add("--fresh", action="store_const", const=True, help="start over, whatever the run-dir holds")
    add("--rerun", metavar="ID", action="append", help="run this function again, and all that depend on it")
    add("--accept-changes", metavar="ID", action="append", help="keep what this function gave before it changed")
    add(
        "--no-seed",
        dest="seed",
        action="store_const",
        const=False,
        help="do not seed the global generators of random and numpy for each call that draws from them",
    )
    usual = RunOptions()
    for action in parser._actions:
        value = getattr(usual, action.dest, None)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and action.help:
            action.help += f" ({value:g})" if isinstance(value, float) else f" ({value})"


def _amount(text: str) -> tuple[str, float]:
    name, equals, amount = text.partition("=")
    try:
        if not name or not equals:
            raise ValueError
        return name, float(amount)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=NUMBER") from None


def _chosen_options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what flags say, or else ``HANDOFF_*`` variables.

    Raises:
        UsageError: a variable's or a flag's value is wrong.
    """
    chosen: dict[str, Any] = {}
    parser = argparse.ArgumentParser(prog="environment", exit_on_error=False, add_help=False)
    _add_options(parser)
    for action in parser._actions:
        value = getattr(given, action.dest, None)
        if value is None:
            value = _from_environment(parser, action)
        if value is not None:
            chosen[action.dest] = value
    for name in ("resources", "prices"):
        if name in chosen:
            chosen[name] = dict(chosen[name])
    if chosen.get("keep") == ["all"]:
        chosen["keep"] = "all"
    chosen["check"] = False
    RunOptions(**chosen).validate()
    if "run_dir" in chosen:
        chosen["run_dir"] = Path(chosen["run_dir"]).absolute()  # dag.py may go elsewhere
    return chosen


def _from_environment(parser: argparse.ArgumentParser, action: argparse.Action) -> Any:
    variable = _PREFIX + action.dest.upper()
    text = os.environ.get(variable)
    if not text:
        return None
    flag = action.option_strings[0]
    if action.nargs == 0:
        if text.lower() not in _YES + _NO:
            raise UsageError(f"the environment variable {variable}={text!r} is wrong: write yes or no")
        return text.lower() in _YES
    words = [f"{flag}={part}" for part in (text.split(",") if isinstance(action, argparse._AppendAction) else [text])]
    try:
        _refuse_dashes(words)
        return getattr(parser.parse_args(words), action.dest)
    except (argparse.ArgumentError, UsageError) as error:
        raise UsageError(f"the environment variable {variable}={text!r} is wrong: {error}") from error


def _run(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    chosen = _chosen_options(given)
    if given.n is not None:
        return _launch(given, own, args, RunOptions(**chosen))
    if any(word.partition("=")[0] in ("--hosts", "--mpirun-args") for word in own):
        raise UsageError("--hosts and --mpirun-args are for `run -n N`, which launches mpirun itself")
    if not is_under_launcher():
        mark_descendants()
        return command.tell_refusal(chosen, command.lead(jobs.local_job(), _target(given), args, chosen))
    if rank_by_launcher():
        command.ignore_signals()
    if "run_dir" in chosen:
        note_arrived(chosen["run_dir"])
    job = jobs.current = jobs.mpi_job(join_limit=RunOptions(**chosen).join_limit)
    if job.rank == 0:
        command.end(job, command.tell_refusal(chosen, command.lead(job, _target(given), args, chosen)))
    command.serve(job)
    return EXIT_DONE


def _target(given: argparse.Namespace) -> str:
    return ModuleName(given.target) if given.is_module else str(given.target)


def _launch(given: argparse.Namespace, own: list[str], args: list[str], options: RunOptions) -> int:
    from handoff_mpi.launch.supervisor import Order, supervise

    if is_under_launcher():
        raise UsageError("run -n launches mpirun itself; inside mpirun, mpiexec or srun leave -n out")
    if given.n < 1:
        raise UsageError(f"-n must be a whole number from 1, not {given.n}")
    extra, most = _words(given.mpirun_args), _most_relaunches(given.max_relaunches)
    with use_run_dir(options.run_dir) as run_dir, lock_for_supervisor(run_dir):
        passed = [*_without(own, _OF_THE_SUPERVISOR), "--run-dir", str(run_dir.path)]
        again = _without([word for word in passed if word != "--fresh"], ("--rerun",))
        order = Order(
            ranks=given.n,
            arguments=[*passed, "--", *args],
            again=[*again, "--", *args],
            run_dir=run_dir,
            drain_s=options.drain,
            silence_limit_s=options.silence_limit,
            join_limit_s=options.join_limit,
            most=most,
            hosts=given.hosts,
            extra=extra,
        )
        return supervise(order)


def _most_relaunches(given: int | None) -> int:
    text = os.environ.get(f"{_PREFIX}MAX_RELAUNCHES", "").strip() if given is None else str(given)
    if text and not text.isdecimal():
        raise UsageError(f"--max-relaunches ({_PREFIX}MAX_RELAUNCHES) must be a whole number from 0, not {text!r}")
    return int(text or _MOST_RELAUNCHES)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--mpirun-args {text!r} cannot be split into words: {error}") from error


def _without(words: list[str], flags: tuple[str, ...]) -> list[str]:
    """Return a command line without some flags that take a value, however that is written."""
    kept = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in flags:
            skip = True
        elif not any(_carries_value(word, flag) for flag in flags):
            kept.append(word)
    return kept


def _carries_value(word: str, flag: str) -> bool:
    if flag.startswith("--"):
        return word.startswith(f"{flag}=")
    return word.startswith(flag) and word[len(flag) :].lstrip("=").isdigit()


def _doctor(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    """Look at the machine and its MPI."""
    from handoff_mpi.launch.doctor.report import Report
    from handoff_mpi.launch.doctor.visit import visit, visit_with_ranks

    run_dir = given.run_dir or os.environ.get(f"{_PREFIX}RUN_DIR") or None
    report = Report(given.json, given.lines)
    if given.n is not None:
        return visit_with_ranks(given.n, run_dir, report)
    return visit(run_dir, report)


def _check(given: argparse.Namespace, own: list[str], args: list[str]) -> int:
    """Validate, and say what fits where; nothing runs."""
    chosen = _chosen_options(given)
    job = jobs.local_job() if not is_under_launcher() else jobs.mpi_job()
    if job.rank:
        command.serve(job)
    from handoff_mpi.launch.admission import describe_fit

    code = EXIT_DONE
    try:
        jobs.current = job
        file, dag = command.load(job, _target(given), args)
        if dag is not None:
            options = command.completed(chosen, file.path, dag)
            print(describe_fit(job.ledger(options), dag, options), flush=True)
    except HandoffError as error:
        say(str(error))
        code = error.exit_code
    except BaseException as error:
        code = command.failed(error)
    if job.is_mpi:
        command.end(job, code)
    return code
