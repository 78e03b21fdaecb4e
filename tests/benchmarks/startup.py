"""How much longer a run of one trivial function takes than any MPI program that imports mpi4py and numpy.

    python -m tests.benchmarks.startup [--ranks 3] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.harness import Answer, Setting, arguments, in_turns, report, run, under_mpi

IMPORTS = "mpirun with imports"
OURS = "a run of one function"
WHOLE = "the whole command"


def ask(setting: Setting) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:

        def whole(*words: str) -> dict[str, float]:
            command = under_mpi(setting.ranks, *words)
            begun = time.perf_counter()
            run(command, Path(place), rest_s=0.0)
            return {WHOLE: time.perf_counter() - begun}

        contenders = {IMPORTS: lambda: whole("raw", "imports"), OURS: lambda: whole("startup", "ours")}
        figures = in_turns(contenders, setting.repeats)
    return Answer("from the command to its end", IMPORTS, figures, "s", setting.ranks)


def ours() -> None:
    import handoff_mpi as handoff
    from handoff_mpi import DAG, Function

    dag = DAG("startup")
    dag.add_function(Function("nothing", (), int))
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as place:
        results = handoff.execute(dag, isolation="rank", run_dir=f"{place}/run")
    if results is not None:
        report(value=results["nothing"])


if __name__ == "__main__":
    if sys.argv[1:] == ["ours"]:
        ours()
    else:
        arguments(__spec__.name, __doc__, ask)
