"""Modules that another thread is importing are not used before they are whole."""

from __future__ import annotations

import importlib
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from handoff_mpi import DAG, Function, execute_local
from handoff_mpi.arrays.columns import PICKLES, Pickled, pack, pack_alike, snapshot
from handoff_mpi.arrays.inputs import freeze_elements
from handoff_mpi.dag.parts import parts_of
from handoff_mpi.dag.references import inputs_of
from handoff_mpi.imported_modules import imported_module

SLOW = "import threading\nbegun, may_end = threading.Event(), threading.Event()\nimport waiting_import\n"
WAITING = "import slow_import\nslow_import.begun.set()\nslow_import.may_end.wait(60)\n"


def test_a_module_is_returned_once_its_import_has_ended(tmp_path, monkeypatch):
    (tmp_path / "slow_import.py").write_text(SLOW)
    (tmp_path / "waiting_import.py").write_text(WAITING)
    monkeypatch.syspath_prepend(tmp_path)
    assert imported_module("slow_import") is None
    thread = threading.Thread(target=importlib.import_module, args=["slow_import"])
    thread.start()
    while not hasattr(sys.modules.get("slow_import"), "may_end"):
        pass
    half = sys.modules["slow_import"]
    try:
        assert half.begun.wait(60)
        assert imported_module("slow_import") is None
    finally:
        half.may_end.set()
        thread.join()
    assert imported_module("slow_import") is half
    monkeypatch.delitem(sys.modules, "slow_import")
    monkeypatch.delitem(sys.modules, "waiting_import")


@pytest.fixture
def half_numpy(monkeypatch):
    """Another thread has just begun to import numpy: that has no attributes yet."""
    half = ModuleType("numpy")
    half.__spec__ = ModuleSpec("numpy", None)
    half.__spec__._initializing = True
    monkeypatch.setitem(sys.modules, "numpy", half)


@pytest.mark.usefixtures("half_numpy")
def test_values_are_sent_while_another_thread_imports_numpy():
    assert type(snapshot([1])) is Pickled
    assert pack_alike([[1], [2]]) is None
    assert pack([[1], [2]])[:2] == (PICKLES, 2)


@pytest.mark.usefixtures("half_numpy")
def test_a_dag_is_declared_while_another_thread_imports_numpy():
    dag = DAG("early")
    first = dag.add_function(Function("first", [], list))
    second = Function("second", [first], len)
    dag.add_function(second)
    assert inputs_of(second) == ["first"]
    assert [name for name, _ in parts_of([1, 2])] == ["item 0", "item 1"]
    assert len(freeze_elements([[1], [2]], "xs")) == 2
    assert execute_local(dag, run_dir=False)["second"] == 0
