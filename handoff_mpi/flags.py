"""The flags of the command line: each declared once, and what is wrong with one said in a line.

Every subcommand takes its flags before and behind the file alike, and lists them in the same order.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.numerals import parse_whole
from handoff_mpi.runtime.option_fields import PREFIX, Option
from handoff_mpi.runtime.option_kinds import PathName, YesNo, parsed_whole
from handoff_mpi.runtime.options import OPTIONS, SYNONYMS, RunOptions
from handoff_mpi.suggestions import KnownNames, did_you_mean
from handoff_mpi.version import VERSION

#: Flags that the ranks are not told.
OF_THE_SUPERVISOR = ("-n", "--hosts", "--mpirun-args", "--max-relaunches", "--max-requeues")
MAX_RELAUNCHES = 3
#: The supervisor's word to rank 0: the command that resumes the run, for its start line.
RESUMED_BY = "--resumed-by"
#: What a variable says that stands for a flag without a value.
_YES, _NO = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
_MAX_CHARS = 300
_RANKS_ELSEWHERE = ("np", "nprocs", "ntasks", "ranks", "num_procs", "n_ranks", "processes")
_SYNONYMS = {word: f"--{name.replace('_', '-')}" for word, name in SYNONYMS.items()}
_SYNONYMS |= dict.fromkeys(_RANKS_ELSEWHERE, "-n") | {"host": "--hosts", "nodelist": "--hosts", "resume": "--run-dir"}
#: Subcommands that start no run in this process, and what each does; ``handoff_mpi.verbs`` has a module for each.
READING_VERBS: dict[str, str] = {
    "status": "how far has a run got, when will it end, what was lost, and what is slowest?",
    "runs": "which runs are there, how did they end, and what resumes them?",
    "clean": "remove the files of runs that have ended",
    "logs": "what did a function print?",
    "explain": "why is a function not running, what happened to it, and why did it run there?",
    "graph": "draw what depends on what, in dag.py or in a run, as text, DOT, Mermaid, JSON, SVG or PNG",
    "export": "write what happened in a run for archives (RO-Crate) and simulators (WfFormat)",
    "report": "draw in report.html what ran where and when, what failed, and what waited for what",
    "sbatch": "print a batch script for Slurm, to be edited and submitted",
    "submit": "submit a DAG to Slurm: flags of sbatch, dag.py, flags of run",
    "help": "how do I ...? the pages of the manual",
}
VERBS = ("run", "check", "doctor", *READING_VERBS)
_OTHER_VERBS = {"start": "run", "execute": "run", "exec": "run", "validate": "check", "lint": "check", "info": "doctor"}


class ReadingVerb(Protocol):
    """The interface of a module of ``handoff_mpi.verbs``."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the subcommand."""

    def main(self, given: argparse.Namespace) -> int:
        """Do what the arguments say; return the exit code.

        Raises:
            HandoffError: it cannot be done.
        """
        ...


