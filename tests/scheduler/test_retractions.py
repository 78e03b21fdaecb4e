"""Running leases are asked for their elements when slots are idle: which ones, when, and at what cost on many ranks."""

from __future__ import annotations

import pytest

from handoff_mpi.messages import LeaseReport
from handoff_mpi.scheduler import ElementsEnded
from handoff_mpi.scheduler.retractions import LONG_TASK_S, Retractions
from tests.scheduler.test_arrays import begin, end_all
from tests.scheduler.transcript import array


def tail(ranks, busy, elements=20):
    """An array on so many ranks, none of whose elements waits: the first ``busy`` ranks still run their first lease."""
    run, known = begin(array(elements * ranks, chunk=5), slots=(1,) * ranks, window=1)
    for key in [*known.leases]:
        known.tell(known.report(key, busy_s=1e-6), after=1e-6)
    stay = {key for key, (rank, _) in known.leases.items() if rank <= busy}
    while others := [key for key in known.leases if key not in stay]:
        known.tell(known.report(others[0], busy_s=1e-6), after=1e-6)
    return run, known


def recalls(said):
    return [line for line in said if line.startswith("recall from")]


def test_a_lease_is_recalled_once_it_is_long_while_a_slot_is_idle_and_no_sooner():
    run, known = tail(2, busy=1)
    ((first, (rank, elements)),) = known.leases.items()
    due = run.scheduler.next_wakeup()
    assert known.now < due <= LONG_TASK_S + 1e-3
    assert not recalls(run.tell(due - 1e-3))
    known.now = due + 1e-9
    assert recalls(known.tell(after=0.0)) == [f"recall from 1: {first[0]}#{first[1]}"]
    low = min(elements)[0]
    left = tuple((index, index + 1) for index in range(low + 1, low + 5))
    known.leases[first] = rank, type(elements)([(low, low + 1)])
    known.tell(ElementsEnded(rank, *first, LeaseReport((), None, (), left, 0.0)))
    assert [lease[0] for key, lease in known.leases.items() if key != first] == [2]
    end_all(run, known)
    assert run.status == "done"


def test_nothing_wakes_the_scheduler_while_all_slots_are_busy_or_no_lease_has_elements_to_give_back():
    run, known = begin(array(100, chunk=5), slots=(1, 1), window=1)
    for key in [*known.leases]:
        known.tell(known.report(key, busy_s=1e-6))
    assert run.scheduler.next_wakeup() == float("inf")
    run, known = begin(array(2, chunk=1), slots=(1, 1), window=1)
    known.tell(known.report(next(iter(known.leases)), busy_s=1e-6))
    known.tell(after=1.0)
    assert not recalls(known.tell(after=1.0))
    assert run.scheduler.next_wakeup() == float("inf")


def test_no_more_leases_are_recalled_than_slots_are_idle():
    run, known = tail(10, busy=8)
    assert len(known.leases) == 8
    assert len(recalls(known.tell(after=1.0))) == 2
    assert not recalls(known.tell(after=LONG_TASK_S / 2)), "the first ones have had no time to answer"
    assert len(recalls(known.tell(after=LONG_TASK_S))) == 2
    end_all(run, known)
    assert run.status == "done"


@pytest.mark.parametrize("ranks", [10, 100])
def test_a_decision_to_recall_looks_at_few_leases_however_many_there_are(ranks, monkeypatch):
    looked_at = []
    has_several = Retractions._has_several
    monkeypatch.setattr(
        Retractions, "_has_several", lambda self, lease: looked_at.append(lease) or has_several(self, lease)
    )
    _, known = tail(ranks, busy=ranks - 2)
    assert not looked_at, "while elements wait, no lease is looked at"
    for _ in range(3):
        known.tell(after=LONG_TASK_S * 1.1)
        assert len(looked_at) <= 4
        looked_at.clear()
