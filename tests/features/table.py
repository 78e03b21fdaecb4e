"""A table of Python's features × the places where a function may run, made by running all of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, mpirun_command, run_process

FILE = Path(__file__).with_name("every_feature.py")
_RUN = [sys.executable, "-m", "handoff_mpi", "run", "--keep", "all"]
_RANKS = mpirun_command(3) if __name__ != "__main__" else []


def commands(directory: Path) -> dict[str, list[str]]:
    """Return, by the place where functions run, the command that has them run there; its run-dir has the same name."""
    run = [sys.executable, "-m", "handoff_mpi", "run", "--keep", "all", str(FILE)]
    script = [*mpirun_command(3), sys.executable, str(FILE)]
    ranks = {
        "one process": run,
        "rank": [*run, "-n", "3", "--isolation", "rank"],
        "child": [*run, "-n", "3", "--isolation", "process"],
    }
    named = {place: [*command, "--run-dir", str(directory / place)] for place, command in ranks.items()}
    named["script"] = [*script, "rank", str(directory / "script")]
    named["child of a script"] = [*script, "process", str(directory / "child of a script")]
    return named


LOADED = "loaded elsewhere"

#: Reads all run-dirs in a process that knows nothing of the file: id to what the run says, and what the value does.
_READ = """
import json, sys, handoff_mpi
def why_not_run(results, record):
    error = results.errors.get(record.id)
    return f"{error.kind}: {error}" if error else "" if record.state == "done" else record.state
def why_not_loaded(results, record):
    if record.state != "done":
        return ""
    try:
        value = results[record.id]
        return "" if value is True or value.holds() is True else f"{value!r} is wrong"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
told = []
for run_dir in sys.argv[1:]:
    results = handoff_mpi.load(run_dir)
    told.append({each.id: [why_not_run(results, each), why_not_loaded(results, each)] for each in results.records()})
print(json.dumps(told))
"""


@dataclass
class Table:
    """The failures: by feature, then by place; empty where all is well."""

    cells: dict[str, dict[str, str]]
    output: str

    def __str__(self) -> str:
        """Return it in Markdown."""
        places = list(next(iter(self.cells.values())))
        lines = ["| " + " | ".join(["", *places]) + " |", "| --- |" + " --- |" * len(places)]
        for feature, row in self.cells.items():
            marks = ["no" if row[place] else "yes" for place in places]
            lines.append("| " + " | ".join([feature.replace("_", " "), *marks]) + " |")
        return "\n".join(lines)

    def problems(self) -> list[str]:
        """Return a line for each cell where something is wrong."""
        cells = [(feature, place, why) for feature, row in self.cells.items() for place, why in row.items()]
        return [f"{feature}, {place}: {why}" for feature, place, why in cells if why]


def make_table(directory: Path) -> Table:
    """Run everything, with its files in ``directory``."""
    output = ""
    env = {"PYTHONPATH": str(ROOT)}
    for place, command in commands(directory).items():
        ended = run_process(command, directory, 100.0, env)
        output += f"{place}: {ended.rc}\n{ended.out}{ended.err}\n"
    places = list(commands(directory))
    read = run_process([sys.executable, "-c", _READ, *[str(directory / place) for place in places]], "/", 60.0, env)
    if read.rc:
        raise RuntimeError(output + read.err)
    cells: dict[str, dict[str, str]] = {}
    for place, told in zip(places, json.loads(read.out), strict=True):
        for id, (in_run, after_load) in told.items():
            row = cells.setdefault(id.partition(" ")[0], dict.fromkeys([*places, LOADED], ""))
            row[place] = row[place] or in_run
            row[LOADED] = row[LOADED] or after_load
    return Table(cells, output)
