"""Detects the CUDA devices of the host: the declared ones, or those that cupy can use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handoff_mpi.errors import UsageError
from handoff_mpi.formatting import show
from handoff_mpi.resources.capability import Device
from handoff_mpi.resources.system_files import parse_whole

_MAX_GPUS = 1024


def detect_devices(environ: Mapping[str, str], root: Path, notes: list[str]) -> tuple[Device, ...]:
    """Return the devices that this process may use.

    Args:
        environ, root, notes: as in :func:`~handoff_mpi.resources.detection.detect`.

    Raises:
        UsageError: HANDOFF_GPUS is not a number of devices.
    """
    declared = environ.get("HANDOFF_GPUS", "").strip()
    if declared:
        return _declared_devices(declared)
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if not _is_device_there(root) or (visible is not None and _hides_all(visible)):
        return ()
    try:
        import cupy

        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # not installed, or any way a driver can be broken
        notes.append(
            f"no GPU is offered: this host has a CUDA device, but cupy cannot use it ({_brief(error)}); install "
            "handoff_mpi[gpu], or set HANDOFF_GPUS=0 to run without"
        )
        return ()
    devices = []
    for index in range(count):
        try:
            devices.append(_device(cupy, index, visible or ""))
        except Exception as error:  # one broken device says nothing about the others
            notes.append(f"CUDA device {index} is not offered: {_brief(error)}; check it with nvidia-smi")
    return tuple(devices)


def _declared_devices(text: str) -> tuple[Device, ...]:
    count = parse_whole(text)
    if count is None or count > _MAX_GPUS:
        raise UsageError(
            f"HANDOFF_GPUS={show(text)} is not a number of devices; write a whole one from 0 to {_MAX_GPUS}, or unset "
            "HANDOFF_GPUS (CUDA_VISIBLE_DEVICES picks devices)"
        )
    return tuple(Device(index=index, uuid=f"declared-{index}") for index in range(count))


def _is_device_there(root: Path) -> bool:
    # Importing cupy takes seconds, so it waits for a sign that it is worth it.
    try:
        if any((root / "dev").glob("nvidia[0-9]*")):
            return True
        return any((root / "proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return False


def _hides_all(visible: str) -> bool:
    # CUDA stops at the first entry that names no device. "NoDevFiles" is Slurm's word for none granted.
    first = visible.split(",")[0].strip()
    return not first or first.startswith("-") or first == "NoDevFiles"


def _device(cupy: Any, index: int, visible: str) -> Device:
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    name = properties["name"]
    return Device(
        index=index,
        uuid=_device_uuid(cupy, index, visible, properties.get("uuid", b"")),
        memory_mb=int(properties["totalGlobalMem"]) // 10**6,
        name=name.decode(errors="replace") if isinstance(name, bytes) else str(name),
    )


def _device_uuid(cupy: Any, index: int, visible: str, raw: bytes) -> str:
    # The instances of a partitioned device share its bus id; their names are where they were asked for.
    entries = [entry.strip() for entry in visible.split(",")]
    if index < len(entries) and entries[index].startswith("MIG-"):
        return entries[index]
    # cupy ends these 16 bytes at the first zero among them, as if they were a C string.
    if len(raw) < 16:
        return str(cupy.cuda.Device(index).pci_bus_id)
    digits = raw[:16].hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _brief(error: Exception) -> str:
    # cupy explains a failed import in a banner of many lines.
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
