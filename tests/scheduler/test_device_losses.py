"""Devices that fail under calls: their attempts do not count, and three in a row withdraw a device."""

from __future__ import annotations

from handoff_mpi.allocation import Ledger
from handoff_mpi.messages import DEVICE_LOSS, OK, RAISED, ErrorReport, LeaseReport
from handoff_mpi.resources import Capability, Device
from handoff_mpi.scheduler import Finished
from handoff_mpi.scheduler.device_losses import MAX_DEVICE_ERRORS, MAX_GIVEN_BACK
from tests.scheduler.transcript import CPU, GPU, LONG, Dialogue, array, cpus, done, elements, raised, task

ONE = {**CPU, **GPU}
WHY = "CUDARuntimeError: ECC error; a new process cannot use GPU-a either: ECC error"


def hosts(*uuids, slots=2, ranks_a_host=1):
    """Ranks on hosts h1, h2, ..., each of which sees the devices of its host."""
    capabilities = []
    for number, own in enumerate(uuids, 1):
        devices = tuple(Device(index, uuid) for index, uuid in enumerate(own))
        for _ in range(ranks_a_host):
            capabilities.append(Capability(len(capabilities) + 1, f"h{number}", cpus(slots), devices))
    return Ledger(capabilities, {each.rank: slots for each in capabilities})


def lost(rank, task, attempt, *uuids):
    """A call failed as devices did."""
    report = ErrorReport(DEVICE_LOSS, WHY, devices=uuids)
    return Finished(rank, [(task, attempt, RAISED, report, 0, 0.0, LONG, False)])


def device_of(run, rank, slot=0):
    (device,) = run.scheduler.ledger.rank_states[rank].claims[slot].devices
    return device[0]


def test_an_attempt_that_failed_with_its_device_is_made_on_another_one_and_spends_no_try():
    run = Dialogue(hosts(("GPU-a", "GPU-b")), max_retries=0)
    assert run.submit(task(cost=ONE)) == ["1.0 claims for 0#1"]
    assert device_of(run, 1) == "GPU-a"
    assert run.tell(1.0, lost(1, 0, 1, "GPU-a")) == ["1.0 claims for 0#2"]
    assert run.log[0] == f"0#1 READY by DEVICE_LOST on 1: {(DEVICE_LOSS, WHY)}"
    assert device_of(run, 1) == "GPU-b", "the other one comes first from now on"
    run.tell(2.0, done(1, (0, 2)))
    assert run.status == "done"


def test_a_device_that_fails_three_calls_in_a_row_is_withdrawn_from_all_ranks_of_its_host():
    run = Dialogue(hosts(("GPU-a",), ("GPU-a",), ranks_a_host=2), max_retries=0)
    run.submit(*[task(cost=ONE) for _ in range(2)], task(cost=ONE, pin="h1"))
    for attempt in range(1, MAX_DEVICE_ERRORS):
        run.tell(attempt, lost(1, 0, attempt, "GPU-a"))
        assert not any("withdrawn" in line for line in run.log)
    run.tell(3.0, lost(1, 0, MAX_DEVICE_ERRORS, "GPU-a"))
    assert f"rank 1 device withdrawn: ('h1', 'GPU-a', {WHY!r})" in run.log
    offers = run.scheduler.ledger.rank_states
    assert [offers[rank].group.visible for rank in (1, 2, 3, 4)] == [(), (), ("GPU-a",), ("GPU-a",)]
    run.tell(4.0, done(3, 1))
    run.tell(5.0, done(3, (0, 4)))
    assert run.states == "DONE DONE FAILED"
    assert "gpu: 1 wanted, host h1 offers none" in run.why(2)[1]


