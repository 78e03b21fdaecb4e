"""Options of any type are refused in a line before anything starts, or make sense."""

from __future__ import annotations

import os
import pathlib
from unittest import mock

import numpy as np
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, DAGError, Function, Handle, HandoffError, cli
from handoff_mpi.console import print_stderr
from handoff_mpi.errors import EXIT_USAGE, UsageError
from handoff_mpi.launch.deadline import resolve_deadline
from handoff_mpi.runtime.options import RunOptions, options_of


class Shy:
    """Cannot be shown."""

    def __repr__(self):
        raise SystemExit("no")


class Path(os.PathLike):
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        if self.path is None:
            raise OSError("no path")
        return self.path


DEEP = ()
for _ in range(5_000):
    DEEP = (DEEP,)

ODD = [Shy(), object(), Handle("a"), mock.MagicMock(), np.arange(3), {1: [2]}, [[1], {2}], b"x", 1j]
ODD += [float("nan"), 10**400]
NAMES = [field for field in RunOptions.__dataclass_fields__ if field not in ("result_store", "resource_tracker")]
#: Any object may be a strategy, and ids.
NAMES.remove("allocation_strategy")


@pytest.mark.parametrize("name", NAMES)
def test_odd_values_are_refused_in_a_line_each(name):
    for value in ODD:
        try:
            options = RunOptions(**{name: value}).validate()
            resolve_deadline(options.deadline, 0.0)
        except UsageError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            assert name in str(error)
        else:
            assert name in ("keep", "rerun", "accept_changes") or isinstance(value, mock.MagicMock), (name, type(value))


def raising(kind, *names):
    """Return a class derived from ``kind`` whose methods ``names`` raise."""

    def fail(self, *args):
        raise SystemExit("no")

    return type("Raising", (kind,), {"__hash__": kind.__hash__, **dict.fromkeys(names, fail)})


ORDER = ("__lt__", "__le__", "__gt__", "__ge__", "__eq__")
NUMBERS = [raising(int, *ORDER)(3), raising(float, *ORDER)(3.0)]
RAISING = {
    "max_retries": NUMBERS,
    "grace_period": NUMBERS,
    "deadline": [raising(float, "__float__", *ORDER)(3.0), mock.Mock(spec=str)],
    "isolation": [raising(str, "__eq__", "__hash__")("auto"), mock.Mock(spec=str)],
    "slots": [mock.Mock(spec=int), raising(int, *ORDER)(1)],
    "resources": [raising(dict, "items", "keys", "__iter__")(a=1), mock.Mock(spec=dict)],
    "prices": [raising(dict, "items", "keys", "__iter__")(a=1)],
    "keep": [raising(list, "__iter__")([1])],
    "run_dir": [raising(Path, "__fspath__")("r")],
}


@pytest.mark.parametrize("name", RAISING)
def test_values_that_raise_as_they_are_looked_at_are_refused_in_a_line_or_used(name):
    for value in RAISING[name]:
        try:
            options = options_of({name: value})
            resolve_deadline(options.deadline, 0.0)
        except UsageError as error:
            assert "\n" not in str(error) and len(str(error)) < 400
            assert name in str(error)
        else:
            assert type(getattr(options, name)) in (int, float, str), name


@pytest.mark.parametrize("name", ["keep", "rerun"])
@pytest.mark.parametrize("ids", [[[1]], [{1}], ["a", [["b"]]], [Shy()], [DEEP], [None], 7, "a", b"a", [float("nan")]])
def test_what_cannot_be_an_id_is_neither_kept_nor_run_again(name, ids, tmp_path):
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1]))
    with pytest.raises(UsageError, match=name) as caught:
        handoff.execute_local(dag, run_dir=tmp_path / "r", **{name: ids})
    assert caught.value.exit_code == EXIT_USAGE
    assert not (tmp_path / "r").exists(), "something has started"


def test_ids_may_be_named_by_handles(tmp_path):
    dag = DAG()
    a = dag.add_function(Function("a", (), abs, [-1]))
    b = dag.add_function(Function("b", [a], abs))
    results = handoff.execute_local(dag, keep=[a], rerun={b}, run_dir=tmp_path / "r")
    assert results[a] == results["a"] == 1
    assert a in dag and dag[a].id == "a"


