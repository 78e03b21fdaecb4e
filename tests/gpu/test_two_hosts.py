"""Two hosts with two devices each, on one machine: who computes on which, and what becomes of a device that fails."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from handoff_mpi import load
from tests.conftest import mpirun_command, run_process
from tests.gpu import fake_cupy_at

#: What each rank runs: ranks 0 to 2 are on host a, 3 and 4 on host b; each has the variables of its place.
RANK = """
import os, runpy, sys
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["PMI_RANK"])
host, place = ("a", rank) if rank < 3 else ("b", rank - 3)
name = "OMPI_COMM_WORLD_LOCAL_RANK" if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ else "MPI_LOCALRANKID"
os.environ.update({name: str(place), "HANDOFF_HOST": host, "HANDOFF_CORES": "4"})
os.environ["FAKE_CUPY"] = os.path.join(sys.path[0], host)
runpy.run_module("handoff_mpi", run_name="__main__", alter_sys=True)
"""
DAG = """
import os, time
from pathlib import Path
from handoff_mpi import DAG, Function, current_task

HERE = Path(__file__).parent

def meet(name):
    # The first call on each device waits until there is one on all of them.
    (HERE / f"began {name}").touch()
    end = time.monotonic() + 30
    while len(list(HERE.glob("began *"))) < int(os.environ["MEETING"]) and time.monotonic() < end:
        time.sleep(0.01)

def call(number):
    import cupy
    host, shown = os.environ["HANDOFF_HOST"], os.environ["CUDA_VISIBLE_DEVICES"]
    busy = HERE / f"busy {host}{shown}"
    os.close(os.open(busy, os.O_CREAT | os.O_EXCL))  # fails if another call runs on this device
    try:
        meet(f"{host}{shown}")
        time.sleep(float(os.environ.get("WORK_S", "0.05")))
        assert int(cupy.arange(number + 1).sum()) == number * (number + 1) // 2
        if os.environ.get("FAULTY") == f"{host}{shown}":
            raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access")
        context = current_task()
        return f"{host}{shown}", os.getpid(), context.gpus, context.gpu_uuids
    finally:
        busy.unlink()

def build(args):
    dag = DAG("devices")
    for number in range(40):
        dag.add_function(Function(number, (), call, extra_args=[number], cost={"gpu": 1}))
    return dag
"""


def run(directory: Path, gpus: str, **variables: str):
    fake_cupy_at(directory)
    for host in "ab":
        (directory / host).mkdir(exist_ok=True)
    (directory / "rank.py").write_text(RANK)
    (directory / "dag.py").write_text(DAG)
    words = [*mpirun_command(5), sys.executable, "rank.py", "run", "dag.py", "--run-dir", "r"]
    env = {"HANDOFF_GPUS": gpus, "MEETING": "4", "PYTHONPATH": str(directory), **variables}
    ended = run_process(words, directory, 120, env)
    return ended, load(directory / "r")


def notes(directory: Path, what: str) -> list[str]:
    """The devices, each with its host, of which the stand-in of cupy has noted this."""
    found = []
    for host in "ab":
        path = directory / host / "notes"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        found += [f"{host}{device}" for noted, device, _ in lines if noted == what]
    return found


@pytest.mark.parametrize("gpus", ["2", pytest.param("0;1", marks=pytest.mark.long)])
def test_each_device_computes_its_share_and_never_two_calls_at_once(tmp_path, gpus):
    ended, results = run(tmp_path, gpus)
    assert ended.rc == 0, ended.err
    values = [results[number] for number in range(40)]
    by_device = Counter(device for device, *_ in values)
    assert by_device.keys() == {"a0", "a1", "b0", "b1"}
    assert all(8 <= count <= 12 for count in by_device.values()), by_device
    assert {inside for _, _, inside, _ in values} == {(0,)}
    assert {(device[1], *uuids) for device, _, _, uuids in values} == {("0", "declared-0"), ("1", "declared-1")}
    of_process = {pid: {device for device, other, *_ in values if other == pid} for _, pid, *_ in values}
    assert all(len(devices) == 1 for devices in of_process.values()), "CUDA cannot change its mind"
    assert set(notes(tmp_path, "freed")) == by_device.keys(), "nobody else can use what a pool keeps"


@pytest.mark.long
def test_a_device_that_fails_is_withdrawn_and_its_work_goes_elsewhere(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "broken").write_text("1")
    ended, results = run(tmp_path, "2", WORK_S="0.2")
    assert ended.rc == 0, ended.err
    assert {results[number][0] for number in range(40)} == {"a0", "a1", "b0"}
    withdrawn = re.findall(r"device declared-1 of b is withdrawn, as it has failed 3 calls: .*ECC error", ended.err)
    assert len(withdrawn) == 1, ended.err
    incidents = [each for record in results.records() for each in record.incidents]
    assert len(incidents) >= 3 and {each.kind for each in incidents} == {"device-lost"}


@pytest.mark.long
def test_a_device_whose_functions_raise_is_not_withdrawn(tmp_path):
    ended, results = run(tmp_path, "2", FAULTY="b1", WORK_S="0.2")
    failed = [each for record in results.records() for each in record.incidents]
    assert len(failed) >= 3 and {each.kind for each in failed} == {"CUDARuntimeError"}, ended.err
    assert "withdrawn" not in ended.err
