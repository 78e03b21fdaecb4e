"""The devices that CUDA shows to calls, by a stand-in of cupy."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from handoff_mpi.messages import RAISED
from handoff_mpi.resources.device_names import VISIBLE
from handoff_mpi.serialization import decode, encode_code
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.context import current_task
from handoff_mpi.worker.devices import ShownDevices, use_first

A, B = (3, "GPU-aaaa"), (5, "MIG-bbbb")


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in that notes which devices are used; ``broken`` ones raise."""
    used, broken = [], []

    class Device:
        def __init__(self, number):
            self.number = number

        def use(self):
            if os.environ[VISIBLE] in broken:
                raise RuntimeError("cudaErrorECCUncorrectable: uncorrectable ECC error")
            used.append((os.environ[VISIBLE], self.number))

    module = SimpleNamespace(used=used, broken=broken, ndarray=None, cuda=SimpleNamespace(Device=Device))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def called(code, devices, runner=None):
    runner = runner or CallRunner(1, "run")
    runner.learn([(0, encode_code(code))], None)
    outcome = runner.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, devices))
    return outcome.error if outcome.status == RAISED else decode(outcome.payload)


def told():
    context = current_task()
    return context.gpus, context.gpu_uuids, os.environ.get("CUDA_VISIBLE_DEVICES")


def test_a_call_is_shown_its_devices_alone_and_what_was_there_comes_back(cupy, monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1,2")
    assert called(told, (A,)) == ((0,), ("GPU-aaaa",), "GPU-aaaa")
    assert called(told, (A, B)) == ((0, 1), ("GPU-aaaa", "MIG-bbbb"), "GPU-aaaa,MIG-bbbb")
    assert os.environ[VISIBLE] == "0,1,2"
    assert called(told, ()) == ((), (), "0,1,2")
    assert cupy.used == [("GPU-aaaa", 0), ("GPU-aaaa,MIG-bbbb", 0)]
    monkeypatch.delenv(VISIBLE)
    assert called(told, (A,)) == ((0,), ("GPU-aaaa",), "GPU-aaaa")
    assert VISIBLE not in os.environ


def test_a_declared_device_is_shown_by_its_number_and_cupy_is_not_asked(cupy, monkeypatch):
    monkeypatch.setenv(VISIBLE, "4,6")
    cupy.broken += ["6"]
    assert called(told, ((1, "declared-1"),)) == ((0,), ("declared-1",), "6")
    assert cupy.used == []


def test_devices_of_the_accounts_alone_keep_their_numbers_and_nothing_is_shown(cupy, monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    assert called(told, ((1, "rank3-1"), (2, "rank3-2"))) == ((1, 2), ("rank3-1", "rank3-2"), None)


def test_a_detected_device_that_cannot_be_used_fails_the_call_before_its_function(cupy, monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    cupy.broken += ["GPU-aaaa"]
    error = called(lambda: 1 / 0, (A,))
    assert (error.kind, error.message) == ("RuntimeError", "cudaErrorECCUncorrectable: uncorrectable ECC error")
    assert called(told, (B,))[0] == (0,)


def test_without_cupy_a_detected_device_is_shown_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert called(told, (A,)) == ((0,), ("GPU-aaaa",), "GPU-aaaa")


def test_a_child_is_shown_the_devices_that_it_was_started_with(cupy, monkeypatch):
    monkeypatch.setenv(VISIBLE, "6")
    runner = CallRunner(1, "run", devices=ShownDevices(is_fixed=True))
    assert called(told, ((1, "declared-1"),), runner) == ((0,), ("declared-1",), "6")
    assert runner.devices.names(((1, "declared-1"),)) == ["6"]


def test_the_variables_of_a_function_come_first(cupy, monkeypatch):
    runner = CallRunner(1, "run")
    runner.learn([(0, encode_code(told))], None)
    own = None, {VISIBLE: "7"}, False
    outcome = runner.call(CallSpec("f", 1, ((0,), 0, None, (), own), [], 1.0, (A,)))
    assert decode(outcome.payload)[2] == "7"
    use_first((A,))
    assert cupy.used == []


def test_pools_are_freed_when_a_call_ends_unless_another_follows(monkeypatch):
    freed = []

    class Device:
        def __init__(self, number):
            self.number = number

        def __enter__(self):
            Device.current = self.number

        def __exit__(self, *_):
            pass

        def use(self):
            pass

    pool = SimpleNamespace(free_all_blocks=lambda: freed.append(Device.current))
    pinned = SimpleNamespace(free_all_blocks=lambda: freed.append("pinned"))
    runtime = SimpleNamespace(CUDARuntimeError=RuntimeError)
    module = SimpleNamespace(
        cuda=SimpleNamespace(Device=Device, runtime=runtime),
        get_default_memory_pool=lambda: pool,
        get_default_pinned_memory_pool=lambda: pinned,
        ndarray=None,
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    runner = CallRunner(1, "run")
    runner.devices.relieve()
    called(told, (), runner)
    called(told, ((0, "rank3-0"),), runner)
    assert freed == [], "nothing was used"
    called(told, (A, B), runner)
    assert freed == [0, 1], "the pool of each device is its own"
    runner.devices.is_followed = lambda: True
    called(told, (A,), runner)
    assert freed == [0, 1]
    runner.devices.relieve()
    assert freed == [0, 1, 0, 1, "pinned"]
    pool.free_all_blocks = lambda: called_in_a_broken_context()
    runner.devices.relieve()


def called_in_a_broken_context():
    raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
