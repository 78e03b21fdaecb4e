"""Values that were moved out of memory and then damaged are made again."""

from __future__ import annotations

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.results.spilling import SpillingStore
from handoff_mpi.runtime import value_store


class Moving(SpillingStore):
    """Moves each large value out at once; the first file is damaged."""

    damages = 1

    def put(self, key, payload):
        super().put(key, payload)
        if len(payload) > 2:
            self.spill(key, 80_000)
            if Moving.damages:
                Moving.damages -= 1
                path = self._files.path(key)
                data = bytearray(path.read_bytes())
                data[len(data) // 2] ^= 1
                path.write_bytes(data)


@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_a_damaged_file_of_a_moved_value_costs_a_call(tmp_path, monkeypatch, isolation, capfd):
    monkeypatch.setattr(value_store, "SpillingStore", Moving)
    Moving.damages = 1
    calls = tmp_path / "calls"

    def make():
        with calls.open("a") as file:
            file.write("x")
        return numpy.arange(10_000)

    dag = DAG("moved")
    dag.add_function(Function("make", (), make))
    dag.add_function(Function("sum", ["make"], lambda array: int(array.sum())))
    results = handoff.execute_local(dag, run_dir=tmp_path / "run", checkpoint="none", isolation=isolation)
    assert results["sum"] == sum(range(10_000))
    assert calls.read_text() == "xx"
    assert "a value is lost" in capfd.readouterr().err
