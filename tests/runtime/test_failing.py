"""How whole runs fail: in one process, on ranks, in children, from a script, on a run that is loaded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, DAGFailed, Function, HandoffError, task

DAG_FILE = """
import sys, time
import numpy as np
from handoff_mpi import DAG, Function, current_task

class Flaky(ConnectionError): pass
class Wrong(TypeError): pass

def flaky():
    if current_task().attempt < 3: raise Flaky("not yet")
    return "worked"
def typo(): return undefined
def too_many(x): return abs(x, x)
def leaves(): sys.exit(3)
def unpicklable(): return (n for n in range(3))
def wrong(): raise Wrong("no")
def no_library(): import there_is_no_such_library
def no_attribute(): return time.there_is_no_such_name
def odd(): raise KeyError("odd")
def bad(n): raise ValueError(f"bad {n}")
def make(n): return np.zeros(n)
def write(x): x[0] = 1; return x.sum()
def write_extra(x, y): y[0] = 1; return float(y.sum())
def sort(x): x.sort()
def view(x): memoryview(x)[0] = 1.0
def build(args):
    dag = DAG("failing")
    add = dag.add_function
    add(Function("flaky", (), flaky, retry_on=Flaky, max_retries=5))
    add(Function("flaky-base", (), flaky, retry_on=(KeyError, OSError)))
    add(Function("flaky-other", (), flaky, retry_on=KeyError, max_retries=5))
    add(Function("never", (), odd, retry_on=()))
    add(Function("own", (), wrong, retry_on=[Wrong], max_retries=1))
    for code in (typo, leaves, unpicklable, wrong):
        add(Function(code.__name__, (), code))
    add(Function("too_many", (), too_many, [1]))
    for code in (no_library, no_attribute):
        add(Function(code.__name__, (), code))
    add(Function("odd", (), odd, max_retries=1))
    for n in range(30):
        add(Function(f"bad-{n}", (), bad, [n], max_retries=1))
    for n in (10, 100_000):
        add(Function(f"make-{n}", (), make, [n]))
        for code in (write, sort, view):
            add(Function(f"{code.__name__}-{n}", [f"make-{n}"], code, max_retries=0))
            add(Function(f"{code.__name__}-{n}-own", [f"make-{n}"], code, max_retries=0, writable=True))
        add(Function(f"extra-{n}", [f"make-{n}"], write_extra, [np.zeros(n)], max_retries=0))
        add(Function(f"extra-{n}-own", [f"make-{n}"], write_extra, [np.zeros(n)], max_retries=0, writable=True))
        add(Function(f"untouched-{n}", [f"make-{n}"], lambda x: float(x.sum())))
    return dag
"""
SCRIPT = (
    DAG_FILE
    + """
import handoff_mpi
results = handoff_mpi.execute(build([]), run_dir="r", check=False)
if results is not None: print(results.summary())
"""
)
#: Of functions that fail, how often they are tried: a rank or child more does not change that.
ATTEMPTS = {"flaky-other": 1, "never": 1, "own": 2, "typo": 1, "leaves": 1, "unpicklable": 1, "wrong": 1, "too_many": 1}
ATTEMPTS |= {"no_library": 2, "no_attribute": 2, "odd": 2}
READ_ONLY = [f"{name}-{n}" for name in ("write", "sort", "view", "extra") for n in (10, 100_000)]
WORDS = {
    "one process": ["run", "--isolation", "rank"],
    "rank": ["run", "-n", "3"],
    "child": ["run", "--isolation", "process"],
}


@pytest.mark.long
@pytest.mark.parametrize("place", [*WORDS, "script"])
def test_each_failure_is_tried_as_often_as_it_deserves_and_told_once(handoff, mpirun, tmp_path, place):
    (tmp_path / "dag.py").write_text(SCRIPT if place == "script" else DAG_FILE)
    if place == "script":
        ended = mpirun(3, "dag.py")
        assert ended.rc == 0, ended.err
    else:
        ended = handoff(*WORDS[place], "--run-dir", "r", "dag.py")
        assert ended.rc == 1, ended.err
    results = load(tmp_path / "r")
    failed = {id: error.attempts for id, error in results.errors.items()}
    once = {id: attempts for id, attempts in failed.items() if id in ATTEMPTS}
    assert once == ATTEMPTS
    assert results["flaky"] == results["flaky-base"] == "worked"
    assert {f"bad-{n}" for n in range(30)} < failed.keys()
    read_only = failed.keys() - ATTEMPTS.keys() - {f"bad-{n}" for n in range(30)}
    assert read_only == set(READ_ONLY), "small and large alike"
    for id in READ_ONLY:
        assert "copy before you write in place" in str(results.errors[id]) and "writable=True" in str(
            results.errors[id]
        )
    for n in (10, 100_000):
        assert (results[f"write-{n}-own"], results[f"extra-{n}-own"], results[f"untouched-{n}"]) == (1.0, 1.0, 0.0)
    shown = ended.err
    assert shown.count("in bad\n") == 1, "one traceback of many"
    assert re.search(r"ValueError at .*dag\.py:\d+: 'bad-\d+' and 29 others \(.*, …\) failed\n", shown)
    assert re.search(
        r"  failed: 'bad-\d+' and 29 others \(.*, …\): ValueError at .*dag\.py:\d+: bad \d+\n", ended.out + shown
    )
    assert "handoff_mpi/" not in shown.replace("/handoff_mpi/../", ""), shown


def load(run_dir):
    return handoff.load(run_dir)


NEEDS_A_MODULE = """
from handoff_mpi import DAG, task
from helpers import Model
@task
def fit(): return Model()
@task
def plain(): return 7
with DAG("d") as dag:
    fit(), plain()
