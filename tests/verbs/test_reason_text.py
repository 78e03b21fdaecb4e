"""The sentences on why a function is not running, of what a real scheduler answers."""

from __future__ import annotations

from handoff_mpi.resources.amounts import UNIT
from handoff_mpi.scheduler import MemoryTold, Refused, StopRequested
from handoff_mpi.verbs.reason_text import reason_lines
from tests.scheduler.test_avoidance import hosts
from tests.scheduler.test_pauses import begin_paused
from tests.scheduler.test_probation import BAD, convict
from tests.scheduler.transcript import CPU, GPU, Dialogue, HeartbeatReceived, array, cpus, done, raised, ranks, task

ONE_GPU = {**CPU, **GPU}


def told(dialogue, number, now=10.0):
    answer = dialogue.scheduler.explain(number, "t{}".format)
    return list(reason_lines({"time_s": now, **answer}))


def submitted(ledger, *specs, **policy):
    talk = Dialogue(ledger, **policy)
    talk.submit(*specs)
    return talk


def test_what_others_have_claimed():
    talk = submitted(ranks(2, 1, gpus=[1]), task(cost=ONE_GPU), task(), task(cost=ONE_GPU), task(cost=cpus(2)), task())
    assert told(talk, 2) == [
        "Host h1 (rank 1) has no room: cpu: 1 wanted, all 2 are claimed by t0, t1; gpu: 1 wanted, the only one is"
        " claimed by t0; slot: 1 wanted, all 2 are claimed by t0, t1.",
        "Of the other groups of ranks 1 is too small.",
        "No ready function comes before it. Younger functions have skipped it 2 times; from 22 on room is reserved for"
        " it.",
    ]
    talk = submitted(ranks(2), array(9), task(priority=-1))
    two = "wanted, all 2 are claimed by 2 leases of t0"
    assert told(talk, 1)[0] == f"Host h1 (rank 1) has no room: cpu: 1 {two}; slot: 1 {two}."
    talk = submitted(ranks(3), task(cost=cpus(2)), task(cost=cpus(2)))
    assert told(talk, 1)[0] == "Host h1 (rank 1) has no room: cpu: 2 wanted, 1 of 3 free, the rest claimed by t0."


