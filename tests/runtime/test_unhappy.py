"""Failures, through the command line: one clear line, the right exit code, no hang."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from handoff_mpi import cli
from handoff_mpi.launch.own_jobs import OwnJobs
from handoff_mpi.process_context import this_process

PREAMBLE = "import os, sys, time, ctypes\nimport handoff_mpi\nfrom handoff_mpi import DAG, Function\ndag = DAG('d')\n"

BAD_INPUT = {
    "no such name": ("x = 1\n", 2, "holds no DAG"),
    "syntax error": ("def f(:\n", 2, "dag.py, line 1"),
    "raises at import": ("1 / 0\n", 2, "line 1: ZeroDivisionError"),
    "exits at import": ("import sys; sys.exit(0)\n", 2, "SystemExit"),
    "interrupts at import": ("raise KeyboardInterrupt\n", 2, "line 1: KeyboardInterrupt"),
    "raises what is no Exception": ("class B(BaseException): pass\nraise B('odd')\n", 2, "line 2: B: odd"),
    "is binary": ("\0\0", 2, "null bytes"),
    "build interrupts": ("def build(args): raise KeyboardInterrupt\n", 2, "line 1: KeyboardInterrupt"),
    "setup interrupts": (
        PREAMBLE + "def setup(rank): raise KeyboardInterrupt\ndag.add_function(Function('a', (), print))\n",
        2,
        "setup(0) failed: KeyboardInterrupt",
    ),
    "tracker fails": (
        PREAMBLE + "class T:\n    def register(self, *_): 1 / 0\n    available = request = release = register\n"
        "handoff_mpi.start(resource_tracker=T())\ndag.add_function(Function('a', (), print))\n",
        2,
        "resource_tracker.register failed: ZeroDivisionError",
    ),
    "build fails": ("def build(args):\n    return args[5]\n", 2, "line 2: IndexError"),
    "build returns no DAG": ("def build(args):\n    return 5\n", 2, "returned 5, not a DAG"),
    "cycle": (
        PREAMBLE + "for a, b in 'ab', 'bc', 'ca': dag.add_function(Function(a, [b], print))\n",
        2,
        "there is a cycle",
    ),
    "missing ids": (PREAMBLE + "dag.add_function(Function('a', ['x', 'y'], print))\n", 2, "there is no function 'y'"),
    "fits nowhere": (PREAMBLE + "dag.add_function(Function('a', (), print, cost={'cpu': 9999}))\n", 3, "cpu=9999"),
    "unknown resource": (PREAMBLE + "dag.add_function(Function('a', (), print, cost={'tape': 1}))\n", 3, "tape=1"),
    "unknown rank": (PREAMBLE + "dag.add_function(Function('a', (), print, node=77))\n", 2, "rank 77"),
    "unpicklable constant": (
        PREAMBLE + "dag.add_function(Function('a', (), print, [sys._getframe()]))\n",
        2,
        "cannot be sent",
    ),
    "setup fails": (PREAMBLE + "def setup(rank): 1 / 0\ndag.add_function(Function('a', (), print))\n", 2, "setup(0)"),
    "setup registers nonsense": (
        PREAMBLE + "def setup(rank): return {'cpu': -1}\ndag.add_function(Function('a', (), print))\n",
        2,
        "negative",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line(handoff, tmp_path, case):
    text, code, says = BAD_INPUT[case]
    (tmp_path / "dag.py").write_text(text)
    ended = handoff("run", "dag.py")
    assert ended.rc == code, ended.err
    assert says in ended.err
    assert "Traceback" not in ended.err


ENDS_ALL = ["syntax error", "fits nowhere", "setup fails", "raises what is no Exception", "setup interrupts"]


@pytest.mark.long
@pytest.mark.sample("syntax error", "setup fails")
@pytest.mark.parametrize("case", ENDS_ALL)
def test_bad_input_ends_all_ranks(mpirun, tmp_path, case):
    text, code, says = BAD_INPUT[case]
    (tmp_path / "dag.py").write_text(text)
    ended = mpirun(3, "-m", "handoff_mpi", "run", "dag.py")
    assert ended.rc == code, ended.err
    assert ended.err.count(says) == 1


@pytest.mark.long
@pytest.mark.sample("build fails", "unpicklable constant")
@pytest.mark.parametrize("case", ["build fails", "cycle", "fits nowhere", "unpicklable constant"])
def test_bad_input_ends_what_was_launched(handoff, tmp_path, case):
    text, code, says = BAD_INPUT[case]
    (tmp_path / "dag.py").write_text(text)
    ended = handoff("run", "-n", "3", "dag.py")
    assert ended.rc == code, ended.err
    assert ended.err.count(says) == 1
    assert "Traceback" not in ended.err
    assert "verdict" not in ended.err


FLAGS = {
    "missing file": (["run", "nothing.py"], "does not exist"),
    "directory": (["run", "."], "is a directory"),
    "no name": (["run", ""], "'' is a directory"),
    "device": (["run", "/dev/null"], "is not a regular file"),
    "name too long": (["run", "x" * 5000], "cannot be read"),
    "two lines": (["run", "x\ny.py"], "'x\\ny.py' does not exist"),
    "unknown strategy": (["run", "ok.py", "--allocation-strategy", "best"], "no allocation strategy 'best'"),
    "nonsense number": (["run", "ok.py", "--max-retries", "many"], "--max-retries: 'many' is not a whole number"),
    "negative number": (["run", "ok.py", "--max-retries", "-1"], "max_retries must be"),
    "unknown flag": (["run", "ok.py", "--fast"], "there is no option --fast; did you mean"),
    "no ranks": (["run", "-n", "0", "ok.py"], "-n must be"),
    "more ranks than fit": (["run", "-n", "1000000", "ok.py"], "takes more hosts by --hosts"),
    "more ranks to look at than fit": (["doctor", "-n", "1000000"], "would not hold more than"),
    "more slots than fit": (["run", "--slots", "10000000", "ok.py"], "slots must be at most"),
    "negative relaunches": (["run", "-n", "1", "--max-relaunches", "-1", "ok.py"], "--max-relaunches"),
    "no run-dir": (["run", "--run-dir", "", "ok.py"], "run_dir is empty"),
    "arguments for a DAG": (["run", "ok.py", "--", "7"], "is a DAG"),
    "unknown id kept": (["run", "ok.py", "--keep", "zebra"], "zebra"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_nonsense_flags(handoff, tmp_path, case):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    words, says = FLAGS[case]
    ended = handoff(*words)
    assert ended.rc == 2, ended.err
    assert says in ended.err


@pytest.mark.long
def test_nonsense_in_the_environment(handoff, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    ended = handoff("run", "ok.py", env={"HANDOFF_MAX_RETRIES": "some"})
    assert ended.rc == 2
    assert "HANDOFF_MAX_RETRIES='some'" in ended.err
    ended = handoff("run", "-n", "2", "ok.py", env={"HANDOFF_MAX_RELAUNCHES": "some"})
    assert ended.rc == 2
    assert "a whole number from 0, not 'some'" in ended.err


ENVIRONMENT = {
    "HANDOFF_ALLOCATION_STRATEGY": "best",
    "HANDOFF_CRASH_LIMIT": "0",
    "HANDOFF_GRACE_PERIOD": "-1",
    "HANDOFF_FRESH": "perhaps",
    "HANDOFF_ISOLATION": "prison",
    "HANDOFF_MAX_CONCURRENCY": "0",
    "HANDOFF_ON_FAILURE": "shrug",
    "HANDOFF_PRICES": "cpu=expensive",
    "HANDOFF_RESOURCES": "license",
    "HANDOFF_RUN_DIR": "/dev/null/run",
    "HANDOFF_HEARTBEAT_TIMEOUT": "never",
    "HANDOFF_SLOTS": "2.5",
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_each_nonsense_variable_is_refused(monkeypatch, capsys, tmp_path, name):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), abs, [-1]))\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "is_under_launcher", lambda: False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(this_process.of(OwnJobs), "entered", [])
    monkeypatch.setenv(name, ENVIRONMENT[name])
    assert cli.main(["run", "ok.py"]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.startswith("handoff: ")


@pytest.mark.long
def test_more_cores_than_there_can_be_make_no_more_slots_than_there_may_be(handoff, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), abs, [-1]))\n")
    ended = handoff("run", "--isolation", "process", "-n", "1", "ok.py", env={"HANDOFF_CORES": "90000000"})
    assert ended.rc == 0, ended.err


def test_a_flag_wins_over_the_environment(handoff, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), abs, [-1]))\n")
    env = {"HANDOFF_ALLOCATION_STRATEGY": "best", "HANDOFF_RUN_DIR": "from-environment"}
    ended = handoff("run", "ok.py", "--allocation-strategy", "load_balanced", env=env)
    assert ended.rc == 0, ended.err
    assert json.loads((tmp_path / "from-environment" / "status.json").read_text())["exit_code"] == 0


@pytest.mark.long
def test_n_inside_a_launcher_is_refused(mpirun, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), print))\n")
    ended = mpirun(2, "-m", "handoff_mpi", "run", "-n", "2", "ok.py")
    assert ended.rc == 2
    assert "leave -n out" in ended.err


FAILING = (
    PREAMBLE
    + """