NO_RUN_DIRS = ["\0", "a\0b", "", 5, b"r", Shy(), Path(None), Path(b"r"), Path("\0"), Handle("a"), ["r"], True]
NO_RUN_DIRS += ["a" * 5_000, "\ud800"]


@pytest.mark.parametrize("run_dir", NO_RUN_DIRS)
def test_run_dirs_that_are_none(run_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dag = DAG()
    dag.add_function(Function("a", (), abs, [-1]))
    with pytest.raises(HandoffError) as caught:
        handoff.execute_local(dag, run_dir=run_dir)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_dir_may_be_any_path(tmp_path):
    for path in (tmp_path / "a", str(tmp_path / "b"), Path(str(tmp_path / "c"))):
        assert RunOptions(run_dir=path).validate().run_dir is path
    assert isinstance(pathlib.Path(Path(str(tmp_path / "c"))), pathlib.Path)


def test_what_is_no_dag_is_not_executed():
    for odd in (None, "dag.py", [Function("a", (), abs)], Shy(), Handle("a")):
        with pytest.raises(UsageError, match="must be a DAG, not"):
            handoff.execute_local(odd)


def test_a_dag_whose_id_cannot_be_shown_is_refused():
    dag = DAG(Shy())
    with pytest.raises(DAGError, match="the DAG's id cannot be an id: it cannot be shown"):
        dag.validate()
    assert repr(dag) == "<DAG <Shy>: 0 functions>"


@pytest.mark.parametrize("deadline", [True, 10**400, "1e400", "nan", -1, [], "x\x1b[31m", Shy(), object()])
def test_deadlines_that_are_none(deadline):
    with pytest.raises(UsageError, match="deadline must be") as caught:
        resolve_deadline(deadline, 0.0)
    assert str(caught.value).isprintable()


def test_a_terminal_obeys_no_name(capsys):
    print_stderr("a\x1b[31mb\rc\x9b\td\ne")
    assert capsys.readouterr().err == "a\\x1b[31mb\\rc\\x9b\td\ne\n"


FLAGS = ["prices", "resources", "keep", "rerun", "run-dir", "allocation-strategy", "max-retries", "deadline"]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_without_its_value_is_refused_in_a_line(flag, in_process, tmp_path, monkeypatch, capsys):
    """argparse takes the value ``--`` away, and gives a list without items in its place."""
    (tmp_path / "d.py").write_text("from handoff_mpi import DAG\ndag = DAG()\n")
    assert cli.main(["run", "d.py", f"--{flag}=--"]) == EXIT_USAGE
    why = f"--{flag}=--: -- stands before the arguments of dag.py; give --{flag} another value"
    assert capsys.readouterr().err == f"handoff: {why}\n"
    monkeypatch.setenv(f"HANDOFF_{flag.upper().replace('-', '_')}", "--")
    assert cli.main(["run", "d.py"]) == EXIT_USAGE
    assert capsys.readouterr().err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["d.py"], "something has started"


def test_so_is_a_short_flag_without_its_value(in_process, capsys):
    assert cli.main(["run", "-n--", "d.py"]) == EXIT_USAGE
    assert capsys.readouterr().err.startswith("handoff: -n--: -- stands before the arguments")


VALUES = ["-1", "nan", "-inf", "1e400", "x\x1b[31m", "x\ny", "a=nan", "a=-1", "=1", "9" * 30, "9" * 5_000]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "flag", ["max-retries", "slots", "heartbeat-timeout", "grace_period", "deadline", "prices", "resources"]
)
def test_odd_values_of_flags_are_refused_without_a_traceback(flag, value, in_process, tmp_path, capsys):
    (tmp_path / "d.py").write_text("from handoff_mpi import DAG\ndag = DAG()\n")
    try:
        code = cli.main(["check", "d.py", f"--{flag}={value}"])
    except SystemExit as error:  # argparse
        code = error.code
    said = capsys.readouterr().err
    assert "Traceback" not in said and "\x1b" not in said
    assert code == EXIT_USAGE
