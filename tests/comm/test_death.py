"""Messages to and from a rank that dies are dropped with it alone: its death is reported, and the others continue."""

from __future__ import annotations

import os
import signal
import time

from handoff_mpi.comm import Envelope, RankFailed

LARGE = 10_000_000


def test_messages_on_their_way_are_lost_with_their_rank_alone(mpirun):
    ended = mpirun(3, __file__, ft=True)
    assert ended.out == "gone [1] thanks\n", ended.err


def poll_until(transport, is_so):
    """Return what arrives until ``is_so`` of it."""
    arrived = []
    end = time.monotonic() + 20
    while not is_so(arrived):
        arrived += transport.poll()
        assert time.monotonic() < end, f"rank {transport.rank} has only {arrived}"
        time.sleep(0.001)
    return arrived


def lead(transport):
    """Rank 0: when rank 1 dies, large messages from and to it are on their way."""
    poll_until(transport, lambda _: transport.is_transferring)
    for serial in range(3):
        transport.send(1, ("large", serial), [bytes(LARGE), bytes(LARGE)])
    transport.send(2, ("kill",))
    meet_the_death_in_transfers(transport)
    gone = poll_until(transport, bool)
    assert transport.flush(10)
    transport.send(2, ("large",), [bytes(LARGE)])
    (answer,) = poll_until(transport, bool)
    print("gone", [each.rank for each in gone if isinstance(each, RankFailed)], *answer.message, flush=True)


def meet_the_death_in_transfers(transport):
    """Look at transfers alone until they have ended: the probe for messages may tell of a death first, or may not."""
    end = time.monotonic() + 20
    while transport.is_transferring:
        transport._drop_sent()
        transport._finish_incoming([])
        assert time.monotonic() < end
        time.sleep(0.001)


def be_killed(transport):
    """Rank 1: announce a large message that never comes, and receive nothing."""
    mpi_transport._chunks = lambda view: []
    transport.send(0, ("large",), [bytes(LARGE)])
    time.sleep(60)


def follow(transport, victim):
    """Rank 2: kill rank 1 when asked to, and give thanks for what is large."""
    poll_until(transport, bool)
    os.kill(victim, signal.SIGKILL)
    arrived = poll_until(transport, lambda arrived: any(isinstance(each, Envelope) for each in arrived))
    (large,) = [each for each in arrived if isinstance(each, Envelope)]
    assert len(large.buffers[0]) == LARGE
    transport.send(0, ("thanks",))
    assert transport.flush(10)


if __name__ == "__main__":
    from handoff_mpi.comm import mpi, mpi_transport

    transport = mpi_transport.MPITransport()
    pids = transport.allgather(os.getpid())
    if transport.rank == 0:
        lead(transport)
    elif transport.rank == 1:
        be_killed(transport)
    else:
        follow(transport, pids[1])
    mpi.leave(0)
