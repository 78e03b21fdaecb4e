"""``sbatch``: prints a batch script for Slurm, to be edited."""

from __future__ import annotations

import argparse

from handoff_mpi.errors import EXIT_DONE
from handoff_mpi.verbs.batch_script import MAX_REQUEUES, batch_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = (
        f"print one whose job is requeued to continue a run that its time limit stopped, at most {MAX_REQUEUES} times"
    )
    parser.add_argument("--requeue", action="store_true", help=what)


def main(given: argparse.Namespace) -> int:
    """Print the script; return the exit code."""
    print(batch_script(given.requeue), end="")
    return EXIT_DONE
