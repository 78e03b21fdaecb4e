"""Arrays of cupy as values, against a stub of cupy whose copies happen as late as a device's may."""

from __future__ import annotations

import ctypes
import sys
import types

import numpy as np
import pytest

from handoff_mpi import gpu_staging
from handoff_mpi.gpu_staging import CHUNK_NBYTES, STAGED_NBYTES, receiving
from handoff_mpi.messages import OK, RAISED
from handoff_mpi.serialization import decode, decode_input, decode_private, decode_writable, encode, encode_code
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.calls import CallRunner


class Stream:
    """Copies are made when somebody waits for them, and no sooner."""

    def __init__(self):
        self.copies = []

    def put(self, target, source, nbytes):
        self.copies.append((target, source, nbytes))

    def record(self):
        return Event(self, len(self.copies))

    def synchronize(self):
        self.run(len(self.copies))

    def run(self, count):
        for number, copy in enumerate(self.copies[:count]):
            if copy is not None:
                ctypes.memmove(*copy)
                self.copies[number] = None


class Event:
    def __init__(self, stream, count):
        self.stream, self.count = stream, count

    def synchronize(self):
        self.stream.run(self.count)


class Pointer:
    """Device memory."""

    def __init__(self, address):
        self.address = address

    def __add__(self, offset):
        return Pointer(self.address + offset)

    def copy_to_host_async(self, mem, size, stream):
        stream.put(mem.value, self.address, size)

    def copy_from_host_async(self, mem, size, stream):
        stream.put(self.address, mem.value, size)


class Device:
    current = 0

    def __init__(self, number):
        self.number = number

    def use(self):
        Device.current = self.number

    def __enter__(self):
        self.before, Device.current = Device.current, self.number

    def __exit__(self, *_):
        Device.current = self.before


class Array:
    """An array on a device; numpy's memory stands for the device's."""

    def __init__(self, there):
        self.there, self.device = there, Device(Device.current)
        self.shape, self.dtype, self.nbytes = there.shape, there.dtype, there.nbytes
        self.data = Pointer(there.ctypes.data)

    def get(self):
        return self.there.copy()

    def __reduce__(self):
        return sys.modules["cupy"].array, (self.get(),)


class Pinned(np.ndarray):
    @property
    def ptr(self):
        return self.ctypes.data


def array(host):
    return Array(np.array(host))


@pytest.fixture
def cupy(monkeypatch):
    """The stub, in the place of cupy; ``pinned`` says how much it has pinned."""
    module, stream = types.ModuleType("cupy"), Stream()
    module.pinned = 0

    def pin(nbytes):
        module.pinned += nbytes
        return np.full(nbytes, 0xAA, np.uint8).view(Pinned)

    def contiguous(array):
        assert array.device.number == Device.current
        return array if array.there.flags.c_contiguous else Array(np.ascontiguousarray(array.there))

    runtime = types.SimpleNamespace(CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}))
    module.cuda = types.SimpleNamespace(
        alloc_pinned_memory=pin, get_current_stream=lambda: stream, Device=Device, runtime=runtime
    )
    module.ndarray, module.array, module.ascontiguousarray = Array, array, contiguous
    module.empty = lambda shape, dtype: Array(np.full(shape, 0x55, dtype))
    monkeypatch.setattr(array, "__module__", "cupy")
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(gpu_staging, "_halves", [])
    monkeypatch.setattr(Device, "current", 0)
    return module


def decode_on_device(payload):
    with receiving(has_device=True):
        return decode(payload)


def numbers(nbytes):
    return np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)


