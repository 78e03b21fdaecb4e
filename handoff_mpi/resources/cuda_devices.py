"""Detects the CUDA devices of the host: the declared ones, or those that NVIDIA's driver names.

It asks ``nvidia-smi``, and where that is missing the files of the driver. Neither makes a CUDA context, which would
take a part of each device's memory in each rank, and cupy is not imported, which would take seconds. Devices of AMD are
not detected.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from handoff_mpi.resources.capability import Device
from handoff_mpi.resources.declared_devices import declared_devices
from handoff_mpi.resources.device_names import VISIBLE
from handoff_mpi.resources.system_files import parse_cpu_list, read_text

#: ``nvidia-smi`` takes a second per device where the driver has to be started for it.
_PROGRAM_TIMEOUT_S = 60.0
_GPU = re.compile(r"^GPU (\d+): (.*) \(UUID: (GPU-[^)\s]+)\)")
_MIG = re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)\s]+)\)")
#: The memory of an instance of a partitioned device, as its profile has it: ``1g.10gb``.
_PROFILE = re.compile(r"(\d+)gb")
#: The end of a device's address on its bus: nvidia-smi writes a longer domain than the system does.
_BUS = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f])$")
_FIELD = re.compile(r"^([^:\n]+):\s*(.*?)\s*$", re.MULTILINE)


def detect_devices(environ: Mapping[str, str], root: Path, notes: list[str]) -> tuple[Device, ...]:
    """Return the devices that this process may use.

    Args:
        environ, root, notes: as in :func:`~handoff_mpi.resources.detection.detect`.

    Raises:
        UsageError: HANDOFF_GPUS makes no sense.
    """
    declared = environ.get("HANDOFF_GPUS", "").strip()
    if declared:
        return declared_devices(declared, environ)
    visible = environ.get(VISIBLE)
    if not _is_device_there(root) or (visible is not None and _hides_all(visible)):
        return ()
    found = _ask_program(environ, root, notes)
    if found is None:
        found = _read_files(root)
        if not found:
            notes.append(
                "a CUDA device is there, but nvidia-smi is missing and the driver's files do not name it; set "
                "HANDOFF_GPUS to the number of devices, or to 0 to run without"
            )
    return tuple(_numbered(_visible(found, visible)))


def _is_device_there(root: Path) -> bool:
    # nvidia-smi takes its time, so it waits for a sign that it is worth it.
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


# ---- who names them ----------------------------------------------------------------------------------


def _ask_program(environ: Mapping[str, str], root: Path, notes: list[str]) -> list[list[Device]] | None:
    """Return what ``nvidia-smi`` names: for each device itself, or its instances. None if there is no such program."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH", ""))
    if program is None:
        return None
    listed, trouble = _said(program, "-L")
    found = _parse_list(listed, *_ask_facts(program, root)) if listed else []  # one that hangs is not asked again
    lines = [line for line in listed.splitlines() if line.strip()]
    rest = [line.strip() for line in lines if not _GPU.match(line) and not _MIG.match(line)]
    if not found:
        why = _brief(rest[0] if rest else trouble or "it names none")
        notes.append(
            f"a CUDA device is there, but nvidia-smi does not find it ({why}); have the driver mended, or set "
            "HANDOFF_GPUS=0 to run without"
        )
    elif trouble:
        notes.append(f"a CUDA device is not offered: {_brief(rest[0] if rest else trouble)}; check it with nvidia-smi")
    return found


def _said(program: str, *words: str) -> tuple[str, str]:
    """Return what ``nvidia-smi`` prints, and what went wrong."""
    from handoff_mpi.programs import run_program  # child processes import this module too, and detect nothing

    try:
        ended = run_program([program, *words], _PROGRAM_TIMEOUT_S)
    except OSError as error:
        return "", f"{type(error).__name__}: {error}"
    return ended.out, "" if not ended.returncode else ended.err.strip() or f"it ended with {ended.returncode}"


def _ask_facts(program: str, root: Path) -> tuple[dict[str, int], set[str]]:
    """Return the memory of devices in MB, by uuid, as far as it is known, and which devices are far."""
    table, _ = _said(program, "--query-gpu=uuid,memory.total,pci.bus_id", "--format=csv,noheader,nounits")
    rows = [[field.strip() for field in f"{line},,".split(",")] for line in table.splitlines()]
    memory = {uuid: int(size) * 2**20 // 10**6 for uuid, size, *_ in rows if size.isdecimal()}
    return memory, {uuid for uuid, _, bus, *_ in rows if _is_far(bus, root)}


def _is_far(bus: str, root: Path) -> bool:
    """Whether a device is near to other cores than those that this process is bound to, as the system tells.

    Args:
        bus: its address.
    """
    address = _BUS.search(bus.lower())
    near = parse_cpu_list(read_text(root / f"sys/bus/pci/devices/{address[1]}/local_cpulist")) if address else ()
    return bool(near) and not os.sched_getaffinity(0) & set(near)


def _parse_list(text: str, memory: Mapping[str, int], far: Collection[str]) -> list[list[Device]]:
    found: list[list[Device]] = []
    model, uuid = "", ""
    for line in text.splitlines():
        if match := _GPU.match(line):
            _, model, uuid = match.groups()
            found.append([Device(0, uuid, memory.get(uuid, 0), model, uuid in far)])
        elif found and (match := _MIG.match(line)):
            profile, name = match.groups()
            size = _PROFILE.search(profile)
            if found[-1][0].uuid == uuid:
                found[-1].clear()  # who has a device with instances may use these alone
            found[-1].append(Device(0, name, int(size[1]) * 1000 if size else 0, f"{model} {profile}", uuid in far))
    return found


def _read_files(root: Path) -> list[list[Device]]:
    """Return the devices that the driver names in its files and whose device file is there; their memory is unknown."""
    found: dict[int, Device] = {}
    for path in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        fields = dict(_FIELD.findall(read_text(path)))
        minor, uuid = fields.get("Device Minor", ""), fields.get("GPU UUID", "")
        if minor.isdecimal() and uuid.startswith("GPU-") and (root / f"dev/nvidia{minor}").exists():
            is_far = _is_far(fields.get("Bus Location", ""), root)
            found[int(minor)] = Device(0, uuid, 0, fields.get("Model", ""), is_far)
    return [[found[minor]] for minor in sorted(found)]


# ---- which of them may be used -----------------------------------------------------------------------


def _visible(found: Sequence[Sequence[Device]], visible: str | None) -> list[Device]:
    """Return the devices that CUDA_VISIBLE_DEVICES shows, in its order; as CUDA does, up to the first wrong entry."""
    if visible is None:
        return [device for devices in found for device in devices]
    shown: list[Device] = []
    for entry in visible.split(","):
        named = _named(entry.strip(), found)
        if not named:
            break
        shown += [device for device in named if device not in shown]
    return shown


def _named(entry: str, found: Sequence[Sequence[Device]]) -> Sequence[Device]:
    if entry.isdecimal():
        return found[int(entry)] if int(entry) < len(found) else ()
    every = [device for devices in found for device in devices]
    matching = [device for device in every if entry and device.uuid.startswith(entry)]  # CUDA takes its beginning, too
    if not matching and entry.startswith("MIG-"):
        return [Device(0, entry)]  # older drivers call instances by the numbers of their parts
    return matching if len(matching) == 1 else ()


def _numbered(devices: Sequence[Device]) -> list[Device]:
    return [replace(each, index=index) for index, each in enumerate(devices)]


def _brief(text: str) -> str:
    return " ".join(text.split())[:200]
