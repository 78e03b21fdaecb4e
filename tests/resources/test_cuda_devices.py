"""Devices as the driver names them: by a stand-in of nvidia-smi, or in files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handoff_mpi.resources import detection
from handoff_mpi.resources.capability import Device
from handoff_mpi.resources.detection import detect

A, B, C = (f"GPU-{letter * 8}-d33d-2b2c-524d-9e3d8d2b8a77" for letter in "abc")
MIG_1, MIG_2 = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"
TWO = f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {A})\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: {B})\n"
WITH_MIG = (
    f"{TWO}  MIG 3g.40gb     Device  0: (UUID: {MIG_1})\n  MIG 1g.10gb     Device  1: (UUID: {MIG_2})\n"
    f"GPU 2: NVIDIA H100 80GB HBM3 (UUID: {C})\n"
)
MEMORY = f"{A}, 81559\n{B}, [N/A]\n"
INFORMATION = "Model: \t\t NVIDIA A10G\nIRQ:   \t\t 104\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., None]:
    """Put a stand-in of nvidia-smi on the PATH, and a device file on the machine."""

    def install(listed: str = TWO, status: int = 0, memory: str = MEMORY, files: int = 1) -> None:
        (tmp_path / "dev").mkdir(exist_ok=True)
        for minor in range(files):
            (tmp_path / f"dev/nvidia{minor}").touch()
        program = tmp_path / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        (tmp_path / "list").write_text(listed)
        (tmp_path / "memory").write_text(memory)
        program.write_text(
            f"#!/bin/sh\necho $* >> {tmp_path}/asked\n"
            f"if [ $1 = -L ]; then /bin/cat {tmp_path}/list; exit {status}; fi\n/bin/cat {tmp_path}/memory\n"
        )
        program.chmod(0o755)

    return install


@pytest.fixture
def found(tmp_path: Path) -> Callable[..., list[str]]:
    """Return the uuids of the devices on the machine, with CUDA_VISIBLE_DEVICES so."""

    def find(visible: str | None = None) -> list[str]:
        environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        capability = detect(0, {**environ, "PATH": str(tmp_path / "bin")}, tmp_path)
        assert [each.index for each in capability.devices] == [*range(len(capability.devices))]
        find.notes = capability.device_notes
        find.devices = capability.devices
        return [each.uuid for each in capability.devices]

    return find


def test_devices_as_the_driver_names_them(driver, found):
    driver()
    assert found() == [A, B]
    assert found.devices[0] == Device(0, A, 85_520, "NVIDIA H100 80GB HBM3")
    assert found.devices[1].memory_mb == 0, "it does not tell"
    assert found.notes == ()


def test_instances_stand_for_a_device_that_is_partitioned(driver, found):
    driver(WITH_MIG)
    assert found() == [A, MIG_1, MIG_2, C]
    assert [each.memory_mb for each in found.devices] == [85_520, 40_000, 10_000, 0]
    assert found.devices[1].name == "NVIDIA H100 80GB HBM3 3g.40gb"
    assert found("1") == [MIG_1, MIG_2], "who was granted the device was granted its instances"
    assert found(f"{MIG_2},0") == [MIG_2, A]


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("1", [B]),
        ("2, 0", [C, A]),
        (f"{C},{A}", [C, A]),
        ("GPU-bbbb", [B]),
        ("GPU-", []),  # of which there are three
        ("0,-1,1", [A]),
        ("0,7,1", [A]),
        ("0,0", [A]),
        ("MIG-aaa,MIG-bbb", ["MIG-aaa", "MIG-bbb"]),
        (f"MIG-{A}/1/0", [f"MIG-{A}/1/0"]),
    ],
)
def test_which_of_them_are_shown(driver, found, visible, uuids):
    driver(f"{TWO}GPU 2: NVIDIA A10 (UUID: {C})\n")
    assert found(visible) == uuids


@pytest.mark.parametrize(("bound", "far"), [({0, 1}, [False, True]), ({5}, [True, False]), ({1, 5}, [False, False])])
def test_devices_near_to_other_cores_than_the_ranks_are_far(driver, found, tmp_path, monkeypatch, bound, far):
    """Instances are where their device is; where the system does not tell which cores are near, none is far."""
    driver(memory=f"{A}, 81559, 00000000:17:00.0\n{B}, 81559, 00000000:CA:00.0\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: bound)
    found()
    assert [each.is_far for each in found.devices] == [False, False]
    for bus, cpus in (("0000:17:00.0", "0-3\n"), ("0000:ca:00.0", "4-7\n")):
        (tmp_path / f"sys/bus/pci/devices/{bus}").mkdir(parents=True)
        (tmp_path / f"sys/bus/pci/devices/{bus}/local_cpulist").write_text(cpus)
    found()
    assert [each.is_far for each in found.devices] == far
    driver(WITH_MIG, memory=f"{A}, 81559, 00000000:17:00.0\n{B}, 81559, 00000000:CA:00.0\n")
    found()
    assert [each.is_far for each in found.devices] == [far[0], far[1], far[1], False]


@pytest.mark.parametrize("hidden", ["", " ", "-1", "-1,0", ",0", "NoDevFiles"])
def test_hidden_devices_are_not_asked_for(driver, found, tmp_path, hidden):
    driver()
    assert found(hidden) == [] and found.notes == ()
    assert not (tmp_path / "asked").exists()


def test_without_a_sign_of_a_device_nothing_is_asked(driver, found, tmp_path):
    driver(files=0)
    for each in ("nvidiactl", "nvidia-uvm", "nvme0"):
        (tmp_path / "dev" / each).touch()
    assert found() == []
    (tmp_path / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert found() == []
    assert not (tmp_path / "asked").exists()


def test_neither_cupy_nor_anything_large_is_imported(driver, found, tmp_path):
    driver()
    code = (
        "import sys, pathlib; root = pathlib.Path(sys.argv[1]);"
        "from handoff_mpi.resources.detection import detect;"
        "assert detect(0, {'PATH': str(root / 'bin')}, root).devices;"
        "assert not {'cupy', 'numpy', 'psutil', 'mpi4py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=Path(detection.__file__).parents[2])


@pytest.mark.parametrize(
    ("listed", "status", "why"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate\n" + "why\n" * 999, 9, "couldn't communicate"),
        ("", 127, "it ended with 127"),
        ("", 0, "it names none"),
    ],
)
def test_a_broken_driver_means_no_devices_and_a_note_of_one_line(driver, found, listed, status, why):
    driver(listed, status)
    assert found() == []
    (note,) = found.notes
    assert why in note and "HANDOFF_GPUS=0" in note and "\n" not in note and len(note) < 500


def test_one_broken_device_leaves_the_others(driver, found):
    driver(f"Unable to determine the device handle for GPU0: 0000:3B:00.0: GPU is lost.\n{TWO}", 15)
    assert found() == [A, B]
    assert "GPU is lost" in found.notes[0]


def test_the_drivers_files_name_devices_where_its_program_is_missing(found, tmp_path):
    for minor, uuid in enumerate((A, B, C)):
        directory = tmp_path / f"proc/driver/nvidia/gpus/0000:0{3 - minor}:00.0"
        directory.mkdir(parents=True)
        (directory / "information").write_text(INFORMATION.format(uuid=uuid, minor=minor))
    (tmp_path / "dev").mkdir()
    for minor in (0, 2):  # the others are not this container's
        (tmp_path / f"dev/nvidia{minor}").touch()
    assert found() == [A, C]
    assert found.devices[0] == Device(0, A, 0, "NVIDIA A10G")
    assert found("1") == [C]


def test_a_device_that_nobody_names_is_noted(found, tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert found() == []
    assert "nvidia-smi is missing" in found.notes[0] and "HANDOFF_GPUS" in found.notes[0]


def test_check_says_why_a_device_is_not_offered():
    from handoff_mpi.allocation import Ledger
    from handoff_mpi.allocation.missing import find_missing
    from handoff_mpi.resources import Capability

    noted = Capability(0, "n07", {"cpu": 10_000}, device_notes=("a CUDA device is there, but it is broken",))
    ledger = Ledger([noted], {0: 1})
    missing = find_missing(ledger.feasibility, ledger.request_class({"gpu": 10_000}))
    assert missing == ["gpu: 1 wanted, no rank offers any; on n07 a CUDA device is there, but it is broken"]
