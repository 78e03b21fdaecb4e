"""The output of functions, in all places where they run: kept by attempt, after any abuse of the streams."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time

import pytest

import handoff_mpi
from handoff_mpi import DAG, Function
from handoff_mpi.errors import UsageError, ValueUnavailable
from handoff_mpi.launch.output_mode import output_of_command
from handoff_mpi.runtime.options import RunOptions
from handoff_mpi.testing.fake_ranks import fake_ranks
from tests.conftest import mpirun_command, run_process

#: Each function is followed by one that prints plainly: after any act of the first, that must be kept as the second's.
ABUSE = """
import contextlib, ctypes, io, logging, multiprocessing, os, subprocess, sys, threading, warnings
from handoff_mpi import DAG, Function
def say(before, k): print("plain", k)
def replaces(before, k): sys.stdout = io.StringIO(); print("lost", k)
def closes(before, k): print("before", k); sys.stdout.close(); sys.stderr.close()
def closes_descriptors(before, k): print("before", k, flush=True); os.close(1); os.close(2)
def overwrites(before, k):
    print("before", k, flush=True)
    nowhere = os.open("/dev/null", os.O_WRONLY); os.dup2(nowhere, 1); os.dup2(nowhere, 2)
def redirects(before, k):
    with contextlib.redirect_stdout(io.StringIO()): print("hidden", k)
def threads(before, k):
    thread = threading.Thread(target=print, args=("thread", k)); thread.start(); thread.join()
def forks(before, k):
    if not os.fork(): print("forked", k); return k
    os.wait()
def pool(before, k):
    with multiprocessing.get_context("fork").Pool(1) as workers: workers.apply(print, ["pool", k], {"flush": True})
def warns(before, k): logging.warning("logged %s", k); print("error", k, file=sys.stderr)
def programs(before, k): os.system(f"echo program {k}"); subprocess.run(["sh", "-c", f"echo error {k} >&2"])
def native(before, k): ctypes.CDLL(None).printf(b"native %d", k)
def buffers(before, k): sys.stdout.buffer.write(b"buffer \\xff\\0 %d" % k)
def original(before, k): print("original", k, file=sys.__stdout__)
def raw(before, k): os.write(1, b"raw %d" % k)
def quiet(before, k): pass
dag = DAG("abuse")
before = []
for k, function in enumerate([
    quiet, replaces, closes, closes_descriptors, overwrites, redirects, threads, forks, pool, warns, programs, native,
    buffers, original, raw, quiet,
]):
    name = f"{function.__name__}-{k}"
    dag.add_function(Function(name, before or [0], function, [k], max_retries=0) if before else
                     Function(name, (), function, [0, k], max_retries=0))
    dag.add_function(Function(f"say-{k}", [name], say, [k]))
    before = [f"say-{k}"]
"""
PRINTED = {
    "closes-2": "before 2\n",
    "closes_descriptors-3": "before 3\n",
    "overwrites-4": "before 4\n",
    "threads-6": "thread 6\n",
    "forks-7": "forked 7\n",
    "pool-8": "pool 8\n",
    "warns-9": "WARNING:root:logged 9\nerror 9\n",
    "programs-10": "program 10\nerror 10\n",
    "native-11": "native 11",
    "buffers-12": "buffer �\0 12",
    "original-13": "original 13\n",
    "raw-14": "raw 14",
}
PLACES = {"one process": [], "child": ["--isolation", "process"]}


def outputs(run_dir):
    results = handoff_mpi.load(run_dir)
    return {record.id: text for record in results.records() if (text := results.output(record.id))}


@pytest.mark.long
@pytest.mark.parametrize("words", PLACES.values(), ids=PLACES)
def test_each_function_has_what_it_printed_after_any_act_of_the_one_before(handoff, tmp_path, words):
    (tmp_path / "abuse.py").write_text(ABUSE)
    ended = handoff("run", *words, "--output", "capture", "--run-dir", "run", "abuse.py")
    assert (ended.rc, ended.out) == (0, ""), ended.err
    assert outputs(tmp_path / "run") == {**{f"say-{k}": f"plain {k}\n" for k in range(16)}, **PRINTED}
    assert "output of functions: handoff-mpi logs" in ended.err
    assert "plain" not in ended.err


DYING = """
import os, sys, time
from handoff_mpi import DAG, Function
def dies(): print("about to die"); os.kill(os.getpid(), 9)
def sleeps(): os.write(2, b"sleeping\\n"); time.sleep(60)
def fails():
    for k in range(30): print("line", k)
    raise ValueError("on \\x1b purpose")
