"""The live view below a cell of a notebook, drawn by a thread: there is no terminal that a process could draw on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from handoff_mpi.results.status_file import read_status

#: Seconds between two frames.
NOTEBOOK_FRAME_S = 1.0
#: What rich takes for the width of a cell.
_COLUMNS, _ROWS = 115, 16
_STOP_TIMEOUT_S = 5.0


def is_notebook() -> bool:
    """Whether this process executes the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    try:
        return type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"  # type: ignore[union-attr]
    except Exception:  # there is none, or a module of the user's has its name
        return False


@contextmanager
def drawn_in_notebook(run_dir: Path) -> Iterator[None]:
    """Draw the run in ``run_dir`` below the cell within ``with``; the last frame stays there."""
    from IPython.display import display

    handle = display(frame(run_dir), display_id=True)
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(run_dir, handle, stop), name="handoff-view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_TIMEOUT_S)
        handle.update(frame(run_dir))


def _draw(run_dir: Path, handle: Any, stop: threading.Event) -> None:
    while not stop.wait(NOTEBOOK_FRAME_S):
        handle.update(frame(run_dir))


def frame(run_dir: Path) -> object:
    """Return a frame, which rich shows in HTML."""
    from rich.table import Table

    from handoff_mpi.visualization.live_view import view

    table = Table.grid(expand=True)
    for part in view(read_status(run_dir), time.time(), _COLUMNS, _ROWS):
        table.add_row(part)
    return table
