"""``graph``: draw what depends on what, in a DAG that has not run or in a run of anybody's; nothing is unpickled."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console

from handoff_mpi.dag import Plan, TaskSpec
from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.formatting import one_line, show
from handoff_mpi.launch import rank_main
from handoff_mpi.launch.joining import local_job
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.numerals import parse_whole
from handoff_mpi.process_context import this_process
from handoff_mpi.resources.amounts import plain_number
from handoff_mpi.results.anybodys_story import read_anybodys_story
from handoff_mpi.results.whole_files import write_whole
from handoff_mpi.suggestions import did_you_mean
from handoff_mpi.verbs.run_dirs import find_run_dir, is_run_dir
from handoff_mpi.visualization.drawing import MAX_FUNCTIONS, drawing_of
from handoff_mpi.visualization.drawing_markup import dot_text, mermaid_text
from handoff_mpi.visualization.drawing_text import text_lines
from handoff_mpi.visualization.graph import execution_graph
from handoff_mpi.visualization.graph_source import GraphSource, source_of_story, source_of_tables
from handoff_mpi.visualization.graphviz import picture

TEXT, DOT, MERMAID, JSON, SVG, PNG = FORMATS = ("text", "dot", "mermaid", "json", "svg", "png")
_SUFFIXES = {".txt": TEXT, ".dot": DOT, ".gv": DOT, ".mmd": MERMAID, ".mermaid": MERMAID, ".md": MERMAID}
_SUFFIXES |= {f".{name}": name for name in (JSON, SVG, PNG)}
#: More boxes than a program lays out in a reasonable time.
MAX_MAX_FUNCTIONS = 2000
_EPILOG = """\
With a RUN-DIR, colours are ranks, and what failed, was skipped, is running or waits is marked. The values of a run are
not read, and it may be anybody's. Arguments for build(args) of dag.py follow --.

  handoff-mpi graph dag.py
  handoff-mpi graph handoff-runs/20260131-120000 -o graph.svg
  handoff-mpi graph dag.py --format dot | dot -Tpdf > graph.pdf
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    what = "the file that holds a DAG, or the files of a run (default: the newest run in handoff-runs or here)"
    add("target", nargs="?", metavar="dag.py[:name] | RUN-DIR", help=what)
    what = f"one of {', '.join(FORMATS)} (default: what the name of FILE says, or text); json holds every function"
    add("--format", metavar="FORMAT", type=_format, help=what)
    add("-o", "--output", metavar="FILE", help="write it to this file (default: print it)")
    what = f"draw a larger graph by the names of functions ({MAX_FUNCTIONS})"
    add("--max-functions", metavar="N", type=_max_functions, default=MAX_FUNCTIONS, help=what)


def _format(text: str) -> str:
    if text not in FORMATS:
        raise argparse.ArgumentTypeError(
            f"{show(text)} is not one of {', '.join(FORMATS)}{did_you_mean(text, FORMATS, shown=str)}"
        )
    return text


def _max_functions(text: str) -> int:
    try:
        number = parse_whole(text)
        if not 1 <= number <= MAX_MAX_FUNCTIONS:
            raise ValueError
        return number
    except ValueError:
        raise argparse.ArgumentTypeError(f"{show(text)} is not a whole number from 1 to {MAX_MAX_FUNCTIONS}") from None


def main(given: argparse.Namespace) -> int:
    """Draw what the arguments name; return the exit code.

    Raises:
        UsageError: there is nothing of that name, ``dot`` is missing, or the file cannot be written.
        DAGError: the DAG is not valid.
        JournalError: the journal cannot be read.
    """
    form = given.format or _format_of(given.output)
    if form == PNG and given.output is None and sys.stdout.isatty():
        raise UsageError("a terminal cannot show a PNG; name a file with -o FILE")
    source = _source(given.target, getattr(given, "dag_args", []))
    if source is None:
        return EXIT_DONE  # build(args) was asked for help, and has given it
    if form == TEXT and given.output is None:
        _print_text(source, given.max_functions)
        return EXIT_DONE
    pieces = _DRAWERS[form](source, given.max_functions)
    if given.output is None:
        _print(pieces)
    else:
        _write(Path(given.output).absolute(), pieces)
    return EXIT_DONE