def prints(k): print("mine", k)
dag = DAG("dying")
for k in range(3): dag.add_function(Function(k, (), prints, [k]))
dag.add_function(Function("dies", (), dies, max_retries=0))
dag.add_function(Function("sleeps", (), sleeps, max_retries=0, timeout=0.3))
dag.add_function(Function(("fails", 1), (), fails, max_retries=1))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [["-n", "3"], ["-n", "2", "--isolation", "process"]], ids=["rank", "child"])
def test_output_of_what_dies_fails_or_is_ended_is_kept_and_shown(handoff, tmp_path, words):
    (tmp_path / "dying.py").write_text(DYING)
    ended = handoff("run", *words, "--output", "capture", "--run-dir", "run", "dying.py")
    assert ended.rc == 1, ended.err
    results = handoff_mpi.load(tmp_path / "run")
    # A rank that dies may take others' calls with it, which are called again.
    assert [{*results.output(k).splitlines()} for k in range(3)] == [{"mine 0"}, {"mine 1"}, {"mine 2"}]
    assert {*results.output("sleeps").splitlines()} == {"sleeping"}
    assert {*results.output("dies").splitlines()} == {"about to die"}
    assert results.output("dies").count("\n") >= 3
    lines = "".join(f"line {k}\n" for k in range(30))
    assert results.output(("fails", 1)).count(lines) >= 2
    assert results.output(("fails", 1), attempt=2) == lines
    assert results.output(("fails", 1), attempt=9) == ""
    assert results.errors[("fails", 1)].output == "\n".join(f"line {k}" for k in range(10, 30))
    assert results.errors["dies"].output == "about to die"
    assert "its last output:\n        line 10\n" in ended.err
    assert "its last output:\n        sleeping\n" in ended.err
    with pytest.raises(KeyError, match="did you mean 'dies'"):
        results.output("dise")


def call(function, *args, **options):
    dag = DAG("one")
    dag.add_function(Function("f", (), function, list(args), max_retries=0))
    return handoff_mpi.execute_local(dag, check=False, **options)


def shout(k):
    print("shout", k)
    os.write(2, b"error\n")
    return k


def test_execute_leaves_output_alone(capfd, tmp_path):
    results = call(shout, 1, run_dir=tmp_path / "run")
    assert capfd.readouterr()[:] == ("shout 1\n", "error\n")
    with pytest.raises(ValueUnavailable, match="was not captured: run with output='capture'"):
        results.output("f")
    assert not (tmp_path / "run" / "output").exists()


def test_a_script_captures_if_it_asks_for_that(capfd, tmp_path):
    print("before")
    results = call(shout, 1, run_dir=tmp_path / "run", output="capture")
    print("after")
    assert results.output("f") == handoff_mpi.load(tmp_path / "run").output("f") == "shout 1\nerror\n"
    assert capfd.readouterr()[:] == ("before\nafter\n", "")
    assert len(list((tmp_path / "run" / "output").iterdir())) == 2
    assert call(abs, -1, run_dir=tmp_path / "other", output="capture").output("f") == ""
    assert not (tmp_path / "other" / "output").exists(), "nothing was printed"


@pytest.mark.long
@pytest.mark.parametrize(("mode", "out"), [("forward", "f | shout 1\nf | error\n"), ("plain", "shout 1\nerror\n")])
@pytest.mark.parametrize("isolation", ["rank", "process"])
def test_a_run_without_files_forwards(capfd, mode, out, isolation):
    results = call(shout, 1, run_dir=False, output=mode, isolation=isolation)
    assert capfd.readouterr()[:] == (out, "")
    with pytest.raises(ValueUnavailable):
        results.output("f")
    with pytest.raises(UsageError, match="run_dir=False keeps none"):
        call(shout, 1, run_dir=False, output="capture")


