"""No act of dag.py while rank 0 loads it ends a rank or keeps one waiting."""

from __future__ import annotations

import json
import os
import sys

import pytest

import handoff_mpi.cli
from tests.conftest import mpirun_command, run_process

DAG = """
import os, sys, time, threading, subprocess
import handoff_mpi
from handoff_mpi import DAG, Function
dag = DAG("d")
dag.add_function(Function("a", (), abs, [-1]))
"""


#: Functions print to stdout under mpirun too.
PRINTED = {"HANDOFF_OUTPUT": "plain"}


@pytest.fixture(params=[1, 3], ids=["here", "mpirun"])
def run(request, tmp_path):
    """Run ``python -m handoff_mpi run dag.py`` in one process, or on three ranks."""

    def launch(text, *words, program=("-m", "handoff_mpi", "run")):
        (tmp_path / "dag.py").write_text(DAG + text)
        launcher = mpirun_command(request.param) if request.param > 1 else []
        return run_process([*launcher, sys.executable, *program, *words, "dag.py"], tmp_path, 60, PRINTED)

    return launch


@pytest.mark.long
@pytest.mark.sample(
    "here-import-1 / 0", "here-build-time.sleep(0.3)", "mpirun-import-time.sleep(0.3)", "mpirun-build-1 / 0"
)
@pytest.mark.parametrize("ending", ["time.sleep(0.3)", "1 / 0"])
@pytest.mark.parametrize(
    "where", ["{}", "def build(args):\n    {}\n    return made\nmade = dag; del dag"], ids=["import", "build"]
)
def test_what_it_forks_does_not_go_on_as_the_run(run, ending, where):
    ended = run(where.format(f"if not os.fork(): {ending}") + "\n")
    assert ended.rc == 0, ended.err
    assert ended.err.count("1 done of 1") == 1, ended.err
    assert "cannot be loaded" not in ended.err
    assert "handoff_mpi/" not in ended.err


@pytest.mark.long
def test_programs_it_starts_do_not_take_themselves_for_ranks(run, tmp_path):
    (tmp_path / "other.py").write_text(DAG)
    words = "[sys.executable, '-m', 'handoff_mpi', 'run', '--run-dir', 'other', 'other.py']"
    ended = run(f"assert subprocess.run({words}).returncode == 0\n")
    assert ended.rc == 0, ended.err
    assert json.loads((tmp_path / "other" / "status.json").read_text())["ranks"] == 1


@pytest.mark.long
def test_it_may_run_a_dag_on_the_ranks_of_its_job(run):
    ended = run(
        "first = handoff_mpi.execute(dag)\n"
        "dag = DAG('second')\n"
        "dag.add_function(Function('b', (), print, ['GOT', first['a'], *first.allocations.values()]))\n"
    )
    assert ended.rc == 0, ended.err
    assert ended.out in ("GOT 1 0\n", "GOT 1 1\n", "GOT 1 2\n")
    assert ended.err.count("handoff: DAG 'second' done") == 1


@pytest.mark.long
def test_a_second_run_while_one_goes_on_is_refused(mpirun, tmp_path):
    text = (
        "def handler(*_): handoff_mpi.execute(dag)\n"
        "handoff_mpi.telemetry.attach('x', ('handoff', 'execution', 'dag', 'start'), handler, None)\n"
    )
    (tmp_path / "dag.py").write_text(DAG + text)
    ended = mpirun(2, "-m", "handoff_mpi", "run", "dag.py")
    assert ended.rc == 0, ended.err
    assert "this job executes a run" in ended.err


