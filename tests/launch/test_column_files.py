"""Values of elements that do not fit into the memory of rank 0: they lie in a file, and are found as all others are."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy
import pytest

from handoff_mpi import DAG, Argument, Function, execute, load
from handoff_mpi.errors import EXIT_STOPPED, JournalError, ValueDamaged
from handoff_mpi.runtime import column_keeper

COUNT, SIZE = 60, 2000


@pytest.fixture(autouse=True)
def nothing_stays_in_memory(monkeypatch):
    monkeypatch.setattr(column_keeper, "INLINE_SHARE", 0.0)
    monkeypatch.setattr(column_keeper, "DEFAULT_INLINE_NBYTES", 0)


@pytest.fixture
def notes(tmp_path_factory):
    """A file of the elements that were called."""
    return tmp_path_factory.mktemp("notes") / "notes"


def noted(notes):
    """Return what was called since the last time."""
    words = notes.read_text().split() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return sorted(map(int, words))


def rows_dag(notes=None, version=""):
    """An array of rows of 16 kB, a function of the list of them, and one of an array whose values are pickled."""

    def row(index):
        if notes is not None:
            with notes.open("a") as file:
                file.write(f"{index} ")
        if str(index) in os.environ.get("RAISES", "").split():
            raise ValueError(f"{index} is bad")
        return numpy.full(SIZE, float(index))

    dag = DAG("rows")
    rows = dag.map(row, range(COUNT), id="rows", version="1", max_retries=0)
    dag.map(lambda index: [index, "x" * 1000], range(COUNT), id="lists")
    dag.add_function(Function("total", [rows], lambda rows: float(sum(row.sum() for row in rows)), version=version))
    return dag


def expected(index):
    return [float(index)] * SIZE


def are_right(results):
    assert results["total"] == SIZE * sum(range(COUNT))
    assert results["rows"][7].tolist() == expected(7)
    assert [row[0] for row in results["rows"][10:4:-2]] == [10.0, 8.0, 6.0]
    assert [row.tolist() for row in results["rows"]] == [expected(index) for index in range(COUNT)]
    assert results["rows"].to_numpy().shape == (COUNT, SIZE)
    assert results["lists"][59] == [59, "x" * 1000]
    results["rows"][7][0] = 1.0  # a value is the reader's own
    assert results["rows"][7][0] == 7.0


def run(dag, run_dir, **options):
    return execute(dag, run_dir=run_dir, check=False, output="off", **options)


def file_of(run_dir, launch=1):
    return run_dir / "values" / f"{launch:06}.columns"


def test_values_lie_in_one_file_and_the_journal_says_where(tmp_path):
    results = run(rows_dag(), tmp_path / "r")
    are_right(results)
    assert [*(tmp_path / "r" / "values").iterdir()] == [file_of(tmp_path / "r")]
    assert file_of(tmp_path / "r").stat().st_size > COUNT * SIZE * 8
    assert sum(each.stat().st_size for each in (tmp_path / "r" / "journal").iterdir()) < 60_000
    are_right(load(tmp_path / "r"))
    shutil.copytree(tmp_path / "r", tmp_path / "copy")
    shutil.rmtree(tmp_path / "r")
    are_right(load(tmp_path / "copy"))
    are_right(results)  # which has the file open
    are_right(pickle.loads(pickle.dumps(results)))


def test_a_resume_takes_values_from_the_files_of_earlier_launches(tmp_path, notes, monkeypatch):
    monkeypatch.setenv("RAISES", "5 50")
    assert run(rows_dag(notes), tmp_path).status == "failed"
    monkeypatch.delenv("RAISES")
    assert len(noted(notes)) == COUNT
    results = run(rows_dag(notes), tmp_path)
    are_right(results)
    assert noted(notes) == [5, 50]
    assert file_of(tmp_path, 2).stat().st_size < file_of(tmp_path, 1).stat().st_size / 10
    are_right(load(tmp_path))
    are_right(run(rows_dag(notes), tmp_path, rerun=["rows[3]"]))
    assert noted(notes) == [3]
    are_right(load(tmp_path))


DAMAGES = {
    "is cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "is not there": lambda path: path.unlink(),
    "is damaged": lambda path: path.write_bytes(path.read_bytes()[:-9] + bytes(9)),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_elements_whose_values_are_lost_run_again(tmp_path, capfd, notes, words):
    run(rows_dag(notes), tmp_path)
    noted(notes)
    DAMAGES[words](file_of(tmp_path))
    loaded = load(tmp_path)
    with pytest.raises(ValueDamaged, match=rf"the value of (rows|lists)\[\d+\] is lost: .*000001.columns {words}"):
        [*loaded["rows"], *loaded["lists"]]
    capfd.readouterr()
    are_right(run(rows_dag(notes, version="2"), tmp_path))
    said = capfd.readouterr().err
    assert said.count("values of elements that an earlier launch wrote are lost, and are made again: ") == 1
    assert f"000001.columns {words}" in said
    again = noted(notes)
    assert len(again) == COUNT if words == "is not there" else len(again) < COUNT
    are_right(load(tmp_path))


def test_fresh_and_clean_remove_the_file(tmp_path, handoff):
    run(rows_dag(), tmp_path / "runs" / "r")
    run(rows_dag(), tmp_path / "runs" / "r", fresh=True)
    assert [*(tmp_path / "runs" / "r" / "values").iterdir()] == [file_of(tmp_path / "runs" / "r", 2)]
    assert handoff("clean", "runs", "--keep", "0", "--yes").rc == 0
    assert not (tmp_path / "runs" / "r").exists()


def test_a_run_without_a_run_dir_has_a_temporary_file(monkeypatch):
    from handoff_mpi.results import column_file

    monkeypatch.setattr(column_file, "is_in_memory", lambda path: False)
    opened: list[object] = []
    make = column_file.tempfile.mkstemp
    monkeypatch.setattr(column_file.tempfile, "mkstemp", lambda **how: opened.append(how) or make(**how))
    are_right(run(rows_dag(), False))
    assert len(opened) == 1


MEGABYTES = """
import numpy
from handoff_mpi import DAG, Function
from handoff_mpi.runtime import column_keeper

