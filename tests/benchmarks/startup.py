"""How much longer a run of one trivial function takes than a bare mpirun of a Python that imports mpi4py and numpy.

    python -m tests.benchmarks.startup [--ranks 3] [--repeats 5] [--json FILE]

From the command to its end, with modules that are compiled already.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.harness import LIMIT_S, Answer, Setting, arguments, in_turns
from tests.conftest import ROOT, mpirun_command
from tests.faults.launching import launch

BARE = "bare mpirun with imports"
#: Ways to run one function.
BY_MPIRUN, BY_ITSELF, BY_SCRIPT = "mpirun ... run dag.py", "run -n, its supervisor too", "a Cluster in a script"
WHOLE = "the whole command"
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


def ask(setting: Setting) -> Answer:
    program = [*mpirun_command(setting.ranks, ft=True), sys.executable]
    run = ["-m", "handoff_mpi", "run", "one.py"]
    commands = {
        BARE: [*program, "-c", _IMPORTS],
        BY_MPIRUN: [*program, *run, "--run-dir"],
        BY_ITSELF: [sys.executable, *run, "-n", str(setting.ranks), "--run-dir"],
        BY_SCRIPT: [*program, "script.py"],
    }
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)
        (place / "one.py").write_text(_DAG_FILE)
        (place / "script.py").write_text(_SCRIPT)
        contenders = {who: (lambda words=words: {WHOLE: _seconds(words, place)}) for who, words in commands.items()}
        in_turns(contenders, 1)  # what is not compiled yet is so then, as where packages are installed
        figures = in_turns(contenders, setting.repeats)
    return Answer("from the command to its end", BARE, figures, "s", setting.ranks)


def _seconds(command: Sequence[str], place: Path) -> float:
    """Run ``command`` with a run-dir of its own to its end.

    Raises:
        RuntimeError: it failed, or hung.
    """
    begun = time.perf_counter()
    launched = launch(
        [*command, f"run-{uuid.uuid4().hex}"], place, {"PYTHONPATH": os.fspath(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    )
    code = launched.wait(LIMIT_S)
    took = time.perf_counter() - begun
    if code != 0:
        launched.leftovers(0.0)
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {launched.text()[-600:]}")
    return took


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
