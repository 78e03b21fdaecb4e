"""Changes of what computes and folds windowed arrays are accepted, and run again, by the names that users know."""

from __future__ import annotations

import pytest

from handoff_mpi import DAG, Fixed, Handle, execute
from handoff_mpi.arrays.inputs import ListInput


def run(dag, run_dir, **options):
    return execute(dag, run_dir=run_dir, check=False, output="off", **options)


@pytest.fixture
def notes(tmp_path_factory):
    """A file of the values that were added."""
    return tmp_path_factory.mktemp("notes") / "notes"


def newly_noted(notes):
    """Return what was added since the last time."""
    found = notes.read_text().split() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return found


def double(x):
    return 2 * x


class Summing:
    """Notes the two values that it adds; ``version`` stands for a change of its code."""

    def __init__(self, notes, version):
        self.notes, self.version = notes, version

    def __call__(self, x, y):
        with self.notes.open("a") as file:
            file.write(f"{x + y} ")
        return x + y


def summing_dag(notes, version=1):
    dag = DAG("summing")
    doubled = dag.map(double, dag.map(double, range(64), window=32, id="xs"), id="doubled")
    dag.reduce(Summing(notes, version), doubled, id="sum", fan_in=4)
    return dag


@pytest.mark.parametrize("named", ["sum", "Summing"])
def test_a_change_of_a_fold_is_accepted_with_its_blocks(tmp_path, capfd, notes, named):
    run(summing_dag(notes), tmp_path)
    assert len(newly_noted(notes)) == 63
    capfd.readouterr()
    results = run(summing_dag(notes, 2), tmp_path, accept_changes=[named])
    assert (newly_noted(notes), results["sum"]) == ([], 4 * sum(range(64)))
    said = capfd.readouterr().err
    assert "--accept-changes: the values of 21 elements of 2 arrays are kept as they were before the change\n" in said
    run(summing_dag(notes, 2), tmp_path)
    assert newly_noted(notes) == []


def test_a_fold_runs_again_with_its_blocks(tmp_path, notes):
    for options in ({}, {"rerun": ["sum"]}):
        run(summing_dag(notes), tmp_path, **options)
        assert len(newly_noted(notes)) == 63


@pytest.mark.parametrize("named", ["xs", "doubled"])
def test_an_acceptance_tells_how_many_elements_may_be_kept(tmp_path, capfd, notes, monkeypatch, named):
    run(summing_dag(notes), tmp_path)
    monkeypatch.setitem(globals(), "double", lambda x: 3 * x)
    results = run(summing_dag(notes), tmp_path, accept_changes=[named])
    assert f"--accept-changes: the values of 64 elements of {named!r} are kept as they" in capfd.readouterr().err
    assert len(results["xs"]) == 64


def test_a_resume_looks_once_through_arrays_that_depend_on_no_fold(tmp_path, notes, monkeypatch):
    def dag():
        made = summing_dag(notes)
        made.map(double, [*range(100)], id="list")
        made.map(pow, [2, 3], Fixed(Handle("sum")), id="powers")
        return made

    run(dag(), tmp_path)
    looks = []
    same_prefix = ListInput.same_prefix

    def looked(elements, *about):
        looks.append(len(elements))
        return same_prefix(elements, *about)

    monkeypatch.setattr(ListInput, "same_prefix", looked)
    newly_noted(notes)
    results = run(dag(), tmp_path)
    assert looks.count(100) == 1 and newly_noted(notes) == []
    assert results["powers"][0] == 2 ** results["sum"] and results["list"][99] == 198