@pytest.mark.parametrize("nbytes", [0, 10, STAGED_NBYTES, CHUNK_NBYTES, CHUNK_NBYTES + 1, 5 * CHUNK_NBYTES // 2])
def test_an_array_arrives_as_it_was(cupy, nbytes):
    made = numbers(nbytes)
    payload = encode({"x": Array(made)})
    assert len(payload[1]) < 1000 + 16 * 1024, "large arrays travel beside the pickle"
    arrived = decode_on_device(payload)["x"]
    assert type(arrived) is Array
    assert np.array_equal(arrived.there, made)
    assert not np.shares_memory(arrived.there, made)
    assert cupy.pinned == (2 * CHUNK_NBYTES if nbytes >= STAGED_NBYTES else 0)


def test_shapes_types_and_gaps(cupy):
    for made in (
        numbers(8 * STAGED_NBYTES).view(np.complex64).reshape(16, -1),
        np.asfortranarray(numbers(STAGED_NBYTES * 4).view(np.int16).reshape(64, -1)),
        numbers(STAGED_NBYTES * 8).reshape(-1, 8)[::2, ::3],
    ):
        arrived = decode_on_device(encode(Array(made))).there
        assert (arrived.shape, arrived.dtype) == (made.shape, made.dtype)
        assert arrived.tobytes() == made.tobytes()


def test_many_values_pin_no_more_than_one(cupy):
    payloads = [encode(Array(numbers(CHUNK_NBYTES + number))) for number in range(5)]
    for number, payload in enumerate(payloads):
        assert np.array_equal(decode_on_device(payload).there, numbers(CHUNK_NBYTES + number))
    assert cupy.pinned == 2 * CHUNK_NBYTES


@pytest.mark.parametrize("error", ["memory", "cuda"])
def test_without_pinned_memory_cupys_own_way_is_taken(cupy, error):
    def fail(nbytes):
        raise MemoryError if error == "memory" else cupy.cuda.runtime.CUDARuntimeError

    cupy.cuda.alloc_pinned_memory = fail
    made = numbers(CHUNK_NBYTES)
    assert np.array_equal(decode_on_device(encode(Array(made))).there, made)


def test_an_array_in_what_travels_by_value_is_staged_too(cupy):
    made = Array(numbers(CHUNK_NBYTES))
    payload = encode(lambda: made)
    assert cupy.pinned == 2 * CHUNK_NBYTES
    assert [memoryview(part).nbytes for part in payload[2:]] == [CHUNK_NBYTES]
    assert np.array_equal(decode_on_device(payload)().there, made.there)


def test_an_input_arrives_on_the_current_device_and_a_result_leaves_any(cupy):
    payload = encode(Array(numbers(CHUNK_NBYTES)))
    caller = CallRunner(1, "run")
    caller.learn([(0, encode_code(lambda x: (x.device.number, Device.current)))], None)
    outcome = caller.call(CallSpec("f", 1, ((0,), 0, None, ()), [(payload, None, -1)], 1.0, ((3, "GPU-a"),)))
    assert outcome.status == OK, outcome.error
    assert decode(outcome.payload) == (0, 0), "CUDA shows that device alone"
    with Device(7):
        elsewhere = Array(numbers(CHUNK_NBYTES))
    assert np.array_equal(decode_on_device(encode(elsewhere)).there, elsewhere.there)


@pytest.mark.parametrize("nbytes", [0, 10, STAGED_NBYTES, 5 * CHUNK_NBYTES // 2])
@pytest.mark.parametrize("read", [decode, decode_input, decode_private, decode_writable])
def test_who_has_claimed_no_device_receives_an_array_of_numpy_and_needs_no_cupy(cupy, monkeypatch, read, nbytes):
    made = numbers(nbytes).reshape(-1, 2)
    payload = encode({"x": Array(made), "of numpy": made})
    monkeypatch.setitem(sys.modules, "cupy", None)  # an import of it fails
    arrived = read(payload)
    assert type(arrived["x"]) is np.ndarray and np.array_equal(arrived["x"], made)
    has_own_memory = read in (decode_private, decode_writable) or (read is decode and nbytes < 16384)
    assert arrived["x"].flags.writeable == has_own_memory


def test_an_array_is_of_numpy_in_a_call_without_a_claim_of_devices(cupy):
    payload = encode(Array(numbers(CHUNK_NBYTES)))
    caller = CallRunner(1, "run")
    caller.learn([(0, encode_code(lambda x: (type(x).__module__, x.flags.writeable)))], None)
    for devices, then in (((), ("numpy", False)), (((0, "declared-0"),), None), ((), ("numpy", False))):
        outcome = caller.call(CallSpec("f", 1, ((0,), 0, None, ()), [(payload, None, -1)], 1.0, devices))
        if then is None:
            assert outcome.status == RAISED and "'Array' object has no attribute 'flags'" in outcome.error.message
        else:
            assert decode(outcome.payload) == then


def test_code_that_holds_an_array_is_loaded_for_the_device_of_its_first_call(cupy):
    held = Array(numbers(10))
    for has_devices in (False, True):
        caller = CallRunner(1, "run")
        caller.learn([(0, encode_code(lambda: type(held).__name__))], None)
        caller.prepare((0,), None, has_devices)
        outcome = caller.call(CallSpec("f", 1, ((0,), 0, None, ()), [], 1.0, ()))
        assert decode(outcome.payload) == ("Array" if has_devices else "ndarray")


def test_cupy_is_not_looked_for_unless_somebody_has_imported_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert gpu_staging.reducers() == {}
    monkeypatch.delitem(sys.modules, "cupy")
    assert decode(encode([np.ones(100_000)]))[0].sum() == 100_000
    assert "cupy" not in sys.modules
