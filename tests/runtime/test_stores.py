"""Runs whose custom store loses values: they end, with the right values, and say what was lost."""

from __future__ import annotations

import re

import pytest

import handoff_mpi as handoff
from handoff_mpi.results import MemoryStore


class Forgetful(MemoryStore):
    """Gives back nothing, from the ``after``th time on."""

    after = 0
    gets = 0

    def get(self, key):
        type(self).gets += 1
        return None if self.gets > self.after else super().get(key)


class Losing(Forgetful):
    def get(self, key):
        if super().get(key) is None:
            raise KeyError(key)


class Leaving(Forgetful):
    def get(self, key):
        raise SystemExit("enough")


def chain(length=5, size=0):
    dag = handoff.DAG()
    dag.add_function(handoff.Function(0, (), lambda: [0] + [0] * size))
    for number in range(1, length):
        code = lambda value: [value[0] + 1, *value[1:]]  # noqa: E731
        dag.add_function(handoff.Function(number, [number - 1], code))
    return dag


@pytest.mark.parametrize("store", [Forgetful, Losing, Leaving])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("size", [0, 20_000])
def test_what_a_store_loses_is_made_again_and_the_run_ends(store, after, size, tmp_path, capsys):
    factory = type("Store", (store,), {"after": after, "gets": 0})
    results = handoff.execute_local(chain(size=size), run_dir=tmp_path, result_store=factory, checkpoint="none")
    assert results.status == "done"
    assert results[4][0] == 4
    assert capsys.readouterr().err.count("what it has lost is computed again") <= 2, "once for each of its stores"


def test_a_value_that_is_lost_at_the_very_end_is_unavailable_and_the_others_are_not(tmp_path, capsys):
    dag = handoff.DAG()
    for number in range(3):
        dag.add_function(handoff.Function(number, (), lambda number=number: [number]))
    factory = type("Store", (Forgetful,), {"after": 1, "gets": 0})
    results = handoff.execute_local(dag, run_dir=tmp_path, result_store=factory)
    assert results.status == "done"
    assert results[0] == [0]
    assert list(results.values) == [0]
    assert "has lost the values of 1, 2 at the end of the run; all others are there" in capsys.readouterr().err
    said = "lost by the custom result_store: result_store.get returned None, which is.*run again without"
    for number in (1, 2):
        with pytest.raises(handoff.ValueUnavailable, match=said):
            results[number]


RANKS = """
import os
from handoff_mpi import DAG, Function, start
from handoff_mpi.results import MemoryStore

class Store(MemoryStore):
    def get(self, key): return None

def make(rank):
    if rank == 1: raise SystemExit("no room here")
    return Store()

start(result_store=make)
dag = DAG("d")
for number in range(4): dag.add_function(Function(("make", number), (), bytes, [50_000 + number]))
for number in range(4): dag.add_function(Function(number, [("make", each) for each in range(4)], lambda *all: len(all)))
"""


def test_stores_of_ranks_that_lose_values_or_cannot_be_made(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(RANKS)
    ended = handoff("run", "-n", "3", "--checkpoint", "none", "dag.py")
    assert ended.rc == 0, ended.err
    assert "result_store(1) failed: SystemExit: it called sys.exit('no room here'); the values of rank 1" in ended.err
    assert "8 done of 8" in ended.err


BAD = {
    "no factory": ("7", "result_store"),
    "no store": ("lambda rank: 7", r"result_store\(0\) made 7, which has no methods put"),
    "raises": ("lambda rank: 1 // 0", r"result_store\(0\) failed: ZeroDivisionError"),
    "leaves": ("lambda rank: sys.exit(0)", r"result_store\(0\) failed: SystemExit"),
}


@pytest.mark.parametrize("case", ["no store", "raises", "leaves"])
def test_what_makes_no_store_is_refused(case, handoff, tmp_path):
    text, says = BAD[case]
    lines = ["import sys", "from handoff_mpi import DAG, Function, start", f"start(result_store={text})", "dag = DAG()"]
    (tmp_path / "dag.py").write_text("\n".join([*lines, "dag.add_function(Function('a', (), print))"]))
    ended = handoff("run", "dag.py")
    assert ended.rc == 2, ended.err
    assert re.search(says, ended.err)
    assert len(ended.err.splitlines()) == 1
