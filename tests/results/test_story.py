"""The story of a run, as its journal tells it: all launches in columns."""

from __future__ import annotations

import os

import numpy as np
import pytest

from handoff_mpi import DAG, Function, execute_local, load
from handoff_mpi.errors import JournalError, UsageError
from handoff_mpi.results import journal as journal_module
from handoff_mpi.results.anybodys_story import read_anybodys_story
from handoff_mpi.results.story import OUTCOMES, STATES
from handoff_mpi.results.story_reader import read_story
from tests.results.made_journal import T0, TRACEBACK, about, done, row, turn, write_large, write_launch, write_status


def outcomes(story):
    return [OUTCOMES[each] for each in story.calls.outcome]


def states(story):
    return [STATES[each] for each in story.tasks.state]


def at(story, column):
    return [round(each - T0, 6) for each in getattr(story.calls, column).tolist()]


def raised(task, attempt, rank, started, duration, traceback=0):
    return (task, attempt, rank, 1, "ValueError", "no", T0 + started, duration, traceback)


def test_calls_of_a_run_that_ended(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a"), row(("b", 1), "g", [0], cpu=2)]),
        turn(1, [(0, 1, 1)]),
        turn(3, [(1, 1, 2)], [done(0, 1, 1.5, 1, nbytes=100)]),
        turn(9, (), [done(1, 2, 4, 5)]),
        ("end", "done", 0, False),
    )
    story = read_story(tmp_path)
    assert (outcomes(story), states(story)) == (["done", "done"], ["done", "done"])
    assert (at(story, "started"), at(story, "stopped"), at(story, "sent")) == ([1.5, 4], [2.5, 9], [1, 3])
    assert (story.calls.rank.tolist(), story.calls.nbytes.tolist()) == ([1, 2], [100, 8])
    tasks = story.tasks
    assert ([tasks.label(0), tasks.label(1)], tasks.name_of(1)) == (["a", "('b', 1)"], "g")
    assert tasks.costs[tasks.cost[1]] == {"cpu": 2}
    assert tasks.inputs_of(1).tolist() == [0]
    (launch,) = story.launches
    assert (launch.verdict, launch.started_s, launch.stopped_s) == ("done", T0, T0 + 9)
    assert story.host(0, 2) == about()["hosts"][2]
    waits = story.waits
    assert waits.has_sent
    # The second: its input ended at 2.5, it was sent at 3 to a free slot, and started at 4.
    assert [waits.inputs.tolist(), waits.slots.tolist()] == [[0, 2.5], [1, 0.5]]
    assert [waits.queue.tolist(), waits.transfer.tolist(), waits.retry.tolist()] == [[0, 0], [0.5, 1], [0, 0]]
    assert story.critical_path == [0, 1]


def test_a_failed_attempt_has_times_and_a_traceback_and_the_next_one_waits_for_it(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a"), row("b", "f", [0]), row("c", "f", [1])]),
        turn(1, [(0, 1, 1)]),
        ("traceback", 0, TRACEBACK),
        turn(3, [(0, 2, 2)], (), [raised(0, 1, 1, 1.5, 1)]),
        turn(9, (), (), [raised(0, 2, 2, 5, 1), (0, 2, 2, 1, "ValueError", "no")]),
        ("end", "failed", 1, False),
    )
    story = read_story(tmp_path)
    assert outcomes(story) == ["failed", "failed"]
    assert states(story) == ["failed", "skipped", "skipped"]
    assert at(story, "stopped") == [2.5, 6]
    assert story.waits.retry.tolist() == [0, 2.5]
    assert (story.failures[0].traceback, story.failure_counts) == (TRACEBACK, [2])
    assert story.final_call.tolist() == [1, -1, -1]


def test_a_call_on_a_rank_that_was_lost_starts_where_its_slot_was_free(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a"), row("b"), row("c"), row("d")]),
        turn(1, [(0, 1, 1), (1, 1, 1), (2, 1, 1)]),
        turn(3, (), [done(0, 1, 1.5, 1.25)]),
        ("rank", 1, "lost", "it died", T0 + 5),
        turn(5, [(1, 2, 2), (2, 1, 2)], (), (), [(1, 1, 1, "rank-lost", "it died"), (2, 1, 1, "rank-lost", "it died")]),
        turn(8, (), [done(1, 2, 6, 1, 2), done(2, 2, 7, 1, 1)]),
    )
    story = read_story(tmp_path)
    assert outcomes(story) == ["done", "rank lost", "done", "done"], "the other one had only been queued there"
    assert story.calls.is_derived.tolist() == [False, True, False, False]
    assert (at(story, "started")[1], at(story, "stopped")[1]) == (2.75, 5)
    (event,) = story.launches[0].rank_events
    assert (event.rank, event.what, event.time_s) == (1, "lost", T0 + 5)
    assert story.launches[0].lost_ranks == {1: "it died"}