def test_a_stream_that_is_no_file_is_written_to(monkeypatch, capsys, tmp_path):
    results = call(shout, 1, run_dir=tmp_path / "run", output="forward")  # as in a notebook
    assert capsys.readouterr().out == "f | shout 1\nf | error\n"
    assert results.output("f") == "shout 1\nerror\n"


def test_what_is_printed_between_calls_is_no_functions(capfd, tmp_path):
    class Strategy:
        def allocate(self, ready, view):
            print("allocating")
            yield from ()

    def handler(event, measurements, metadata, config):
        print("handled", metadata["function_id"])

    event = handoff_mpi.telemetry.FUNCTION_STOP
    handoff_mpi.telemetry.attach("prints", event, handler)
    try:
        results = call(shout, 1, run_dir=tmp_path / "run", output="capture")
    finally:
        handoff_mpi.telemetry.detach("prints")
    assert results.output("f") == "shout 1\nerror\n"
    assert capfd.readouterr().out == "handled f\n"


def inner(tmp_path, mode):
    print("outer begins")
    found = call(shout, 2, run_dir=f"{tmp_path}/inner", output=mode)
    print("outer ends", found["f"])
    return found.output("f") if mode == "capture" else ""


@pytest.mark.parametrize(("mode", "inside"), [("auto", "shout 2\nerror\n"), ("capture", "")])
def test_a_function_may_run_a_dag(tmp_path, mode, inside):
    results = call(inner, str(tmp_path), mode, run_dir=tmp_path / "outer", output="capture")
    assert results.output("f") == f"outer begins\n{inside}outer ends 2\n"
    assert results["f"] == ("shout 2\nerror\n" if mode == "capture" else "")


def test_fake_ranks_have_their_output_apart(tmp_path, capfd):
    dag = DAG("apart")
    for k in range(6):
        dag.add_function(Function(k, (), shout, [k], node=1 + k % 2))
    with fake_ranks(3):
        results = handoff_mpi.execute(dag, run_dir=tmp_path / "run", output="capture")
    assert [results.output(k) for k in range(6)] == [f"shout {k}\nerror\n" for k in range(6)]
    assert {each.name for each in (tmp_path / "run" / "output").glob("*.out")} == {"rank-1.out", "rank-2.out"}
    assert capfd.readouterr()[:] == ("", "")


def test_short_calls_in_a_row_have_their_own(tmp_path):
    """Calls that print nothing are not looked at for long, those that print are found among them."""

    def seldom(k):
        if k % 50 == 49:
            print("seldom", k)

    def natively(k):
        if k % 50 == 0:
            os.write(1, b"natively %d\n" % k)

    dag = DAG("row")
    for k in range(1000):
        dag.add_function(Function(("seldom", k), (), seldom, [k]))
        dag.add_function(Function(("natively", k), (), natively, [k]))
    results = handoff_mpi.execute_local(dag, run_dir=tmp_path / "run", output="capture")
    for name, at in (("seldom", 49), ("natively", 0)):
        for k in range(1000):
            text = results.output((name, k))
            assert text == (f"{name} {k}\n" if k % 50 == at else ""), (name, k)


def test_the_first_native_output_of_a_short_call_that_was_trusted_is_kept(tmp_path):
    dag = DAG("late")
    for k in range(400):
        dag.add_function(Function(k, (), lambda k: os.write(1, b"late %d\n" % k) if k >= 300 else None, [k]))
    results = handoff_mpi.execute_local(dag, run_dir=tmp_path / "run", output="capture")
    assert "".join(map(results.output, range(400))).count("late") == 100
    assert [results.output(k) for k in range(399, 360, -1)] == [f"late {k}\n" for k in range(399, 360, -1)]


