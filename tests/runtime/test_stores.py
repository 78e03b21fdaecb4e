"""Runs whose custom store loses values: they end, with the right values, and say what was lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import handoff_mpi as handoff
from handoff_mpi.results import MemoryStore
from tests.conftest import ROOT


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


class Noting(MemoryStore):
    """Notes in its directory what becomes of it."""

    def __init__(self, rank):
        super().__init__(rank)
        self.rank = rank
        note(f"made {rank}")

    def close(self):
        note(f"closed {self.rank}")


def note(text):
    with Path("notes").open("a") as file:
        file.write(text + "\n")


def test_each_rank_makes_one_store_for_a_run_and_closes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = handoff.execute_local(chain(size=20_000), result_store=Noting)
    assert results[4][0] == 4
    assert Path("notes").read_text().splitlines() == ["made 0", "closed 0"]
    with pytest.raises(handoff.UsageError):
        handoff.execute_local(chain(), result_store=Noting, run_dir="notes")
    assert Path("notes").read_text().splitlines()[2:] == ["made 0", "closed 0"]
    with pytest.raises(handoff.DAGFailed):
        handoff.execute_local(failing(), result_store=Noting)
    assert Path("notes").read_text().splitlines()[4:] == ["made 0", "closed 0"]


def failing():
    dag = handoff.DAG()
    dag.add_function(handoff.Function("fails", (), lambda: 1 // 0, max_retries=0))
    return dag


CLOSING = """
import handoff_mpi as handoff
from tests.runtime.test_stores import Noting, chain
with handoff.Cluster() as cluster:
    if cluster:
        for _ in range(2):
            assert cluster.execute(chain(size=20_000), result_store=Noting)[4][0] == 4
"""


@pytest.mark.long
def test_stores_of_all_ranks_are_closed_after_each_run_of_a_cluster(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(CLOSING)
    ended = mpirun(3, "script.py", env={"PYTHONPATH": str(ROOT)})
    assert ended.rc == 0, ended.err
    notes = (tmp_path / "notes").read_text().splitlines()
    assert sorted(notes) == sorted(2 * [f"{verb} {rank}" for verb in ("made", "closed") for rank in range(3)])


def test_what_makes_stores_must_be_sent_to_the_other_ranks(tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(handoff.UsageError) as caught:
        handoff.execute_local(chain(), result_store=lambda rank: print(file))
    said = "result_store must be sent to the other ranks, which make their own stores with it, and cannot be: "
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("; open files and connections inside the function")


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


@pytest.mark.long
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


@pytest.mark.parametrize(
    "case", ["leaves", *(pytest.param(each, marks=pytest.mark.long) for each in ("no store", "raises"))]
)
def test_what_makes_no_store_is_refused(case, handoff, tmp_path):
    text, says = BAD[case]
    lines = ["import sys", "from handoff_mpi import DAG, Function, start", f"start(result_store={text})", "dag = DAG()"]
    (tmp_path / "dag.py").write_text("\n".join([*lines, "dag.add_function(Function('a', (), print))"]))
    ended = handoff("run", "dag.py")
    assert ended.rc == 2, ended.err
    assert re.search(says, ended.err)
    assert len(ended.err.splitlines()) == 1