def _format_of(output: str | None) -> str:
    if output is None:
        return TEXT
    form = _SUFFIXES.get(Path(output).suffix.lower())
    if form is None:
        raise UsageError(
            f"the name {one_line(output, 200)} has no suffix of a known format; add --format {'|'.join(FORMATS)}"
        )
    return form


# -- what is drawn ---------------------------------------------------------------------------------------


def _source(target: str | None, dag_args: list[str]) -> GraphSource | None:
    if target is None or _names_run(target):
        story = read_anybodys_story(find_run_dir(target))
        for note in story.notes:
            print(note, file=sys.stderr)
        return source_of_story(story)
    return _source_of_dag(target, dag_args)


def _names_run(target: str) -> bool:
    """Whether a word names a run-dir rather than a file that holds a DAG."""
    try:
        path = Path(target)
        return path.is_dir() or is_run_dir(path) or not (path.exists() or ".py" in path.name)
    except (OSError, ValueError):
        return False


def _source_of_dag(target: str, dag_args: list[str]) -> GraphSource | None:
    with contextlib.redirect_stdout(sys.stderr):  # what dag.py prints is no part of the drawing
        job = local_job()
        this_process.of(OwnJobs).enter(job)
        _, dag = rank_main.load(job, target, dag_args)
        if dag is None:
            return None
        plan = Plan()
        plan.add(dag.validate())
    costs: dict[int, dict[str, int | float]] = {}
    for spec in plan.specs:
        if id(spec.cost) not in costs:
            costs[id(spec.cost)] = {name: plain_number(amount) for name, amount in spec.cost.items()}
    return source_of_tables(
        dag.id,
        plan.ids,
        [_name(plan, spec) for spec in plan.specs],
        [spec.needs for spec in plan.specs],
        [costs[id(spec.cost)] for spec in plan.specs],
    )


def _name(plan: Plan, spec: TaskSpec) -> str:
    """Return the name of a function's code, of an array with the number of its elements: "fit × 1,000"."""
    name = plan.code_names[spec.code]
    if spec.array is None:
        return name
    count = f"{spec.array.count:,}" if spec.array.window is None else "?"
    return f"{name} \N{MULTIPLICATION SIGN} {count}"


# -- how it is drawn -------------------------------------------------------------------------------------


def _text(source: GraphSource, max_functions: int) -> Iterator[bytes]:
    for line in text_lines(drawing_of(source, max_functions)):
        yield f"{line.plain}\n".encode()


def _dot(source: GraphSource, max_functions: int) -> Iterator[bytes]:
    yield dot_text(drawing_of(source, max_functions)).encode()


def _mermaid(source: GraphSource, max_functions: int) -> Iterator[bytes]:
    yield mermaid_text(drawing_of(source, max_functions)).encode()


def _json(source: GraphSource, max_functions: int) -> Iterator[bytes]:
    encoder = json.JSONEncoder(separators=(",", ":"))
    graph = execution_graph(source)
    head = {name: graph[name] for name in ("directed", "multigraph", "graph")}
    yield encoder.encode(head)[:-1].encode()
    for name in ("nodes", "edges"):
        yield f',"{name}":['.encode()
        for number, row in enumerate(graph[name]):
            yield (",\n" if number else "\n").encode() + encoder.encode(row).encode()
        yield b"]"
    yield b"}\n"


def _picture(kind: str) -> Callable[[GraphSource, int], Iterator[bytes]]:
    def draw(source: GraphSource, max_functions: int) -> Iterator[bytes]:
        yield picture(dot_text(drawing_of(source, max_functions)), kind)

    return draw


_DRAWERS: dict[str, Callable[[GraphSource, int], Iterator[bytes]]] = {
    TEXT: _text,
    DOT: _dot,
    MERMAID: _mermaid,
    JSON: _json,
    SVG: _picture(SVG),
    PNG: _picture(PNG),
}


# -- where it goes ---------------------------------------------------------------------------------------


def _print_text(source: GraphSource, max_functions: int) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in text_lines(drawing_of(source, max_functions)):
        console.print(line)


def _print(pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    try:
        write_whole(path, pieces)
    except OSError as error:
        what = f"cannot write {one_line(str(path), 300)}: {error.strerror}"
        raise UsageError(f"{what}; name another file with -o FILE") from error
    print(one_line(str(path)))
