"""The attempts at elements of arrays, of journals that were made for this."""

from __future__ import annotations

import pytest

from handoff_mpi.results.lease_tally import Attempts
from handoff_mpi.results.story_reader import read_story
from tests.results.made_journal import T0, TRACEBACK, about, row, turn, write_launch, write_status

COLUMN = ("numbers", 0, "q", b"")


def elements(rank, *intervals, at=0.0, took=0.0, task=0):
    return ("elements", task, rank, intervals, COLUMN, T0 + at if took else 0.0, took)


def read(tmp_path, *records, count=20, **more):
    head = [("run", about(**more)), ("tasks", 0, [row("xs", "fit")]), ("array", 0, count, [("range", count, 0, 1)])]
    write_launch(tmp_path, *head, *records)
    return read_story(tmp_path)


def test_a_lease_has_the_elements_up_to_its_last_value(tmp_path):
    story = read(
        tmp_path,
        ("leased", [(3, 0, 1, [(0, 8)]), (4, 0, 2, [(8, 12)])]),
        elements(1, (0, 2)),
        elements(2, (8, 12), at=1, took=4),
        ("elements_retried", 0, 1, [(2, 3), (7, 8)], 1, "ValueError", "no"),
        elements(1, (3, 7), at=1, took=8),
    )
    calls = story.calls
    assert sorted(zip(calls.rank.tolist(), calls.elements.tolist(), strict=True)) == [(1, 7), (2, 4)]
    assert story.attempts == {(0, 0): Attempts(done=10, failed=2, retries=2)}


def test_failures_behind_the_last_value_are_of_the_lease_that_had_them(tmp_path):
    story = read(
        tmp_path,
        ("leased", [(3, 0, 1, [(0, 4)])]),
        elements(1, (0, 2), at=1, took=4),
        ("leased", [(3, 0, 1, [(2, 4)])]),
        ("elements_retried", 0, 1, [(2, 4)], 1, "ValueError", "no"),
        ("elements_failed", 0, 1, [(2, 4)], 2, "ValueError", "no", -1, 2),
    )
    assert story.calls.elements.tolist() == [4], "the second lease had no value, and so no time"
    assert story.attempts == {(0, 0): Attempts(done=2, failed=4, retries=2)}


def test_what_another_rank_took_over_is_not_of_the_lease(tmp_path):
    story = read(
        tmp_path,
        ("leased", [(3, 0, 1, [(0, 10)])]),
        ("leased", [(4, 0, 2, [(5, 10)])]),
        elements(1, (0, 5), at=1, took=5),
        elements(2, (5, 10), at=1, took=5),
    )
    assert story.calls.elements.tolist() == [5, 5]


def test_elements_of_no_known_lease_are_counted_with_the_next_time(tmp_path):
    story = read(tmp_path, elements(1, (0, 3)), elements(1, (3, 5), at=1, took=5))
    assert story.calls.elements.tolist() == [5]


def test_elements_that_failed_as_their_array_did_were_not_tried_once_more(tmp_path):
    story = read(
        tmp_path,
        ("traceback", 0, TRACEBACK),
        ("leased", [(3, 0, 1, [(0, 2)])]),
        ("elements_retried", 0, 1, [(0, 2)], 1, "ValueError", "no"),
        ("elements_failed", 0, 1, [(0, 1)], 1, "ValueError", "no", 0, 1),
        turn(3, failed=[(0, 1, -1, 1, "ValueError", "1 of 20 elements failed")]),
    )
    assert story.attempts == {(0, 0): Attempts(done=0, failed=2, retries=1)}
    assert [(each.is_final, each.elements) for each in story.element_failures] == [(True, [(0, 1)]), (False, [(1, 2)])]
    assert story.failures[story.element_failures[0].failure].traceback == TRACEBACK
    assert sum(story.failure_counts) == 0, "elements failed, no call of a function did"


def test_the_elements_of_a_lost_rank_have_not_failed(tmp_path):
    story = read(
        tmp_path,
        ("leased", [(3, 0, 1, [(0, 8)])]),
        ("elements_retried", 0, 1, [(0, 8)], 1, "rank-lost", "it died"),
    )
    assert story.attempts == {}
    assert story.element_failures == []
    assert story.taken_back == {(0, 1): 8}


def test_what_failed_for_good_was_not_tried_again_in_the_end(tmp_path):
    story = read(
        tmp_path,
        ("elements_retried", 0, 1, [(0, 3), (5, 7)], 1, "ValueError", "no"),
        ("elements_failed", 0, 1, [(1, 2), (6, 7)], 2, "ValueError", "no", -1, 2),
    )
    assert [each.elements for each in story.element_failures if not each.is_final] == [[(0, 1), (2, 3), (5, 6)]]


def test_later_leases_of_an_array_are_not_retries(tmp_path):
    story = read(
        tmp_path,
        elements(1, (0, 1), at=1, took=1),
        elements(1, (1, 2), at=5, took=1),
        elements(2, (2, 3), at=9, took=1),
    )
    waits = story.waits
    assert waits.retry.tolist() == [0, 0, 0]
    assert waits.slots.tolist() == [1, 0, 0]
    assert waits.is_known.tolist() == [True, False, False]


def test_elements_count_on_the_longest_path_one_by_one(tmp_path):
    leased = [("leased", [(3, 0, 1, [(0, 10)])]), ("leased", [(4, 0, 1, [(10, 14)])])]
    story = read(tmp_path, *leased, elements(1, (0, 10), at=1, took=5), elements(1, (10, 14), at=6, took=4))
    assert story.path_durations.tolist() == [1.0]


@pytest.mark.parametrize("are_told", [True, False])
def test_few_elements_of_an_array_run(tmp_path, are_told, monkeypatch):
    monkeypatch.setattr("handoff_mpi.results.story_reader.find_states", lambda paths: {paths[0]: ("running", {})})
    counts = {"done": 5, "failed": 0, "skipped": 0, "running": 2, "waiting": 12, "ready": 1}
    tmp_path.mkdir(exist_ok=True)
    write_status(tmp_path, status="running", launch=1, **({"counts": counts} if are_told else {}))
    story = read(tmp_path, elements(1, (0, 5), at=1, took=5))
    assert story.launches[-1].is_running
    running = 2 if are_told else 0
    assert story.counts == {"waiting": 15 - running, "running": running, "done": 5, "failed": 0, "skipped": 0}


def test_elements_that_failed_are_counted_before_their_array_has_ended(tmp_path):
    failed = ("elements_failed", 0, 1, [(5, 7)], 1, "ValueError", "no", -1, 1)
    story = read(tmp_path, elements(1, (0, 5), at=1, took=5), failed)
    assert story.counts == {"waiting": 13, "running": 0, "done": 5, "failed": 2, "skipped": 0}