column_keeper.INLINE_SHARE = 0.0

def flip(row):
    return -row

dag = DAG("megabytes")
rows = [numpy.full(131_072, float(index)) for index in range(64)]
flipped = dag.map(flip, rows, id="flipped")
dag.add_function(Function("sums", [flipped], lambda rows: [float(row[0] + row[-1]) for row in rows]))
"""


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_leases_of_megabytes_pass_each_other(handoff, tmp_path, isolation):
    """Two leases are in flight at a slot; rank 0 sends inputs of 1 MB while ranks send values of 1 MB."""
    (tmp_path / "dag.py").write_text(MEGABYTES)
    ended = handoff("run", "-n", "3", "--isolation", isolation, "--run-dir", "r", "dag.py")
    assert ended.rc == 0, ended.err
    results = load(tmp_path / "r")
    assert results["sums"] == [-2.0 * index for index in range(64)]
    assert results["flipped"][63][5] == -63.0
    assert file_of(tmp_path / "r").stat().st_size > 64 << 20


def test_a_file_that_is_damaged_during_the_run_ends_it_and_the_next_launch_computes_what_is_lost(tmp_path, notes):
    def cut(rows):
        if not notes.exists():
            notes.touch()
            os.truncate(file_of(tmp_path), 100_000)

    def total(rows, _):
        return float(sum(row[0] for row in rows))

    dag = DAG("cut")
    rows = dag.map(lambda index: numpy.full(SIZE, float(index)), range(COUNT), id="rows")
    last = dag.add_function(Function("cut", [rows[:: COUNT - 1]], cut))
    dag.add_function(Function("total", [rows, last], total))
    with pytest.raises(JournalError, match=r"000001.columns is cut short.*; the same command computes them") as caught:
        run(dag, tmp_path)
    assert caught.value.exit_code == EXIT_STOPPED
    results = run(dag, tmp_path)
    assert results["total"] == sum(range(COUNT))
    assert 0 < results["rows"].counts()["done"] == COUNT


def test_a_reduction_whose_value_is_damaged_is_lost_alone(tmp_path):
    dag = DAG("sums")
    rows = dag.map(lambda index: numpy.full(SIZE, float(index)), range(10), id="rows")
    dag.reduce(numpy.add, rows, fan_in=4, id="sum")
    dag.add_function(Function("one", [], lambda: 1))
    assert run(dag, tmp_path)["sum"][0] == 45.0
    assert load(tmp_path)["sum"][0] == 45.0
    os.truncate(file_of(tmp_path), 1000)
    results = load(tmp_path)
    assert results["one"] == 1
    with pytest.raises(ValueDamaged, match=r"the value of 'sum' is lost: .*000001.columns is cut short"):
        results["sum"]
    assert run(dag, tmp_path)["sum"][0] == 45.0


def test_consumers_of_elements_and_of_slices_read_the_file(tmp_path):
    dag = DAG("links")
    rows = dag.map(lambda index: numpy.full(SIZE, float(index)), range(COUNT), id="rows")
    dag.map(lambda row: float(row[-1]), rows[::-3], id="every third")
    dag.add_function(
        Function("slice", [rows[5:50:7], rows[3]], lambda rows, row: [float(each[0]) for each in [*rows, row]])
    )
    pairs = Argument(rows, missing="skip")
    dag.add_function(Function("pairs", [pairs], lambda pairs: [(index, float(row[0])) for index, row in pairs]))
    results = run(dag, tmp_path)
    assert [*results["every third"]] == [float(index) for index in range(COUNT)][::-3]
    assert results["slice"] == [*map(float, range(5, 50, 7)), 3.0]
    assert results["pairs"] == [(index, float(index)) for index in range(COUNT)]
