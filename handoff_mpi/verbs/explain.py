"""``explain``: why a function is not running, what happened to it, why it ran where it ran, and why it ran again."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.results.function_story import damage_reported, read_function
from handoff_mpi.verbs.explanation import explain_story
from handoff_mpi.verbs.explanation_text import explanation_lines
from handoff_mpi.verbs.run_dirs import RUNS, find_run_dir_and_id

_EPILOG = """\
While a run is running, explain asks it why the function does not run: which inputs are missing and what they wait for,
which resource is claimed on which host and by whom, how many functions come first, and what else holds it back (a
retry delay, a rank on probation or short of memory, the resource tracker, --max-concurrency). Only the owner of the run
can ask; all others read what the journal tells. An id is written as `handoff-mpi logs RUN-DIR` writes it.

  handoff-mpi explain handoff-runs/20260131-120000 fit-3
  handoff-mpi explain handoff-runs/20260131-120000 "('fit', 3)" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("run_dir", nargs="?", metavar="RUN-DIR", help="of the run (default: the newest one)")
    parser.add_argument("id", nargs="?", metavar="ID", help="of the function")
    parser.add_argument("--json", action="store_true", help="print it as data")


def main(given: argparse.Namespace) -> int:
    """Print what is known of a function; return the exit code.

    Raises:
        UsageError: there is no such run, or no such function.
        JournalError: the journal cannot be read.
    """
    run_dir, id = find_run_dir_and_id(given.run_dir, given.id)
    if id is None:
        raise UsageError("the id of a function is missing, as in `handoff-mpi explain RUN-DIR fit-3`")
    with damage_reported(run_dir):
        facts = explain_story(read_function(run_dir, id), _shown(run_dir, given))
        lines = [json.dumps(facts)] if given.json else list(explanation_lines(facts))
    try:
        print("\n".join(lines))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `| head` has read enough
    except KeyboardInterrupt:
        pass
    return EXIT_DONE


def _shown(run_dir: Path, given: argparse.Namespace) -> str:
    """Return the run-dir as the user would name it."""
    return str(given.run_dir) if given.id is not None else f"{RUNS}/{run_dir.name}"
