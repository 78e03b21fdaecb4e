"""Elements whose lease fails, breaks off, or is one too many: what becomes of them, and whom that speaks against."""

from __future__ import annotations

from collections import Counter

import pytest

from handoff_mpi.membership import RankLost
from handoff_mpi.messages import DEATH, DIED, TIMED_OUT, TIMEOUT, ErrorReport, LeaseReport
from handoff_mpi.scheduler import ElementsEnded, Finished, Retracted
from tests.scheduler.test_arrays import begin, end_all, error, lose, running_lease
from tests.scheduler.transcript import array


def part(known, rank, key, *failed, ended=(), kind="ValueError"):
    """Elements of a lease have failed while it runs; others have ended well."""
    for index in (*failed, *ended):
        known.leases[key][1].discard(index, index + 1)
    known.begun.update(ended)
    failures = tuple((((index, index + 1),), error(kind)) for index in failed)
    report = LeaseReport(tuple((index, index + 1) for index in ended), None, failures, (), 0.01)
    return known.tell(ElementsEnded(rank, *key, report))


@pytest.mark.parametrize("how", ["rank", "death", "time-out", "another death"])
def test_an_element_whose_failure_was_reported_does_not_run_again_when_its_lease_breaks_off(how):
    run, known, key, rank, low = running_lease(slots=(1, 1), crash_limit=1)
    part(known, rank, key, low)
    failed = {low}
    if how == "rank":
        lose(known, rank)
    else:
        known.leases.pop(key)
        status, kind = (TIMED_OUT, TIMEOUT) if how == "time-out" else (DIED, DEATH)
        failed |= {low + 1}
        known.tell(Finished(rank, [(*key, status, ErrorReport(kind, "x", element=low + 1), 0, 0.0, 0.1, False)]))
    end_all(run, known)
    known.tell(after=100.0)
    assert run.status == "failed"
    assert run.scheduler.arrays.of[0].failed == len(failed)
    assert known.begun == Counter(set(range(40)) - failed)


def test_a_failure_that_is_reported_in_a_part_is_judged_at_once_and_tried_again_while_its_lease_runs():
    run, known = begin(array(40, max_retries=1), slots=(1, 1))
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    (first, (rank, elements)), second, *_ = known.leases.items()
    low = min(elements)[0]
    part(known, rank, first, low)
    waiting = [lease for lease in run.scheduler.arrays.leases.values() if low in lease.intervals]
    assert [len(lease.intervals) for lease in waiting] == [1], "it is a lease of its own"
    held = known.leases.pop(first)
    known.tell(known.report(second[0]))
    end_all(run, known)
    assert low in known.begun, "it has ended, though the lease in which it failed still runs"
    known.leases[first] = held
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(40))


def test_the_attempt_of_an_element_is_one_more_than_what_has_happened_to_it():
    run, known = begin(array(40, max_retries=5, chunk=2), slots=(1,))
    arrays = run.scheduler.arrays
    attempts = []
    for _ in range(300):
        if not known.leases:
            break
        key = next(iter(known.leases))
        _, elements = known.leases[key]
        failures = []
        if 7 in elements:
            attempts.append(arrays.attempt(key[0]))
            failures = [(((7, 8),), error())] if len(attempts) < 4 else []
        else:
            assert arrays.attempt(key[0]) == 1
        known.tell(known.report(key, failures=failures))
    assert attempts == [1, 2, 3, 4]
    assert run.status == "done" and known.begun == Counter(range(40))