@pytest.mark.long
@pytest.mark.sample("here-start-exit", "here-stop-interrupt", "mpirun-start-interrupt", "mpirun-stop-exit")
@pytest.mark.parametrize("raises", ["sys.exit(3)", "raise KeyboardInterrupt"], ids=["exit", "interrupt"])
@pytest.mark.parametrize("event", ["('dag', 'start')", "('function', 'stop')"], ids=["start", "stop"])
def test_a_handler_that_would_end_the_process_is_detached_and_the_run_continues(run, tmp_path, raises, event):
    text = (
        f"def handler(*_): {raises}\n"
        f"handoff_mpi.telemetry.attach('x', ('handoff', 'execution', *{event}), handler, None)\n"
    )
    ended = run(text, "--run-dir", "run")
    assert ended.rc == 0, ended.err
    assert ended.err.count("telemetry handler 'x' is detached") == 1
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 0


@pytest.mark.long
def test_a_directory_that_is_gone_is_told_of(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG + "os.mkdir('x'); os.chdir('x'); os.rmdir('../x')\n")
    ended = handoff("run", "dag.py")
    assert (ended.rc, len(ended.err.splitlines())) == (2, 1), ended.err
    assert "the run-dir handoff-runs cannot be used" in ended.err


@pytest.mark.parametrize("words", [["run", "x.py"], ["run", "-n", "2", "x.py"], ["check", "x.py"], ["doctor"]])
def test_so_is_one_it_is_called_in(tmp_path, words):
    (tmp_path / "gone").mkdir()
    command = " ".join([sys.executable, "-m", "handoff_mpi", *words])
    ended = run_process(["sh", "-c", f"rmdir ../gone; exec {command}"], tmp_path / "gone")
    assert (ended.rc, len(ended.err.splitlines())) == (2, 1), ended.err
    assert "run it from another directory" in ended.err


@pytest.mark.long
def test_an_edit_counts_that_leaves_size_and_time_of_the_file_as_they_were(tmp_path):
    """As Python's cache of modules would not notice."""
    path = tmp_path / "dag.py"
    for name in ("one", "two"):
        path.write_text(
            f"from handoff_mpi import DAG, Function\ndag = DAG('{name}')\ndag.add_function(Function(1, (), int))\n"
        )
        os.utime(path, (1e9, 1e9))
        command = [sys.executable, "-c", "from handoff_mpi.cli import main; main(['check', 'dag.py'])"]
        ended = run_process(command, tmp_path, env={"PYTHONDONTWRITEBYTECODE": ""})
        assert f"DAG '{name}'" in ended.out, ended.err
    assert not (tmp_path / "__pycache__").exists()


def test_arguments_that_are_missing_are_told_to_be(in_process, tmp_path, capsys):
    (tmp_path / "dag.py").write_text("def build(args):\n    return args[0]\n")
    assert handoff_mpi.cli.main(["check", str(tmp_path / "dag.py")]) == 2
    said = capsys.readouterr().err
    assert (
        "build([]) failed: line 2: IndexError: list index out of range; its argument holds the words behind `--`"
        in said
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("task(fit)(1)", "fit() missing 1 required positional argument: 'y'"),
        ("task(fit)(1, 2, z=3)", "fit() got an unexpected keyword argument 'z'"),
        ("dag.map(fit, [1])", "map(fit): fit() missing 1 required positional argument: 'y'; give an iterable for it"),
        ("dag.reduce(len, 5)", "reduce(len): values is 5, which is not iterable"),
    ],
)
def test_a_call_without_an_argument_is_refused_with_its_line(in_process, tmp_path, capsys, line, says):
    head = "from handoff_mpi import DAG, task\n\ndef fit(x, y):\n    return x\n\nwith DAG() as dag:\n    "
    path = tmp_path / "dag.py"
    path.write_text(f"{head}{line}\n")
    assert handoff_mpi.cli.main(["check", str(path)]) == 2
    assert f"{path}, line 7: {says}" in capsys.readouterr().err


def test_a_named_run_dir_means_the_same_wherever_the_file_goes(handoff, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "dag.py").write_text(DAG + "os.chdir('elsewhere')\n")
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    assert (tmp_path / "run" / "status.json").exists()
    assert not list((tmp_path / "elsewhere").iterdir())
    ended = handoff("run", "--run-dir", "run", "dag.py")
    assert "1 of 1 functions are done" in ended.err


