"""The DAG that storms are sent over: setup on each rank, small and large values, and one number to check.

    run tests/faults/storm_dag.py -- FUNCTIONS SECONDS
    mpirun -n N python -m tests.faults.storm_dag RUN_DIR ISOLATION FUNCTIONS SECONDS

The second form runs the same DAG by ``execute`` from a script. Each process leaves a mark below ``$STORM_MARKS`` when
it reaches a phase (``setup``, ``calls``, ``goodbye``), so that a storm can strike in just that phase.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import handoff_mpi as handoff
from handoff_mpi import DAG
from tests.faults import layers

SETUP_S = 0.3


def mark(phase: str) -> None:
    """Leave the mark of a phase that begins."""
    directory = os.environ.get("STORM_MARKS")
    if directory:
        Path(directory, phase).touch()


def setup(rank: int) -> None:
    mark("setup")
    time.sleep(SETUP_S)


def build(args: list[str]) -> DAG:
    handoff.telemetry.attach("calls", ("handoff", "execution", "function", "stop"), lambda *_: mark("calls"))
    handoff.telemetry.attach("goodbye", ("handoff", "execution", "dag", "stop"), lambda *_: mark("goodbye"))
    return layers.build(args)


def main(words: list[str]) -> None:
    run_dir, isolation, *args = words
    results = handoff.execute(build(args), run_dir=run_dir, isolation=isolation, check=False)
    if results is not None:
        sys.exit(results.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
