"""How CUDA is to call the devices of a claim."""

from __future__ import annotations

import pytest

from handoff_mpi.resources.device_names import declared_uuid, is_detected, is_for_cuda, visible_devices

A, B, MIG = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-0", "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"


@pytest.mark.parametrize(
    ("devices", "inherited", "shown"),
    [
        ([(0, A)], None, A),
        ([(3, B), (1, MIG)], "0,1,2,3", f"{B},{MIG}"),  # a uuid holds beside any others
        ([(1, declared_uuid("1"))], None, "1"),
        ([(1, declared_uuid("1"))], "4, 6", "6"),  # a number is a position among what the rank is shown
        ([(0, declared_uuid("0")), (1, declared_uuid("1"))], f"{A},{B}", f"{A},{B}"),
        ([(2, declared_uuid("2"))], "4,6", "2"),
        ([(0, declared_uuid(A))], "4,6", A),
        ([(0, "rank3-0")], None, ""),  # registered as an amount
        ([], None, ""),
    ],
)
def test_what_cuda_shows(devices, inherited, shown):
    assert visible_devices(tuple(devices), inherited) == shown


def test_who_has_named_a_device():
    assert [is_detected(each) for each in (A, MIG, declared_uuid("0"), declared_uuid(A), "rank3-0")] == [
        *[True, True],
        *[False, False, False],
    ]
    assert [is_for_cuda(each) for each in (A, MIG, declared_uuid("0"), "rank3-0")] == [True, True, True, False]
