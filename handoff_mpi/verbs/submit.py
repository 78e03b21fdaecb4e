"""``submit``: submits a DAG to Slurm, and tells where its output and its files will be."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.programs import run_program
from handoff_mpi.verbs.batch_script import batch_script

_TOOL_TIMEOUT_S = 120.0
_FILE = re.compile(r"(.+\.py)(:\w+)?")
_EXAMPLE = "as in `handoff-mpi submit -n 64 -t 8:00:00 dag.py --max-retries 1`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, for the help: the flags before dag.py are not this package's."""
    what = "flags of sbatch, dag.py, flags of `run`; -- and arguments of dag.py follow"
    parser.add_argument("words", nargs="*", metavar="[SBATCH-FLAGS] dag.py[:name] [RUN-FLAGS]", help=what)


def main(given: argparse.Namespace) -> int:
    """Submit the DAG; return the exit code.

    Raises:
        UsageError: no file is named, there is no such file, or sbatch does not take the job.
    """
    flags, words = split_at_file(given.words)
    arguments = ["--", *given.dag_args] if given.dag_args else []
    with tempfile.TemporaryDirectory(prefix="handoff-submit-") as directory:
        script = Path(directory, "handoff.sbatch")
        script.write_text(with_python(batch_script(), sys.executable))
        told = _run("sbatch", "--parsable", *flags, str(script), *words, *arguments)
    job = told.strip().partition(";")[0]
    print(f"submitted as job {job}\noutput: {_output_of(job)}\nfiles: {_run_dir(job, flags, words)}")
    return EXIT_DONE


def split_at_file(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags of sbatch, and the file with the flags of ``run``.

    Raises:
        UsageError: no file is named, or there is no such file.
    """
    at = next((at for at, word in enumerate(words) if word[:1] != "-" and _FILE.fullmatch(word)), None)
    if at is None:
        raise UsageError(f"submit: the file that holds the DAG is missing; name it behind sbatch's flags, {_EXAMPLE}")
    match = _FILE.fullmatch(words[at])
    if match is not None and not Path(match[1]).is_file():
        raise UsageError(f"submit: {match[1]} does not exist; name the file that holds the DAG, {_EXAMPLE}")
    return [*words[:at]], [*words[at:]]


def with_python(script: str, python: str) -> str:
    """Return the script with this Python as its default; what jobs inherit of variables is up to sbatch's --export."""
    head, line, rest = script.partition("\nrefuse() {")
    return f"{head}\nPYTHON=${{PYTHON:-{shlex.quote(python)}}}\n{line}{rest}"


def _run(*words: str) -> str:
    try:
        ended = run_program(words, _TOOL_TIMEOUT_S)
    except FileNotFoundError:
        raise UsageError(f"submit: there is no {words[0]} on PATH; call it where Slurm's commands are") from None
    except OSError as error:
        raise UsageError(f"submit: {error}") from error
    if ended.returncode:
        raise UsageError(f"submit: {' '.join(ended.err.split()) or f'{words[0]} ended with {ended.returncode}'}")
    return ended.out


def _output_of(job: str) -> str:
    """Return the file that the job prints to; what Slurm makes of the user's pattern."""
    try:
        found = re.search(r"^ *StdOut=(.+)$", _run("scontrol", "show", "job", job), re.MULTILINE)
    except UsageError:
        found = None
    return found[1] if found else f"slurm-{job}.out, or where --output says"


def _run_dir(job: str, flags: Sequence[str], words: Sequence[str]) -> str:
    """Return where the files of the run will be, as the script decides."""
    for at, word in enumerate(words):
        if word == "--run-dir" and at + 1 < len(words):
            return words[at + 1]
        if word.startswith("--run-dir="):
            return word.partition("=")[2]
    is_array = any(flag.startswith(("-a", "--array")) for flag in flags)
    return os.environ.get("HANDOFF_RUN_DIR") or f"handoff-runs/{job}{'_INDEX' if is_array else ''}"
