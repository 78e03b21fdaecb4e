"""Doorbells: rung from other processes of a host, heard by who sleeps."""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

import pytest

from handoff_mpi.comm import doorbell
from handoff_mpi.comm.doorbell import Doorbell


@pytest.fixture
def doorbells(monkeypatch):
    """Two ranks' doorbells, and the time."""
    now = [1.0]
    monkeypatch.setattr(doorbell.time, "monotonic", lambda: now[0])
    both = [Doorbell(), Doorbell()]
    for each in both:
        each.can_ring({rank: other.address for rank, other in enumerate(both)})
    yield *both, now
    for each in both:
        each.close()


def is_rung(each):
    return bool(select.select([each], [], [], 0)[0])


def test_a_doorbell_is_heard_until_it_is_cleared(doorbells):
    one, other, _ = doorbells
    one.ring(1)
    assert is_rung(other)
    other.clear()
    assert not is_rung(other)
    other.clear()
    assert not is_rung(one)


def test_who_is_awake_is_not_rung(doorbells):
    one, other, now = doorbells
    one.ring(1)
    other.clear()
    one.ring(1)
    assert not is_rung(other), "it was rung just now"
    now[0] += doorbell.AWAKE_S
    one.looked()
    one.hear_from(1)
    one.ring(1)
    assert not is_rung(other), "it has sent something just now"
    now[0] += doorbell.AWAKE_S
    one.ring(1)
    assert is_rung(other)


def test_a_message_that_may_have_lain_here_for_long_does_not_say_that_its_sender_is_awake(doorbells):
    one, other, now = doorbells
    one.looked()
    now[0] += doorbell.AWAKE_S
    one.hear_from(1)
    one.ring(1)
    assert is_rung(other)


def test_a_doorbell_that_nobody_hears_stops_nobody(doorbells):
    one, other, now = doorbells
    for _ in range(1_000):  # far more than the system keeps
        now[0] += doorbell.AWAKE_S
        one.ring(1)
    for _ in range(100):
        other.clear()
    assert not is_rung(other)
    other.close()
    now[0] += doorbell.AWAKE_S
    one.ring(1)
    one.ring(5)  # of another host


def test_where_there_are_no_such_addresses_there_is_no_doorbell(monkeypatch):
    open_files = len([*Path("/proc/self/fd").iterdir()])
    monkeypatch.setattr(doorbell, "ANY", "/no/such/place")
    with pytest.raises(OSError):
        Doorbell()
    assert len([*Path("/proc/self/fd").iterdir()]) == open_files


@pytest.mark.long
@pytest.mark.parametrize("ft", [False, True])
def test_what_has_arrived_is_found_at_the_first_look_and_was_rung_for(mpirun, ft, tmp_path):
    """By MPI alone a message would be taken in by one look and found by the next, a whole sleep later."""
    ended = mpirun(2, __file__, str(tmp_path), ft=ft)
    assert ended.rc == 0, ended.out + ended.err
    assert ended.out.count("found") == 5


def wait_for(path):
    limit = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < limit, path
        time.sleep(0.001)


def main(place):
    """Rank 0 sends, and says by a file that it has; rank 1, which has not touched MPI meanwhile, looks once."""
    from handoff_mpi.comm.mpi_transport import MPITransport

    end = MPITransport()
    for turn in range(5):
        sent, seen = place / f"sent{turn}", place / f"seen{turn}"
        if end.rank == 0:
            time.sleep(doorbell.AWAKE_S)
            end.send(1, ("message", turn))
            sent.touch()
            wait_for(seen)
        else:
            wait_for(sent)
            assert is_rung(end.doorbell)
            assert end.all_rings
            assert [each.message for each in end.poll()] == [("message", turn)]
            print("found", flush=True)
            seen.touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
