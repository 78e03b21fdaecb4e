"""The names of devices: how CUDA is to call those of a claim, and which of them exist in the accounts alone. Pure.

A device has the uuid that NVIDIA gave it (``GPU-…``, or ``MIG-…`` for an instance of a partitioned one), or the name
under which it was declared. The devices that a rank has registered are amounts: CUDA has no name for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

#: The variable that says which devices CUDA shows to a process, by number or by uuid, from the first one on.
VISIBLE = "CUDA_VISIBLE_DEVICES"
#: The devices of a claim: (index in its rank, uuid).
Devices: TypeAlias = "tuple[tuple[int, str], ...]"

_DECLARED = "declared-"
_DETECTED = ("GPU-", "MIG-")


def declared_uuid(name: str) -> str:
    """Return what stands for the uuid of a device that was declared as ``name``: a number, or a uuid of NVIDIA's."""
    return _DECLARED + name


def is_detected(uuid: str) -> bool:
    """Whether this host's driver has named the device, so that it must work."""
    return uuid.startswith(_DETECTED)


def is_for_cuda(uuid: str) -> bool:
    """Whether CUDA knows the device: it was detected or declared, not registered as an amount."""
    return uuid.startswith((_DECLARED, *_DETECTED))


def visible_devices(devices: Devices, inherited: str | None) -> str:
    """Return the value of CUDA_VISIBLE_DEVICES with which CUDA shows these devices alone, in their order.

    It is empty if CUDA has no name for them.

    Args:
        devices: of a claim.
        inherited: the value that the rank was started with; numbers of declared devices are positions in it.
    """
    if not all(is_for_cuda(uuid) for _, uuid in devices):
        return ""
    shown = [entry.strip() for entry in inherited.split(",")] if inherited else []
    return ",".join(_name(uuid, shown) for _, uuid in devices)


def _name(uuid: str, shown: Sequence[str]) -> str:
    name = uuid.removeprefix(_DECLARED)
    return shown[int(name)] if name.isdecimal() and int(name) < len(shown) else name