def test_the_death_of_a_process_and_of_its_rank_is_one_call(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a")]),
        turn(1, [(0, 1, 1)]),
        turn(5, [(0, 2, 2)], (), [(0, 1, 1, 3, "death", "killed")], [(0, 1, 1, "rank-lost", "it died")]),
        turn(6, (), [done(0, 2, 5.5, 0.5, 2)]),
    )
    story = read_story(tmp_path)
    assert outcomes(story) == ["died", "done"]
    assert story.failures[story.calls.failure[0]].kind == "death"


def test_a_run_that_was_killed_and_resumed_with_more_functions_and_fewer_ranks(tmp_path):
    write_launch(
        tmp_path,
        ("run", about(2)),
        ("tasks", 0, [row("a"), row("b"), row("old")]),
        turn(1, [(0, 1, 1), (1, 1, 2)]),
        turn(4, [(2, 1, 1)], [done(0, 1, 1, 2)]),
    )
    write_launch(
        tmp_path,
        ("run", about(1, started_s=T0 + 100)),
        ("tasks", 0, [row("new"), row("b", "f", [0]), row("a", "f")]),
        ("restored", [2]),
        turn(101, [(0, 1, 1)]),
        turn(102, [(1, 1, 1)], [done(0, 1, 101, 0.5)]),
        turn(110, (), [done(1, 1, 103, 6)]),
        ("end", "done", 0, False),
    )
    write_status(tmp_path, status="done", exit_code=0, launch=2)
    story = read_story(tmp_path)
    labels = [story.tasks.label(task) for task in range(4)]
    assert dict(zip(labels, states(story), strict=True)) == {
        "a": "done",
        "b": "done",
        "old": "waiting",
        "new": "done",
    }
    assert [story.tasks.label(task) for task in story.tasks.inputs_of(labels.index("b"))] == ["new"]
    calls = [(labels[task], launch) for task, launch in zip(story.calls.task, story.calls.launch, strict=True)]
    assert calls == [("a", 0), ("b", 0), ("old", 0), ("new", 1), ("b", 1)]
    assert outcomes(story) == ["done", "cut off", "cut off", "done", "done"]
    assert [launch.verdict for launch in story.launches] == ["died", "done"]
    assert [launch.restored for launch in story.launches] == [0, 1]
    assert story.launches[0].stopped_s == T0 + 4
    assert story.waits.inputs[-1] == 1.5, "from the begin of its own launch"


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_run_that_goes_on_or_has_died_silently(tmp_path, is_alive):
    write_launch(tmp_path, ("run", about()), ("tasks", 0, [row("a"), row("b")]), turn(1, [(0, 1, 1)]))
    pid, host = (os.getpid(), os.uname().nodename) if is_alive else (2**30, os.uname().nodename)
    write_status(tmp_path, status="running", launch=1, pid=pid, host=host, started_s=T0 * 2, time_s=T0 + 7)
    story = read_story(tmp_path)
    assert story.launches[0].verdict == ("running" if is_alive else "died")
    assert outcomes(story) == ["running" if is_alive else "cut off"]
    assert states(story) == ["running" if is_alive else "waiting", "waiting"]
    assert at(story, "stopped") == [7]


def test_a_value_that_was_lost_is_made_again(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a")]),
        turn(1, [(0, 1, 1)]),
        turn(3, (), [done(0, 1, 1, 1)]),
        turn(4, [(0, 2, 2)], (), (), [(0, 1, 1, "value-lost", "with its rank")]),
    )
    story = read_story(tmp_path)
    assert (states(story), story.values_lost) == (["waiting"], [(0, 0)])
    assert outcomes(story) == ["done", "cut off"]


def test_an_array_that_failed_has_no_call_of_its_own(tmp_path):
    failed = (0, 1, -1, 1, "ValueError", "2 of 5 elements failed")
    write_launch(tmp_path, ("run", about()), ("tasks", 0, [row("sweep")]), turn(1.0, failed=[failed]))
    story = read_anybodys_story(tmp_path)
    assert [STATES[state] for state in story.tasks.state] == ["failed"]
    assert len(story.calls) == 0


def test_what_came_back_from_a_rank_was_not_called_there(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a"), row("b")]),
        turn(0.1, [(0, 1, 1), (1, 1, 2)]),
        ("returned", [0, 1]),
        turn(0.2, [(1, 2, 1)]),
        turn(1.0, (), [done(1, 1, 0.3, 0.2, attempt=2)]),
        ("end", "stopped", 75, False),
    )
    story = read_story(tmp_path)
    assert [(int(task), int(rank)) for task, rank in zip(story.calls.task, story.calls.rank, strict=True)] == [(1, 1)]
    assert states(story) == ["waiting", "done"]


