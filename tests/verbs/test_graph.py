"""``graph``: of files that hold DAGs, and of runs of anybody's."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys

import networkx
import pytest

from handoff_mpi import cli
from handoff_mpi.results.journal import Journal
from tests.conftest import run_process
from tests.results.made_journal import about, done, row, turn, write_large, write_launch, write_status
from tests.strangers import COLLEAGUE, make_reachable, need_root
from tests.verbs.test_explain import HOSTILE, Bomb

DAG_PY = """
import sys
from handoff_mpi import DAG, Function
print("dag.py prints")
def load(n):
    return n
def fit(n):
    if n == 1:
        raise ValueError("loss is nan")
    return n
def build(args):
    dag = DAG("drawn")
    loads = [dag.add_function(Function(f"load-{n}", (), load, [n])) for n in range(int(args[0]) if args else 2)]
    fits = [dag.add_function(Function(("fit", n), (each,), fit, max_retries=0)) for n, each in enumerate(loads)]
    dag.add_function(Function("all", tuple(fits), print))
    return dag
other = DAG("other")
other.add_function(Function("lonely", (), load, [1]))
"""


@pytest.fixture
def graph(in_process, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = cli.main(["graph", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def dag_py(tmp_path):
    (tmp_path / "dag.py").write_text(DAG_PY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run of rank 0 and two ranks in which a function has failed."""
    directory = tmp_path_factory.mktemp("finished")
    (directory / "dag.py").write_text(DAG_PY)
    command = [sys.executable, "-m", "handoff_mpi", "run", "-n", "3", "--run-dir", "run", "dag.py"]
    assert run_process(command, directory).rc == 1
    return directory


def test_a_dag_is_listed_layer_by_layer(graph, dag_py):
    code, out, err = graph("dag.py")
    assert (code, err) == (0, "dag.py prints\n")
    assert out == (
        "drawn: 5 functions, 4 values passed on, 3 layers\n\n"
        "layer 0\n  load-0      load\n  load-1      load\n\n"
        "layer 1\n  ('fit', 0)  fit    <- load-0\n  ('fit', 1)  fit    <- load-1\n\n"
        "layer 2\n  all         print  <- ('fit', 0), ('fit', 1)\n"
    )
    assert "lonely" in graph("dag.py:other")[1]
    assert graph("dag.py", "--", "150")[1].startswith(
        "drawn: 301 functions, 300 values passed on, 3 layers\n\n  layer 0"
    )


def test_an_array_is_one_box_with_its_number_of_elements(graph, tmp_path):
    (tmp_path / "fits.py").write_text(
        "from handoff_mpi import DAG, Function\ndef fit(power): return power\ndag = DAG('fits')\n"
        "dag.add_function(Function('sum', [dag.map(fit, range(1000), id='fits')], sum))\n"
    )
    assert graph("fits.py")[1] == (
        "fits: 2 functions, 1 value passed on, 2 layers\n\n"
        "layer 0\n  fits  fit \N{MULTIPLICATION SIGN} 1,000\n\nlayer 1\n  sum                <- fits\n"
    )
    assert "fit #215; 1,000" in graph("fits.py", "--format", "mermaid")[1]
    nodes = json.loads(graph("fits.py", "--format", "json")[1])["nodes"]
    assert [node["name"] for node in nodes] == ["fit \N{MULTIPLICATION SIGN} 1,000", "sum"]


def test_a_run_is_listed_with_ranks_and_states(graph, finished):
    code, out, err = graph(finished / "run")
    assert (code, err) == (0, "")
    assert "; failed: 3 done, 1 failed, 1 skipped\n" in out
    assert "      ValueError: loss is nan\n" in out
    assert " on " in next(line for line in out.splitlines() if line.startswith("  load-0"))


def test_json_is_what_networkx_reads(graph, finished, dag_py):
    for target, status in ((finished / "run", "failed"), ("dag.py", "")):
        data = json.loads(graph(target, "--format", "json")[1])
        assert data["graph"]["status"] == status
        read = networkx.node_link_graph(data, edges="edges")
        assert sorted(read.edges) == sorted(
            [("load-0", "('fit', 0)"), ("load-1", "('fit', 1)"), ("('fit', 0)", "all"), ("('fit', 1)", "all")]
        )
        assert read.nodes["load-0"]["cost"] == {"cpu": 1}
        states = {name: about["state"] for name, about in read.nodes.items()}
        assert states["('fit', 1)"] == ("failed" if status else "waiting")
    assert read.nodes["load-0"]["rank"] is None


def test_json_of_a_large_run_holds_every_function(graph, tmp_path):
    write_large(tmp_path / "run", 1000)
    data = json.loads(graph("run", "--format", "json")[1])
    assert len(data["nodes"]) == 1000
    assert all(node["duration_s"] >= 0 for node in data["nodes"])


@pytest.mark.parametrize(
    ("name", "begins"),
    [("g.dot", "digraph"), ("g.gv", "digraph"), ("g.mmd", "flowchart"), ("g.json", '{"directed"'), ("g.txt", "drawn:")],
)
def test_the_name_of_the_file_tells_the_format(graph, dag_py, tmp_path, name, begins):
    code, out, _ = graph("dag.py", "-o", name)
    assert (code, out) == (0, f"{tmp_path / name}\n")
    assert (tmp_path / name).read_text().startswith(begins)
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_the_umask_decides_who_reads_the_file_and_links_are_followed(graph, dag_py, tmp_path):
    (tmp_path / "link.dot").symlink_to("real.dot")
    before = os.umask(0o007)
    try:
        graph("dag.py", "-o", "link.dot")
    finally:
        os.umask(before)
    assert (tmp_path / "link.dot").is_symlink()
    assert (tmp_path / "real.dot").stat().st_mode & 0o777 == 0o660