def raises(): raise ValueError("no luck")
def twice():
    if handoff_mpi.current_task().attempt < 3: raise RuntimeError("not yet")
    return "worked"
def exits(): sys.exit(3)
def os_exits(): os._exit(1)
def segfault(): ctypes.string_at(0)
def unpicklable(): return (i for i in range(3))
def endless():
    while True: time.sleep(1)
def build(args):
    dag = DAG("failing")
    for name in args:
        limit = 1.0 if name == "endless" else None
        retries = None if name == "twice" else 1
        dag.add_function(Function(name, (), globals()[name], timeout=limit, max_retries=retries))
        dag.add_function(Function("after " + name, [name], len))
    dag.add_function(Function("unharmed", (), abs, [-7]))
    return dag
"""
)

ENDS = {
    "raises": "ValueError: no luck",
    "exits": "sys.exit(3)",
    "os_exits": "ended with exit status 1",
    "segfault": "SIGSEGV",
    "unpicklable": "cannot be pickled",
    "endless": "timeout of 1 s",
}


def status_of(tmp_path):
    (path,) = (tmp_path / "handoff-runs").glob("*/status.json")
    return json.loads(path.read_text())


RUDE = (
    PREAMBLE
    + """
class Mute(Exception):
    def __str__(self): raise KeyboardInterrupt