class _Parser(argparse.ArgumentParser):
    """A parser of which errors are exceptions."""

    def __init__(self, **options: Any) -> None:
        options["allow_abbrev"] = False
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        if "arguments are required" in message:
            verb = self.prog.split()[-1]
            if verb in READING_VERBS:
                raise UsageError(f"a run-dir is missing; name one, as in `{self.prog} handoff-runs/20260131-120000`")
            raise UsageError(f"the file that holds the DAG is missing, as in `{self.prog} dag.py`")
        what = one_line(message.removeprefix("argument "), _MAX_CHARS)
        raise UsageError(f"{what}; `{self.prog} --help` lists all options")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return what a command line says, up to ``--``; ``verb`` is the subcommand, ``target`` the file.

    Raises:
        UsageError: it is wrong.
        SystemExit: it asked for help, or for the version, and has been given it.
    """
    _refuse_dashes(words)
    _refuse_other_verbs(words)
    if words[0] == "submit" and not {"-h", "--help"} & {*words}:
        return argparse.Namespace(verb="submit", words=[*words[1:]])  # sbatch's flags mean nothing to argparse
    if words[0] == "help" and not {"-h", "--help", "--"} & {*words}:
        words = ["help", "--", *words[1:]]  # a flag is looked up there
    if "-np" in words:  # which argparse takes for -n p
        raise UsageError("there is no option -np; did you mean -n?")
    parser, verbs = _parsers(words[0])
    given, rest = parser.parse_known_args(list(words))
    if rest:
        raise UsageError(_describe_rest(rest, verbs[given.verb]))
    return given


def _refuse_dashes(words: Sequence[str]) -> None:
    """argparse drops the value ``--`` of an option, and leaves it without any.

    Raises:
        UsageError: an option has that value.
    """
    for word in words:
        flag, _, value = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        if flag.startswith("-") and value == "--":
            raise UsageError(f"{word}: -- stands before the arguments of dag.py; give {flag} another value")


def _refuse_other_verbs(words: Sequence[str]) -> None:
    first = words[0] if words else ""
    if first in (*VERBS, "-h", "--help", "--version"):
        return
    if not first:
        raise UsageError(f"a command is missing: {', '.join(VERBS)}, as in `run dag.py`")
    if first.startswith("-"):
        raise UsageError(f"{show(first)} stands before the command; options follow it, as in `run -n 4 dag.py`")
    hint = did_you_mean(first, VERBS, _OTHER_VERBS, str)
    if first.partition(":")[0].endswith(".py"):
        hint = f"; did you mean `run {one_line(first, 80)}`?"
    raise UsageError(f"{show(first)} is no command{hint}; there are {', '.join(VERBS)}")


def _describe_rest(rest: Sequence[str], parser: argparse.ArgumentParser) -> str:
    flags = [word.partition("=")[0] for word in rest if word.startswith("-")]
    if not flags:
        return f"{show(rest[0])} is one word too many: one file is named, and arguments for it follow --"
    known = KnownNames(list(_flags(parser)), _SYNONYMS, str)
    return f"there is no option {known.listed(flags)}; `{parser.prog} --help` lists all options"


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.help is not argparse.SUPPRESS:
            yield from action.option_strings


def _parsers(chosen: str) -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser, and those of the subcommands; of those that read runs, ``chosen`` alone gets its arguments."""
    parser = _Parser(prog="handoff-mpi", description="Run a DAG of Python functions as one MPI job.")
    parser.add_argument("--version", action="version", version=f"handoff_mpi {VERSION}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar=f"{{{','.join(VERBS)}}}")
    verbs = {
        "run": subparsers.add_parser("run", help="run a DAG", description="Run the DAG of a Python file on all ranks."),
        "check": subparsers.add_parser(
            "check",
            help="validate a DAG, and say what fits where",
            description="Validate the DAG of a Python file, and say what fits where; nothing runs.",
        ),
        "doctor": subparsers.add_parser(
            "doctor",
            help="look at this machine and its MPI, and say what to do about it",
            description="Look at this machine and its MPI, and say what to do about it.",
        ),
    }
    what = "holds `dag`, or `build(args)`; args follow --"
    for verb in ("run", "check"):
        verbs[verb].add_argument("target", metavar="dag.py[:name]", help=what)
        how = "instead of a file, name a module: package.module[:name]"
        verbs[verb].add_argument("-m", dest="is_module", action="store_true", help=how)
    for verb in ("run", "check", "doctor"):
        _add_launching(verbs[verb], verb)
    printed = {"run": "print the summary as data, and nothing else on stdout", "check": "print what fits where as data"}
    for verb, about in printed.items():
        add_options(verbs[verb])
        verbs[verb].add_argument("--json", action="store_true", help=about)
    what = "where runs will keep their files (default: handoff-runs/)"
    verbs["doctor"].add_argument("--run-dir", metavar="DIR", help=what)
    verbs["doctor"].add_argument("--json", action="store_true", help="print the findings as data")
    verbs["doctor"].add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    for verb, about in READING_VERBS.items():
        verbs[verb] = subparsers.add_parser(verb, help=about, description=_sentence(about))
        if verb == chosen:
            reading_verb(verb).add_arguments(verbs[verb])
    return parser, verbs


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a subcommand, for callers that list its flags."""
    return _parsers(verb)[1][verb]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"


def reading_verb(verb: str) -> ReadingVerb:
    """Return the module of a subcommand that reads runs; it is imported here because ``run`` starts sooner without."""
    return cast(ReadingVerb, importlib.import_module(f"handoff_mpi.verbs.{verb}"))


def _add_launching(parser: argparse.ArgumentParser, verb: str) -> None:
    """The flags that say how mpirun is launched."""
    why = {"run": "", "check": ", and check what fits on them", "doctor": ", and look at them all"}[verb]
    add = parser.add_argument
    add("-n", type=_whole, metavar="N", help=f"launch N ranks under mpirun (outside a launcher){why}")
    hosts, words = os.environ.get(f"{PREFIX}HOSTS") or None, os.environ.get(f"{PREFIX}MPIRUN_ARGS", "")
    what = "with -n: the hosts to run on, with how many ranks each (in a Slurm job: all of its nodes)"
    add("--hosts", metavar="H1,H2:4", default=hosts, help=what)
    add("--mpirun-args", metavar="WORDS", default=words, help="with -n: more words for mpirun, as one argument")
    if verb == "run":
        what = f"with -n: how often a job that died is launched again ({MAX_RELAUNCHES})"
        add("--max-relaunches", type=_whole, metavar="N", help=what)
        what = "with -n, in a Slurm job: how often it is requeued to continue a run that was stopped (0)"
        add("--max-requeues", type=_whole, metavar="N", help=what)
        add(RESUMED_BY, metavar="COMMAND", help=argparse.SUPPRESS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Every option of ``execute`` that can be written on a command line, under the same name."""
    for option in _with_flags():
        _add_option(parser, option)


def _with_flags() -> list[Option]:
    return [each for each in OPTIONS.values() if each.flag]


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    kind, about = option.kind, option.flag_help
    if isinstance(kind, YesNo):
        parser.add_argument(option.flag, dest=option.name, action="store_const", const=not option.default, help=about)
        return
    if isinstance(option.default, (str, int, float)):
        about += f" ({option.default:g})" if isinstance(option.default, float) else f" ({option.default})"
    action = "append" if kind.is_repeated else "store"
    parse = _reads(kind.parse)
    parser.add_argument(option.flag, metavar=kind.metavar, type=parse, action=action, help=about)
    if option.old_flag:
        parser.add_argument(option.old_flag, dest=option.name, type=parse, action=action, help=argparse.SUPPRESS)


def _reads(parse: Callable[[str], object]) -> Callable[[str], object]:
    """Return ``parse`` as argparse wants it, which replaces the message of a ValueError."""

    def read(text: str) -> object:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


_whole = _reads(parsed_whole)


def options_given(given: argparse.Namespace) -> dict[str, Any]:
    """Return what flags say of a run's options, or else ``HANDOFF_*`` variables.

    Raises:
        UsageError: a variable's or a flag's value is wrong.
    """
    chosen: dict[str, Any] = {}
    for option in _with_flags():
        value = getattr(given, option.name, None)
        if value is None:
            value = _from_environment(option)
        if value is not None:
            chosen[option.name] = option.kind.collected(value) if option.kind.is_repeated else value
    chosen["check"] = False
    RunOptions(**chosen).validate()
    for name, value in chosen.items():
        if isinstance(OPTIONS[name].kind, PathName):
            chosen[name] = Path(value).absolute()  # dag.py may go elsewhere
    return chosen


def _from_environment(option: Option) -> Any:
    """Return what the environment variable of an option says, as argparse reads it from a flag; None if it is not set.

    Raises:
        UsageError: its value is wrong.
    """
    variable, text = next(((each, os.environ[each]) for each in option.variables if os.environ.get(each)), ("", ""))
    if not text:
        return None
    if isinstance(option.kind, YesNo):
        if text.lower() not in _YES + _NO:
            raise UsageError(f"the environment variable {variable}={show(text)} is wrong: write yes or no")
        return text.lower() in _YES
    words = [f"{option.flag}={part}" for part in (text.split(",") if option.kind.is_repeated else [text])]
    parser = _Parser(prog="environment", exit_on_error=False, add_help=False)
    _add_option(parser, option)
    try:
        _refuse_dashes(words)
        return getattr(parser.parse_args(words), option.name)
    except (argparse.ArgumentError, UsageError) as error:
        why = one_line(str(error).removeprefix("argument "), _MAX_CHARS)
        raise UsageError(f"the environment variable {variable}={show(text)} is wrong: {why}") from error


def relaunches_given(given: int | None) -> int:
    """Return how often a job that died may be launched again.

    Raises:
        UsageError: the flag or the variable makes no sense.
    """
    return _count_given("--max-relaunches", given, MAX_RELAUNCHES)


def requeues_given(given: int | None) -> int:
    """Return how often the job of a stopped run may be requeued.

    Raises:
        UsageError: the flag or the variable makes no sense.
    """
    return _count_given("--max-requeues", given, 0)


def _count_given(flag: str, given: int | None, default: int) -> int:
    variable = f"{PREFIX}{flag[2:].upper().replace('-', '_')}"
    text = os.environ.get(variable, "").strip() if given is None else str(given)
    try:
        most = parse_whole(text or str(default))
        if most < 0:
            raise ValueError
        return most
    except ValueError:
        raise UsageError(f"{flag} ({variable}) must be a whole number from 0, not {show(text)}") from None


def without_flags(words: Sequence[str], flags: Sequence[str]) -> list[str]:
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
    return word.startswith(flag) and word[len(flag) :].lstrip("=+-").isdecimal()