# With less patience than users get.
IMPATIENT = """
from handoff_mpi import cli
from handoff_mpi import process_exit
from handoff_mpi.launch import rank_main
process_exit.THREADS_TIMEOUT_S, rank_main.SLOW_LOADING_S = 1.0, 0.5
cli.program()
"""


@pytest.mark.long
def test_a_thread_that_never_ends_does_not_keep_the_process(run):
    ended = run(
        "stop = threading.Event()\nthreading.Thread(target=stop.wait, name='for ever').start()\n",
        program=("-c", IMPATIENT, "run"),
    )
    assert ended.rc == 0, ended.err
    assert "1 done of 1" in ended.err
    assert "threads that were left running (for ever) have not ended within 1 s; they are ended" in ended.err


@pytest.mark.long
def test_a_thread_that_ends_is_waited_for(run, tmp_path):
    ended = run("threading.Thread(target=lambda: (time.sleep(0.2), open('written', 'w'))).start()\n")
    assert ended.rc == 0, ended.err
    assert "left running" not in ended.err
    assert (tmp_path / "written").exists()


@pytest.mark.long
def test_a_collective_call_in_it_is_explained(tmp_path):
    text = (
        "from mpi4py import MPI\n"
        "threading.Timer(3.0, lambda: MPI.COMM_WORLD.Abort(9)).start()\n"  # the test is not to wait for ever
        "MPI.COMM_WORLD.Barrier()\n"
    )
    (tmp_path / "dag.py").write_text(DAG + text)
    command = [*mpirun_command(2), sys.executable, "-c", IMPATIENT, "run", "dag.py"]
    ended = run_process(command, tmp_path)
    assert ended.rc == 9, ended.err
    assert ended.err.count("a collective call of MPI in it would wait for ever") == 1


@pytest.mark.long
def test_help_of_its_own_arguments_ends_check_too(mpirun, tmp_path):
    text = "import argparse\ndef build(args): argparse.ArgumentParser(prog='mine').parse_args(args)\n"
    (tmp_path / "helps.py").write_text(text)
    ended = mpirun(2, "-m", "handoff_mpi", "check", "helps.py", "--", "--help")
    assert (ended.rc, "usage: mine" in ended.out) == (0, True), ended.err


IDS = """
from handoff_mpi import DAG, Function
dag = DAG("ids")
for id in 3, ("fit", 3), "4", 4: dag.add_function(Function(id, (), print, ["called", repr(id)]))
dag.add_function(Function("sum", [3, ("fit", 3), "4", 4], lambda *_: None))
"""


@pytest.mark.long
def test_ids_that_are_no_text_can_be_named_on_the_command_line(handoff, tmp_path):
    (tmp_path / "ids.py").write_text(IDS)
    assert handoff("run", "--run-dir", "run", "ids.py").rc == 0
    for text, called in ("3", "called 3\n"), ("('fit', 3)", "called ('fit', 3)\n"), ("4", "called '4'\n"):
        ended = handoff("run", "--run-dir", "run", "--rerun", text, "--keep", text, "ids.py")
        assert (ended.rc, ended.out) == (0, called), ended.err


@pytest.mark.long
def test_check_ends_all_ranks_though_it_fails(mpirun, tmp_path):
    text = "class Broken(type(dag)):\n    def validate(self): raise ValueError('nameless')\ndag = Broken('d')\n"
    (tmp_path / "dag.py").write_text(DAG + text)
    ended = mpirun(2, "-m", "handoff_mpi", "check", "dag.py")
    assert ended.rc == 1, ended.err
    assert "nameless" in ended.err


@pytest.mark.parametrize("options", [{"keep": 5}, {"rerun": 5}, {"run_dir": 5}, {"run_dir": ""}], ids=str)
def test_options_of_the_wrong_kind_are_refused(options):
    (name,) = options
    with pytest.raises(handoff_mpi.UsageError, match=f"^{name} is"):
        handoff_mpi.execute_local(handoff_mpi.DAG(), **options)