def test_the_format_before_has_neither_times_of_turns_nor_of_failures(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "FORMAT", 2)
    failed = (0, 1, 1, 1, "ValueError", "no")
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("a"), row("b")]),
        ("turn", [(0, 1, 1), (1, 1, 2)], [], [], []),
        ("turn", [(0, 2, 1)], [done(1, 2, 1, 2)], [failed], []),
        ("rank", 2, "lost", "it died"),
        ("turn", [], [done(0, 1, 4, 1, 2)], [], []),
        ("end", "done", 0, False),
    )
    story = read_story(tmp_path)
    assert (outcomes(story), states(story)) == (["done", "failed", "done"], ["done", "done"])
    assert np.isnan(story.calls.sent).all()
    assert at(story, "stopped") == [3, 3, 5]
    assert not story.waits.has_sent
    assert story.launches[0].rank_events[0].time_s is None


def test_slots_of_a_rank_do_not_overlap(tmp_path):
    write_launch(
        tmp_path,
        ("run", about(1, 2)),
        ("tasks", 0, [row(number) for number in range(5)]),
        turn(9, (), [done(0, 1, 0, 4), done(1, 1, 1, 1), done(2, 1, 2, 1), done(3, 1, 3.5, 2), done(4, 1, 4, 1)]),
    )
    assert read_story(tmp_path).lanes.tolist() == [0, 1, 1, 1, 0]


def test_calls_that_are_not_the_longest_path_are_left_out_of_it_in_any_order_of_functions(tmp_path):
    write_launch(
        tmp_path,
        ("run", about()),
        ("tasks", 0, [row("end", "f", [1, 3]), row("long", "f", [2]), row("begin"), row("short")]),
        turn(9, (), [done(2, 1, 0, 1), done(3, 2, 0, 3), done(1, 1, 1, 4), done(0, 1, 5, 1)]),
    )
    story = read_story(tmp_path)
    assert [story.tasks.label(task) for task in story.critical_path] == ["begin", "long", "end"]


def test_a_torn_journal_is_read_to_the_tear(tmp_path):
    write_large(tmp_path, 400, 2)
    path = tmp_path / "journal" / "000001.journal"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    story = read_story(tmp_path)
    assert 0 < len(story.calls) < 400
    assert (story.calls.duration >= 0).all()
    assert "its launch died while it wrote" in story.notes[0]


def test_what_a_run_that_goes_on_is_just_writing_is_no_damage(tmp_path):
    write_launch(tmp_path, ("run", about()), ("tasks", 0, [row("a")]), turn(1, [(0, 1, 1)]))
    with (tmp_path / "journal" / "000001.journal").open("ab") as file:
        file.write(b"half a frame")
    here = {"pid": os.getpid(), "host": os.uname().nodename, "launch": 1, "started_s": T0 * 2}
    write_status(tmp_path, status="running", **here)
    assert read_story(tmp_path).notes == []
    write_status(tmp_path, status="running", **{**here, "pid": 2**30})
    assert len(read_story(tmp_path).notes) == 1


def test_many_calls_are_read_within_bounds(tmp_path):
    write_large(tmp_path, 20_000, 8)
    story = read_story(tmp_path)
    calls, waits = story.calls, story.waits
    assert np.bincount(calls.outcome)[0] == 20_000
    assert (np.diff(calls.started) >= 0).all()
    for cause in (waits.inputs, waits.slots, waits.queue, waits.transfer, waits.retry):
        assert (cause >= 0).all()
    waited = waits.inputs + waits.slots + waits.queue + waits.transfer
    first = waits.retry == 0
    assert np.allclose(waited[first], (calls.started - story.started_s)[first]), "all time until the start has a cause"
    nbytes = sum(getattr(calls, name).nbytes for name in calls.__slots__)
    assert nbytes / len(calls) < 60


def test_what_is_no_run_is_refused_in_a_line(tmp_path):
    for path, why in ((tmp_path / "none", "holds no run: No such file"), (tmp_path, "holds no run; name")):
        with pytest.raises(UsageError, match=why):
            read_story(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Not a directory"):
        read_story(tmp_path / "file")
    (tmp_path / "journal").write_text("")
    with pytest.raises(JournalError, match="cannot be read"):
        read_story(tmp_path)


def test_what_others_could_have_written_is_not_unpickled(tmp_path):
    write_launch(tmp_path, ("run", about()), ("tasks", 0, [row("a")]))
    (tmp_path / "journal").chmod(0o777)
    with pytest.raises(UsageError, match="can be written to by everybody"):
        read_story(tmp_path)


def broken(text):
    raise ValueError(text)


def test_tracebacks_of_a_real_run_are_in_its_journal_each_once(tmp_path):
    dag = DAG("failing")
    for number in range(3):
        dag.add_function(Function(id=number, code=broken, extra_args=["no"], max_retries=1))
    dag.add_function(Function(id="after", code=broken, args=[0]))
    results = execute_local(dag, run_dir=tmp_path / "run", check=False)
    story = read_story(tmp_path / "run")
    assert outcomes(story) == ["failed"] * 6
    assert states(story) == ["failed"] * 3 + ["skipped"]
    assert (story.calls.duration > 0).all()
    assert not story.calls.is_derived.any()
    assert story.failure_counts == [6]
    assert "raise ValueError(text)" in story.failures[0].traceback
    assert load(tmp_path / "run").errors[2].traceback == results.errors[2].traceback
