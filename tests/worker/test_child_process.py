"""Real child processes: values in and out of them, memory handed on, and all the moments at which one can die."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import resource
import select
import signal
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import psutil
import pytest

from handoff_mpi.dag.call_template import CONSTANT, TEMPLATE, Placeholder
from handoff_mpi.messages import OK
from handoff_mpi.serialization import PLAIN, decode, decode_input, encode, encode_code
from handoff_mpi.worker import child_process, shared_memory
from handoff_mpi.worker.call_spec import CallSpec
from handoff_mpi.worker.child_process import ChildProcess
from handoff_mpi.worker.shared_memory import SHARED_NBYTES

LARGE = SHARED_NBYTES

SOURCE = """
import os, signal, sys, threading, time
import numpy
def same(x): return x
def nothing(*values): pass
def keep(x): sys.kept = x
def sum_kept(): return float(sys.kept.sum())
def new(x): return x + 1
def make(n): return numpy.arange(n, dtype=numpy.uint8)
def total(*values): return float(sum(value.sum() for value in values))
def flags(x): return x.flags.c_contiguous, x.flags.f_contiguous, x.flags.writeable, x.shape, x.dtype.str
def write(x): x[...] = 0
def force(x): x.flags.writeable = True
def memory_of(x):
    # The inode of the file that is mapped where the array lies.
    for line in open("/proc/self/maps"):
        span, _, _, device, inode, *_ = line.split()
        first, end = (int(part, 16) for part in span.split("-"))
        if first <= x.ctypes.data < end:
            return int(inode)
def blocks(): return [numpy.full(100_000, k, numpy.uint8) for k in range(100)] + [numpy.ones(500_000)] * 2
def private_nbytes():
    fields = open("/proc/self/statm").read().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
def use(nbytes): numpy.ones(nbytes // 8)
def sleep(): time.sleep(60)
def crash(nbytes):
    block = bytearray(nbytes)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)
def stop(): os.kill(os.getpid(), signal.SIGSTOP)
def tells():
    from handoff_mpi.worker.child_main import tell_rank
    def tell():
        for k in range(200): tell_rank(("update", k, "x" * 3000))
    thread = threading.Thread(target=tell)
    thread.start()
    time.sleep(0.001)
    return [numpy.full(100_000, k, numpy.uint8) for k in range(30)]
