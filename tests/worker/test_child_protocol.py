"""Frames between a rank and its child: what arrives is what was sent, in the stream or in shared memory."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import signal
import socket
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from handoff_mpi.serialization import decode, encode
from handoff_mpi.worker import child_protocol, shared_memory
from handoff_mpi.worker.child_protocol import DescriptorsLost, FrameReader, join, send_frame, split
from handoff_mpi.worker.shared_memory import SHARED_NBYTES

LARGE = SHARED_NBYTES


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def small_pages(monkeypatch):
    """Buffers of a page are shared already, so that tests with many of them need little memory."""
    monkeypatch.setattr(shared_memory, "SHARED_NBYTES", 4096)
    monkeypatch.setattr(child_protocol, "SHARED_NBYTES", 4096)


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def noise(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def read_all(reader: FrameReader):
    frame = None
    while frame is None:
        frame = reader.read()
    return frame


@contextmanager
def forked(work, *ends):
    """Do ``work`` in another process, which has not these ends of sockets, and is killed when the block ends."""
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(60)  # also if the test fails
            for end in ends:
                end.close()
            work()
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def exchange(pair, message, buffers=(), is_kept=False):
    """Send a frame and read it at the other end; by another process, should it block."""
    ours, theirs = pair
    reader = FrameReader(theirs, is_kept)
    if sum(len(part) for part in buffers if len(part) < shared_memory.SHARED_NBYTES) > 50_000:
        with forked(lambda: send_frame(ours, message, buffers), theirs):
            return read_all(reader)
    send_frame(ours, message, buffers)
    return read_all(reader)


SIZES = [
    [],
    [0],
    [1, 0, 7],
    [child_protocol._AHEAD_NBYTES - 1, child_protocol._AHEAD_NBYTES, child_protocol._AHEAD_NBYTES + 1],
    [LARGE - 1],
    [LARGE],
    [LARGE + 1, 3, LARGE - 1, 4096, 5 * LARGE + 4095],
    [20_000] * 700,
]


@pytest.mark.long
@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: "-".join(map(str, sizes[:5])) or "none")
@pytest.mark.parametrize("message_nbytes", [0, 100_000])
def test_what_arrives_is_what_was_sent(pair, sizes, message_nbytes):
    before = open_files()
    message = ("call", 1, None, noise(message_nbytes))
    buffers = [noise(nbytes, seed) for seed, nbytes in enumerate(sizes)]
    got, arrived = exchange(pair, message, buffers)
    assert got == message
    assert [bytes(part) for part in arrived] == buffers
    assert open_files() == before


def test_frames_and_their_descriptors_keep_their_order(pair):
    ours, theirs = pair
    reader = FrameReader(theirs)
    sent = []
    for number in range(30):
        sizes = [LARGE + number] * (number % 3) + [10] * (number % 2)
        sent.append([noise(nbytes, 100 * number + k) for k, nbytes in enumerate(sizes)])
        send_frame(ours, ("frame", number), sent[-1])
    for number, buffers in enumerate(sent):
        message, arrived = read_all(reader)
        assert message == ("frame", number)
        assert [bytes(part) for part in arrived] == buffers


def test_a_frame_that_comes_in_crumbs(pair):
    """After any part of a frame, the reader never waits for the rest."""
    ours, theirs = pair
    theirs.setblocking(False)
    reader = FrameReader(theirs)
    far, near = socket.socketpair()
    with far, near:
        send_frame(far, ("first", noise(500)), [noise(300), b""])
        send_frame(far, ("second",))
        data = near.recv(100_000)
    frames_read = []
    for position in range(len(data)):
        assert reader.read() is None
        ours.send(data[position : position + 1])
        frame = reader.read()
        if frame is not None:
            frames_read.append((position, frame))
    assert [frame[0][0] for _, frame in frames_read] == ["first", "second"]
    assert frames_read[-1][0] == len(data) - 1
    assert bytes(frames_read[0][1][1][0]) == noise(300)


def test_a_reader_holds_nothing_of_what_it_gave_away(pair):
    ours, theirs = pair
    theirs.setblocking(False)
    reader = FrameReader(theirs)
    send_frame(ours, ("frame",), [bytes(LARGE)])
    _, (part,) = read_all(reader)
    memories = len(shared_memory._mapped)
    del part
    assert len(shared_memory._mapped) == memories - 1
    assert reader.read() is None


@pytest.mark.parametrize("payload", [encode(each) for each in (5, list(range(1000)), b"x" * LARGE, np.ones(LARGE))])
def test_large_heads_travel_beside_the_message(payload):
    head, buffers = split(payload)
    assert sum(len(part) for part in head if isinstance(part, bytes)) < LARGE
    again = join(head, [bytearray(part) for part in buffers])
    assert type(again[1]) is type(payload[1])
    assert np.array_equal(decode(again), decode(payload))


# -- memory ---------------------------------------------------------------------------------------------


def test_shared_memory_cannot_be_written_to_from_python(pair):
    for is_kept in (False, True):
        _, (part,) = exchange(pair, ("frame",), [bytes(LARGE)], is_kept)
        assert part.readonly
        with pytest.raises(TypeError):
            part[0] = 1
        with pytest.raises(TypeError):
            part.obj[0] = 1
        array = np.frombuffer(part, np.uint8)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_what_is_shared_already_is_handed_on_without_a_copy(pair, written):
    buffers = [noise(LARGE), noise(3 * LARGE + 5, 1), noise(10)]
    _, first = exchange(pair, ("frame",), buffers, is_kept=True)
    assert written == [LARGE, 3 * LARGE + 5]
    _, second = exchange(pair, ("frame",), first, is_kept=True)
    _, third = exchange(pair, ("frame",), [second[1][7:], second[0]])
    assert written == [LARGE, 3 * LARGE + 5]
    assert [bytes(part) for part in second] == buffers
    assert [bytes(part) for part in third] == [buffers[1][7:], buffers[0]]


def test_what_cannot_be_handed_on_is_copied_once_more(pair, written):
    _, (part,) = exchange(pair, ("frame",), [noise(LARGE)], is_kept=False)
    _, (again,) = exchange(pair, ("frame",), [part])
    assert written == [LARGE, LARGE]
    assert bytes(again) == noise(LARGE)


@pytest.mark.long
def test_memory_and_descriptors_go_with_the_last_view(pair):
    before = open_files(), len(shared_memory._mapped)
    _, parts = exchange(pair, ("frame",), [noise(LARGE), noise(LARGE)], is_kept=True)
    assert (open_files(), len(shared_memory._mapped)) == (before[0] + 1, before[1] + 1), (
        "one file for both, mapped once"
    )
    array = np.frombuffer(parts[1], np.uint8)[100:200]
    del parts
    assert bytes(array) == noise(LARGE)[100:200]
    del array
    assert (open_files(), len(shared_memory._mapped)) == before


@pytest.mark.long
def test_descriptors_longest_unused_are_closed_first(pair, written, small_pages, monkeypatch):
    monkeypatch.setattr(shared_memory, "MAX_KEPT", 4)
    before = open_files()
    values = [exchange(pair, ("frame",), [noise(5000, seed)], is_kept=True)[1] for seed in range(4)]
    exchange(pair, ("frame",), values[0])
    values += [exchange(pair, ("frame",), [noise(5000, seed)], is_kept=True)[1] for seed in range(4, 6)]
    assert open_files() == before + 4
    del written[:]
    for seed, value in enumerate(values):
        _, (part,) = exchange(pair, ("frame",), value)
        assert bytes(part) == noise(5000, seed)
    assert written == [5000, 5000], "of the second and the third, which nobody wanted"
    del values, value
    assert open_files() == before


def test_more_memories_than_a_frame_may_bring(pair, written, small_pages, monkeypatch):
    monkeypatch.setattr(shared_memory, "MAX_KEPT", 400)
    sizes = [4096 + seed for seed in range(300)]
    values = [exchange(pair, ("frame",), [noise(n, n)], is_kept=True)[1][0] for n in sizes]
    del written[:]
    before = open_files()
    _, parts = exchange(pair, ("frame",), values)
    assert [bytes(part) for part in parts] == [noise(n, n) for n in sizes]
    assert open_files() == before
    assert written == sizes[: 300 - (shared_memory._limit(shared_memory.MAX_IN_FRAME) - 1)], "the largest are lent"


def test_more_mappings_than_there_may_be(pair, small_pages, monkeypatch):
    monkeypatch.setattr(shared_memory, "MAX_MAPPED", len(shared_memory._mapped) + 2)
    before = open_files()
    values = [exchange(pair, ("frame",), [noise(5000, k), noise(6000, k)], is_kept=True)[1] for k in range(4)]
    assert [[bytes(part) for part in parts] for parts in values] == [[noise(5000, k), noise(6000, k)] for k in range(4)]
    assert open_files() == before + 2


@pytest.mark.long
def test_a_kernel_that_maps_no_more(pair, monkeypatch):
    monkeypatch.setattr(shared_memory, "_mmap", lambda *_: shared_memory._MAP_FAILED)
    before = open_files(), len(shared_memory._mapped)
    _, parts = exchange(pair, ("frame",), [noise(LARGE), noise(10), noise(LARGE + 1)], is_kept=True)
    assert [bytes(part) for part in parts] == [noise(LARGE), noise(10), noise(LARGE + 1)]
    assert (open_files(), len(shared_memory._mapped)) == before


def test_sharing_a_payload_once(pair, written):
    payload = encode([np.arange(LARGE), np.arange(10_000), np.ones(LARGE)])
    moved = shared_memory.share(payload)
    assert shared_memory.share(moved) == moved
    assert written == [8 * LARGE, 8 * LARGE]
    for _ in range(3):
        _, parts = exchange(pair, ("frame",), moved[2:])
        assert all(map(np.array_equal, decode((*moved[:2], *parts)), decode(payload)))
    assert written == [8 * LARGE, 8 * LARGE]
    assert shared_memory.share(encode(5)) == encode(5)


FAILURES = {
    "no such call": ("memfd_create", OSError(errno.ENOSYS, "no such call")),
    "no descriptor": ("memfd_create", OSError(errno.EMFILE, "too many open files")),
    "no memory": ("pwrite", OSError(errno.ENOSPC, "no space left")),
}


@pytest.mark.long
@pytest.mark.parametrize("case", FAILURES)
def test_without_shared_memory_all_goes_through_the_stream(pair, monkeypatch, case):
    name, error = FAILURES[case]

    def fail(*_):
        raise error

    ours, theirs = pair
    before = open_files()
    monkeypatch.setattr(os, name, fail)
    with forked(lambda: send_frame(ours, ("frame",), [noise(2 * LARGE), noise(5)]), theirs):
        message, parts = read_all(FrameReader(theirs))
    assert (message, [bytes(part) for part in parts]) == (("frame",), [noise(2 * LARGE), noise(5)])
    assert [type(part) for part in parts] == [bytearray, bytearray]
    payload = encode(np.arange(LARGE))
    assert shared_memory.share(payload) is payload
    assert open_files() == before


def test_a_system_without_anonymous_files(monkeypatch):
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="no anonymous files"):
        shared_memory.write([memoryview(b"x")])


@pytest.mark.long
def test_a_kernel_that_carries_no_more_descriptors(pair):
    class Full:
        """A socket of a user who has too many descriptors on their way."""

        def __init__(self, sock):
            self.send = sock.send

        def sendmsg(self, parts, ancillary):
            raise OSError(errno.ETOOMANYREFS, "too many references")

    ours, theirs = pair
    before = open_files()
    with forked(lambda: send_frame(Full(ours), ("frame",), [noise(LARGE)]), theirs):
        _, (part,) = read_all(FrameReader(theirs))
    assert bytes(part) == noise(LARGE)
    assert open_files() == before


# -- ends -----------------------------------------------------------------------------------------------


def test_the_end_of_the_other_side(pair):
    ours, theirs = pair
    reader = FrameReader(theirs)
    send_frame(ours, ("last",))
    ours.close()
    assert reader.read() == (("last",), [])
    for _ in range(2):
        with pytest.raises(EOFError):
            reader.read()


def test_descriptors_that_find_no_room(pair, small_pages):
    """A process with too many open files learns it; none of those that came is left open."""
    ours, theirs = pair
    values = [exchange(pair, ("frame",), [noise(5000)], is_kept=True)[1][0] for _ in range(20)]
    reader = FrameReader(theirs)
    send_frame(ours, ("frame",), values)
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(len(taken) + 10) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))
    try:
        with pytest.raises(DescriptorsLost, match="too many files"):
            reader.read()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(EOFError):
        reader.read()
    reader.close()
    assert open_files() == before


@pytest.mark.long
def test_a_side_that_takes_nothing_is_given_up(pair):
    ours, _ = pair
    ours.setblocking(False)
    before = open_files()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="took nothing"):
        send_frame(ours, ("frame",), [bytes(LARGE - 1)], limit_s=0.2)
    assert 0.1 < time.monotonic() - began < 5
    assert open_files() == before


@pytest.mark.long
def test_a_side_that_takes_little_by_little_is_not(pair):
    ours, theirs = pair
    ours.setblocking(False)

    def take():
        while theirs.recv(20_000):
            time.sleep(0.02)

    with forked(take, ours):
        began = time.monotonic()
        send_frame(ours, ("frame",), [bytes(LARGE - 1)], limit_s=0.4)
        assert time.monotonic() - began > 0.4


@pytest.mark.long
def test_a_sender_killed_at_any_moment_leaves_nothing_behind():
    """Senders die while they make memory, pass descriptors and fill the stream, until one was cut behind the second."""
    rng = random.Random(1)
    before = open_files(), len(shared_memory._mapped)
    buffers = [noise(LARGE), noise(50_000, 1), noise(LARGE + 1, 2)]
    whole = cut = 0
    for sender in range(2_000):
        if sender >= 200 and whole and cut:
            break
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reader = FrameReader(ours, is_kept=True)
        with forked(lambda sock=theirs: _send_for_ever(sock, buffers), ours):
            theirs.close()
            end = time.monotonic() + 0.004 * rng.random()
            while time.monotonic() < end:
                whole += _take_and_check(reader, buffers)
            if sender >= 200:  # chance has cut none there: the stream is full in the middle of a frame before long
                time.sleep(0.01)
        with pytest.raises(EOFError):
            while True:
                whole += _take_and_check(reader, buffers)
        cut += bool(reader._descriptors)
        reader.close()
        ours.close()
    assert (open_files(), len(shared_memory._mapped)) == before
    assert whole
    assert cut, "some frame was cut behind its descriptors"


def _send_for_ever(sock, buffers) -> None:
    while True:
        send_frame(sock, ("frame",), buffers)


def _take_and_check(reader, buffers) -> bool:
    frame = reader.read()
    if frame is None:
        return False
    assert [bytes(part) for part in frame[1]] == buffers
    return True
