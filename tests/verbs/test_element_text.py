"""``explain`` of some elements of an array, from journals of runs that never were."""

from __future__ import annotations

import json

import pytest

from handoff_mpi import DAG, cli, execute
from handoff_mpi.arrays.columns import pack
from handoff_mpi.arrays.intervals import IntervalSet
from handoff_mpi.messages import RAISED
from handoff_mpi.results.element_story import OPEN, ElementsTold
from handoff_mpi.verbs.element_text import element_facts, element_lines
from tests.results.made_journal import T0, TRACEBACK, about, done, row, turn, write_launch, write_status

FAILED = (0, 2, -1, RAISED, "ValueError", "2 of 8 elements failed, the first one at index 3: bad")
COUNT = 8


@pytest.fixture
def run_dir(tmp_path):
    """An array of eight elements: four are done, two have failed, and two were not computed. A list takes them."""
    write_launch(
        tmp_path / "run",
        ("run", about()),
        ("tasks", 0, [row("sweep"), row("total", inputs=(0,)), row("odd[1]")]),
        ("array", 0, COUNT, []),
        ("traceback", 0, TRACEBACK),
        elements(1, (0, 2)),
        elements(2, (2, 3), (7, 8)),
        ("elements_failed", 0, 2, ((3, 5),), 2, "ValueError", "bad", 0, 3),
        turn(3.0, failed=[FAILED]),
        ("end", "failed", 1, False),
    )
    write_status(tmp_path / "run", status="failed", exit_code=1, launch=1)
    return tmp_path / "run"


def elements(rank, *intervals):
    values = [0] * sum(stop - start for start, stop in intervals)
    return ("elements", 0, rank, intervals, pack(values), T0 + 1.0, 0.5)


@pytest.fixture
def explain(in_process, capsys):
    def call(*words):
        code = cli.main(["explain", *map(str, words)])
        told = capsys.readouterr()
        return code, told.out.splitlines(), told.err

    return call


def test_of_an_array_the_kinds_of_failures_are_told_with_a_traceback(explain, run_dir):
    _, out, _ = explain(run_dir, "sweep")
    at = out.index("ValueError: 2 elements failed: 3:5; the first one: bad")
    assert out[at + 1] == "Traceback of element 3:"
    assert len(out) > at + 2
    _, (line,), _ = explain(run_dir, "sweep", "--json")
    (kind,) = json.loads(line)["failed_elements"]
    assert (kind["kind"], kind["count"], kind["elements"]) == ("ValueError", 2, [[3, 5]])


def test_one_element_is_told_by_itself(explain, run_dir):
    _, out, _ = explain(run_dir, "sweep[1]")
    assert out[0] == "sweep[1] is done: computed on rank 1 (node1) in launch 1."
    assert out[1].startswith("sweep has failed: ValueError: 2 of 8 elements failed")
    _, out, _ = explain(run_dir, "sweep[3]")
    why = "failed after 2 attempts, the last one on rank 2 (node2) in launch 1: ValueError: bad"
    assert out[0] == f"sweep[3] has {why}."
    assert explain(run_dir, "'sweep'[3]")[1][1:] == out[1:], "as messages of earlier versions have it"
    assert explain(run_dir, "sweep[-2]")[1][0] == "sweep[-2] was not computed, because the array has failed."


def inverse(x):
    return 1 / x


def test_an_element_that_was_skipped_is_not_taken_for_one_whose_array_was(explain, tmp_path):
    dag = DAG("skips")
    dag.map(inverse, dag.map(inverse, range(3), id="xs"), id="ys")
    execute(dag, run_dir=tmp_path / "run", check=False, max_retries=0)
    _, out, _ = explain(tmp_path / "run", "ys[0]")
    assert out[0] == "ys[0] was skipped, because what it takes has failed."
    assert out[1] == "Some elements of ys were skipped, because what they take has failed."
    assert explain(tmp_path / "run", "ys[1]")[1][0].startswith("ys[1] is done")


