"""``status``: the state of any user's run; nothing is unpickled."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from handoff_mpi.errors import EXIT_DONE, UsageError
from handoff_mpi.results.run_dir import STATUS
from handoff_mpi.results.run_status import DIED, RUNNING, find_states, is_ended, read_any_status
from handoff_mpi.verbs.run_dirs import OF_THE_RUN, find_run_dir
from handoff_mpi.verbs.status_lines import status_lines
from handoff_mpi.visualization.live_view import MIN_ROWS, view

#: Seconds between two looks of --watch at a terminal, and elsewhere, where each is printed.
STATUS_INTERVAL_S, LINES_INTERVAL_S = 0.5, 10.0
#: Whether a run that is watched is still running is looked at once its status has not been renewed for so long.
_STATUS_SILENCE_S = 15.0
_ROWS = 200
_NAME_COLUMNS = 9
#: Fields that lines below the view show in full.
_OF_LINES = ("failures", "lost_ranks", "probation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_dir", nargs="?", metavar="RUN-DIR", help=OF_THE_RUN)
    parser.add_argument("--watch", action="store_true", help="show it again and again until the run has ended")
    parser.add_argument("--json", action="store_true", help="print it as data")


def main(given: argparse.Namespace) -> int:
    """Print how a run is doing; return the exit code.

    Raises:
        UsageError: there is no such run.
    """
    run_dir = find_run_dir(given.run_dir)
    try:
        if given.watch:
            _watch(run_dir, given.json)
        else:
            _print(run_dir, *_look(run_dir), given.json)
    except KeyboardInterrupt:
        pass  # as a watch ends
    return EXIT_DONE


def _look(run_dir: Path) -> tuple[str, dict[str, object]]:
    """Return the state and the status of a run.

    Raises:
        UsageError: they cannot be read.
    """
    state, status = find_states([run_dir])[run_dir]
    if not status:
        raise UsageError(f"cannot show {run_dir / STATUS}: {_why_nothing(run_dir)}")
    return state, status


def _why_nothing(run_dir: Path) -> str:
    path = run_dir / STATUS
    try:
        with path.open("rb"):
            return "it is damaged; `handoff-mpi report` reads the journal instead"
    except FileNotFoundError:
        return "the run has not begun, or its file was removed; `handoff-mpi report` reads the journal"
    except OSError as error:
        return f"{error.strerror}; check its mode and its owner"


def _print(run_dir: Path, state: str, status: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"run_dir": str(run_dir), "state": state, **status}))
        return
    console = Console(highlight=False, markup=False)
    for part in [*_view(state, status, console.width, _ROWS), *_lines(run_dir, state, status)]:
        console.print(part, overflow="fold")


def _view(state: str, status: dict[str, object], width: int, rows: int) -> list[RenderableType]:
    now = next((s for s in map(status.get, ("time_s", "started_s")) if isinstance(s, (int, float))), 0.0)
    shown = dict(status)
    if state == DIED:
        shown.update(exit_code=-1, status="died")  # the title tells it instead of the time left
        _end_what_ran(shown)
    if "counts" not in shown:  # a verdict has them side by side
        shown["counts"] = {name: shown.get(name, 0) for name in ("done", "failed", "skipped", "waiting")}
    for told in _OF_LINES:
        shown.pop(told, None)
    return view(shown, now, width, rows)


def _end_what_ran(shown: dict[str, object]) -> None:
    """Have nothing run in the last report of a run that has died."""
    shown.pop("rate_per_s", None)
    counts = shown.get("counts")
    if isinstance(counts, dict):
        shown["counts"] = {**counts, "running": 0, "waiting": _sum(counts.get("waiting"), counts.get("running"))}
    for table, field in (("by_name", "running"), ("hosts", "busy")):
        rows = shown.get(table)
        if isinstance(rows, dict):
            shown[table] = {name: {**row, field: 0} if isinstance(row, dict) else row for name, row in rows.items()}


def _sum(*counts: object) -> int:
    return sum(each for each in counts if isinstance(each, int))


def _lines(run_dir: Path, state: str, status: dict[str, object]) -> Iterator[Table]:
    last = ""
    for name, text in status_lines(run_dir, state, status):
        yield _hanging(name if name != last else "", text)
        last = name


def _hanging(name: str, text: str) -> Table:
    """Return a word, and a text of which all lines stand beside it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_NAME_COLUMNS, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(Text(name, "dim"), text)
    return table


def _watch(run_dir: Path, as_json: bool) -> None:
    """Show the run until it has ended."""
    console = Console(highlight=False, markup=False)
    if as_json or not console.is_terminal:
        for state, status in _news(run_dir, LINES_INTERVAL_S):
            _print(run_dir, state, status, as_json)
            sys.stdout.flush()
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for state, status in _news(run_dir, STATUS_INTERVAL_S):
            live.update(_fitting(console, run_dir, state, status), refresh=True)


def _fitting(console: Console, run_dir: Path, state: str, status: dict[str, object]) -> Group:
    """Return what fits the terminal: tables get the rows that the lines below them leave."""
    lines = list(_lines(run_dir, state, status))
    rows = console.height - _height(console, lines)
    above = _view(state, status, console.width, max(MIN_ROWS, rows))
    too_many = _height(console, above) - rows
    if too_many > 0:  # counts take two rows of a narrow terminal
        above = _view(state, status, console.width, max(MIN_ROWS, rows - too_many))
    return Group(*above, *lines)


def _height(console: Console, parts: Sequence[RenderableType]) -> int:
    return sum(len(console.render_lines(each, pad=False)) for each in parts)


def _news(run_dir: Path, interval_s: float) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the state and the status of a run now, again and again, and at its end."""
    state, status = _look(run_dir)
    renewed = time.monotonic()
    while state == RUNNING:
        yield state, status
        end = time.monotonic() + interval_s
        while time.monotonic() < end and not is_ended(status):
            time.sleep(min(STATUS_INTERVAL_S, interval_s))
            now = read_any_status(run_dir) or status
            renewed = renewed if now.get("beat") == status.get("beat") else time.monotonic()
            status = now
        if is_ended(status) or time.monotonic() - renewed > _STATUS_SILENCE_S:
            state, status = _look(run_dir)
            renewed = time.monotonic()
    yield state, status