WRONG = [
    (("dag.py", "--format", "svgg"), "did you mean svg?"),
    (("dag.py", "-o", "graph"), "has no suffix of a known format"),
    (("dag.py", "-o", "missing/g.dot"), "No such file or directory"),
    (("dag.py", "-o", ".", "--format", "dot"), "it is a directory"),
    (("dag.py", "-o", "fifo", "--format", "dot"), "it is not a regular file"),
    (("dag.py", "--max-functions", "0"), "is not a whole number from 1 to 2000"),
    (("dag.py", "--max-functions", "1e9"), "is not a whole number from 1 to 2000"),
    (("dug.py",), "did you mean dag.py"),
    (("nothing",), "is not a run-dir: there is no such directory"),
    (("empty",), "no run has begun there"),
    (("\x1b[31m\n",), "is not a run-dir"),
    (("",), "is not the path of a run-dir"),
    ((), "there are no runs in handoff-runs"),
    (("dag.py", "more"), "one word too many"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_told_in_a_line(graph, dag_py, tmp_path, words, told):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    code, out, err = graph(*words)
    lines = [line for line in err.splitlines() if line != "dag.py prints"]
    assert (code, out, len(lines)) == (2, "", 1)
    assert told in lines[0]
    assert "\x1b" not in err


def test_a_dag_that_is_not_valid_is_told(graph, tmp_path):
    (tmp_path / "bad.py").write_text(
        "from handoff_mpi import DAG, Function\ndag = DAG('bad')\ndag.add_function(Function('a', ('b',), abs))\n"
    )
    code, out, err = graph("bad.py")
    assert (code, out) == (2, "")
    assert "'b'" in err


def test_a_build_that_is_asked_for_help_gives_it(graph, tmp_path):
    (tmp_path / "help.py").write_text(
        "import argparse\ndef build(args):\n    argparse.ArgumentParser(prog='mine').parse_args(args)\n"
    )
    code, out, err = graph("help.py", "--", "--help")
    assert (code, out) == (0, "")
    assert err.startswith("usage: mine")


def test_stdout_may_be_ascii(tmp_path):
    (tmp_path / "dag.py").write_text(
        "from handoff_mpi import DAG, Function\ndag = DAG('é')\ndag.add_function(Function('ü', (), abs, [1]))\n"
    )
    command = [sys.executable, "-m", "handoff_mpi", "graph", "dag.py"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\xfc  abs" in ended.stdout


def test_a_reader_that_leaves_is_no_trouble(finished):
    command = f"{sys.executable} -m handoff_mpi graph run --format json | head -c 5"
    ended = subprocess.run(command, shell=True, cwd=finished, capture_output=True, timeout=60)
    assert (ended.stdout, ended.stderr) == (b'{"dir', b"")


# -- anybody's ---------------------------------------------------------------------------------------------


def graph_here(run_dir):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main(["graph", run_dir])
    return code, printed.getvalue()


def test_a_colleague_draws_the_run_too(finished):
    need_root()
    make_reachable(finished)
    own = graph_here(str(finished / "run"))  # imports what a colleague may not read
    assert own[0] == 0
    assert COLLEAGUE.does(graph_here, str(finished / "run")) == own


MORE_HOSTILE = [
    [("run", about()), ("tasks", 0, [row("f", cpu=float("nan"), gpu=float("inf"), memory="x")])],
    [("run", about()), ("tasks", 0, [row("f", inputs=[-1])])],
    [("run", about()), ("tasks", 0, [row("f"), row("f"), row(1), row("1"), row(10**5000), row(None)])],
    [("run", about()), ("tasks", 0, [row("a", inputs=[1]), row("b", inputs=[0])])],
    [("run", about()), ("tasks", 0, [row("f")]), turn(1, (), [done(0, 2**31 - 1, 0, 1)])],
    [("run", about()), ("tasks", 0, [row("f")]), turn(1, (), [done(0, -5, float("nan"), float("inf"))])],
    [("run", about(dag_id="\x1b\n" * 10**5)), ("tasks", 0, [row("x" * 10**6, "\x1b" * 10**6)])],
]


@pytest.mark.parametrize("records", HOSTILE + MORE_HOSTILE, ids=range(len(HOSTILE + MORE_HOSTILE)))
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_hostile_journal_costs_a_line_at_most(graph, tmp_path, records, mode):
    write_launch(tmp_path / "run", *records)
    write_status(tmp_path / "run", status="stopped", exit_code=75, launch=1)
    (tmp_path / "run").chmod(mode)  # with 0777 it may be anybody's
    for form in ("text", "dot", "mermaid", "json"):
        code, out, err = graph("run", "--format", form)
        assert code in (0, 1, 2)
        assert err.count("\n") <= 1
        assert "Traceback" not in out + err
        assert "\x1b" not in out + err
        if form == "json" and code == 0:
            json.loads(out, parse_constant=pytest.fail)


def test_nothing_in_a_journal_is_called(graph, tmp_path):
    made = tmp_path / "made"
    (tmp_path / "run").mkdir(mode=0o755)
    with Journal(tmp_path / "run") as journal:
        journal.append(("run", about()))
        journal.append(("tasks", 0, [row("f"), row(("g", Bomb(str(made))))]))
        journal.append(("bomb", pickle.dumps(1), Bomb(str(made))))
        journal.commit()
    for mode in (0o755, 0o777):
        (tmp_path / "run").chmod(mode)
        assert graph("run")[0] == 0
    assert not made.exists()
