"""Where elements of an array stand that are to be tried again, on a real scheduler."""

from __future__ import annotations

import json

from handoff_mpi.membership import RankLost
from handoff_mpi.scheduler import array_explanation
from tests.scheduler.test_arrays import begin, error
from tests.scheduler.test_waiting_elements import of_handles
from tests.scheduler.transcript import array, task


def explain(run, number=0):
    told = run.scheduler.explain(number, "t{}".format)
    json.dumps(told)
    return told


def fail_once(known, element):
    """Report the leases until this element has failed once."""
    while True:
        key = next(iter(known.leases))
        if element in known.leases[key][1]:
            failure = (((element, element + 1),), error())
            return known.tell(known.report(key, failures=[failure]))
        known.tell(known.report(key))


def test_an_element_waits_for_its_retry_and_then_has_it():
    run, known = begin(array(10, max_retries=2), slots=(1, 1), retry_delay_s=10.0)
    assert explain(run)["retries"] == [] and explain(run)["retry_count"] == 0
    fail_once(known, 4)
    told = explain(run)
    (retry,) = told["retries"]
    assert told["retry_count"] == 1 and 10.0 < retry.pop("until_s") - known.now < 20.0
    assert retry == {"elements": [(4, 5)], "attempt": 2, "reason": "ValueError: oops", "state": "ready"}
    while known.leases:
        known.tell(known.report(next(iter(known.leases))))
    told = explain(run)
    counts = {"count": 10, "done": 9, "failed": 0, "skipped": 0, "leases": 0, "waiting": 0}
    assert (told["state"], told["elements"]) == ("ready", counts)
    (reason,) = told["reasons"]
    assert (reason["cause"], reason["of_elements"]) == ("delay", True)
    known.tell(after=20.0)
    (retry,) = explain(run)["retries"]
    assert (retry["rank"], retry["state"], retry["attempt"]) == (2, "dispatched", 2)
    assert explain(run)["state"] == "running" and explain(run)["reasons"] == []


def test_elements_that_were_lost_with_a_rank_did_not_fail():
    run, known = begin(array(4), slots=(1, 1))
    known.tell(RankLost(2, "killed"))
    (retry,) = explain(run)["retries"]
    assert (retry["attempt"], retry["reason"]) == (2, "")


def test_more_of_them_are_counted_than_told(monkeypatch):
    monkeypatch.setattr(array_explanation, "MAX_RETRIES", 1)
    run, known = begin(array(10), slots=(1, 1), retry_delay_s=10.0)
    for element in (3, 6):
        fail_once(known, element)
    told = explain(run)
    assert told["retry_count"] == 2 and [each["elements"] for each in told["retries"]] == [[(3, 4)]]


def test_elements_that_wait_for_functions_are_no_leases_at_ranks():
    run, _ = begin(task(), of_handles(3, {0: (0,), 1: (0,), 2: (0,)}), slots=(1,))
    told = explain(run, 1)
    assert (told["elements"]["leases"], told["elements"]["waiting"]) == (0, 3)
    (reason,) = told["reasons"]
    assert (told["state"], reason["cause"], reason["inputs"][0]["id"]) == ("waiting", "inputs", "t0")


def test_an_input_that_is_an_array_tells_how_far_it_has_come():
    run, known = begin(array(10), task(0), slots=(1,))
    known.tell(known.report(next(iter(known.leases))))
    (reason,) = explain(run, 1)["reasons"]
    standing = {"id": "t0", "state": "running", "elements": {"count": 10, "done": 1}}
    assert reason["inputs"] == [standing]
    assert reason["roots"] == [{**standing, "reasons": []}], "it runs"


def test_leases_of_an_array_are_one_claimant():
    run, _ = begin(array(10), task(priority=-1), slots=(2,))
    (cpu, slot) = explain(run, 1)["reasons"][0]["places"][0]["missing"]
    assert (cpu["claim_count"], slot["claim_count"]) == (2, 2)
    assert cpu["claims"] == [{"id": "t0", "since_s": 0.0, "leases": 2, "amount": 2, "rank": 1}]