def test_a_launch_that_did_not_get_to_elements_has_not_computed_them_again(explain, run_dir):
    head = ("run", about()), ("tasks", 0, [row("sweep")]), ("again", {"--rerun names it": [0]}), ("array", 0, COUNT, [])
    write_launch(run_dir, *head)
    assert (
        "Launch 2 would have computed elements again (--rerun names it), and ended before."
        in explain(run_dir, "sweep")[1]
    )
    write_launch(run_dir, *head, ("leased", [(1, 0, 1, [(0, 4)])]))
    assert "Launch 3 computed elements again: --rerun names it." in explain(run_dir, "sweep")[1]


def test_several_elements_are_told_in_groups(explain, run_dir):
    _, out, _ = explain(run_dir, "sweep[0:3, 4:]")
    assert out[0] == "sweep[0:3, 4:] are 7 elements: 1 failed, 4 done, 2 without a value."
    assert out[1].startswith("  4 has failed after 2 attempts")
    assert out[2] == "  0:2 are done: computed on rank 1 (node1) in launch 1."
    assert out[3] == "  2, 7 are done: computed on rank 2 (node2) in launch 1."
    assert out[4] == "  5:7 were not computed, because the array has failed."
    assert out[5] == "Traceback of element 4:"
    assert out[6].strip() == TRACEBACK.splitlines()[0].strip()
    told = json.loads("".join(explain(run_dir, "sweep[0:3, 4:]", "--json")[1]))["of_elements"]
    assert told["counts"] == {"failed": 1, "done": 4, "open": 2}
    assert told["groups"][0]["traceback"] == TRACEBACK and told["groups"][0]["attempts"] == 2
    assert told["groups"][2] == {
        "elements": [[2, 3], [7, 8]], "count": 2, "state": "done", "launch": 1, "rank": 2, "host": "node2",
    }  # fmt: skip


def test_what_one_rank_computed_is_told_once_and_groups_follow_the_indices(explain, tmp_path):
    leases = [(1, (5, 6)), (2, (6, 7)), (1, (1, 2)), (2, (0, 1)), (1, (3, 5))]
    write_launch(
        tmp_path / "run",
        ("run", about()),
        ("tasks", 0, [row("sweep")]),
        ("array", 0, COUNT, []),
        *[elements(rank, interval) for rank, interval in leases],
        ("end", "stopped", 75, False),
    )
    _, out, _ = explain("run", "sweep[:]")
    groups = ["  0, 6 are done: ", "  1, 3:6 are done: ", "  2, 7 have no value: "]
    assert all(line.startswith(group) for line, group in zip(out[1:4], groups, strict=True))
    assert "All its inputs are made." not in out, "it takes none"
    leases = "5 leases (parts of the array that were sent to a rank at once)"
    assert f"Ranks computed them in {leases}, 2.5 s in all: 3 on rank 1, 2 on rank 2." in out


def test_elements_that_a_later_launch_took_over_were_computed_where_they_were(explain, run_dir):
    write_launch(
        run_dir,
        ("run", about()),
        ("tasks", 0, [row("sweep"), row("total", inputs=(0,))]),
        ("array", 0, COUNT, []),
        ("restored_elements", 0, [(1, ((1, 3), (7, 8)))]),
        elements(1, (3, 5)),
    )
    assert explain(run_dir, "sweep[2]")[1][0] == "sweep[2] is done: computed on rank 2 (node2) in launch 1."
    assert explain(run_dir, "sweep[3]")[1][0] == "sweep[3] is done: computed on rank 1 (node1) in launch 2."
    assert explain(run_dir, "sweep[0]")[1][0] == "sweep[0] has no value: the launch ended before."
    assert explain(run_dir, "('sweep', 2)")[1][0] == "('sweep', 2) is done: computed on rank 2 (node2) in launch 1."
    _, out, _ = explain(run_dir, "sweep")
    assert out[0] == "sweep is not done: launch 2 ended (died) before all its elements were."
    assert "The journal has values of 5 of its 8 elements." in out
    assert "Launch 2 took over the values of 3 elements." in out


