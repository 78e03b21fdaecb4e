"""How much longer a run of one trivial function takes than any MPI program that imports mpi4py and numpy.

    python -m tests.benchmarks.startup [--ranks 3] [--repeats 5] [--json FILE]

From the command to its end. Fault tolerance decides how ranks end, and whether functions are called in ranks or in
children: there is a row with it and one without.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.harness import LIMIT_S, Answer, arguments, in_turns
from tests.conftest import ROOT, mpirun_command
from tests.faults.launching import launch

BARE = "mpirun of a Python with imports"
_IMPORTS = "import numpy\nfrom mpi4py import MPI"
_DAG_FILE = """
from handoff_mpi import DAG, task

@task
def one(): return 1

with DAG("one") as dag:
    one()
"""
_SCRIPT = """
import sys
import handoff_mpi as handoff
from handoff_mpi import DAG, Function

with handoff.Cluster() as cluster:
    if cluster:
        dag = DAG("one")
        dag.add_function(Function("one", (), lambda: 1))
        cluster.execute(dag, run_dir=sys.argv[1])
"""


def ask(ranks: int, repeats: int) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)
        (place / "one.py").write_text(_DAG_FILE)
        (place / "script.py").write_text(_SCRIPT)
        figures = {
            "with fault tolerance": _in_turns(_commands(ranks, True), place, repeats),
            "without": _in_turns(_commands(ranks, False), place, repeats),
        }
    return Answer(f"from the command to its end, {ranks} ranks", BARE, figures, "s", tells_differences=True)


def _commands(ranks: int, ft: bool) -> dict[str, list[str]]:
    """Return contender to its command; the name of a run-dir follows the last word."""
    program = [*mpirun_command(ranks, ft), sys.executable]
    run = ["-m", "handoff_mpi", "run", "one.py"]
    commands = {
        BARE: [*program, "-c", _IMPORTS],
        "mpirun ... run one.py": [*program, *run, "--run-dir"],
        "a Cluster in a script": [*program, "script.py"],
    }
    if ft:  # it turns that on by itself
        commands["run -n, its supervisor too"] = [sys.executable, *run, "-n", str(ranks), "--run-dir"]
    return commands


def _in_turns(commands: dict[str, list[str]], place: Path, repeats: int) -> dict[str, list[float]]:
    def contender(command: list[str]) -> Callable[[], float]:
        return lambda: _seconds([*command, f"run-{uuid.uuid4().hex}"], place)

    contenders = {name: contender(command) for name, command in commands.items()}
    in_turns(contenders, 1)  # what is not compiled yet is so then, as where packages are installed
    return in_turns(contenders, repeats)


def _seconds(command: list[str], place: Path) -> float:
    """Run ``command`` to its end.

    Raises:
        RuntimeError: it failed.
    """
    begun = time.perf_counter()
    launched = launch(command, place, {"PYTHONPATH": os.fspath(ROOT), "PYTHONDONTWRITEBYTECODE": ""})
    code = launched.wait(LIMIT_S)
    took = time.perf_counter() - begun
    if code != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {launched.text()[-600:]}")
    return took


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