"""
FUNCTIONS: dict = {"__name__": "__main__"}
exec(SOURCE, FUNCTIONS)
NAMES = [name for name, value in FUNCTIONS.items() if type(value) is type(lambda: 0)]


class Failed(Exception):
    """A call that did not end well."""


def start(setup=None) -> ChildProcess:
    child = ChildProcess(3, "run", None if setup is None else encode_code(setup))
    child.learn([(number, encode_code(FUNCTIONS[name])) for number, name in enumerate(NAMES)])
    return child


@pytest.fixture
def child():
    child = start()
    yield child
    child.kill()
    child.close()


@pytest.fixture
def other():
    child = start()
    yield child
    child.kill()
    child.close()


def begin(child, name, *payloads) -> None:
    call_template = ((NAMES.index(name),), 0, None, ())
    child.call(CallSpec(name, 1, call_template, [(payload, None, 3) for payload in payloads], 1.0, ()))


def end(child):
    """Wait for a call and return its payload."""
    while True:
        frame = child.poll()
        if frame is None:
            assert select.select([child], (), (), 30)[0], "the child says nothing"
        elif frame[0][0] == "ended":
            _, status, head, error, _, _ = frame[0]
            if status != OK:
                raise Failed(error)
            return (*head, *frame[1])


def call(child, name, *payloads):
    begin(child, name, *payloads)
    return end(child)


def value_of(child, name, *values):
    return decode(call(child, name, *map(encode, values)))


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_memory_of(child) -> tuple[int, int]:
    """Return how many shared files an idle child has open, and how many it maps."""
    process = Path(f"/proc/{child._process.pid}")
    opened = 0
    for each in (process / "fd").iterdir():
        try:
            opened += "memfd:handoff" in str(each.readlink())
        except FileNotFoundError:  # closed between two looks
            pass
    return opened, (process / "maps").read_text().count("memfd:handoff")


# -- values ---------------------------------------------------------------------------------------------


def _arrays():
    rng = np.random.default_rng(0)
    for nbytes in (0, 1, 8, 16_383, 16_384, 65_536, LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 4095):
        yield f"{nbytes} bytes", rng.integers(0, 256, nbytes, np.uint8)
    square = rng.random((600, 600))
    yield "Fortran order", np.asfortranarray(square)
    yield "columns", square[:, ::2]
    yield "backwards", square[::-1]
    yield "a part", square[100:500]
    yield "transposed", square.T
    yield "no rows", np.empty((0, 1000))
    yield "no dimensions", np.array(3.5)
    yield "records", np.zeros(100_000, [("a", "i8"), ("b", "f4", 3)])
    yield "texts", np.array(["one", "three"] * 100_000)
    yield "objects", np.array([1, "two", None], object)
    yield "other byte order", square.astype(">f8")
    locked = square.copy()
    locked.flags.writeable = False
    yield "read-only", locked


ARRAYS = dict(_arrays())
VALUES = {
    "many arrays": [np.arange(1000 * (k % 7), dtype=np.int64) for k in range(300)] + [np.ones(LARGE)] * 3,
    "one array twice": [ARRAYS["Fortran order"]] * 2,
    "bytes": os.urandom(2 * LARGE),
    "a large pickle": {str(k): [k] for k in range(200_000)},
    "text": "ä" * LARGE,
    "bytearray": bytearray(os.urandom(LARGE)),
}


def assert_same(got, expected) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, list):
        assert len(got) == len(expected)
        for one, another in zip(got, expected, strict=True):
            assert_same(one, another)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(got, expected)
    else:
        assert got == expected


@pytest.fixture(scope="module")
def lasting():
    child = start()
    yield child
    child.close()


def holds_nothing_soon(child) -> bool:
    """Whether the child lets go of its shared memory; it does so just after it has answered."""
    end = time.monotonic() + 10
    while shared_memory_of(child) != (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    return shared_memory_of(child) == (0, 0)


@pytest.mark.parametrize("case", [*ARRAYS, *VALUES])
def test_values_go_in_and_out_unharmed(lasting, case):
    value = {**ARRAYS, **VALUES}[case]
    first = call(lasting, "same", encode(value))
    assert_same(decode(first), value)
    assert_same(decode(call(lasting, "same", first)), value)
    assert holds_nothing_soon(lasting), "a child holds nothing between its calls"


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_look_the_same_in_a_child(lasting, case):
    array = ARRAYS[case]
    *got, shape, dtype = value_of(lasting, "flags", array)
    like = decode_input(encode(array))  # as in the rank itself
    assert got == [like.flags.c_contiguous, like.flags.f_contiguous, like.flags.writeable]
    assert (shape, dtype) == (array.shape, array.dtype.str)


def test_inputs_of_any_size_cannot_be_written_to(lasting):
    for nbytes in (1, LARGE - 1, LARGE):
        for name in ("write", "force") if nbytes > 1 else ("write",):  # the memory of a small one is its own
            with pytest.raises(Failed, match=r"read-only|WRITEABLE"):
                value_of(lasting, name, np.ones(nbytes, np.uint8))
    assert value_of(lasting, "total", np.ones(5)) == 5.0


def test_many_inputs(lasting):
    payloads = [encode(np.full(n, n % 200, np.uint8)) for n in (10, LARGE, 20_000, LARGE + 1) for _ in range(8)]
    expected = float(sum(int(decode(payload).sum()) for payload in payloads))
    assert decode(call(lasting, "total", *payloads)) == expected


def test_large_frames_both_ways_at_once(lasting):
    """More than the socket holds, in and out: the child reads all before it answers, and the rank reads when asked."""
    value = [np.full(LARGE - 1, k, np.uint8) for k in range(30)]
    assert_same(value_of(lasting, "same", value), value)


def test_a_constant_is_mapped_once_for_all_children(child, other, written):
    payload = shared_memory.share(encode(np.ones(LARGE)))
    for each in child, other:
        each.learn_constant(0, payload)
        call = pickle.dumps(([Placeholder(CONSTANT, 0)], {}))
        call_template = ((NAMES.index("total"),), TEMPLATE, (PLAIN, ((), call)), (0,))
        each.call(CallSpec("total", 1, call_template, [], 1.0, ()))
        assert decode(end(each)) == float(LARGE)
    assert written == [8 * LARGE]


def test_words_from_other_threads_do_not_get_between_the_bytes(child):
    begin(child, "tells")
    updates, ended = [], None
    while len(updates) < 200 or ended is None:
        frame = child.poll()
        if frame is None:
            assert select.select([child], (), (), 30)[0]
        elif frame[0][0] == "update":
            updates.append(frame[0])
        elif frame[0][0] == "ended":
            ended = decode((*frame[0][2], *frame[1]))
    assert updates == [("update", k, "x" * 3000) for k in range(200)]
    assert_same(ended, [np.full(100_000, k, np.uint8) for k in range(30)])


def test_a_call_begins_once_its_code_is_loaded(child):
    kinds = []
    for name in ("same", "same"):
        begin(child, name, encode(1))
        kinds += [frame[0][0] for frame in frames_until_it_ends(child)]
    assert kinds == ["begun", "ended", "ended"]
    child.learn([(len(NAMES), encode_code(FUNCTIONS["same"]))])
    begin(child, "same", encode(1))
    assert [frame[0][0] for frame in frames_until_it_ends(child)] == ["begun", "ended"]


def frames_until_it_ends(child):
    frames = []
    while not frames or frames[-1][0][0] != "ended":
        frame = child.poll()
        if frame is not None:
            frames.append(frame)
        else:
            assert select.select([child], (), (), 30)[0], "the child says nothing"
    return frames


# -- memory ---------------------------------------------------------------------------------------------


def test_a_value_goes_through_two_children_in_one_memory(child, other, written):
    """One copy where it is made; then the rank and both children have the same pages."""
    made = call(child, "make", encode(5 * LARGE))
    memory, _ = shared_memory.locate(memoryview(made[2]))
    inode = os.fstat(memory.descriptor.number).st_ino
    assert decode(call(other, "memory_of", made)) == inode
    assert decode(call(child, "memory_of", made)) == inode
    assert decode(call(other, "total", made)) == float(np.arange(5 * LARGE, dtype=np.uint8).sum())
    assert written == [], "the rank copies nothing"
    assert decode(call(other, "memory_of", encode(decode(made)[: 2 * LARGE] + 0))) != inode
    assert written == [2 * LARGE]


def test_an_idle_child_gives_back_what_its_calls_have_freed(child):
    value_of(child, "use", 20 << 20)
    kept = value_of(child, "private_nbytes")
    child.give_back_freed_memory()
    assert kept - value_of(child, "private_nbytes") > 15 << 20
    child.kill()
    child._process.wait()
    child.give_back_freed_memory()


@pytest.mark.long
def test_memory_goes_with_its_last_holder(child):
    before = open_files(), len(shared_memory._mapped)
    made = call(child, "make", encode(LARGE))
    assert (open_files(), len(shared_memory._mapped)) == (before[0] + 1, before[1] + 1)
    call(child, "keep", made)
    del made
    assert (open_files(), len(shared_memory._mapped)) == before
    assert shared_memory_of(child) == (0, 1), "what a function keeps stays mapped, and needs no descriptor"
    for _ in range(5):
        call(child, "nothing", encode(np.zeros(LARGE)))
    assert decode(call(child, "sum_kept")) == float(np.arange(LARGE, dtype=np.uint8).sum())


def _no_memory():
    raise OSError(errno.ENOSPC, "no space left")


def _setup_without(name):
    """Return a setup after which a child has no shared memory."""
    scope = {"__name__": "__main__"}
    exec(
        f"import os\ndef setup(rank):\n    def fail(*_): raise OSError(28, 'no space left')\n    os.{name} = fail\n",
        scope,
    )
    return scope["setup"]


@pytest.mark.parametrize("name", ["memfd_create", "pwrite"])
@pytest.mark.parametrize("who", ["rank", "child"])
def test_without_shared_memory_calls_still_work(monkeypatch, name, who):
    child = start(_setup_without(name) if who == "child" else None)
    try:
        if who == "rank":
            monkeypatch.setattr(os, name, lambda *_: _no_memory())
        before = len(shared_memory._mapped)
        made = call(child, "new", encode(np.arange(LARGE)))
        assert np.array_equal(decode(made), np.arange(LARGE) + 1)
        assert len(shared_memory._mapped) - before == (who == "rank"), "the other side shares still"
    finally:
        child.close()


@pytest.mark.long
def test_a_rank_that_can_map_nothing_copies(child, monkeypatch):
    before = open_files()
    monkeypatch.setattr(shared_memory, "MAX_MAPPED", 0)
    made = call(child, "make", encode(LARGE))
    assert type(made[2]) is bytearray
    assert np.array_equal(decode(made), np.arange(LARGE, dtype=np.uint8))
    assert open_files() == before


@pytest.mark.long
def test_a_child_with_too_many_files_open(monkeypatch):
    """It cannot take its inputs: it ends and says why, and the rank has lost a child and nothing else."""
    before = open_files()
    scope = {"__name__": "__main__"}
    exec(
        "import os, resource\n"
        "def setup(rank):\n"
        "    for _ in range(50): os.dup(0)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (55, 55))\n",
        scope,
    )
    child = start(scope["setup"])
    call(child, "nothing")  # what arrives with setup is taken in before that has run
    payloads = [shared_memory.share(encode(np.ones(LARGE, np.uint8))) for _ in range(20)]
    begin(child, "total", *payloads)
    with pytest.raises(EOFError):
        end(child)
    assert child.how_it_died()[0].startswith("its process ended with exit status 1; peak memory")
    del payloads
    assert open_files() == before


# -- deaths ---------------------------------------------------------------------------------------------


def test_killed_while_idle(child):
    assert value_of(child, "total", np.ones(3)) == 3.0
    child.kill()
    child._process.wait(10)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        for _ in range(2):
            begin(child, "total", encode(np.ones(LARGE)))
    assert child.how_it_died()[0] == "its process was killed by SIGKILL (out of memory?)"


def test_killed_while_calling(child):
    begin(child, "sleep")
    assert child.poll() is None
    child.kill()
    with pytest.raises(EOFError):
        end(child)
    assert "SIGKILL" in child.how_it_died()[0]


def wait_until_asleep(pid):
    """Wait until a process has slept at ten looks one after the other."""
    looks = 0
    while looks < 10:
        looks = looks + 1 if psutil.Process(pid).status() == psutil.STATUS_SLEEPING else 0
        time.sleep(0.01)


@pytest.mark.long
def test_killed_while_sending(child):
    """The part of a frame that has arrived is given up, its memory too."""
    before = open_files(), len(shared_memory._mapped)
    begin(child, "blocks")
    assert select.select([child], (), (), 30)[0]
    wait_until_asleep(child.pid)  # it waits for the rank to read on
    child.kill()
    with pytest.raises(EOFError):
        end(child)
    assert child._reader._descriptors, "the descriptors came first"
    assert "SIGKILL" in child.how_it_died()[0]
    assert (open_files(), len(shared_memory._mapped)) == (before[0] - 4, before[1])


def test_killed_while_the_rank_sends(child):
    assert value_of(child, "total", np.ones(3)) == 3.0
    os.kill(child._process.pid, signal.SIGSTOP)
    threading.Timer(0.2, child.kill).start()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        begin(child, "total", *[encode(np.ones(LARGE - 1, np.uint8))] * 3)
    assert "SIGKILL" in child.how_it_died()[0]


@pytest.mark.long
def test_a_child_that_takes_nothing_is_given_up(child, monkeypatch):
    monkeypatch.setattr(child_process, "SEND_TIMEOUT_S", 0.2)
    assert value_of(child, "total", np.ones(3)) == 3.0
    os.kill(child._process.pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(OSError, match="took nothing"):
        begin(child, "total", *[encode(np.ones(LARGE - 1, np.uint8))] * 3)
    assert time.monotonic() - began < 10
    assert "took nothing" in child.how_it_died()[0]


@pytest.fixture
def immortal(child, monkeypatch):
    """A child that no signal ends, as if it hung in the kernel."""
    os.kill(child.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(child_process, "KILL_WAIT_TIMEOUT_S", 0.1)
        patch.setattr(child_process, "CLOSE_TIMEOUT_S", 0.1)
        patch.setattr(os, "killpg", lambda *_: None)
        yield child
    child.kill()
    child._process.wait(10)


def test_a_child_that_cannot_be_ended_is_not_waited_for_without_end(immortal):
    immortal.close()
    assert immortal._process.poll() is None


@pytest.mark.long
def test_how_a_child_died_that_cannot_be_ended(immortal):
    assert immortal.how_it_died() == ("its process cannot be ended", "")
    assert immortal._process.poll() is None


def test_shared_memory_that_was_cut_short_ends_no_copying(monkeypatch):
    monkeypatch.setattr(shared_memory, "MAX_MAPPED", 0)
    before = open_files()
    descriptor, _ = shared_memory.write([memoryview(bytes(100))])
    with pytest.raises(EOFError, match="shorter"):
        shared_memory.read(descriptor, [(0, 100), (4096, 100)], False)
    assert open_files() == before


@pytest.mark.long
def test_a_stopped_child_does_not_hold_up_what_is_shared(child):
    assert value_of(child, "total", np.ones(3)) == 3.0
    os.kill(child._process.pid, signal.SIGSTOP)
    begin(child, "total", encode(np.ones(20 * LARGE)))
    os.kill(child._process.pid, signal.SIGCONT)
    assert decode(end(child)) == 20.0 * LARGE


@pytest.mark.long
def test_a_dying_child_leaves_its_stack_and_its_peak_of_memory(child):
    # Only a peak above this process's own is certain to be the child's.
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + 300
    begin(child, "crash", encode(mib << 20))
    with pytest.raises(EOFError):
        end(child)
    how, stack = child.how_it_died()
    kind, _, peak = how.partition("; peak memory ")
    assert kind == "its process was killed by SIGSEGV"
    assert mib <= int(peak.removesuffix(" MiB")) < mib + 300
    assert "Segmentation fault" in stack
    assert "in crash" in stack
    assert "handoff_mpi" not in stack


@pytest.mark.soak
@pytest.mark.soak
def test_two_hundred_kills_leave_nothing_behind():
    rng = random.Random(2)
    before = open_files(), len(shared_memory._mapped)
    given = shared_memory.share(encode(np.ones(LARGE)))
    ends = {"ended": 0, "died": 0}
    ahead = deque(start() for _ in range(3))  # most of what this takes is Python's start
    for number in range(200):
        child = ahead.popleft()
        if number < 200 - 3:
            ahead.append(start())
        try:
            for name in ("make", ["keep", "blocks", "sleep"][number % 3]):
                inputs = {"make": [encode(LARGE)], "keep": [given]}.get(name, [])
                begin(child, name, *inputs)
                if name != "make":
                    time.sleep(0.01 * rng.random())
                    child.kill()
                end(child)
                ends["ended"] += 1
        except (EOFError, OSError):
            ends["died"] += 1
        child.how_it_died()
    del given
    assert (open_files(), len(shared_memory._mapped)) == before
    assert min(ends.values()) > 50, ends
