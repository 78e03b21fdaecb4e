"""Decides how the progress of a run is shown: by a live view, by lines, or not at all."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from handoff_mpi.launch.notebook_view import is_notebook
from handoff_mpi.runtime.choices import AUTO, LINES, LIVE, NONE, ProgressMode
from handoff_mpi.runtime.options import RunOptions

#: A terminal needs this many columns and rows for a live view.
MIN_COLUMNS, MIN_ROWS = 20, 8
#: Terminals that obey no control sequences.
_DUMB = ("", "dumb", "unknown")


def terminal_of_stderr() -> int | None:
    """Return the descriptor of stderr if that is a terminal which a live view can be drawn on.

    It is for processes that a user has started: the stderr of a rank under mpirun claims to be a terminal.
    """
    try:
        fd = sys.stderr.fileno()
        # A notebook's stderr has a descriptor that may be a terminal, and is none itself.
        if not (sys.stderr.isatty() and os.isatty(fd)) or os.environ.get("TERM", "") in _DUMB:
            return None
        size = os.get_terminal_size(fd)
    except (OSError, ValueError, AttributeError):  # stderr is closed, or an object of the user's
        return None
    # A terminal that does not know its size says 0.
    is_large = size.columns >= MIN_COLUMNS and size.lines >= MIN_ROWS
    return fd if is_large or 0 in size else None


def mode_of_command(options: RunOptions, owns_terminal: bool) -> ProgressMode:
    """Return how the command line shows progress.

    Args:
        options: of the run.
        owns_terminal: whether stderr of this process is the user's: this is no rank of a launcher.
    """
    if options.quiet or options.progress == NONE:
        return NONE
    if options.progress == LINES or not owns_terminal or options.run_dir is False or terminal_of_stderr() is None:
        return LINES
    return LIVE


@dataclass(frozen=True, slots=True)
class Shown:
    """The ways in which rank 0 shows a run.

    Attributes:
        has_start_line: whether it prints the start lines.
        prints_lines: whether it prints lines.
        draws: whether it has the live view drawn, on its own terminal or in a notebook.
    """

    has_start_line: bool
    prints_lines: bool = False
    draws: bool = False


def shown_by_run(options: RunOptions, owns_terminal: bool, is_supervised: bool) -> Shown:
    """Return what rank 0 shows of a run; "auto" means a script here, as the command line has decided by now.

    Args:
        options: of the run.
        owns_terminal: whether the run is in one process, which a user has started.
        is_supervised: whether a supervisor draws the live view.
    """
    if options.quiet or options.progress == NONE:
        return Shown(False)
    can_draw = owns_terminal and options.run_dir is not False
    can_draw = can_draw and (terminal_of_stderr() is not None or (options.progress == LIVE and is_notebook()))
    if options.progress == AUTO:
        return Shown(False, draws=can_draw)
    is_live = options.progress == LIVE and (can_draw or is_supervised)
    return Shown(True, prints_lines=not is_live, draws=is_live and can_draw)