class Nameless:
    def __repr__(self): raise ValueError
    def __reduce__(self): raise KeyboardInterrupt
def raises_what_interrupts(): raise Mute()
def exits_with_what_cannot_be_shown(): sys.exit(Nameless())
def returns_what_interrupts(): return Nameless()
def closes_stdout(): sys.stdout.close()
def replaces_stderr(): sys.stderr = None
for code in (raises_what_interrupts, exits_with_what_cannot_be_shown, returns_what_interrupts):
    dag.add_function(Function(code.__name__, (), code, max_retries=0))
for code in (closes_stdout, replaces_stderr):
    dag.add_function(Function(code.__name__, (), code, max_retries=0, priority=-1))
"""
)


@pytest.mark.long
@pytest.mark.parametrize("words", [["-n", "2"], ["--isolation", "process"]], ids=["rank", "child"])
def test_errors_and_values_that_misbehave_when_looked_at_end_no_process(handoff, tmp_path, words):
    (tmp_path / "rude.py").write_text(RUDE)
    ended = handoff("run", *words, "rude.py")
    assert ended.rc == 1, ended.err
    status = status_of(tmp_path)
    assert (status["done"], status["failed"]) == (2, 3)
    assert status["incidents"] == {"Mute": 1, "SystemExit": 1, "KeyboardInterrupt": 1}
    assert ended.err.count("(its message cannot be shown)") == 4, "once as each fails, once in the summary"


FORKING = (
    PREAMBLE
    + """
def forks(number):
    print(f"called {number}\\n", end="", flush=True)  # in one write, buffered or not
    if not os.fork():
        time.sleep(0.2)
        if number: sys.exit(number)
    return number
def naps(number):
    time.sleep(0.05)
    return number
for number in range(12):
    dag.add_function(Function(number, (), naps if number % 3 else forks, [number], max_retries=0))
dag.add_function(Function("all", list(range(12)), lambda *all: print(sum(all)) or time.sleep(0.5)))
"""
)


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "2"], ["--isolation", "process"]], ids=["here", "rank", "child"])
def test_what_a_function_forks_does_not_go_on_as_its_process(handoff, tmp_path, words):
    (tmp_path / "forking.py").write_text(FORKING)
    ended = handoff("run", *words, "forking.py")
    assert ended.rc == 0, ended.err
    assert ended.err.count("handoff: ") == 4, "start lines and the summary: " + ended.err
    assert sorted(ended.out.split()) == sorted([*"0369", *["called"] * 4, str(sum(range(12)))])


ORPHANS = (
    PREAMBLE
    + """
def dies():
    if not os.fork():
        os.setsid()
        os.closerange(1, 3)  # the reader of its output need not wait for it
        time.sleep(20)
        os._exit(0)
    time.sleep(0.2)
    os.kill(os.getpid(), 9)