def test_the_queue():
    talk = submitted(ranks(1), task(), task(), task(), task(cost={"cpu": UNIT // 2}), task())
    assert told(talk, 2)[-1] == "1 ready function comes before it and needs the same."
    assert told(talk, 3)[-1] == "2 ready functions come before it."
    assert told(talk, 4)[-1] == "3 ready functions come before it, 2 of which need the same."


def test_a_paused_array():
    run, known, _ = begin_paused(max_retries=0)
    what = "3 elements failed an attempt and may fail for good"
    what = f"It is paused, as more than max_failures (2) may have failed soon: {what}"
    assert told(run, 0) == [f"{what}."], "while leases run"
    while known.leases:
        known.tell(known.report(next(iter(known.leases)), busy_s=1e-4), after=0.001)
    assert told(run, 0) == [f"{what}."] and run.scheduler.explain(0)["state"] == "ready"


def test_limits_and_the_end():
    talk = submitted(ranks(2), task(), task(), max_concurrency=1)
    assert told(talk, 1)[:2] == [
        "max_concurrency is 1, and 1 call holds that many places.",
        "Host h1 (rank 1) has room for it.",
    ]
    talk.tell(1.0, StopRequested("its time is up"))
    assert told(talk, 1)[0] == "Nothing more starts, because the run is being stopped: its time is up."
    talk = submitted(ranks(1, 1), task(), task(priority=-1), task(priority=-2), stop_at=10.0)
    talk.tell(8.0, done(1, 0))
    what = "It would not end in time: such calls take 3.0 s on average, and the run will be stopped in 2.0 s."
    assert told(talk, 2, 8.0)[0] == what


def test_failures():
    talk = submitted(ranks(1), task(), max_retries=3, retry_delay_s=100.0)
    talk.tell(1.0, raised(1, 0))
    assert told(talk, 0)[0].startswith("It has failed, and its retry waits for ")
    talk = submitted(ranks(1, 1), task(), task())
    talk.tell(1.0, raised(1, 0))
    assert told(talk, 0)[:3] == [
        "It has failed on host h1, so it is tried elsewhere.",
        "Host h2 (rank 2) has no room: cpu: 1 wanted, the only one is claimed by t1; slot: 1 wanted, the only one is"
        " claimed by t1.",
        "Host h1 (rank 1) is avoided, because the function failed there.",
    ]
    talk = Dialogue(hosts("aa"), max_retries=3)
    talk.submit(task(), task())
    talk.tell(1.0, raised(1, 0))
    assert told(talk, 0)[:2] == [
        "It has failed on rank 1, so it is tried elsewhere.",
        "Host a (rank 1 and 1 more) has no room: rank 1 is avoided, because the function failed there, and the other"
        " rank is busy with t1.",
    ]
    talk = Dialogue(hosts(BAD), max_retries=0)
    talk.submit(*[task() for _ in range(8)])
    talk.tell(1.0, raised(1, 0), done(3, 2))
    assert told(talk, 0) == [
        "Its last attempt failed on rank 1 (a) (ValueError: oops). Rank 0 decides by other calls there whether the"
        " rank or the function is to blame."
    ]


def test_ranks_that_get_nothing():
    talk = submitted(ranks(1, 1), task(), task(), task(), heartbeat_timeout_s=8.0)
    talk.tell(1.0, MemoryTold(1, True, "97 % used"), HeartbeatReceived((1, 2)))
    talk.tell(5.9, HeartbeatReceived((1,)))
    talk.tell(6.1, done(1, 0))
    assert told(talk, 2)[:2] == [
        "Host h1 (rank 1) gets no new functions: it is short of memory.",
        "Host h2 (rank 2) gets no new functions: it has not sent a message lately.",
    ]
    run = Dialogue(hosts(BAD))
    convict(run)
    lines = told(run, run.scheduler.ready.all_queues()[-1].tasks[-1])
    why = "it is on probation (3 functions that failed there succeeded elsewhere)"
    assert any(line.endswith(f"gets no new functions: {why}.") for line in lines)


def test_the_tracker():
    talk = submitted(ranks(1), task(), task(), window=1)
    for now in range(3):
        talk.tell(float(now), Refused(0, 1, "no licence", False, 1.0))
    (line,) = told(talk, 1)
    assert line.startswith(
        "The resource tracker has refused it for 10 s, last on rank 1 (h1): no licence. 2 functions wait"
    )


def test_pins_and_groups():
    talk = submitted(ranks(1, 1), task(pin=2), task(pin=2), task(pin="h2"))
    assert told(talk, 1)[0] == "It may run on rank 2 alone."
    assert told(talk, 2)[0] == "It may run on host h2 alone."
    talk = submitted(ranks(1), task(priority=9), task(group=0), task(group=0))
    assert told(talk, 2) == ["It runs on the rank that is chosen for t1 (ready), with which it is collocated."]


def test_inputs():
    talk = submitted(ranks(1), task(), task(), task(0, 1), task(2), task(3, 0))
    assert told(talk, 4) == [
        "2 of its inputs are missing: t3 (waiting), t0 (running on rank 1 (h1) for 10 s).",
        "4 functions upstream are open; 2 of them wait for no input:",
        "  t0 (running on rank 1 (h1) for 10 s)",
        "  t3 (waiting) <- t2 (waiting) <- t1 (ready)",
        "  t1: Host h1 (rank 1) has no room: cpu: 1 wanted, the only one is claimed by t0; slot: 1 wanted, the only one"
        " is claimed by t0.",
        "  t1: No ready function comes before it.",
    ]


def test_an_input_that_is_an_array():
    talk = submitted(ranks(1), array(1000), task(0))
    assert told(talk, 1) == ["1 of its inputs is missing: t0 (running: 0 of 1,000 elements are done)."]


def test_at_a_rank():
    talk = submitted(ranks(1), *[task() for _ in range(40)])
    talk.tell(0.1, done(1, 0, lasted=0.002))
    (line,) = told(talk, 3)
    assert line == "It waits at its rank behind 2 other functions; the first is t1 (running on rank 1 (h1) for 9.9 s)."


def test_reservations():
    cores = 4
    talk = Dialogue(ranks(cores))
    talk.submit(*[task() for _ in range(cores)], task(cost=cpus(cores)), *[task() for _ in range(400)])
    now, running = 1.0, [0, 1, 2, 3]
    while talk.scheduler.ready.all_queues()[0].reservation is None and now < 390:
        talk.tell(now, done(1, running[0]))
        running = sorted(talk.scheduler.slots.of_task)
        now += 1.0
    assert told(talk, cores)[0] == (
        "Room on host h1 is reserved for it, because younger functions have skipped it too often."
    )
    talk.tell(now, done(1, running[0]))
    last = len(talk.scheduler.tasks.state) - 1
    assert told(talk, last)[0] == "Host h1 (rank 1) keeps its room for t4, which was skipped too often."