def test_a_success_between_two_failures_speaks_for_the_device():
    run = Dialogue(hosts(("GPU-a",)), max_retries=0)
    run.submit(*[task(cost=ONE) for _ in range(2)])
    run.tell(1.0, lost(1, 0, 1, "GPU-a"))
    run.tell(2.0, lost(1, 0, 2, "GPU-a"))
    assert run.tell(3.0, done(1, (0, 3))) == ["1.0 continues with 1#1"]
    run.tell(4.0, lost(1, 1, 1, "GPU-a"))
    run.tell(5.0, lost(1, 1, 2, "GPU-a"))
    assert run.scheduler.ledger.rank_states[1].group.visible == ("GPU-a",)
    run.tell(6.0, done(1, (1, 3)))
    assert run.status == "done"


def test_a_device_whose_functions_raise_is_not_withdrawn():
    run = Dialogue(hosts(("GPU-a",)), max_retries=0)
    run.submit(*[task(cost=ONE) for _ in range(6)])
    for number in range(5):
        run.tell(number, raised(1, number))
    assert run.scheduler.ledger.rank_states[1].group.visible == ("GPU-a",)
    run.tell(9.0, done(1, 5))
    assert run.states.endswith("DONE")


def test_a_task_that_fails_with_many_devices_fails_as_by_an_exception():
    count = MAX_GIVEN_BACK + 1
    run = Dialogue(hosts(tuple(f"GPU-{number}" for number in range(count))), max_retries=0)
    run.submit(task(cost=ONE))
    for attempt in range(1, count + 1):
        assert run.states == "DISPATCHED"
        run.tell(attempt, lost(1, 0, attempt, device_of(run, 1)))
    assert run.states == "FAILED" and run.why(0) == (DEVICE_LOSS, WHY)


def test_a_lease_that_failed_with_its_device_is_computed_elsewhere():
    run = Dialogue(hosts(("GPU-a", "GPU-b"), slots=1), max_retries=0)
    run.submit(array(1, cost=ONE))
    (lease,) = run.scheduler.arrays.leases
    run.tell(1.0, lost(1, lease, 1, "GPU-a"))
    (lease,) = run.scheduler.arrays.leases
    assert device_of(run, 1) == "GPU-b"
    run.tell(2.0, elements(1, lease, 2))
    assert run.status == "done"


def test_losses_under_a_lease_do_not_count_for_the_elements_that_get_its_number_next():
    count = 5 * MAX_GIVEN_BACK
    run = Dialogue(hosts(("GPU-a", "GPU-b"), slots=1), max_retries=0)
    run.submit(array(count, chunk=1, cost=ONE))
    numbers = set()
    for turn in range(count):
        (lease,) = run.scheduler.slots.running()
        attempt = run.scheduler.tasks.attempts[lease]
        numbers.add(lease)
        run.tell(2.0 * turn, lost(1, lease, attempt, device_of(run, 1)))
        report = LeaseReport(tuple(run.scheduler.arrays.leases[lease].intervals), None, (), (), LONG)
        run.tell(2.0 * turn + 1.0, Finished(1, [(lease, attempt + 1, OK, report, 8, 0.0, LONG, False)]))
    assert run.status == "done" and len(numbers) * MAX_GIVEN_BACK < count


def test_claims_of_a_withdrawn_device_are_released_in_good_order():
    run = Dialogue(hosts(("GPU-a", "GPU-b"), slots=4), max_retries=0)
    half = {**CPU, "gpu": GPU["gpu"] // 2}
    run.submit(*[task(cost=half) for _ in range(4)])
    first = device_of(run, 1)
    sharing = [slot for slot in range(4) if device_of(run, 1, slot) == first]
    assert len(sharing) == 2
    run.tell(1.0, lost(1, 0, 1, first), lost(1, 1, 1, first), lost(1, 2, 1, first))
    assert run.scheduler.ledger.rank_states[1].group.visible == tuple({"GPU-a", "GPU-b"} - {first})
    assert run.states.count("DISPATCHED") == 2, "which is what the device that is left has room for"
    run.tell(9.0, done(1, *[(number, attempt) for number in range(4) for attempt in (1, 2)]))
    run.tell(10.0, done(1, *[(number, 2) for number in range(4)]))
    assert run.status == "done"
