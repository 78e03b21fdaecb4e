"""Contexts of CUDA as a stand-in of the driver tells them; tests/gpu/test_real.py asks a real driver."""

from __future__ import annotations

import pytest

from handoff_mpi.messages import OK, RAISED
from handoff_mpi.serialization import encode_code
from handoff_mpi.worker import cuda_contexts
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.cuda_contexts import CudaContexts, CUDADriverError
from tests.worker.leases import failures_of, indices, lease, values_of

ILLEGAL, NOT_READY, INVALID_CONTEXT, OUT_OF_MEMORY = 700, 600, 201, 2
WORDS = {ILLEGAL: b"an illegal memory access was encountered", OUT_OF_MEMORY: b"out of memory"}
DEVICES = ((0, "GPU-aaaa"),)


def put(reference, value):
    reference._obj.value = value


class Driver:
    """The library of a driver, with the state of each device's primary context: None where none is up."""

    def __init__(self, *states: int | None) -> None:
        self.states = list(states)
        self.current: list[int] = []
        self.retained = self.waits = 0
        self.is_initialised = True
        self.is_busy = False
        self.retain_result = 0

    def cuDeviceGetCount(self, count):
        put(count, len(self.states))
        return 0 if self.is_initialised else 3

    def cuDeviceGet(self, device, number):
        put(device, number)

    def cuDevicePrimaryCtxGetState(self, device, flags, is_active):
        put(is_active, self.states[device.value] is not None)

    def cuDevicePrimaryCtxRetain(self, context, device):
        put(context, device.value + 1)
        self.retained += not self.retain_result
        return self.retain_result

    def cuDevicePrimaryCtxRelease_v2(self, device):
        self.retained -= 1

    def cuCtxPushCurrent_v2(self, context):
        self.current.append(context.value - 1)

    def cuCtxPopCurrent_v2(self, context):
        self.current.pop()

    def cuCtxSynchronize(self):
        self.waits += 1
        self.is_busy = False
        return self.states[self.current[-1]]

    def cuStreamQuery(self, stream):
        return self.states[self.current[-1]] or (NOT_READY if self.is_busy else 0)

    def cuGetErrorName(self, result, name):
        put(name, b"CUDA_ERROR_ILLEGAL_ADDRESS" if result == ILLEGAL else None)

    def cuGetErrorString(self, result, text):
        put(text, WORDS.get(result))


@pytest.mark.parametrize("state", [None, 0, INVALID_CONTEXT])
def test_contexts_that_work_are_waited_for(state):
    driver = Driver(None, state, 0)
    driver.is_busy = True
    contexts = CudaContexts(driver)
    assert contexts.why_broken() == "" and driver.waits == 0
    contexts.wait()
    assert driver.waits == 1 + (state is not None)
    assert (driver.current, driver.retained) == ([], 0), "the thread and the contexts are as before"


def test_a_broken_context_of_any_device_is_told():
    driver = Driver(0, ILLEGAL)
    contexts = CudaContexts(driver)
    assert contexts.why_broken() == "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"
    with pytest.raises(CUDADriverError, match=r"^CUDA_ERROR_ILLEGAL_ADDRESS: .*, in what the function had started"):
        contexts.wait()
    assert (driver.current, driver.retained) == ([], 0)


def test_what_cannot_be_asked_is_told_and_nothing_is_where_cuda_is_not_up(monkeypatch):
    driver = Driver(0)
    driver.retain_result = 719
    assert CudaContexts(driver).why_broken() == "error 719 of CUDA's driver"
    driver.is_initialised = False
    assert CudaContexts(driver).why_broken() == ""
    monkeypatch.setattr(cuda_contexts, "_LIBRARY", "libthat-is-nowhere.so.1")
    contexts = CudaContexts()
    contexts.wait()
    assert contexts.why_broken() == ""


def runner_of(function, driver):
    runner = CallRunner(1, "run")
    runner._contexts = CudaContexts(driver)
    runner._probe.failed = lambda names: {}
    runner.learn([(0, encode_code(function))], None)
    return runner


def test_a_call_ends_when_its_devices_have_and_fails_with_what_it_had_started_there():
    driver = Driver(0)
    runner = runner_of(lambda: 5, driver)
    assert runner.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, DEVICES)).status == OK
    assert driver.waits == 1 and not runner.has_broken_context
    assert runner.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, ())).status == OK
    assert driver.waits == 1, "a call without devices waits for none"
    driver.states = [ILLEGAL]
    outcome = runner.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, DEVICES))
    assert (outcome.status, outcome.error.kind) == (RAISED, "CUDADriverError")
    assert runner.has_broken_context


def test_a_broken_context_is_noticed_behind_an_exception_of_any_library():
    def fail():
        raise type("CURANDError", (RuntimeError,), {})("CURAND_STATUS_INITIALIZATION_FAILED")

    driver = Driver(0)
    runner = runner_of(fail, driver)
    spec = CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, DEVICES)
    assert runner.call(spec).error.kind == "CURANDError" and not runner.has_broken_context
    driver.states = [ILLEGAL]
    assert runner.call(spec).error.kind == "CURANDError" and runner.has_broken_context
    assert CallRunner(1, "run").has_broken_context is False


def test_the_run_that_follows_in_a_process_knows_that_its_context_is_broken():
    runner = runner_of(lambda: 5, Driver(ILLEGAL))
    assert runner.has_broken_context, "before it has called anything"


def test_an_element_fails_with_what_it_had_started_and_those_behind_it_do_not_begin_here():
    driver = Driver(0)
    runner = runner_of(lambda number: number, driver)
    spec = lease(range(6))
    spec.devices = DEVICES

    def synchronize():
        driver.waits += 1
        return ILLEGAL if driver.waits == 3 else 0

    driver.cuCtxSynchronize = synchronize
    driver.cuStreamQuery = lambda stream: ILLEGAL if driver.waits >= 3 else 0
    outcome = runner.call(spec)
    assert outcome.status == OK and values_of(outcome.report) == {0: 0, 1: 1}
    assert [(index, kind) for index, kind, _ in failures_of(outcome.report)] == [([2], "CUDADriverError")]
    assert indices(outcome.report.left) == [3, 4, 5], "another process computes them"
    assert runner.has_broken_context