def flood(how):
    if how == "print":
        for k in range(60_000):
            print("line", k, 50 * "-")
    elif how == "program":
        os.system("head -c 9000000 /dev/zero | tr '\\0' 'z' | fold -w 60")
    else:
        import ctypes

        printf = ctypes.CDLL(None).printf
        for k in range(60_000):
            printf(b"line %d %s\n", k, 50 * b"-")
    print("the end")


@pytest.mark.parametrize("how", ["print", "program", "native"])
def test_much_output_is_cut_in_its_middle(tmp_path, how):
    results = call(flood, how, run_dir=tmp_path / "run", output="capture")
    text = results.output("f")
    assert len(text) < 1_100_000
    assert text.endswith("the end\n")
    assert text.startswith("zz" if how == "program" else "line 0 ")
    assert text.count("bytes dropped ...]\n") == 1
    (entry,) = [json.loads(line) for line in (tmp_path / "run/output/rank-0.index").read_text().splitlines()][-1:]
    head, _, tail = text.partition("[... ")
    number, _, tail = tail.partition(" bytes dropped ...]\n")
    assert entry["dropped"] == int(number.replace(",", ""))
    whole = 9_150_000 if how == "program" else sum(len(f"line {k} {50 * '-'}\n") for k in range(60_000))
    told = len(head) + len(tail) + entry["dropped"] - len("the end\n")
    assert whole * 0.98 < told <= whole, "but for what was written while the file was cut"
    assert (tmp_path / "run/output/rank-0.out").stat().st_size == len(text)


