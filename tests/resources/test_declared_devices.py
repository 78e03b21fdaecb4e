"""HANDOFF_GPUS, as each rank of a host reads it."""

from __future__ import annotations

import pytest

from handoff_mpi.errors import UsageError
from handoff_mpi.resources import Device
from handoff_mpi.resources.declared_devices import declared_devices


def seen(text, **environ):
    return [(each.index, each.uuid, each.memory_mb) for each in declared_devices(text, environ)]


def test_a_number_of_devices():
    assert declared_devices("2", {}) == (Device(0, "declared-0"), Device(1, "declared-1"))
    assert declared_devices("0", {}) == ()
    assert seen("2=80GB") == [(0, "declared-0", 80_000), (1, "declared-1", 80_000)]


def test_devices_by_name():
    assert seen("3,1") == [(0, "declared-3", 0), (1, "declared-1", 0)]
    assert seen("GPU-8932f937=16GB, MIG-c6d4") == [(0, "declared-GPU-8932f937", 16_000), (1, "declared-MIG-c6d4", 0)]


@pytest.mark.parametrize(
    "variable", ["OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "PALS_LOCAL_RANKID"]
)
def test_each_rank_of_a_host_sees_its_share(variable):
    shares = [seen("0,1;2;", **{variable: str(place)}) for place in range(5)]
    both, one = [(0, "declared-0", 0), (1, "declared-1", 0)], [(0, "declared-2", 0)]
    assert shares == [both, one, [], both, one], "a fourth rank has the share of the first"
    assert seen("0;1") == [(0, "declared-0", 0)], "without a launcher there is one rank"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1025", "1025 are more devices"),
        ("0,x", "'x' is neither a number of a device nor a uuid"),
        ("0,,1", "'' is neither"),
        ("0;1024", "'1024' is neither"),
        ("2=much", "'much' is not an amount of memory"),
        ("0=80GB,1=-1", "'-1' is not an amount of memory"),
    ],
)
def test_nonsense_is_refused(text, why):
    with pytest.raises(UsageError, match="HANDOFF_GPUS=") as caught:
        declared_devices(text, {})
    assert why in str(caught.value) and "like 0,1;2,3" in str(caught.value)
