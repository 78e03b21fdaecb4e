"""Memory of devices: which device is large enough, and how many calls share one."""

from __future__ import annotations

import pytest

from handoff_mpi.allocation import Ledger
from handoff_mpi.allocation.missing import find_missing
from handoff_mpi.errors import DAGError
from handoff_mpi.resources import Capability, Device, parse_cost


def ledger(*hosts, **registered):
    """Ranks 1, 2, ... of a host each, with devices of this memory in GB."""
    capabilities = [
        Capability(
            rank,
            f"h{rank}",
            {"cpu": 80_000},
            tuple(Device(index, f"GPU-{index}", size * 1000) for index, size in enumerate(sizes)),
            registered=dict(registered),
        )
        for rank, sizes in enumerate(hosts, 1)
    ]
    return Ledger(capabilities, {each.rank: 8 for each in capabilities})


def class_of(books, **cost):
    return books.request_class(parse_cost({"cpu": 0, **cost}))


def claims_of(books, cost):
    """How many claims each rank has room for, and what they take of which device."""
    found = []
    for rank, rank_state in books.rank_states.items():
        while rank_state.group.fits(cost):
            found.append((rank, *books.claim(cost, rank).devices))
    return found


@pytest.mark.parametrize(
    ("gpu", "memory", "share"),
    [
        (0.25, "10GB", 2500),  # the share of the device is the larger one
        (0.1, "20GB", 2500),  # the share of its memory is
        (0.1, "81GB", 1000),  # no device has it; nothing is claimed anyway
        (1, "10GB", 10_000),
        (2, "10GB", 20_000),
        (0.001, "1MB", 10),
        (0.1, "79999.9", 10_000),
    ],
)
def test_a_fraction_is_as_large_as_the_share_of_the_memory(gpu, memory, share):
    assert class_of(ledger([80, 80]), gpu=gpu, gpu_memory=memory).gpu == share


def test_calls_that_share_a_device_do_not_run_out_of_its_memory():
    books = ledger([80, 80])
    claims = claims_of(books, class_of(books, gpu=0.1, gpu_memory="30GB"))
    assert claims == [(1, (uuid, 3750)) for uuid in ("GPU-0", "GPU-0", "GPU-1", "GPU-1")]


def test_devices_that_are_too_small_are_out_of_the_question():
    books = ledger([16, 80], [16, 16])
    whole = class_of(books, gpu=1, gpu_memory="40GB")
    assert claims_of(books, whole) == [(1, ("GPU-1", 10_000))]
    assert [group.could_hold(whole) for group in books.groups] == [True, False]
    assert not books.feasibility.could_fit(class_of(books, gpu=2, gpu_memory="40GB"))
    assert books.feasibility.could_fit(class_of(books, gpu=2, gpu_memory="16GB"))


def test_what_no_rank_offers_is_said():
    books = ledger([80])
    missing = find_missing(books.feasibility, class_of(books, gpu=1, gpu_memory="96GB"))
    assert missing == ["gpu_memory: 96000 MB wanted, no rank offers more than 80000 MB"]


def test_a_device_whose_memory_is_unknown_is_large_enough():
    books = ledger([0])
    assert claims_of(books, class_of(books, gpu=0.5, gpu_memory="96GB")) == [(1, ("GPU-0", 5000))] * 2


def test_registered_devices_have_the_memory_that_was_registered():
    books = ledger([], gpu=20_000, gpu_memory=400_000_000)
    assert len(claims_of(books, class_of(books, gpu=0.25, gpu_memory="20GB"))) == 4
    assert not books.feasibility.could_fit(class_of(books, gpu=1, gpu_memory="41GB"))


def test_memory_of_devices_without_a_device_is_refused():
    with pytest.raises(DAGError, match="name gpu too"):
        parse_cost({"gpu_memory": "1GB"})


def test_a_rank_offers_the_memory_of_its_smallest_device():
    offered = Capability(0, "h", {}, (Device(0, "GPU-a", 80_000), Device(1, "GPU-b", 16_000))).offered()
    assert offered == {"gpu": 2, "gpu_memory": 16_000}
    assert Capability(0, "h", {}, (Device(0, "GPU-a"),)).offered() == {"gpu": 1}


def test_a_rank_takes_far_devices_last():
    """Even one that it has used before; with none but far ones left it takes these."""
    devices = tuple(Device(index, f"GPU-{index}", is_far=index < 2) for index in range(3))
    books = Ledger([Capability(1, "h", {"cpu": 80_000}, devices)], {1: 8})
    cost = class_of(books, gpu=1)
    claims = [books.claim(cost, 1) for _ in range(3)]
    assert [claim.devices[0][0] for claim in claims] == ["GPU-2", "GPU-0", "GPU-1"]
    for claim in claims:
        books.release(claim)
    assert books.claim(cost, 1).devices[0][0] == "GPU-2"
