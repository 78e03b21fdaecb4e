"""A later launch takes over the values of earlier ones, unless their functions have changed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import numpy
import pytest

import handoff_mpi as handoff
from handoff_mpi import DAG, Function, load
from handoff_mpi.errors import UsageError
from handoff_mpi.results.journal import Journal
from handoff_mpi.results.run_lock import lock_run_dir_soon
from handoff_mpi.results.store import DirectoryStore


class Calls(list):
    """Notes which functions were called, in a file: resume must not see it change."""

    def __init__(self, path):
        self.path = path

    def take(self):
        """Return the names noted since this was last asked."""
        names = self.path.read_text().split() if self.path.exists() else []
        self.path.unlink(missing_ok=True)
        return sorted(names)


@pytest.fixture
def calls(tmp_path):
    return Calls(tmp_path / "calls")


def noted(path, name, value, *inputs):
    with Path(path).open("a") as file:
        file.write(f"{name}\n")
    return value + sum(float(numpy.sum(each)) for each in inputs)


def big(path, name, size, *inputs):
    noted(path, name, 0, *inputs)
    return numpy.ones(size)


def chain(calls, first=1, version=""):
    """a -> b -> c, and d beside; b is large."""
    path = str(calls.path)
    dag = DAG("chain")
    dag.add_function(Function("a", (), noted, [path, "a", first]))
    dag.add_function(Function("b", ["a"], lambda a: big(path, "b", 50_000, a)))
    dag.add_function(Function("c", ["b"], lambda b: noted(path, "c", 0, b), version=version))
    dag.add_function(Function("d", (), noted, [path, "d", 7]))
    return dag


def run(dag, tmp_path, **options):
    options = {"checkpoint": "all", "max_retries": 0, "run_dir": tmp_path / "run", **options}
    return handoff.execute_local(dag, **options)


def test_failed_attempts_are_those_of_a_launch_and_earlier_ones_are_told_apart(tmp_path):
    def fit():
        if not (tmp_path / "data").exists():
            raise OSError("no data")
        if handoff.current_task().attempt == 1:
            raise ValueError("busy")

    dag = DAG("attempts")
    dag.add_function(Function("fit", (), fit))
    first = run(dag, tmp_path, max_retries=1, check=False)
    assert "  failed attempts: 2 (2 OSError)" in first.summary().splitlines()
    (tmp_path / "data").touch()
    for results in (run(dag, tmp_path, max_retries=1), load(tmp_path / "run")):
        told = [line for line in results.summary().splitlines() if "failed attempts" in line]
        assert told == ["  failed attempts: 1 (1 ValueError)", "  failed attempts in earlier launches: 2 (2 OSError)"]
        assert results.incidents() == {"OSError": 2, "ValueError": 1}
    status, summary = (json.loads((tmp_path / "run" / f"{name}.json").read_text()) for name in ("status", "summary"))
    assert status["incidents"] == summary["failed_attempts"] == {"ValueError": 1}
    assert summary["failed_attempts_before"] == {"OSError": 2} and status["counts"]["retries"] == 1
    third = run(dag, tmp_path)
    assert "  failed attempts in earlier launches: 3 (2 OSError, 1 ValueError)" in third.summary().splitlines()


def test_a_finished_run_runs_nothing_again(calls, tmp_path):
    first = run(chain(calls), tmp_path)
    assert calls.take() == ["a", "b", "c", "d"]
    second = run(chain(calls), tmp_path)
    assert calls.take() == []
    assert (second["c"], second["d"]) == (first["c"], first["d"]) == (50_000.0, 7)
    assert second.status == "done"
    assert second.exit_code == 0


def test_a_changed_constant_runs_what_depends_on_it(calls, tmp_path):
    run(chain(calls), tmp_path)
    calls.take()
    run(chain(calls, first=2), tmp_path)
    assert calls.take() == ["a", "b", "c"]


def test_what_changed_at_the_end_takes_its_input_from_the_file(calls, tmp_path):
    run(chain(calls), tmp_path)
    calls.take()
    assert run(chain(calls, version="2"), tmp_path)["c"] == 50_000.0
    assert calls.take() == ["c"]


def test_a_value_that_was_not_written_is_computed_again(calls, tmp_path):
    run(chain(calls), tmp_path, checkpoint="none")
    calls.take()
    run(chain(calls, version="2"), tmp_path)
    assert calls.take() == ["b", "c"]


def flipped(content, place):
    """Return ``content`` with one bit changed."""
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


DAMAGE = {
    "cut short": lambda content: content[:-1],
    "emptied": lambda content: b"",
    "other bytes": lambda content: b"x" * len(content),
    "a bit of the magic": lambda content: flipped(content, 3),
    "a bit of a size": lambda content: flipped(content, 15),
    "a bit of the key": lambda content: flipped(content, 40),
    "a bit of the pickle": lambda content: flipped(content, content.index(b"numpy")),
    "a bit of the array": lambda content: flipped(content, len(content) // 2),
    "a bit of the checksum": lambda content: flipped(content, len(content) - 1),
    "written by an older version": lambda content: b"HMPV1\n" + content[6:],
}


def value_file(tmp_path):
    (file,) = (tmp_path / "run" / "values").glob("*.value")
    return file


@pytest.mark.parametrize("damage", [*DAMAGE, "deleted", "writable by the group"])
def test_a_damaged_value_is_never_used(calls, tmp_path, damage):
    run(chain(calls), tmp_path)
    calls.take()
    file = value_file(tmp_path)
    if damage == "deleted":
        file.unlink()
    elif damage == "writable by the group":
        file.chmod(0o664)
    else:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(handoff.errors.ValueUnavailable):
        handoff.load(tmp_path / "run")["b"]
    assert run(chain(calls, version="2"), tmp_path)["c"] == 50_000.0
    assert calls.take() == ["b", "c"]
    assert run(chain(calls, version="3"), tmp_path)["c"] == 50_000.0
    assert calls.take() == ["c"], "it is there again"


def test_the_value_of_another_run_is_never_used(calls, tmp_path):
    run(chain(calls), tmp_path)
    run(chain(calls, first=2), tmp_path, run_dir=tmp_path / "other")
    (theirs,) = (tmp_path / "other" / "values").glob("*.value")
    value_file(tmp_path).write_bytes(theirs.read_bytes())
    calls.take()
    with pytest.raises(handoff.errors.ValueDamaged, match="does not carry the key of this one"):
        handoff.load(tmp_path / "run")["b"]
    assert run(chain(calls, version="2"), tmp_path)["c"] == 50_000.0
    assert calls.take() == ["b", "c"]


def test_a_flipped_bit_anywhere_in_the_journal_gives_no_wrong_value_and_stops_no_resume(calls, tmp_path, capfd):
    run(chain(calls), tmp_path)
    segment = tmp_path / "run" / "journal" / "000001.journal"
    content = segment.read_bytes()
    for place in [*range(40), *range(40, len(content), 101), len(content) - 1]:
        segment.write_bytes(flipped(content, place))
        try:
            found = handoff.load(tmp_path / "run")
        except handoff.UsageError as error:
            assert "holds no run" in str(error)
        else:
            values = {id: value if id != "b" else value.size for id, value in found.values.items()}
            assert values.items() <= {"a": 1, "b": 50_000, "c": 50_000.0, "d": 7}.items()
        calls.take()
    for place in (0, 5, content.index(b"\n"), len(content) // 2):
        segment.write_bytes(flipped(content, place))
        assert run(chain(calls), tmp_path)["c"] == 50_000.0
        for later in segment.parent.glob("00000[2-9].journal"):
            later.unlink()


def test_load_says_what_is_damaged_and_what_it_says_has_it_made_again(calls, tmp_path):
    run(chain(calls), tmp_path)
    calls.take()
    file = value_file(tmp_path)
    file.write_bytes(DAMAGE["a bit of the array"](file.read_bytes()))
    results = handoff.load(tmp_path / "run")
    assert results["c"] == 50_000.0
    with pytest.raises(handoff.errors.ValueDamaged) as caught:
        results["b"]
    assert str(caught.value) == (
        f"the value of 'b' is lost: {file} is damaged: its checksum does not match what it holds; remove the file, "
        "then the same command with --keep b (keep=['b']) makes it again"
    )
    file.unlink()
    assert run(chain(calls), tmp_path, keep=["b"])["b"].size == 50_000
    assert calls.take() == ["b"]
    assert handoff.load(tmp_path / "run")["b"].size == 50_000


def test_rerun_runs_a_function_again_and_all_after_it(calls, tmp_path):
    run(chain(calls), tmp_path)
    calls.take()
    run(chain(calls), tmp_path, rerun=["b"])
    assert calls.take() == ["b", "c"]
    with pytest.raises(handoff.UsageError, match="'z'"):
        run(chain(calls), tmp_path, rerun=["z"])


def test_no_value_is_used_or_shown_that_rerun_has_replaced_without_keeping_it(tmp_path):
    """The function reads a file that has changed, which its fingerprint does not tell."""
    (data := tmp_path / "data").write_text("1")

    def double(big):
        return 2 * int(big[0])

    def dag(*consumers):
        dag = DAG("rerun")
        dag.add_function(Function("big", (), lambda: numpy.full(100_000, int(data.read_text()))))
        for id in consumers:
            dag.add_function(Function(id, ["big"], double))
        return dag

    run(dag("first"), tmp_path)
    data.write_text("2")
    for rerun in (["big"], []):
        run(dag("first"), tmp_path, checkpoint="none", rerun=rerun)
        later = load(tmp_path / "run")
        assert later["first"] == 4 and "big" not in later and later.counts()["done"] == 2
        with pytest.raises(handoff.ValueUnavailable, match="was not kept"):
            later["big"]
    assert run(dag("first", "second"), tmp_path)["second"] == 4


def test_what_rerun_replaces_counts_no_more_also_where_that_launch_did_not_get_to_it(tmp_path):
    """A later launch without ``--rerun``, as the next part of a requeued job is, runs what is left of it."""
    (data := tmp_path / "data").write_text("1")

    def scaled(x, index=0):
        if index > 1 and (tmp_path / "bad").exists():
            raise ValueError("bad")
        return 10 * x + index

    dag = DAG("replaced")
    a = dag.add_function(Function("a", (), lambda: int(data.read_text())))
    dag.add_function(Function("b", [a], scaled, [2]))
    xs = dag.map(lambda index, a: int(data.read_text()) * a + index, range(4), a, id="xs")
    dag.map(scaled, xs, range(4), id="ys")

    def values(results):
        return [results.get("a"), results.get("b"), [results["xs"].get(i) for i in range(4)], results["ys"].get(3)]

    run(dag, tmp_path)
    data.write_text("2")
    for rerun, made in ((["a"], [2, 22, [4, 5, 6, 7], 73]), (["xs[1:]"], [2, 22, [4, 7, 8, 9], 93])):
        (tmp_path / "bad").touch()
        left = [*made[:1], None if rerun == ["a"] else 22, made[2], None]
        for again in (rerun, []):
            assert values(run(dag, tmp_path, rerun=again, check=False)) == values(load(tmp_path / "run")) == left
        (tmp_path / "bad").unlink()
        assert values(run(dag, tmp_path)) == values(load(tmp_path / "run")) == made
        data.write_text("3")
    part = DAG("replaced")
    part.add_function(dag["a"])
    assert run(part, tmp_path, rerun=["a"])["a"] == 3
    assert run(dag, tmp_path)["b"] == 32, "it was no part of the DAG that ran again"


def test_what_elements_took_of_what_rerun_replaces_counts_no_more_where_they_take_something_else(tmp_path):
    (data := tmp_path / "data").write_text("1")

    def noted(x):
        with (tmp_path / "calls").open("a") as file:
            file.write(str(x))
        return x

    def build(*elements):
        dag = DAG("replaced")
        handles = {name: dag.add_function(Function(name, (), lambda: int(data.read_text()))) for name in "ab"}
        xs = dag.map(noted, [handles.get(each, each) for each in elements], id="xs")
        dag.add_function(Function("sum", [xs], sum))
        return dag

    run(build("a", "b", 7, 8), tmp_path)
    data.write_text("2")
    assert run(build(5, "b", 7, 8), tmp_path, rerun=["a"])["sum"] == 21
    again = run(build("a", "b", 7, 8), tmp_path)
    assert [*again["xs"]] == [*load(tmp_path / "run")["xs"]] == [2, 1, 7, 8] and again["sum"] == 18
    assert sorted((tmp_path / "calls").read_text()) == sorted("1178" + "5" + "2"), "what that launch took over counts"


def test_load_reads_a_run_from_its_run_dir(calls, tmp_path):
    first = run(chain(calls), tmp_path)
    later = handoff.load(tmp_path / "run")
    assert (later["c"], later["d"], later["b"].size) == (first["c"], first["d"], 50_000)
    assert (later.status, later.dag_id, later.counts()["done"]) == ("done", "chain", 4)
    assert later.allocations == first.allocations
    with pytest.raises(handoff.UsageError, match="no run"):
        handoff.load(tmp_path / "nowhere")


def test_load_tells_what_failed(tmp_path):
    dag = DAG("fails")
    dag.add_function(Function("f", (), lambda: 1 / 0))
    dag.add_function(Function("g", ["f"], abs))
    run(dag, tmp_path, check=False)
    later = handoff.load(tmp_path / "run")
    assert (later.status, later.exit_code) == ("failed", 1)
    with pytest.raises(handoff.TaskError, match="division by zero"):
        later["f"]


def test_load_sums_up_a_run_that_died(calls, tmp_path):
    run(chain(calls), tmp_path)
    path = tmp_path / "run" / "status.json"
    died = {"status": "running", "exit_code": None}
    path.write_text(json.dumps({name: json.loads(path.read_text())[name] for name in ("run", "dag_id")} | died))
    assert "4 done of 4 functions" in handoff.load(tmp_path / "run").summary()


def test_a_later_launch_tells_which_ranks_an_earlier_one_lost(calls, tmp_path):
    run(chain(calls), tmp_path)
    with Journal(tmp_path / "run") as journal:
        journal.append(("rank", 3, "lost", "killed"))
    for results in run(chain(calls), tmp_path), handoff.load(tmp_path / "run"):
        assert (results.lost_ranks_before, results.lost_ranks) == ({2: {3: "killed"}}, {})
        assert "rank 3 was lost in launch 2: killed" in results.summary()
    for name in ("status.json", "summary.json"):
        assert json.loads((tmp_path / "run" / name).read_text())["lost_ranks_before"] == {"2": {"3": "killed"}}


def test_fresh_starts_over(calls, tmp_path):
    run(chain(calls), tmp_path)
    calls.take()
    run(chain(calls), tmp_path, fresh=True)
    assert calls.take() == ["a", "b", "c", "d"]
    run(chain(calls), tmp_path)
    assert calls.take() == []


def test_a_failed_function_is_tried_again(calls, tmp_path):
    def fragile(path):
        noted(path, "f", 0)
        if not Path(path).with_name("mended").exists():
            raise OSError("not yet")
        return 5

    dag = chain(calls)
    dag.add_function(Function("f", (), fragile, [str(calls.path)]))
    with pytest.raises(handoff.DAGFailed, match="not yet"):
        run(dag, tmp_path)
    calls.take()
    calls.path.with_name("mended").touch()
    assert run(dag, tmp_path)["f"] == 5
    assert calls.take() == ["f"]


def test_what_is_never_the_same_runs_again(calls, tmp_path):
    dag = chain(calls)
    dag.add_function(Function("odd", (), Odd(), [str(calls.path)]))
    run(dag, tmp_path)
    calls.take()
    run(dag, tmp_path)
    assert calls.take() == ["odd"]


class Odd:
    """Pickled, it is another one each time."""

    def __init__(self, number=0):
        self.number = number

    def __reduce__(self):
        return Odd, (uuid.uuid4().int,)

    def __call__(self, path):
        return noted(path, "odd", 1)


HOLDER = """
import sys, time
import handoff_mpi as handoff
from handoff_mpi import DAG, Function
dag = DAG("chain")
dag.add_function(Function("nap", (), time.sleep, [30]))
handoff.execute_local(dag, run_dir=sys.argv[1])
"""


@pytest.mark.long
def test_two_runs_on_one_run_dir_are_refused(calls, tmp_path, monkeypatch):
    at_once = partial(lock_run_dir_soon, wait_s=0.2)
    monkeypatch.setattr("handoff_mpi.launch.run_files.lock_run_dir_soon", at_once)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")])
    try:
        end = time.monotonic() + 20
        while not (tmp_path / "run" / "status.json").exists() and time.monotonic() < end:
            time.sleep(0.05)
        with pytest.raises(handoff.UsageError, match=f"in use by process {process.pid}"):
            run(chain(calls), tmp_path)
    finally:
        process.kill()
        process.wait()
    assert run(chain(calls), tmp_path)["d"] == 7


def told(status):
    """Return what a run tells of itself that it does not renew as it progresses."""
    fields = json.loads(status.read_text())
    return [fields[name] for name in ("run", "launch", "host", "pid", "status", "started_s")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "files"),
    # `run -n` is refused before it looks at the file
    [(["--run-dir", "run"], ["fine.py", "bad.py"]), (["-n", "2", "--run-dir", "run"], ["fine.py"])],
    ids=["here", "run -n"],
)
def test_a_refused_launch_leaves_the_status_of_the_run_in_its_run_dir_alone(handoff, tmp_path, words, files):
    (tmp_path / "fine.py").write_text("from handoff_mpi import DAG\ndag = DAG('fine')\n")
    (tmp_path / "bad.py").write_text("nothing\n")
    status = tmp_path / "run" / "status.json"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")])
    try:
        end = time.monotonic() + 20
        while not status.exists() and time.monotonic() < end:
            time.sleep(0.05)
        before = told(status)
        for file in files:
            assert handoff("run", *words, file).rc == 2
            assert told(status) == before
    finally:
        process.kill()
        process.wait()


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_costs_no_result(calls, tmp_path, monkeypatch, capfd):
    def put(self, key, payload):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wider(version):
        dag = chain(calls, version=version)
        dag.add_function(Function("e", (), big, [str(calls.path), "e", 40_000]))
        dag.add_function(Function("f", ["e"], lambda e: float(e.sum()), version=version))
        return dag

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryStore, "put", put)
        assert run(wider(""), tmp_path).status == "done"
    said = capfd.readouterr().err
    assert said.count("No space left on device; this run continues, but a run that resumes it computes") == 1
    calls.take()
    assert run(wider("2"), tmp_path)["f"] == 40_000
    assert calls.take() == ["b", "c", "e"]


@pytest.mark.parametrize("path", [None, 3, [], "", "a\0b", b"a\0b", object()])
def test_load_refuses_what_is_no_path(path):
    with pytest.raises(UsageError, match="load takes the path of a run-dir, not "):
        handoff.load(path)


# -- what has changed, and what of it is accepted ---------------------------------------------------------


def one(number):
    return number


def one_tidied(number):
    """The same, but not to a machine."""
    assert number >= 0
    return number


one_tidied.__name__ = one_tidied.__qualname__ = "one"


def changing(calls, code=one, first=1):
    dag = DAG("changing")
    ids = [dag.add_function(Function(("one", number), (), code, [number])).id for number in range(5)]
    dag.add_function(Function("sum", ids, lambda *values: noted(str(calls.path), "sum", first, *values)))
    return dag


def test_a_run_says_why_functions_run_again(calls, tmp_path, capsys):
    run(changing(calls), tmp_path)
    run(changing(calls), tmp_path)
    assert "changed" not in capsys.readouterr().err
    run(changing(calls, one_tidied), tmp_path)
    said = capsys.readouterr().err
    assert "the code of 'one' changed: 5 functions run again" in said
    assert "1 function that depends on them runs again" in said
    assert "--accept-changes NAME" in said
    run(changing(calls, one_tidied, first=2), tmp_path)  # what a code is bound to is of it
    assert "<lambda>' changed: 1 function runs again" in capsys.readouterr().err


def test_a_run_says_that_arguments_changed(calls, tmp_path, capsys):
    run(chain(calls), tmp_path)
    run(chain(calls, first=2), tmp_path)
    said = capsys.readouterr().err
    assert "the arguments of 'a' changed: 1 function runs again" in said
    assert "2 functions that depend on them run again" in said


@pytest.mark.parametrize("named", ["one", *[("one", number) for number in range(5)]], ids=str)
def test_changes_that_are_accepted_stay_so(named, calls, tmp_path, capsys):
    run(changing(calls), tmp_path)
    calls.take()
    accepted = [named] if named == "one" else [("one", number) for number in range(5)]
    results = run(changing(calls, one_tidied), tmp_path, accept_changes=accepted)
    assert (results["sum"], calls.take()) == (11, [])
    run(changing(calls, one_tidied), tmp_path)  # without a word, what was accepted once is
    assert calls.take() == []
    run(changing(calls), tmp_path)  # and what it was before is, too
    assert calls.take() == []
    assert "changed" not in capsys.readouterr().err


def test_a_later_change_is_another_one(calls, tmp_path):
    run(chain(calls), tmp_path)
    run(chain(calls, first=2), tmp_path, accept_changes=["a"])
    calls.take()
    run(chain(calls, first=3), tmp_path)
    assert calls.take() == ["a", "b", "c"]


def test_accepted_changes_name_what_is_there(calls, tmp_path):
    with pytest.raises(UsageError, match="accept_changes names 'z', which is neither a function of the DAG nor"):
        run(chain(calls), tmp_path, accept_changes=["z"])


@pytest.mark.long
def test_accepted_changes_on_the_command_line(handoff, tmp_path):
    text = "from handoff_mpi import DAG, Function\ndef f(): return {}\n"
    text += "dag = DAG('d')\ndag.add_function(Function(7, (), f))\n"
    (tmp_path / "dag.py").write_text(text.format(1))
    assert handoff("run", "--run-dir", "run", "dag.py").rc == 0
    (tmp_path / "dag.py").write_text(text.format(2))
    for words in (["--accept-changes", "7"], ["--accept-changes", "f"], []):
        ended = handoff("run", "--run-dir", "run", *words, "dag.py")
        assert ended.rc == 0, ended.err
        assert load(tmp_path / "run")[7] == 1
    (tmp_path / "dag.py").write_text(text.format(3))
    assert "the code of 'f' changed: 1 function runs again" in handoff("run", "--run-dir", "run", "dag.py").err
    assert load(tmp_path / "run")[7] == 3
