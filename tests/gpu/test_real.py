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
    results = table_of(dag, keep="all")
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

    def break_context_behind():
        import cupy

        kernel = cupy.RawKernel('extern "C" __global__ void f(int *x) { x[1ll << 40] = 1; }', "f")
        kernel((1,), (1,), (cupy.zeros(1, "i4"),))  # it has returned when that fails on the device

    def work():
        import cupy

        return int(cupy.arange(10).sum())

    def work_with_a_library():
        import cupy

        return float(cupy.random.random(10).sum()) > 0  # curand has errors of its own for a broken context

    for code, kind in ((break_context, "CUDARuntimeError"), (break_context_behind, "CUDADriverError")):
        dag = DAG("broken")  # the second one runs in a process that has a broken context
        for number in range(3):
            dag.add_function(Function(f"breaks-{number}", (), code, cost={"gpu": 1}))
            dag.add_function(Function(f"works-{number}", (), work, cost={"gpu": 1}))
            dag.add_function(Function(f"draws-{number}", (), work_with_a_library, cost={"gpu": 1}))
        results = execute_local(dag, run_dir=False, check=False)
        assert {id: error.kind for id, error in results.errors.items()} == {f"breaks-{n}": kind for n in range(3)}
        assert [results[f"works-{number}"] for number in range(3)] == [45] * 3
        assert all(results[f"draws-{number}"] for number in range(3))


def two_on_device():
    import cupy

    return cupy.asarray(2)


def on_device(array, scale):
    import cupy

    assert isinstance(array, cupy.ndarray)
    return array * scale


def add_on_device(one, other):
    import cupy

    assert isinstance(one, cupy.ndarray) and isinstance(other, cupy.ndarray)
    return one + other


@gpu
@pytest.mark.parametrize("window", [None, 100])
def test_elements_of_an_array_pass_arrays_from_device_to_device(devices, window):
    def make(number):
        import cupy

        assert cupy.cuda.runtime.getDeviceCount() == 1
        return cupy.full(1000, number)

    def kind_of(array):
        return type(array).__module__.partition(".")[0], int(array[0])

    count = 500
    dag = DAG("elements")
    if window is None:
        made = dag.map(make, range(count), id="made", cost={"gpu": 1})
    else:
        made = dag.map(make, iter(range(count)), id="made", cost={"gpu": 1}, window=window)
    scale = dag.add_function(Function("scale", (), two_on_device, cost={"gpu": 1}))
    scaled = dag.map(on_device, made, fixed={"scale": scale}, id="scaled", cost={"gpu": 1})
    dag.map(kind_of, scaled, id="kinds")
    dag.reduce(add_on_device, scaled, id="total", fan_in=16, cost={"gpu": 1})
    results = table_of(dag)
    assert list(results["kinds"]) == [("numpy", 2 * number) for number in range(count)]
    assert type(results["total"]).__module__ == "numpy"
    assert set(results["total"].tolist()) == {count * (count - 1)}


@gpu
def test_an_element_that_breaks_its_context_fails_alone(devices):
    def work(number):
        import cupy

        total = int(cupy.arange(number).sum())
        if number == 137:
            kernel = cupy.RawKernel('extern "C" __global__ void f(int *x) { x[1ll << 40] = 1; }', "f")
            kernel((1,), (1,), (cupy.zeros(1, "i4"),))  # it has returned when that fails on the device
        return total

    dag = DAG("broken-element")
    dag.map(work, range(300), id="work", cost={"gpu": 1})
    results = execute_local(dag, run_dir=False, check=False)
    assert {index: error.kind for index, error in results["work"].errors.items()} == {137: "CUDADriverError"}
    for number in (0, 136, 138, 299):
        assert results["work"][number] == number * (number - 1) // 2


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
