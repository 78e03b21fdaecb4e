"""Why a task is not running: each cause, on a real scheduler."""

from __future__ import annotations

import json

from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import MemoryTold, RankLost, Refused, StopRequested
from tests.scheduler.test_avoidance import hosts
from tests.scheduler.test_probation import BAD, convict
from tests.scheduler.transcript import (
    CPU,
    GPU,
    LONG,
    Dialogue,
    HeartbeatReceived,
    cpus,
    died,
    done,
    raised,
    ranks,
    task,
)

ONE = {**CPU, **GPU}


def explain(dialogue, number):
    """Return the explanation of a task, and its reasons by cause; it is plain data, and changes nothing."""
    before = repr(dialogue.scheduler.ready.all_queues()), bytes(dialogue.scheduler.tasks.state)
    told = dialogue.scheduler.explain(number, "t{}".format)
    json.dumps(told)
    assert (repr(dialogue.scheduler.ready.all_queues()), bytes(dialogue.scheduler.tasks.state)) == before
    return told, {each["cause"]: each for each in told["reasons"]}


def place(reasons):
    return reasons["places"]["places"][0]


def test_one_that_runs_has_no_reasons():
    talk = Dialogue(ranks(1))
    talk.submit(task(), now=5.0)
    told, reasons = explain(talk, 0)
    assert (told["state"], told["rank"], told["host"], told["since_s"], reasons) == ("running", 1, "h1", 5.0, {})
    assert told["attempts"] == 1


def test_slots_and_cores_that_others_have_claimed():
    talk = Dialogue(ranks(2))
    talk.submit(task(cost=cpus(2)), task(), task(), now=1.0)
    _, reasons = explain(talk, 2)
    assert list(reasons) == ["places", "queue"]
    lack = {"name": "cpu", "wanted": 1, "free": 0, "total": 2, "claim_count": 1}
    claims = [{"id": "t0", "since_s": 1.0, "amount": 2, "rank": 1}]
    assert place(reasons) == {
        "why": "busy",
        "host": "h1",
        "ranks": [1],
        "rank_count": 1,
        "missing": [{**lack, "claims": claims}],
    }
    assert reasons["queue"]["ahead"] == reasons["queue"]["ahead_alike"] == 1


def test_devices_that_another_has_claimed_and_hosts_that_have_none():
    talk = Dialogue(ranks(2, 2, gpus=[2]))
    talk.submit(task(cost=ONE), task(cost=ONE))
    _, reasons = explain(talk, 1)
    assert reasons["places"]["needs"] == "cpu=1, gpu=1"
    assert reasons["places"]["counts"] == {
        "room": 0,
        "reserved": 0,
        "busy": 1,
        "cordoned": 0,
        "avoided": 0,
        "too small": 1,
    }
    busy, small = reasons["places"]["places"]
    assert (busy["host"], busy["missing"][0]["name"], busy["missing"][0]["claims"][0]["id"]) == ("h2", "gpu", "t0")
    assert small["missing"] == [{"name": "gpu", "wanted": 1, "total": 0}]


