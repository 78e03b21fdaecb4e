"""One contract for all transports: in memory here, over MPI under mpirun."""

from __future__ import annotations

import sys
import time

import pytest

from handoff_mpi.comm import MemoryNetwork, fresh_memory

SIZES = (0, 1, 100_000, 10_000_000)


def check_pair(ends):
    """Exercise a transport by the ends this process holds, keyed by rank; returns what each rank got."""
    for rank, end in ends.items():
        for other in range(end.size):
            for serial in range(50):
                end.send(other, ("small", rank, serial, bytes(100_000 if serial % 7 == 3 else 0)))
            end.send(other, ("large", rank), [bytes([rank]) * size for size in SIZES])
            end.send(other, ("wide", bytes(100_000)), [bytes([rank]) * size for size in SIZES])
    got = {rank: [] for rank in ends}
    limit = time.monotonic() + 60
    wanted = 52 * next(iter(ends.values())).size
    while any(len(arrived) < wanted for arrived in got.values()) and time.monotonic() < limit:
        for rank, end in ends.items():
            got[rank] += end.poll()
    for rank, end in ends.items():
        assert end.flush(10)
        assert end.poll() == []
        assert not end.is_transferring
        for other in range(end.size):
            mine = [each for each in got[rank] if each.source == other]
            assert [each.message[2] for each in mine if each.message[0] == "small"] == list(range(50))
            for kind in ("large", "wide"):
                (large,) = [each for each in mine if each.message[0] == kind]
                assert [bytes(part) for part in large.buffers] == [bytes([other]) * size for size in SIZES]
    return got


def test_in_memory():
    network = MemoryNetwork(3)
    check_pair({rank: network.transport(rank) for rank in range(3)})


@pytest.mark.long
def test_over_mpi(mpirun):
    ended = mpirun(3, __file__)
    assert ended.rc == 0, ended.err
    assert ended.out.count("kept") == 3


@pytest.mark.long
def test_over_mpi_in_many_chunks_and_into_memory_of_the_receivers_choice(mpirun):
    ended = mpirun(3, __file__, "chunks")
    assert ended.rc == 0, ended.err
    assert ended.out.count("kept") == 3


if __name__ == "__main__":
    from handoff_mpi.comm import mpi_transport
    from handoff_mpi.worker.shared_memory import Memory, allocate

    end = mpi_transport.MPITransport()
    if sys.argv[1:] == ["chunks"]:
        mpi_transport.CHUNK_NBYTES = 65_537
        end.set_receive_allocator(lambda nbytes: allocate(nbytes) if nbytes else fresh_memory(nbytes))
    got = check_pair({end.rank: end})
    if sys.argv[1:] == ["chunks"]:
        received = [part for each in got[end.rank] if each.source != end.rank for part in each.buffers if len(part)]
        assert len(received) == 2 * 2 * 3
        assert all(isinstance(part.obj, Memory) and part.readonly for part in received)
    end.allgather(None)
    print("kept", file=sys.stdout, flush=True)