dag.add_function(Function("dies", (), dies, max_retries=0))
"""
)


@pytest.mark.long
def test_a_childs_death_is_seen_though_what_it_forked_lives_on(handoff, tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    ended = handoff("run", "--isolation", "process", "--crash-limit", "1", "orphans.py")
    assert ended.rc == 1, ended.err
    assert "killed by SIGKILL" in ended.err
    assert status_of(tmp_path)["duration_s"] < 10


@pytest.mark.long
def test_no_act_of_a_function_loses_a_rank(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "--isolation", "process", "f.py", "--", *ENDS)
    assert ended.rc == 1, ended.err
    for name, says in ENDS.items():
        lines = [line for line in ended.err.splitlines() if f"function '{name}' failed" in line]
        assert len(lines) == 1, ended.err
        assert says in lines[0]
    assert "in raises" in ended.err, "the remote traceback is shown"
    status = status_of(tmp_path)
    assert (status["status"], status["exit_code"]) == ("failed", 1)
    assert (status["done"], status["failed"], status["skipped"]) == (1, 6, 6)
    assert status["lost_ranks"] == {}


@pytest.mark.long
def test_retried_into_success(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "f.py", "--", "twice")
    assert ended.rc == 0, ended.err
    assert status_of(tmp_path)["done"] == 3


def test_on_failure_stop(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "--on-failure", "stop", "f.py", "--", "raises", "twice")
    assert ended.rc == 1, ended.err
    assert "stopped: function 'raises' failed" in ended.out + ended.err
    assert status_of(tmp_path)["status"] == "stopped"


ODD = (
    PREAMBLE
    + """
import signal, threading
class Unpicklable(Exception):
    def __init__(self, first, second): super().__init__(first); self.lock = threading.Lock()
class Mute(Exception):
    def __str__(self): raise RuntimeError("cannot say")
class Broken:
    def __reduce__(self): return int, ("x",)
def carries_a_lock(): raise Unpicklable("with a lock", 2)
def cannot_say(): raise Mute()
def says_too_much(): raise ValueError("much " * 2_000_000)
def interrupts(): raise KeyboardInterrupt
def recurses(): return recurses()
def exits_well(): sys.exit(0)
def os_exits_well(): os._exit(0)
def kills_itself(): os.kill(os.getpid(), signal.SIGKILL)
def stands_still(): os.kill(os.getpid(), signal.SIGSTOP)
def makes_a_broken_one(): return Broken()
def build(args):
    dag = DAG("odd")
    for name in args:
        limit = 1.0 if name == "stands_still" else None
        dag.add_function(Function(name, (), globals()[name], timeout=limit, max_retries=0))
        dag.add_function(Function("after " + name, [name], abs, max_retries=0))
    return dag
"""
)

ODD_ENDS = {
    "carries_a_lock": "Unpicklable: with a lock",
    "cannot_say": "Mute: (its message cannot be shown)",
    "says_too_much": "characters left out",
    "interrupts": "KeyboardInterrupt",
    "recurses": "RecursionError",
    "exits_well": "sys.exit(0)",
}
ODD_ENDS_OF_PROCESSES = {
    "os_exits_well": "ended with exit status 0",
    "kills_itself": "SIGKILL",
    "stands_still": "timeout of 1 s",
}


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_odd_ends_of_functions(handoff, tmp_path, isolation):
    (tmp_path / "odd.py").write_text(ODD)
    ends = ODD_ENDS if isolation == "rank" else {**ODD_ENDS, **ODD_ENDS_OF_PROCESSES}
    ended = handoff("run", "-n", "3", "--isolation", isolation, "odd.py", "--", *ends)
    assert ended.rc == 1, ended.err[-2000:]
    for name, says in ends.items():
        (line,) = [line for line in ended.err.splitlines() if f"function '{name}' failed" in line]
        assert says in line
    status = status_of(tmp_path)
    assert (status["failed"], status["skipped"], status["lost_ranks"]) == (len(ends), len(ends), {})


@pytest.mark.long
def test_a_value_that_cannot_be_unpickled_fails_who_takes_it(handoff, tmp_path):
    (tmp_path / "odd.py").write_text(ODD)
    ended = handoff("run", "-n", "3", "odd.py", "--", "makes_a_broken_one")
    assert ended.rc == 1, ended.err
    assert "function 'after makes_a_broken_one' failed" in ended.err
    assert "argument 1, the value of 'makes_a_broken_one', cannot be decoded: " in ended.err


@pytest.mark.long
def test_a_time_out_costs_a_child_and_not_a_rank(handoff, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    ended = handoff("run", "-n", "3", "--isolation", "rank", "f.py", "--", "endless")
    assert ended.rc == 1, ended.err
    assert "timeout of 1 s" in ended.err
    status = status_of(tmp_path)
    assert (status["done"], status["failed"], status["skipped"]) == (1, 1, 1)
    assert status["lost_ranks"] == {}


KEEPING = (
    PREAMBLE
    + """