def test_the_place_in_the_queue_counts_what_is_more_urgent_or_older():
    talk = Dialogue(ranks(1))
    talk.submit(task(), task(), task(cost={"cpu": UNIT // 2}), task(priority=5), task(), task(priority=-1))
    assert explain(talk, 3)[0]["state"] == "running"
    assert explain(talk, 4)[1]["queue"]["ahead"] == 3
    assert explain(talk, 0)[1]["queue"]["ahead"] == 0
    assert explain(talk, 5)[1]["queue"]["ahead"] == 4


def test_limits_of_the_user():
    talk = Dialogue(ranks(2), max_concurrency=1)
    talk.submit(task(), task())
    _, reasons = explain(talk, 1)
    assert reasons["max_concurrency"] == {"cause": "max_concurrency", "limit": 1, "claimed": 1}
    assert place(reasons)["why"] == "room"


def test_a_deadline_that_it_would_miss():
    talk = Dialogue(ranks(1, 1), stop_at=10.0)
    talk.submit(task(), task(cost=cpus(1), priority=-1), task(priority=-2))
    talk.tell(8.0, done(1, 0, lasted=LONG))
    assert explain(talk, 2)[1]["deadline"] == {"cause": "deadline", "mean_s": 3.0, "stop_at_s": 10.0}


def test_a_retry_that_is_delayed():
    talk = Dialogue(ranks(1), max_retries=3, retry_delay_s=100.0)
    talk.submit(task())
    talk.tell(1.0, raised(1, 0))
    told, reasons = explain(talk, 0)
    assert (told["state"], list(reasons)) == ("ready", ["delay"])
    assert 101.0 <= reasons["delay"]["until_s"] <= 201.0


def test_a_tracker_that_said_no():
    talk = Dialogue(ranks(1), window=1)
    talk.submit(task(), task())
    for now in range(3):
        talk.tell(float(now), Refused(0, 1, "no licence", False, 1.0))
    _, reasons = explain(talk, 1)
    assert list(reasons) == ["tracker"]
    assert (reasons["tracker"]["reason"], reasons["tracker"]["rank"], reasons["tracker"]["waiting"]) == (
        "no licence",
        1,
        2,
    )


def test_pins_and_groups():
    talk = Dialogue(ranks(1, 1))
    talk.submit(task(pin=2), task(pin=2), task(pin="h2"), task(group=0, cost=cpus(1)), task(group=0), task(group=0))
    _, reasons = explain(talk, 1)
    assert (reasons["bound"]["rank"], place(reasons)["ranks"], reasons["places"]["total"]) == (2, [2], 1)
    assert explain(talk, 2)[1]["bound"]["host"] == "h2"
    full = Dialogue(ranks(1))
    full.submit(task(priority=9), task(group=0), task(group=0))
    assert explain(full, 2)[1]["group"]["leader"] == {"id": "t1", "state": "ready"}


def test_a_rank_short_of_memory_and_one_that_is_silent():
    talk = Dialogue(ranks(1, 1), heartbeat_timeout_s=8.0)
    talk.submit(task(), task(), task())
    talk.tell(1.0, MemoryTold(1, True, "97 % used"), HeartbeatReceived((1, 2)))
    talk.tell(5.9, HeartbeatReceived((1,)))
    talk.tell(6.1, done(1, 0))
    _, reasons = explain(talk, 2)
    why = {each["host"]: each["cordoned"] for each in reasons["places"]["places"]}
    assert why == {"h1": {"memory": ""}, "h2": {"suspect": ""}}


def test_a_host_on_probation():
    run = Dialogue(hosts(BAD))
    convict(run)
    waiting = run.scheduler.ready.all_queues()[-1].tasks[-1]
    places = explain(run, waiting)[1]["places"]["places"]
    on_probation = next(each for each in places if each["host"] == "a")
    assert on_probation["cordoned"] == {"probation": "3 functions that failed there succeeded elsewhere"}


def test_a_failure_that_is_not_final_yet():
    run = Dialogue(hosts(BAD), max_retries=0)
    run.submit(*[task() for _ in range(8)])
    run.tell(1.0, raised(1, 0), done(3, 2))
    _, reasons = explain(run, 0)
    assert reasons["undecided"] == {"cause": "undecided", "rank": 1, "host": "a", "error": "ValueError: oops"}


def test_one_that_failed_avoids_where_it_failed():
    talk = Dialogue(ranks(1, 1), max_retries=3)
    talk.submit(task(), task())
    talk.tell(1.0, raised(1, 0))
    _, reasons = explain(talk, 0)
    assert reasons["avoids"]["hosts"] == ["h1"]
    assert {each["host"]: each["why"] for each in reasons["places"]["places"]} == {"h1": "avoided", "h2": "busy"}


def test_inputs_are_followed_to_what_waits_for_none():
    talk = Dialogue(ranks(1))
    talk.submit(task(), task(), task(0, 1), task(2), task(3, 0))
    told, reasons = explain(talk, 4)
    inputs = reasons["inputs"]
    assert told["state"] == "waiting"
    assert [each["id"] for each in inputs["inputs"]] == ["t3", "t0"]
    assert (inputs["input_count"], inputs["upstream"], inputs["root_count"]) == (2, 4, 2)
    assert [[each["id"] for each in chain] for chain in inputs["chains"]] == [["t0"], ["t3", "t2", "t1"]]
    running, ready = inputs["roots"]
    assert (running["state"], running["rank"], ready["state"]) == ("running", 1, "ready")
    assert [each["cause"] for each in ready["reasons"]] == ["places", "queue"]


def test_at_a_rank_behind_another():
    talk = Dialogue(ranks(1))
    talk.submit(*[task() for _ in range(40)])
    talk.tell(0.1, done(1, 0, lasted=0.002))
    told, reasons = explain(talk, 3)
    assert (told["state"], told["rank"]) == ("at rank", 1)
    assert reasons["behind"]["ahead"] == 2
    assert reasons["behind"]["first"]["state"] == "running"


def test_the_end_of_a_run():
    talk = Dialogue(ranks(1))
    talk.submit(task(), task(), task(1))
    talk.tell(1.0, StopRequested("its time is up"))
    for number in (1, 2):
        assert explain(talk, number)[1]["stopping"]["why"] == "its time is up"


def test_a_reservation_for_it_and_against_others():
    talk = Dialogue(ranks(4))
    talk.submit(*[task() for _ in range(4)], task(cost=cpus(4)), *[task() for _ in range(400)])
    running, now = [0, 1, 2, 3], 1.0
    while talk.scheduler.ready.all_queues()[0].reservation is None and now < 390:
        talk.tell(now, done(1, (running.pop(0), 1)))
        running = [number for number, slot in sorted(talk.scheduler.slots.of_task.items())]
        now += 1.0
    _, reasons = explain(talk, 4)
    assert reasons["reservation"]["host"] == "h1"
    talk.tell(now, done(1, running[0]))
    last = len(talk.scheduler.tasks.state) - 1
    assert place(explain(talk, last)[1])["kept_for"] == ["t4"]


def test_what_has_ended():
    talk = Dialogue(ranks(1), max_retries=0, crash_limit=1)
    talk.submit(task(), task(), task(1))
    talk.tell(1.0, done(1, 0))
    talk.tell(2.0, died(1, 1))
    talk.tell(3.0, RankLost(1, "gone"))
    assert explain(talk, 0)[0]["value"] == {"at_rank_0": True, "in_file": False, "ranks": []}
    assert "killed by signal 11" in explain(talk, 1)[0]["error"]
    assert explain(talk, 2)[0]["state"] == "skipped"
