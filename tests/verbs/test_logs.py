"""``logs``: what functions have printed, from files that may be anybody's and hold anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from handoff_mpi import cli
from handoff_mpi.arrays.columns import pack
from handoff_mpi.errors import UsageError
from handoff_mpi.messages import RAISED
from handoff_mpi.results.output_follow import MAX_SHOWN_NBYTES
from handoff_mpi.verbs import run_dirs
from handoff_mpi.verbs.run_dirs import find_run_dir
from tests.results.made_journal import T0, about, done, row, turn, write_launch
from tests.terminal import terminal  # noqa: F401


def write_run(run_dir, status="done", code=0, **files):
    """Make a run-dir with some output: name of a file to what it holds and the lines of its index."""
    (run_dir / "output").mkdir(parents=True)
    (run_dir / "status.json").write_text(json.dumps({"status": status, "exit_code": code}))
    for name, (text, lines) in files.items():
        write(run_dir, name, text, lines)
    return run_dir


def write(run_dir, name, text, lines):
    name = name.replace("_", "-").replace("-slot", ".slot")
    (run_dir / "output" / f"{name}.out").write_bytes(text)
    index = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    (run_dir / "output" / f"{name}.index").write_bytes(b"".join(line + b"\n" for line in index))


def entry(id, offset, nbytes=None, attempt=1, launch=1, dropped=0):
    begun = {"id": id, "attempt": attempt, "launch": launch, "offset": offset}
    return begun if nbytes is None else {**begun, "nbytes": nbytes, "dropped": dropped}


@pytest.fixture
def logs(in_process, capsys):
    def call(*words):
        code = cli.main(["logs", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def run_dir(tmp_path):
    first = b"one\ntwo\n", [entry("fit", 0), entry("fit", 0, 4), entry("fit", 4, 4, attempt=2)]
    second = b"gap\n\x1b[2Jthree", [entry("('fit', 3)", 4, 9, dropped=7)]
    return write_run(tmp_path / "run", rank_1=first, rank_2_slot_0=second)


def test_an_array_is_named_by_its_id_and_an_element_by_its_index_too(logs, tmp_path):
    lines = b"ten\ntwo\nodd\n", [entry("('sweep', 10)", 0, 4), entry("('sweep', 2)", 4, 4), entry("(7, 2)", 8, 4)]
    run_dir = write_run(tmp_path / "run", rank_1=lines)
    assert logs(run_dir, "sweep[10]")[1] == logs(run_dir, "('sweep', 10)")[1] == "ten\n"
    assert logs(run_dir, "7")[1] == logs(run_dir, "7[2]")[1] == "odd\n"
    heads = [f"=== ('sweep', {index}), attempt 1, rank 1 ===\n" for index in (2, 10)]
    assert logs(run_dir, "sweep")[1] == f"{heads[0]}two\n{heads[1]}ten\n"
    assert logs(run_dir, "sweep", "--follow")[1].count("sweep") == 2
    assert "sweep[1] has printed nothing" in logs(run_dir, "sweep[1]")[2]


def test_it_lists_who_printed_how_much(logs, run_dir):
    code, out, err = logs(run_dir)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[:4] == [
        ["function", "attempt", "rank", "bytes"],
        ["('fit',", "3)", "1", "2", "9", "(7", "more", "were", "dropped)"],
        ["fit", "1", "1", "4"],
        ["fit", "2", "1", "4"],
    ]
    assert rows[4][:5] == ["4", "bytes", "were", "printed", "between"]


def test_it_prints_what_a_function_printed(logs, run_dir):
    heads = "=== fit, attempt {}, rank 1 ===\n"
    assert logs(run_dir, "fit") == (0, f"{heads.format(1)}one\n{heads.format(2)}two\n", "")
    assert logs(run_dir, "fit", "--attempt", "2") == (0, "two\n", "")
    assert logs(run_dir, "('fit', 3)") == (0, "\\x1b[2Jthree\n", "")
    text = "=== between calls ===\ngap\n=== ('fit', 3), attempt 1, rank 2 ===\n\\x1b[2Jthree\n"
    assert logs(run_dir, "--rank", "2") == (0, text, "")


def test_raw_bytes_are_as_they_were(run_dir):
    command = [sys.executable, "-m", "handoff_mpi", "logs", run_dir, "('fit', 3)", "--raw"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == b"\x1b[2Jthree"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fitt"], "fitt has printed nothing in .*; did you mean fit?"),
        (["fit", "--attempt", "3"], "attempt 3 of fit has printed nothing; attempt 1, 2 has"),
        (["--rank", "7"], "rank 7 has printed nothing in .*; ranks 1, 2 have"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(logs, run_dir, words, told):
    code, out, err = logs(run_dir, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told.partition(".*")[0] in err
    assert told.rpartition(".*")[2] in err


def test_it_tells_why_a_function_has_printed_nothing(logs, run_dir):
    failure = (2, 1, 1, RAISED, "ValueError", "no", T0, 0.5, -1)
    (run_dir / "journal").unlink(missing_ok=True)
    write_launch(
        run_dir,
        ("run", about()),
        ("tasks", 0, [row("f-1"), row("f-2"), row("g"), row("h", inputs=[2])]),
        turn(0.1, [(0, 1, 1), (2, 1, 1)]),
        turn(1.0, (), [done(0, 1, 0.2, 0.1)], [failure]),
        turn(1.1, (), (), [failure[:6]]),
    )
    where = f"has printed nothing in {run_dir}"
    for id, why in {"f-1": "is done", "f-2": "has not been called yet", "g": "has failed", "h": "was skipped"}.items():
        assert logs(run_dir, id) == (0, "", f"{id} {where}: it {why}\n")
    code, _, err = logs(run_dir, "f-3")
    assert code == 2
    assert err.startswith(f"handoff: no function f-3 is in {run_dir}; did you mean f-")


def test_it_tells_of_elements_and_not_of_their_array_why_they_have_printed_nothing(logs, run_dir):
    (run_dir / "journal").unlink(missing_ok=True)
    computed = "elements", 0, 1, [(0, 3)], pack([None] * 3), T0 + 1, 0.5
    failed = "elements_failed", 0, 1, ((3, 4),), 1, "ValueError", "bad", 0, 0
    tasks = "tasks", 0, [row("sweep"), row("open")]
    parts = ("array", 0, 8, []), ("array", 1, 8, []), computed, ("elements", 1, *computed[2:]), failed
    end = turn(2.0, (), (), [(0, 1, -1, RAISED, "ValueError", "1 of 8 elements failed")])
    write_launch(run_dir, ("run", about()), tasks, *parts, end)
    states = {
        "sweep[1]": "it is done",
        "sweep[3]": "it has failed",
        "sweep[5]": "it was skipped",
        "sweep[1:6]": "1 element has failed, 2 elements are done, 2 elements were skipped",
        "open[0]": "it is done",
        "open[5:]": "3 elements have not ended yet",
    }
    told = {id: logs(run_dir, id)[2] for id in states}
    assert told == {id: f"{id} has printed nothing in {run_dir}: {why}\n" for id, why in states.items()}


def test_ids_are_listed_as_people_sort_them(logs, tmp_path):
    ids = ["fit-10", "fit-9", "eval", "fit-100"]
    write_run(tmp_path / "run", rank_1=(b"0123", [entry(id, at, 1) for at, id in enumerate(ids)]))
    out = logs(tmp_path / "run")[1]
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["eval", "fit-9", "fit-10", "fit-100"]


def test_without_a_run_dir_it_is_the_newest(logs, tmp_path):
    code, _, err = logs("fit")
    assert code == 2
    assert (
        "fit is neither a run-dir nor the id of a function: there are no runs in handoff-runs and in the current" in err
    )
    assert "`handoff-mpi runs DIR`" in err
    for age, name in enumerate(["old", "new", "mid"]):
        made = write_run(tmp_path / "handoff-runs" / name, rank_1=(name.encode(), [entry("fit", 0, 3)]))
        os.utime(made, (0, [100, 300, 200][age]))
    (tmp_path / "handoff-runs" / "none").mkdir()
    assert logs("fit") == (0, "new\n", "")
    assert logs("handoff-runs/old", "fit") == (0, "old\n", "")


def test_the_newest_run_is_looked_for_below_handoff_runs_and_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, name in ((300, "here"), (200, "handoff-runs/a"), (100, "old")):
        os.utime(write_run(tmp_path / name), (0, age))
    (tmp_path / "link").symlink_to(write_run(tmp_path / "else" / "where"))
    assert find_run_dir(None) == tmp_path / "here"
    os.utime(tmp_path / "handoff-runs" / "a", (0, 400))
    assert find_run_dir(None) == tmp_path / "handoff-runs" / "a"
    monkeypatch.chdir(tmp_path / "old")
    assert find_run_dir(None) == tmp_path / "old"


def test_run_dirs_of_third_persons_here_are_not_taken_for_the_newest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "hers"):
        write_run(tmp_path / name)
    monkeypatch.setattr(run_dirs, "_owner", lambda path: 12345 if path.name == "hers" else os.geteuid())
    assert list(run_dirs.default_run_dirs()) == [tmp_path / "mine"]


def test_few_entries_of_a_large_directory_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dirs, "MAX_ENTRIES", 3)
    for number in range(5):
        write_run(tmp_path / str(number))
    assert len(list(run_dirs.run_dirs_below(tmp_path))) == 3


def test_run_dirs_that_are_none_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    write_run(tmp_path / "real")
    write_run(tmp_path / "above" / "one")
    write_run(tmp_path / "project" / "handoff-runs" / "two")
    for given, why in {
        "": "is not the path of a run-dir",
        "a\0b": "is not the path of a run-dir",
        "empty": "no run has begun there",
        "file": "is not a directory",
        "dangling": "a link to a missing file",
        "loop": "is not a run-dir",
        "reel": "there is no such directory; did you mean real?",
        "far away": "there is no such directory; `handoff-mpi runs` lists the runs here",
        "above": "no run has begun there; it holds runs: the newest is above/one",
        "project": "no run has begun there; it holds runs: the newest is project/handoff-runs/two",
        "x" * 5000: "cannot be read: File name too long",
    }.items():
        with pytest.raises(UsageError) as caught:
            find_run_dir(given)
        assert why in str(caught.value)
    (tmp_path / "empty" / "handoff-runs").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UsageError, match="there are no runs in handoff-runs and in the current directory"):
        find_run_dir(None)


HOSTILE = [
    *[b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 5000, b"9" * 10_000, b'{"offset": 1e999}'],
    *[
        {"id": "a", "attempt": 1, "launch": 1, "offset": offset, "nbytes": 3, "dropped": 0}
        for offset in (-1, "0", None)
    ],
    entry("a", 0, -5),
    entry("a", 1 << 70, 1),
    {"id": ["list"], "attempt": True, "launch": 1, "offset": 0},
    entry("beyond", 10**9, 10**9),
    entry("whole", 0, 10**12),
    entry("\x1b[31mred\n\0", 2, 2),
]


def test_an_index_may_hold_anything(logs, tmp_path):
    run_dir = write_run(tmp_path / "run", rank_1=(b"text", HOSTILE))
    code, out, err = logs(run_dir)
    assert code == 0
    assert "\\x1b[31mred\\n\\x00" in out
    assert "whole" in out
    assert "beyond" not in out
    assert "lines of the index cannot be read" in err
    assert logs(run_dir, "whole")[1] == "text\n"


def test_files_that_are_none_are_passed_over(logs, tmp_path):
    run_dir = write_run(tmp_path / "run", rank_1=(b"text", [entry("f", 0, 4)]))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.mkfifo(run_dir / "output" / "rank-2.out")
    (run_dir / "output" / "rank-2.index").write_text(json.dumps(entry("pipe", 0, 4)))
    (run_dir / "output" / "rank-3.out").symlink_to(secret)
    (run_dir / "output" / "rank-3.index").write_text(json.dumps(entry("link", 0, 6)))
    (run_dir / "output" / "rank-4.out").mkdir()
    (run_dir / "output" / "rank-5.index").mkdir()
    (run_dir / "output" / "other").touch()
    assert [line.split()[0] for line in logs(run_dir)[1].splitlines()[1:]] == ["f"]
    (run_dir / "output").rename(tmp_path / "elsewhere")
    assert "nothing was printed" in logs(run_dir)[2]
    (run_dir / "output").symlink_to(tmp_path / "elsewhere")
    assert logs(run_dir)[0] == 2


def test_what_was_not_finished_ends_where_the_next_begins(logs, tmp_path):
    lines = [entry("a", 0), {"launch": 2, "offset": 2}, entry("b", 3, launch=2)]
    run_dir = write_run(tmp_path / "run", rank_1=(b"aaxbbb", lines))
    assert logs(run_dir, "a")[1] == "aa\n"
    assert logs(run_dir, "b")[1] == "bbb\n"


@pytest.mark.long
def test_following_prints_what_comes_until_the_run_ends(run_dir, tmp_path):
    (run_dir / "status.json").write_text(json.dumps({"status": "running", "exit_code": None}))
    command = [sys.executable, "-m", "handoff_mpi", "logs", str(run_dir), "--follow"]
    process = subprocess.Popen(command, stdout=-1, text=True)
    assert [process.stdout.readline() for _ in range(4)] == [
        "1: fit | one\n",
        "1: fit #2 | two\n",
        "2: | gap\n",
        "2: ('fit', 3) | \\x1b[2Jthree\n",
    ]
    write(run_dir, "rank_3", b"more\nrest", [entry("later", 0)])
    assert process.stdout.readline() == "3: later | more\n"
    (run_dir / "status.json").write_text(json.dumps({"status": "done", "exit_code": 0}))
    assert process.stdout.read() == "3: later | rest\n"
    assert process.wait(30) == 0


def test_following_begins_with_what_was_printed_so_far_as_its_help_says(logs, run_dir, capsys):
    write(run_dir, "rank_4", b"first\n" + b"line\n" * 100_000, [entry("long", 0, 500_006)])
    out = logs(run_dir, "long", "--follow")[1].splitlines()
    assert out[0] == f"4: long | [... {500_006 - MAX_SHOWN_NBYTES:,} bytes not shown ...]"
    assert out[-1] == "4: long | line"
    with pytest.raises(SystemExit):
        cli.main(["logs", "--help"])
    what = "print what was printed so far, and then what is printed until the run ends"
    assert what in " ".join(capsys.readouterr().out.split())


def test_who_reads_it_may_leave(run_dir):
    write(run_dir, "rank_4", b"line\n" * 100_000, [entry("long", 0, 500_000)])
    command = f"{sys.executable} -m handoff_mpi logs {run_dir} long | head -n 1"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("line\n", "")


RUNNING = """
import os, time
from handoff_mpi import DAG, Function
def asks():
    print("\\x1b[31mred\\x1b[0m \\x1b[2J 10 %\\r20 %")
    while not os.path.exists("continue"): time.sleep(0.02)
    print("no end of line", end="")
dag = DAG("d")
dag.add_function(Function("asks", (), asks))
"""


@pytest.mark.long
def test_at_a_terminal_each_line_says_whose_it_is(terminal, tmp_path):  # noqa: F811
    (tmp_path / "dag.py").write_text(RUNNING)
    shown = terminal("-m", "handoff_mpi", "run", "-n", "2", "--progress", "none", "dag.py", columns=160)
    shown.until(lambda: "1: asks | 20 %" in shown.text)
    (tmp_path / "continue").touch()
    assert shown.end() == 0
    assert "1: asks | no end of line\n" in shown.text + "\n"