@pytest.mark.long
def test_a_rank_that_leaves_in_setup_is_told_of_at_once(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG + "def setup(rank):\n    if rank == 1: os._exit(3)\n")
    ended = handoff("run", "-n", "3", "dag.py", timeout_s=30.0)
    assert ended.rc == 2, ended.err
    assert "rank 1 ended before setup(1) had returned" in ended.err


KILLED_ONCE = (
    DAG
    + """
from pathlib import Path
def setup(rank):
    if rank == VICTIM and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), 9)
dag.add_function(Function("call", (), Path("called").touch))
"""
)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_in_setup_costs_a_launch(handoff, tmp_path, victim):
    (tmp_path / "dag.py").write_text(KILLED_ONCE.replace("VICTIM", str(victim)))
    (tmp_path / "killed").touch()
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    (tmp_path / "killed").unlink()
    (tmp_path / "called").unlink()
    ended = handoff("run", "-n", "3", "--run-dir", "run", "--fresh", "dag.py")
    assert ended.rc == 0, ended.err
    assert "it is launched again (1 of at most 3)\n" in ended.err
    assert (tmp_path / "called").exists(), "the launch that died had not started over"
    assert [each.name for each in (tmp_path / "run").glob(".*")] == []


@pytest.mark.long
def test_a_rank_that_is_always_killed_in_setup_ends_the_run(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG + "def setup(rank):\n    if rank: os.kill(os.getpid(), 9)\n")
    ended = handoff("run", "-n", "2", "--max-relaunches", "1", "dag.py")
    assert ended.rc == 75, ended.err
    assert ended.err.count("rank 1 was lost before setup(1) had returned") == 2, ended.err


KEYS = """
import dataclasses, enum
from handoff_mpi import DAG, Function, current_task, load
@dataclasses.dataclass(frozen=True)
class Key:
    a: str
    b: int
class Kind(enum.Enum):
    FIRST = 1
IDS = [Key("k", 1), (Key("k", 2), "part"), Kind.FIRST]
def seen(*values): return repr(current_task().id), current_task().id in IDS
dag = DAG("keys")
for id in IDS: dag.add_function(Function(id, (), seen))
dag.add_function(Function("all", IDS, lambda *values: print(*sorted(values))))
def build(args):
    results = load(args[0])
    assert [results[id][1] for id in IDS] == [True] * 3, results.values
    return dag
"""


@pytest.mark.long
@pytest.mark.sample("-n 3")
@pytest.mark.parametrize("words", [("-n", "3"), ("-n", "3", "--isolation", "process")], ids=" ".join)
def test_ids_may_be_of_classes_of_dag_py(handoff, tmp_path, words):
    (tmp_path / "keys.py").write_text(KEYS)
    ended = handoff("run", *words, "--keep", "all", "--run-dir", "run", "keys.py:dag")
    assert ended.rc == 0, ended.err
    assert ended.out.count("True") == 3
    resumed = handoff("run", *words, "--keep", "all", "--run-dir", "run", "keys.py", "--", "run")
    assert (resumed.rc, resumed.out) == (0, ""), resumed.err
    assert "4 of 4 functions are done" in resumed.err
    program = "import handoff_mpi; print([repr(id) for id in handoff_mpi.load('run').values])"  # it knows no such class
    shown = run_process([sys.executable, "-c", program], tmp_path)
    assert "Key(a='k', b=2)" in shown.out, shown.err


def test_an_id_that_cannot_be_pickled_is_refused(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DAG + "dag.add_function(Function((1, lambda: 1, threading.Lock()), (), abs))\n")
    ended = handoff("run", "dag.py")
    assert ended.rc == 2, ended.err
    assert "the id (1, <function <lambda>" in ended.err
    assert "use a string or a tuple" in ended.err