dag.add_function(Function("big", (), bytes, [1_000_000]))
dag.add_function(Function("size", ["big"], len))
"""
)


@pytest.mark.long
@pytest.mark.sample("3")
@pytest.mark.parametrize("ranks", [1, 3])
def test_what_was_not_kept_says_how_to_keep_it(mpirun, tmp_path, ranks):
    ending = """
for keep in [], ["big"], "all":
    results = handoff_mpi.execute(dag, keep=keep)
    if results is not None:
        try:
            print("GOT", len(results["big"]), results["size"], flush=True)
        except handoff_mpi.ValueUnavailable as error:
            print("NOT", error, flush=True)
"""
    (tmp_path / "keeping.py").write_text(KEEPING + ending)
    ended = mpirun(ranks, "keeping.py")
    assert ended.rc == 0, ended.err
    not_kept, kept, all_kept = [line for line in ended.out.splitlines() if line[:4] in ("GOT ", "NOT ")]
    assert "'big'" in not_kept
    assert "--keep big" in not_kept
    assert kept == all_kept == "GOT 1000000 1000000"


@pytest.mark.long
def test_the_exit_code_of_bare_mpirun_is_that_of_status_json(mpirun, tmp_path):
    (tmp_path / "f.py").write_text(FAILING)
    for names, code in (["twice"], 0), (["raises"], 1):
        words = ["--run-dir", names[0], "f.py", "--", *names]
        ended = mpirun(3, "-m", "handoff_mpi", "run", *words)
        status = json.loads((tmp_path / names[0] / "status.json").read_text())
        assert (ended.rc, status["exit_code"]) == (code, code), ended.err


@pytest.mark.long
@pytest.mark.sample("--nonsense x.py", "-n 3 x.py")
@pytest.mark.parametrize(
    "words", [["--nonsense", "x.py"], ["--slots", "0", "x.py"], ["-n", "3", "x.py"], ["x.py"]], ids=" ".join
)
def test_one_rank_speaks_for_all(mpirun, words):
    ended = mpirun(3, "-m", "handoff_mpi", "run", *words)
    assert ended.rc == 2, ended.err
    said = [line for line in ended.err.splitlines() if line.startswith(("handoff: ", "handoff-mpi: error: "))]
    assert len(said) == 1, ended.err


@pytest.mark.long
def test_ranks_that_do_not_find_each_other_are_refused(handoff, tmp_path):
    (tmp_path / "ok.py").write_text(PREAMBLE + "dag.add_function(Function('a', (), abs, [-1]))\n")
    ended = handoff("run", "ok.py", env={"PMI_SIZE": "3", "PMI_RANK": "0"})
    assert ended.rc == 2, ended.err
    assert "the launcher started 3 ranks, but this MPI sees 1" in ended.err


def test_a_refused_run_says_so_in_its_run_dir(handoff, tmp_path):
    ended = handoff("run", "--run-dir", "kept", "nothing.py")
    assert ended.rc == 2, ended.err
    assert json.loads((tmp_path / "kept" / "status.json").read_text()) == {"status": "refused", "exit_code": 2}


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "3"]])
def test_help_of_a_dag_files_own_arguments_ends_well(handoff, tmp_path, words):
    text = "import argparse\ndef build(args): argparse.ArgumentParser(prog='mine').parse_args(args)\n"
    (tmp_path / "helps.py").write_text(text)
    ended = handoff("run", *words, "helps.py", "--", "--help", timeout_s=30)
    assert (ended.rc, ended.err) == (0, "")
    assert "usage: mine" in ended.out


@pytest.mark.long
def test_a_traceback_names_the_dags_file(handoff, tmp_path):
    (tmp_path / "names.py").write_text(PREAMBLE + "def fail():\n    return 1 / 0\n"
                                       "dag.add_function(Function('a', (), fail, max_retries=0))\n")  # fmt: skip
    ended = handoff("run", "-n", "2", "names.py")
    assert f'File "{tmp_path / "names.py"}", line 6, in fail' in ended.err


BROKEN_RANK = """
import os
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
from handoff_mpi.runtime.worker_driver import WorkerDriver

if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    WorkerDriver.turn = lambda *_: 1 / 0
dag = DAG("broken")
dag.add_function(Function("a", (), abs, [-7]))
handoff.execute(dag)
"""


@pytest.mark.long
def test_a_rank_of_a_script_that_cannot_go_on_leaves_nobody_waiting(mpirun, tmp_path):
    (tmp_path / "script.py").write_text(BROKEN_RANK)
    ended = mpirun(2, "script.py", timeout_s=30.0)
    assert ended.rc not in (0, None)
    assert "ZeroDivisionError" in ended.err