"""


def test_a_run_that_is_loaded_elsewhere_says_which_directory_it_needs(handoff, in_process, tmp_path):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir(), elsewhere.mkdir()
    (project / "helpers.py").write_text("class Model: pass\n")
    (project / "dag.py").write_text(NEEDS_A_MODULE)
    ended = handoff("run", "--run-dir", "r", "project/dag.py")
    assert ended.rc == 0, ended.err
    results = load(tmp_path / "r")
    assert list(results) == ["fit", "plain"] and results["plain"] == 7
    with pytest.raises(
        HandoffError, match=r"class helpers\.Model needs module helpers, which is not found here"
    ) as caught:
        results["fit"]
    assert f"it lay in {project} on " in str(caught.value)


DELAYED = """
import time
from handoff_mpi import DAG, Function, current_task
def flaky(n):
    if current_task().attempt < 2: raise OSError("busy")
    return n
def build(args):
    dag = DAG("delayed")
    for n in range(4): dag.add_function(Function(n, (), flaky, [n], retry_delay=float(args[0])))
    return dag
"""


@pytest.mark.long
@pytest.mark.sample("one process", "rank")
@pytest.mark.parametrize("words", [[], ["-n", "3"], ["--isolation", "process"]], ids=["one process", "rank", "child"])
def test_a_retry_waits_and_the_run_with_it(handoff, tmp_path, words):
    (tmp_path / "dag.py").write_text(DELAYED)
    ended = handoff("run", *words, "--run-dir", "r", "dag.py", "--", "0.5")
    assert ended.rc == 0, ended.err
    assert re.search(
        r"function \d is tried again in (0\.[5-9]|1\.0) s: attempt 1 on rank \d .* OSError: busy\n", ended.err
    )
    about = json.loads((tmp_path / "r/status.json").read_text())
    assert 0.5 <= about["duration_s"] < 10.0
    assert about["incidents"] == {"OSError": 4}


@pytest.mark.long
def test_the_delay_of_a_run_and_its_exceptions_can_be_written_on_the_command_line(handoff, tmp_path):
    (tmp_path / "dag.py").write_text(DELAYED.replace("retry_delay=float(args[0])", ""))
    ended = handoff(
        "run", "--retry-on", "OSError", "--retry-on", "json.JSONDecodeError", "--retry-delay", "0.1", "dag.py"
    )
    assert ended.rc == 0 and re.search(r"is tried again in 0\.[12] s", ended.err), ended.err
    ended = handoff("run", "dag.py", env={"HANDOFF_RETRY_ON": "KeyError,ValueError"})
    assert ended.rc == 1 and "is tried again" not in ended.err
    ended = handoff("run", "--retry-on", "NoSuchError", "dag.py")
    assert ended.rc == 2 and "no exception" in ended.err


@pytest.mark.parametrize(
    ("field", "value"),
    [("retry_on", "OSError"), ("retry_on", 3), ("retry_on", (OSError, int)), ("retry_on", OSError("x"))]
    + [("retry_delay", -1), ("retry_delay", "1"), ("retry_delay", float("nan")), ("retry_delay", 1e9)]
    + [("writable", 1), ("writable", ["x"])],
)
def test_wrong_fields_are_refused_with_their_name(field, value):
    dag = DAG("d")
    dag.add_function(Function("f", (), abs, [-1], **{field: value}))
    with pytest.raises(handoff.DAGError, match=field):
        dag.validate()
    if field != "writable":
        with pytest.raises(handoff.UsageError, match=field):
            handoff.RunOptions(**{field: value}).validate()


def test_a_cluster_takes_the_options_of_each_run(tmp_path, in_process):
    with DAG("d") as dag:
        task(lambda: 1 / 0).options(id="f")()
    with handoff.Cluster() as cluster:
        for retry_on, attempts in ((None, 4), (OSError, 1), (ArithmeticError, 4)):
            with pytest.raises(DAGFailed) as caught:
                cluster.execute(dag, retry_on=retry_on)
            assert caught.value.results.errors["f"].attempts == attempts


UNREADABLE = """
from handoff_mpi import DAG, Argument, Function
class Broken:
    def __reduce__(self): return int, ("no number",)
