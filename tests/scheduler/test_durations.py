"""How long calls are expected to take: as others of their code did."""

from __future__ import annotations

import pytest

from handoff_mpi.dag import TaskSpec
from handoff_mpi.scheduler.durations import Durations
from handoff_mpi.scheduler.slots import SlotTable
from tests.scheduler.transcript import CPU, Dialogue, done, ranks, task


def durations(*codes, stop_at=float("inf")):
    return Durations([TaskSpec((), CPU, code=code) for code in codes], SlotTable(ranks(1)), stop_at)


def test_a_call_is_expected_to_take_as_long_as_others_of_its_code():
    known = durations(0, 0, 1)
    assert (known.known_s(0), known.expected_s(0)) == (None, 1.0)
    known.learn(0, 4.0)
    assert (known.known_s(1), known.expected_s(1), known.known_s(2)) == (4.0, 4.0, None)
    known.learn(1, 9.0)
    assert known.expected_s(0) == pytest.approx(5.0), "a new call has a fifth of the weight"


def test_a_task_can_finish_if_others_of_its_code_would_before_the_run_is_stopped():
    known = durations(0, 1, stop_at=10.0)
    known.now = 7.0
    known.learn(0, 3.0)
    assert known.can_finish(0)
    assert known.can_finish(1), "nothing is known of its code"
    known.now = 7.1
    assert not known.can_finish(0)
    assert durations(0).can_finish(0), "the run is not stopped at any time"


def test_a_claim_is_held_for_the_rest_of_the_mean_or_as_long_again_as_so_far():
    run = Dialogue(ranks(1))
    run.submit(task(), task())
    run.tell(3.0, done(1, 0))
    (slot,) = run.scheduler.slots.of_rank[1]
    known = run.scheduler._durations
    known.now = 4.0
    assert known.remaining_s(slot.claim) == pytest.approx(2.0)
    known.now = 11.0
    assert known.remaining_s(slot.claim) == pytest.approx(8.0)
