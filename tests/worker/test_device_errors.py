"""Which errors may be those of devices, and what a fresh process says of a device."""

from __future__ import annotations

import os
import sys

import pytest

from handoff_mpi.messages import DEVICE_LOSS, OK, RAISED, ErrorReport
from handoff_mpi.resources.device_names import VISIBLE
from handoff_mpi.serialization import encode_code
from handoff_mpi.worker import device_errors
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner
from handoff_mpi.worker.device_errors import DeviceProbe, is_device_error
from tests.gpu import fake_cupy_at
from tests.worker.leases import failures_of, indices, lease, values_of

CUPYS = ("cupy_backends.cuda.api.runtime.CUDARuntimeError", "RuntimeError", "Exception")
ECC = "cudaErrorECCUncorrectable: uncorrectable ECC error encountered"


@pytest.mark.parametrize(
    ("kind", "message", "lineage", "may_be"),
    [
        ("CUDARuntimeError", ECC, CUPYS, True),
        ("CUDARuntimeError", "cudaErrorIllegalAddress: an illegal memory access was encountered", CUPYS, True),
        ("CUDADriverError", "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", (), True),
        ("AcceleratorError", "CUDA error: unspecified launch failure", ("torch.AcceleratorError",), True),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered", ("RuntimeError",), True),
        ("MyError", ECC, ("dag.MyError", *CUPYS), True),
        ("CUDARuntimeError", "cudaErrorInvalidValue: invalid argument", CUPYS, False),
        ("CUDARuntimeError", "cudaErrorInvalidConfiguration: invalid configuration argument", CUPYS, False),
        ("CUDADriverError", "CUDA_ERROR_OUT_OF_MEMORY: out of memory", (), False),
        ("OutOfMemoryError", "Out of memory allocating 1 bytes", ("cupy.cuda.memory.OutOfMemoryError",), False),
        ("ValueError", "CUDARuntimeError", ("ValueError",), False),
        ("RuntimeError", "the CUDA error is 5 %", ("RuntimeError",), False),
    ],
)
def test_which_errors_may_be_those_of_a_device(kind, message, lineage, may_be):
    assert is_device_error(ErrorReport(kind, message, lineage=lineage)) is may_be


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    """The directory of a stand-in of cupy, for fresh processes."""
    fake_cupy_at(tmp_path)
    monkeypatch.setenv("FAKE_CUPY", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("cupy", None)


def test_a_fresh_process_says_whether_a_device_works(cupy, monkeypatch):
    (cupy / "broken").write_text("GPU-b")
    probe = DeviceProbe()
    (why,) = probe.failed(["GPU-a", "GPU-b"]).values()
    assert why.endswith(f"CUDARuntimeError: {ECC}")
    monkeypatch.setattr(device_errors, "_why_unusable", lambda name: 1 / 0)
    assert probe.failed(["GPU-a", "GPU-b"]) == {"GPU-b": why}, "it holds for some seconds"
    assert VISIBLE not in os.environ


def test_what_says_nothing_about_a_device(cupy, monkeypatch):
    (cupy / "cupy.py").write_text("import os; os.environ['FAKE_CUPY'] = 1")
    monkeypatch.setattr(device_errors, "PROBE_TIMEOUT_S", 0.0)
    assert "has not answered in 0 s" in device_errors._why_unusable("GPU-a")
    monkeypatch.setattr(device_errors, "python_program", lambda *_: ["/nonexistent"])
    assert device_errors._why_unusable("GPU-a") == ""
    (cupy / "cupy.py").unlink()
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(cupy)])
    assert device_errors._why_unusable("GPU-a") == "", "without cupy nobody can ask"


def outcome_of(message, monkeypatch, failed):
    def fail():
        raise type("CUDARuntimeError", (RuntimeError,), {})(message)

    runner = CallRunner(1, "run")
    monkeypatch.setattr(runner._probe, "failed", failed)
    runner.learn([(0, encode_code(fail))], None)
    devices = ((0, "GPU-aaaa"), (1, "declared-7"))
    return runner, runner.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, devices))


def test_a_call_fails_with_the_devices_that_a_fresh_process_cannot_use(monkeypatch):
    runner, outcome = outcome_of(ECC, monkeypatch, lambda names: {"7": f"{ECC} too"} if "7" in names else {})
    assert outcome.status == RAISED and runner.has_broken_context
    assert (outcome.error.kind, outcome.error.devices) == (DEVICE_LOSS, ("declared-7",))
    assert outcome.error.message == (f"CUDARuntimeError: {ECC}; a new process cannot use declared-7 either: {ECC} too")


def test_an_error_is_the_functions_own_while_a_fresh_process_can_use_the_devices(monkeypatch):
    runner, outcome = outcome_of("cudaErrorIllegalAddress: an illegal access", monkeypatch, lambda names: {})
    assert outcome.error.kind == "CUDARuntimeError"
    assert runner.has_broken_context, "no call can use CUDA here any more"


def test_an_error_of_arguments_asks_nobody_and_breaks_nothing(monkeypatch):
    runner, outcome = outcome_of("cudaErrorInvalidValue: invalid argument", monkeypatch, lambda names: 1 / 0)
    assert outcome.error.kind == "CUDARuntimeError" and not runner.has_broken_context


@pytest.mark.parametrize("why", ["", f"{ECC} too"])
def test_elements_after_one_that_may_have_failed_with_a_device_do_not_begin(monkeypatch, why):
    class CUDARuntimeError(RuntimeError):
        pass

    def work(number):
        if number == 2:
            raise CUDARuntimeError(ECC)
        return number

    runner = CallRunner(1, "run")
    monkeypatch.setattr(runner._probe, "failed", lambda names: {"GPU-aaaa": why} if why else {})
    runner.learn([(0, encode_code(work))], None)
    spec = lease(range(6))
    spec.devices = ((0, "GPU-aaaa"),)
    outcome = runner.call(spec)
    if why:
        assert (outcome.status, outcome.error.kind, outcome.error.element) == (RAISED, DEVICE_LOSS, 2)
    else:
        assert outcome.status == OK and values_of(outcome.report) == {0: 0, 1: 1}
        assert failures_of(outcome.report) == [([2], "CUDARuntimeError", ECC)]
        assert indices(outcome.report.left) == [3, 4, 5], "another process computes them"