def broken(): return Broken()
def take(*values): pass
def encode(value, source, target): raise ValueError("not encoded")
def decode(value, source, target): raise ValueError("not decoded")
dag = DAG("d")
dag.add_function(Function("fine", (), abs, [-1]))
dag.add_function(Function("broken", (), broken))
dag.add_function(Function("second", ["fine", "broken"], take, max_retries=0))
dag.add_function(Function("listed", ["fine", "broken"], take, max_retries=0, argument_inclusion="as_list"))
dag.add_function(Function("coded", [Argument("fine", deserialize=decode)], take, max_retries=0))
dag.add_function(Function("encoded", [Argument("fine", serialize=encode)], take, max_retries=0))
"""


@pytest.mark.parametrize(
    "words",
    [[], pytest.param(["-n", "3"], marks=pytest.mark.long), ["--isolation", "process"]],
    ids=["one process", "rank", "child"],
)
def test_an_input_that_cannot_be_had_is_named(handoff, tmp_path, words):
    (tmp_path / "dag.py").write_text(UNREADABLE)
    ended = handoff("run", *words, "--run-dir", "r", "dag.py")
    assert ended.rc == 1, ended.err
    told = {id: str(error) for id, error in load(tmp_path / "r").errors.items()}
    assert "its argument 2, the value of 'broken', cannot be decoded: ValueError: invalid literal" in told["second"]
    assert "item 2 of its first argument, the value of 'broken', cannot be decoded: " in told["listed"]
    assert (
        "; the input is its argument 1, the value of 'fine'" in told["coded"] and "not decoded (in des" in told["coded"]
    )
    assert (
        "; the input is its argument 1, the value of 'fine'" in told["encoded"]
        and "not encoded (in ser" in told["encoded"]
    )


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["one process", "rank"])
def test_a_stop_ends_the_wait_at_once_and_the_run_resumes_without_it(handoff, tmp_path, words):
    (tmp_path / "dag.py").write_text(DELAYED.replace("attempt < 2", "attempt < 2 and not os.path.exists('mended')"))
    (tmp_path / "dag.py").write_text("import os\n" + (tmp_path / "dag.py").read_text())
    command = [sys.executable, "-m", "handoff_mpi", "run", *words, "--run-dir", "r", "dag.py", "--", "600"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        for line in process.stderr:
            if "is tried again in" in line:
                break
        before, started = cpu_s(process.pid), time.monotonic()
        time.sleep(1.0)
        assert cpu_s(process.pid) - before < 0.5 * (time.monotonic() - started), "it waits without spinning"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=30) == 75
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()
    (tmp_path / "mended").touch()
    ended = handoff(*command[3:])
    assert ended.rc == 0, ended.err
    assert json.loads((tmp_path / "r/status.json").read_text())["duration_s"] < 60


def cpu_s(pid):
    """Seconds of CPU that a process and its children, or its neighbours in the session, have used."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")