def test_a_program_without_end_is_bounded_while_it_runs(tmp_path):
    def watched():
        import subprocess

        program = subprocess.Popen(["yes"])
        sizes = []
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            sizes.append(os.fstat(1).st_size)
            time.sleep(0.001)
        program.kill()
        program.wait()
        return sizes

    sizes = call(watched, run_dir=tmp_path / "run", output="capture")["f"]
    assert min(sizes[len(sizes) // 2 :]) < 4 << 20, "it was cut again and again"
    assert max(sizes) < 2 << 30


def fills():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for k in range(20_000):
        print("line", k)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("continued")
    return "fine"


def test_no_room_for_output_fails_no_function(tmp_path, capfd):
    results = call(fills, run_dir=tmp_path / "run", output="capture")
    assert results["f"] == "fine"
    assert results.output("f").startswith("line 0\nline 1\n")
    assert capfd.readouterr().err.count("drops the output of functions from now on") == 1


def test_a_directory_that_cannot_be_used_fails_no_function(tmp_path, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "output").write_text("in the way")
    results = call(shout, 1, run_dir=tmp_path / "run", output="capture")
    assert results["f"] == 1
    told = capfd.readouterr()
    assert "output of functions is not captured: " in told.err
    assert "shout 1\n" in told.out


RESUMED = """
import os, pathlib, sys, time
from handoff_mpi import DAG, Function
def step(k, before=None):
    print("step", k, "of launch", os.environ["LAUNCH"])
    if k == 2 and os.environ["LAUNCH"] == "1":
        pathlib.Path("began").touch()
        time.sleep(60)
dag = DAG("resumed")
dag.add_function(Function(0, (), step, [0]))
for k in (1, 2, 3): dag.add_function(Function(k, [k - 1], lambda before, k: step(k), [k]))
"""


@pytest.mark.long
@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["here", "rank"])
def test_output_of_a_killed_run_is_there_and_both_launches_are_told_apart(handoff, tmp_path, words):
    import subprocess

    (tmp_path / "dag.py").write_text(RESUMED)
    run = ["run", *words, "--output", "capture", "--run-dir", "run", "dag.py"]
    program = [sys.executable, "-m", "handoff_mpi", *run]
    env = {**os.environ, "LAUNCH": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    process = subprocess.Popen(program, cwd=tmp_path, env=env, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while not (tmp_path / "began").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    kill_all_of(process)
    assert "step 2 of launch 1" in handoff("logs", "run", "2").out
    ended = handoff(*run, env={"LAUNCH": "2"})
    assert ended.rc == 0, ended.err
    results = handoff_mpi.load(tmp_path / "run")
    assert results.output(1) == "step 1 of launch 1\n"
    assert results.output(2) == "step 2 of launch 1\nstep 2 of launch 2\n"
    assert results.output(2, attempt=1) == results.output(2, launch=2) == "step 2 of launch 2\n"
    assert "launch 2" in handoff("logs", "run", "2").out
    if not words:
        ended = handoff(*run[:-1], "--fresh", "dag.py", env={"LAUNCH": "3"})
        assert ended.rc == 0, ended.err
        assert handoff("logs", "run", "2").out == "step 2 of launch 3\n"


def kill_all_of(process):
    import psutil

    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()


@pytest.mark.long
def test_under_a_bare_mpirun_output_is_captured_in_a_batch_job_and_can_be_forwarded(tmp_path, monkeypatch):
    (tmp_path / "dag.py").write_text(ABUSE)
    command = [*mpirun_command(3), sys.executable, "-m", "handoff_mpi", "run", "--run-dir", "run", "dag.py"]
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert output_of_command(RunOptions(), owns_terminal=False) == "plain"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert output_of_command(RunOptions(), owns_terminal=False) == "capture"
    monkeypatch.delenv("SLURM_JOB_ID")
    ended = run_process([*command[:-1], "--output", "forward", "dag.py"], tmp_path)
    assert ended.rc == 0, ended.err
    assert outputs(tmp_path / "run") == {**{f"say-{k}": f"plain {k}\n" for k in range(16)}, **PRINTED}
    lines = [line.partition(": ")[2] for line in ended.out.splitlines()]
    assert lines.count("programs-10 | program 10") == lines.count("say-15 | plain 15") == 1
    assert len(lines) == 16 + sum(max(1, text.count("\n")) for text in PRINTED.values())


@pytest.mark.long
def test_a_script_under_mpirun_captures_in_one_run_after_the_other(tmp_path):
    (tmp_path / "script.py").write_text(
        "import handoff_mpi\n"
        "from handoff_mpi import DAG, Function\n"
        "def shout(k): print(f'shout {k}\\n', end='')  # in one write: others print too\n"
        "with handoff_mpi.Cluster() as cluster:\n"
        "    for mode in ('capture', 'off', 'capture') if cluster else ():\n"
        "        dag = DAG()\n"
        "        for k in range(4): dag.add_function(Function(k, (), shout, [k]))\n"
        "        results = cluster.execute(dag, output=mode, isolation='process')\n"
        "        if mode == 'capture': print('GOT', [results.output(k) for k in range(4)], flush=True)\n"
    )
    ended = run_process([*mpirun_command(2), sys.executable, "script.py"], tmp_path)
    assert ended.rc == 0, ended.err
    assert ended.out.count(f"GOT {[f'shout {k}{chr(10)}' for k in range(4)]}") == 2
    assert sorted(line for line in ended.out.split() if line in "0123") == ["0", "1", "2", "3"]


@pytest.mark.long
def test_an_interrupt_loses_nothing(tmp_path):
    import subprocess

    text = "import time\nfrom handoff_mpi import DAG, Function\n"
    text += "def f():\n    print('begun', end='', flush=True)\n    open('began', 'w')\n    time.sleep(60)\n"
    (tmp_path / "dag.py").write_text(text + "dag = DAG('d')\ndag.add_function(Function('f', (), f))\n")
    program = [
        sys.executable,
        "-m",
        "handoff_mpi",
        "run",
        "--output",
        "plain",
        "--run-dir",
        "run",
        "--grace-period",
        "0",
    ]
    process = subprocess.Popen([*program, "dag.py"], cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    end = time.monotonic() + 30
    while not (tmp_path / "began").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert process.stdout.read(5) == "begun", "a line that has not ended is shown in one process: it may be a question"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)  # else Python takes both for one
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert handoff_mpi.load(tmp_path / "run").output("f") == "begun"
