"""The view below a cell of a notebook: IPython's interface is stood in for, rich draws."""

from __future__ import annotations

import sys
import threading
import time
import types

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.launch import notebook_view


class Handle:
    """Keeps each frame as a notebook shows it: as HTML."""

    def __init__(self, frames):
        self.frames = frames

    def update(self, frame):
        self.frames.append(frame._repr_mimebundle_([], [])["text/html"] if hasattr(frame, "_repr_mimebundle_") else "")


@pytest.fixture
def frames(monkeypatch):
    """Have this process look like that of a notebook; return what is shown below the cell."""
    shown = []

    def display(frame, display_id):
        assert display_id is True
        handle = Handle(shown)
        handle.update(frame)
        return handle

    shell = type("ZMQInteractiveShell", (), {})()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return shown


@pytest.mark.long
def test_a_run_is_drawn_below_the_cell(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_view, "NOTEBOOK_FRAME_S", 0.2)
    assert notebook_view.is_notebook()
    dag = DAG("cells")
    for number in range(3):
        dag.add_function(Function(f"nap-{number}", (), time.sleep, [0.7]))
    results = handoff_mpi.execute_local(dag, run_dir=tmp_path / "run", progress="live")
    assert results.status == "done"
    assert len(frames) >= 3
    assert "cells" in frames[-1] and "3 done" in frames[-1]
    assert not any(thread.name == "handoff-view" for thread in threading.enumerate())


def test_other_processes_are_no_notebooks(monkeypatch):
    assert not notebook_view.is_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    assert not notebook_view.is_notebook()