def test_elements_that_are_to_be_tried_again_are_told_while_the_run_answers():
    retries = [
        {"elements": [[3, 4]], "attempt": 2, "reason": "OSError: star", "state": "ready", "until_s": 17.0},
        {"elements": [[5, 7]], "attempt": 3, "reason": "", "state": "dispatched", "rank": 2},
        {"elements": [[9, 10]], "attempt": 2, "reason": "OSError: star", "state": "ready"},
    ]
    live = {"launch": 1, "now_s": 12.0, "retries": retries}
    hosts = {1: {2: "node2"}}

    def told(name, *wanted):
        facts = element_facts([ElementsTold(IntervalSet(wanted), OPEN)], hosts, live)
        return list(element_lines(name, facts, "running", is_running=True))

    assert told("a[3]", (3, 4)) == [
        "a[3] waits for attempt 2, 5.0 s more (retry_delay): attempt 1 failed (OSError: star)."
    ]
    assert told("a[9]", (9, 10)) == ["a[9] waits for attempt 2: attempt 1 failed (OSError: star)."]
    assert told("a[:8]", (2, 8)) == [
        "a[:8] are 6 elements: 3 to be tried again, 3 without a value.",
        "  3 waits for attempt 2, 5.0 s more (retry_delay): attempt 1 failed (OSError: star).",
        "  5:7 are at rank 2 (node2) for attempt 3: attempt 2 was lost with its rank or device.",
        "  2, 4, 7 have no value yet.",
    ]


def test_where_an_array_ran_that_is_an_input(explain, tmp_path):
    launch = [("run", about()), ("tasks", 0, [row("sweep"), row("total", inputs=(0,))]), ("array", 0, COUNT, [])]
    write_launch(tmp_path / "run", *launch, elements(1, (0, 2)), elements(2, (2, 4)))
    assert "1 of its inputs is missing: sweep (waiting: 4 of 8 elements are done)." in explain("run", "total")[1]
    write_launch(tmp_path / "run", *launch, elements(1, (0, 4)), elements(2, (4, 8)))
    takes = "It takes the values of 1 function"
    assert f"It calls f and costs cpu=1. {takes}: sweep (done on 2 ranks)." in explain("run", "total")[1]


def test_the_launch_in_which_a_change_was_accepted_says_so(explain, tmp_path):
    rows = ("tasks", 0, [row("sweep"), row("total"), row("other")])
    write_launch(
        tmp_path / "run",
        ("run", about()),
        rows,
        ("array", 0, COUNT, []),
        elements(1, (0, 8)),
        turn(1.0, (), [done(1, 1, 0.2, 0.5), done(2, 1, 0.2, 0.5)]),
    )
    for changes in ([("sweep", b"2", b"1"), ("total", b"2", b"1")], []):
        accepted = [("accepted", changes)] if changes else []
        restored = [("restored", [1, 2]), ("restored_elements", 0, [(1, ((0, 8),))])]
        write_launch(tmp_path / "run", ("run", about()), rows, *accepted, ("array", 0, COUNT, []), *restored)
    why = "made before the {} changed (--accept-changes)"
    out = explain("run", "sweep")[1]
    assert f"Launch 2 took over the values of 8 elements, {why.format('array')}." in out
    assert "Launch 3 took over the values of 8 elements." in out
    out = explain("run", "total")[1]
    assert f"Launch 2 took over its value of launch 1, {why.format('function')}." in out
    assert "Launch 3 took over its value of launch 1." in out
    assert "Launch 2 took over its value of launch 1." in explain("run", "other")[1]


def test_what_is_no_element_is_refused_in_a_line(explain, run_dir):
    assert explain(run_dir, "sweep[8]")[::2] == (2, "handoff: sweep[8]: the array has 8 elements\n")
    assert "is neither an index nor a slice" in explain(run_dir, "sweep[1-2]")[2]
    assert "no function total[0] is in" in explain(run_dir, "total[0]")[2]
    assert explain(run_dir, "odd[1]")[1][0].startswith("odd[1] has not run")


def test_the_run_tells_why_an_array_has_failed(explain, run_dir):
    _, out, _ = explain(run_dir)
    assert f"sweep has failed: {FAILED[4]}: {FAILED[5]}." in out
