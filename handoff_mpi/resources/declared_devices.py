"""Reads the devices that HANDOFF_GPUS declares: how many there are, which, and which rank of a host sees which.

================  ======================================================================================
``2``             two devices, that every rank of the host sees
``2=80GB``        the same, with 80 GB of memory each
``0,1``           these two, by the numbers that CUDA gives them, or by their uuids: ``GPU-8932f937,MIG-c6d4``
``0,1;2,3``       the first rank of a host sees devices 0 and 1, the second one 2 and 3; a third one those of the
                  first, and so on: each rank takes the share at its place
``0=80GB;1=40GB`` with the memory of each
================  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

from handoff_mpi.errors import DAGError, UsageError
from handoff_mpi.formatting import show
from handoff_mpi.resources.amounts import UNIT, parse_amount
from handoff_mpi.resources.capability import Device
from handoff_mpi.resources.device_names import declared_uuid
from handoff_mpi.resources.system_files import parse_whole

_MAX_GPUS = 1024
#: Where launchers tell a rank its place among the ranks of its host: Open MPI, MPICH and Intel MPI, Slurm, PALS.
_LOCAL_RANK = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID", "PALS_LOCAL_RANKID")


def declared_devices(text: str, environ: Mapping[str, str]) -> tuple[Device, ...]:
    """Return the devices of ``text`` that this rank sees.

    Raises:
        UsageError: it makes no sense.
    """
    first, _, memory = text.partition("=")
    count = parse_whole(first.strip()) if ";" not in text and "," not in text else None
    if count is not None:
        if count > _MAX_GPUS:
            raise _nonsense(text, f"{first.strip()} are more devices than any host has")
        return tuple(_device(text, index, str(index), memory) for index in range(count))
    shares = [share.split(",") if share.strip() else [] for share in text.split(";")]
    seen = [[_named(text, index, each) for index, each in enumerate(share)] for share in shares]
    return tuple(seen[_local_rank(environ) % len(seen)])


def _named(text: str, index: int, entry: str) -> Device:
    name, _, memory = (part.strip() for part in entry.partition("="))
    number = parse_whole(name)
    if number is not None and number < _MAX_GPUS:
        return _device(text, index, str(number), memory)
    if name.startswith(("GPU-", "MIG-")):
        return _device(text, index, name, memory)
    raise _nonsense(text, f"{show(name)} is neither a number of a device nor a uuid")


def _device(text: str, index: int, name: str, memory: str) -> Device:
    try:
        amount = parse_amount("memory", memory) if memory else 0
    except (DAGError, ArithmeticError):
        raise _nonsense(text, f"{show(memory)} is not an amount of memory") from None
    return Device(index=index, uuid=declared_uuid(name), memory_mb=amount // UNIT)


def _nonsense(text: str, why: str) -> UsageError:
    return UsageError(
        f"HANDOFF_GPUS={show(text)} declares no devices: {why}; write their number from 0 to {_MAX_GPUS}, or their "
        "names for each rank of the host, like 0,1;2,3, or unset HANDOFF_GPUS (CUDA_VISIBLE_DEVICES picks devices)"
    )


def _local_rank(environ: Mapping[str, str]) -> int:
    """Return the place of this process among the ranks of its host; 0 where no launcher tells it."""
    places = (parse_whole(environ.get(name, "")) for name in _LOCAL_RANK)
    return next((place for place in places if place is not None), 0)