def test_a_lease_that_comes_back_unbegun_is_no_attempt_and_one_that_is_lost_with_its_rank_is():
    run, known, key, rank, low = running_lease(slots=(1, 1))
    arrays = run.scheduler.arrays
    behind = next(each for each in known.leases if each != key and known.leases[each][0] == rank)
    elements = known.leases.pop(behind)[1]
    known.tell(Retracted(rank, [behind]))
    again = [arrays.attempt(each) for each, (_, its) in known.leases.items() if min(elements)[0] in its]
    assert again in ([1], [])
    lose(known, rank)
    assert [arrays.attempt(each) for each, (_, its) in known.leases.items() if low in its] in ([2], [])
    lease = next(each for each in arrays.leases.values() if low in each.intervals)
    assert lease.incidents == 1
    end_all(run, known)
    assert run.status == "done" and known.begun == Counter(range(40))


def test_what_was_lost_with_a_rank_while_another_element_ran_is_no_attempt_of_an_element():
    run, known, _, rank, low = running_lease(slots=(1, 1, 1))
    arrays = run.scheduler.arrays
    lose(known, rank)
    while True:
        key = next(iter(known.leases))
        rank, elements = known.leases[key]
        if low in elements:
            break
        known.tell(known.report(key))
    assert arrays.attempt(key[0]) == 2
    part(known, rank, key, low)
    end_all(run, known)
    known.tell(after=100.0)
    ((intervals, failure),) = arrays.of[0].failures
    assert (intervals, failure.attempts, failure.ranks) == (((low, low + 1),), 1, (rank,))


def test_more_failures_than_allowed_end_the_leases_that_wait_to_be_tried_again():
    run, known = begin(array(400, max_failures=1, max_retries=1, retry_delay_s=50.0), slots=(1, 1))
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    (first, (rank, elements)), *_ = known.leases.items()
    low = min(elements)[0]
    part(known, rank, first, low)
    known.tell(after=0.001)
    said = part(known, rank, first, low + 1, low + 2, kind="TypeError")
    assert sum(line.startswith("recall from") for line in said) == 4, "all leases are asked for, once"
    said = part(known, rank, first, low + 3, low + 4, kind="TypeError")
    assert not any(line.startswith("recall from") for line in said)
    for key, (its_rank, elements) in [*known.leases.items()]:
        known.leases.pop(key)
        known.tell(ElementsEnded(its_rank, *key, LeaseReport((), None, (), tuple(elements), 0.0)))
        known.tell(Finished(its_rank, [(*key, 0, LeaseReport((), None), 8, 0.0, 0.01, False)]))
    assert run.status == "failed", "nothing waits for the retry"
    state = run.scheduler.arrays.of[0]
    errors = {low + index: kind for index, kind in ((0, "ValueError"), (1, "TypeError"), (2, "TypeError"))}
    failed = {start: failure.kind for elements, failure in state.failures for start, _ in elements}
    assert errors.items() <= failed.items(), "the one that was to be tried again has failed, too"
    assert state.failed == 5 and state.done + state.failed + state.skipped == 400


def test_what_succeeded_in_a_lease_speaks_for_its_rank_before_what_failed_is_judged():
    run, known = begin(array(40, max_retries=0), slots=(1, 1))
    wins = run.scheduler._failures.evidence.wins
    seen = []
    failed = run.scheduler._failures.failed

    def judged(task, rank, *rest, **also):
        seen.append(wins[rank])
        failed(task, rank, *rest, **also)

    run.scheduler._failures.failed = judged
    for key in list(known.leases):
        known.tell(known.report(key, busy_s=1e-5), after=0.001)
    key, (_, elements) = next(iter(known.leases.items()))
    low = min(elements)[0]
    known.tell(known.report(key, failures=[(((low, low + 1),), error("TypeError"))]))
    assert seen == [2], "one for its first lease, and one for this"


def test_the_loss_of_a_rank_ends_no_lease_that_another_one_runs():
    run, known = begin(array(40), slots=(1, 1))
    ranks = {lease[0] for lease in known.leases.values()}
    known.leases = {key: lease for key, lease in known.leases.items() if lease[0] != 1}
    known.tell(RankLost(1, "it is lost"))
    end_all(run, known)
    assert ranks == {1, 2}
    assert run.status == "done" and known.begun == Counter(range(40))
