"""Functions on real devices, where there are any; the measurement itself is tried with the stand-in too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from handoff_mpi import DAG, Function, current_task, execute_local
from handoff_mpi.resources.detection import detect
from handoff_mpi.worker.device_errors import DeviceProbe
from tests.conftest import ROOT
from tests.gpu import fake_cupy_at
from tests.gpu.real import measure_transfer, why_none

gpu = pytest.mark.gpu


@pytest.fixture
def devices():
    """The devices of this host; without any the test is skipped."""
    why = why_none()
    if why:
        pytest.skip(why)
    return detect(0).devices


def table_of(dag, **options):
    return execute_local(dag, run_dir=False, check=True, **options)


@gpu
def test_detection_makes_no_context(devices):
    code = "from handoff_mpi.resources.detection import detect; import sys; detect(0); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert all(each.uuid.startswith(("GPU-", "MIG-")) and each.memory_mb > 0 for each in devices)


@gpu
def test_each_call_sees_its_device_alone(devices):
    def told():
        import cupy

        context = current_task()
        return context.gpus, context.gpu_uuids, cupy.cuda.runtime.getDeviceCount(), int(cupy.arange(10).sum())

    dag = DAG("devices")
    for number in range(4 * len(devices)):
        dag.add_function(Function(number, (), told, cost={"gpu": 1}))
    results = table_of(dag)
    values = [results[number] for number in range(4 * len(devices))]
    assert {(inside, count, total) for inside, _, count, total in values} == {((0,), 1, 45)}
    assert {uuid for _, (uuid,), _, _ in values} <= {each.uuid for each in devices}


@gpu
def test_an_array_goes_to_the_device_of_a_claim_and_to_host_memory_without_one(devices):
    def make():
        import cupy

        return cupy.arange(10**6)

    def kind_of(array):
        return type(array).__module__.partition(".")[0], int(array.sum())

    dag = DAG("arrays")
    dag.add_function(Function("make", (), make, cost={"gpu": 1}))
    dag.add_function(Function("device", ("make",), kind_of, cost={"gpu": 1}))
    dag.add_function(Function("host", ("make",), kind_of))
    results = table_of(dag)
    total = 10**6 * (10**6 - 1) // 2
    assert (results["device"], results["host"]) == (("cupy", total), ("numpy", total))
    assert type(results["make"]).__module__ == "numpy"


@gpu
def test_a_function_that_breaks_its_context_fails_alone(devices):
    def break_context():
        import cupy

        kernel = cupy.RawKernel('extern "C" __global__ void f(int *x) { x[1ll << 40] = 1; }', "f")
        kernel((1,), (1,), (cupy.zeros(1, "i4"),))
        cupy.cuda.runtime.deviceSynchronize()

    def work():
        import cupy

        return int(cupy.arange(10).sum())

    dag = DAG("broken")
    for number in range(3):
        dag.add_function(Function(f"breaks-{number}", (), break_context, cost={"gpu": 1}))
        dag.add_function(Function(f"works-{number}", (), work, cost={"gpu": 1}))
    results = execute_local(dag, run_dir=False, check=False)
    assert {error.kind for error in results.errors.values()} == {"CUDARuntimeError"}
    assert [results[f"works-{number}"] for number in range(3)] == [45] * 3


@gpu
def test_a_fresh_process_says_that_the_devices_work(devices):
    assert DeviceProbe().failed([each.uuid for each in devices]) == {}


@gpu
def test_an_array_goes_from_rank_to_rank(devices, tmp_path):
    assert measure_transfer(tmp_path, 10**8).seconds > 0


@pytest.mark.soak
def test_the_measurement_of_transfers_works_with_a_stand_in(tmp_path):
    fake_cupy_at(tmp_path)
    env = {"HANDOFF_GPUS": "1", "HANDOFF_CORES": "4", "FAKE_CUPY": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    assert "GB/s" in str(measure_transfer(tmp_path, 8 * 10**6, env))


def test_without_a_device_the_report_says_so(monkeypatch, capsys):
    from tests.gpu import __main__ as program

    monkeypatch.setattr(program, "why_none", lambda: "there is no CUDA device here")
    assert program.main([]) == program.NO_DEVICE
    assert "there is no CUDA device here: nothing was tried" in capsys.readouterr().out
