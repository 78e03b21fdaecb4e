"""How much longer a run of one trivial function takes than any MPI program that imports mpi4py and numpy.

    python -m tests.benchmarks.startup [--ranks 3] [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.benchmarks.harness import Answer, arguments, in_turns, run, under_mpi

IMPORTS = "mpirun with imports"


def ask(ranks: int, repeats: int) -> Answer:
    with tempfile.TemporaryDirectory(prefix="handoff-bench-") as name:
        place = Path(name)

        def whole(command: list[str]) -> float:
            begun = time.perf_counter()
            run(command, place, rest_s=0.0)
            return time.perf_counter() - begun

        contenders = {
            IMPORTS: lambda: whole(under_mpi(ranks, "raw", "imports", ft=True)),
            "a run of one function": lambda: whole(under_mpi(ranks, "ours", "independent", 1, 0, "rank", ft=True)),
        }
        figures = in_turns(contenders, repeats)
    return Answer(f"from the command to its end, {ranks} ranks", IMPORTS, {"": figures}, "s")


if __name__ == "__main__":
    arguments(__spec__.name, __doc__, ask)
